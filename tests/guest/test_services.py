"""What make install gives a host: services that lose no container, profiles of AppArmor, sysctls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guest.machine import Machine

# reads an emulated file and has a mount trapped, all the time, and ends with the first error
BUSY = "while read -r up _ </proc/uptime && mount -t tmpfs none /home && umount /home; do echo x >>/c/n; done; echo lost >>/c/n; sleep 1000"


@pytest.fixture
def busy(docker: Machine) -> Iterator[Machine]:
    docker(f"rm -rf /srv/c1; mkdir /srv/c1; docker run -d --name c1 --runtime=sysbox-runc -v /srv/c1:/c busybox sh -c '{BUSY}'")
    yield docker
    docker("docker rm -f c1")


def goes_on(guest: Machine) -> None:
    """The container's loop runs and has seen no error."""
    before = int(guest("cat /srv/c1/n 2>/dev/null | wc -l"))
    guest.eventually(f"test $(wc -l </srv/c1/n) -gt {before}", 30)
    assert guest("tail -n 1 /srv/c1/n") == "x"


@pytest.mark.smoke
def test_installation_starts_the_services(guest: Machine) -> None:
    assert guest("systemctl is-active sysbox sysbox-mgr sysbox-fs").split() == ["active"] * 3
    assert guest("systemctl is-enabled sysbox") == "enabled"
    assert guest("systemd-analyze verify sysbox.service sysbox-mgr.service sysbox-fs.service 2>&1 | grep -i sysbox || true") == ""
    assert "Ready" in guest("cat /var/log/sysbox-mgr.log")
    assert "Ready" in guest("cat /var/log/sysbox-fs.log")
    assert guest("journalctl -q --no-pager -u 'sysbox*' -p warning; journalctl --no-pager -u 'sysbox*' | grep -c Traceback || true") == "0"


@pytest.mark.smoke
def test_a_restart_loses_no_container(busy: Machine) -> None:
    goes_on(busy)
    for _ in range(3):
        busy("systemctl restart sysbox")
        goes_on(busy)
    assert busy("docker exec c1 cat /proc/swaps | wc -l") == "1"
    busy("docker run --rm --runtime=sysbox-runc busybox true")


@pytest.mark.smoke
def test_nor_do_kills(busy: Machine) -> None:
    ours = "pgrep -f sbin/sysbox"
    for victims in ("$(systemctl show -P MainPID sysbox-fs)", f"$({ours}-fs | tail -n 2)", f"$({ours}-fs)", f"$({ours}-mgr)", f"$({ours})"):
        busy(f"kill -KILL {victims}")
        goes_on(busy)
        busy.eventually("systemctl is-active sysbox sysbox-fs sysbox-mgr")
    busy("docker run --rm --runtime=sysbox-runc busybox true")


def test_a_stop_leaves_containers_alone_and_says_why_none_starts(busy: Machine) -> None:
    busy("systemctl stop sysbox")
    goes_on(busy)
    status, said = busy.tried("docker run --rm --runtime=sysbox-runc busybox true")
    assert status
    assert "its service does not run. Try: systemctl restart sysbox [SBX-1003]" in said
    busy("systemctl start sysbox")
    goes_on(busy)
    busy("docker run --rm --runtime=sysbox-runc busybox true")


def test_the_steps_of_a_reconfiguration(busy: Machine) -> None:
    unit = "/lib/systemd/system/sysbox-fs.service"
    busy(f"sed -i --follow-symlinks '/^ExecStart/ s/$/ --log-level debug/' {unit}")
    assert busy(f"grep -E ExecStart {unit}") == "ExecStart=/usr/local/sbin/sysbox-fs --log /var/log/sysbox-fs.log --log-level debug"
    busy("systemctl daemon-reload; systemctl restart sysbox")
    assert "Active: active (exited)" in busy("systemctl status --no-pager sysbox.service")
    assert "--log-level debug" in busy("tr '\\0' ' ' </proc/$(systemctl show -P MainPID sysbox-fs)/cmdline")
    goes_on(busy)
    busy("make -s -C /root/sysbox install")  # an upgrade, which brings the unit as it was
    assert "debug" not in busy("tr '\\0' ' ' </proc/$(systemctl show -P MainPID sysbox-fs)/cmdline")
    goes_on(busy)


def test_the_watchdog_replaces_what_hangs(busy: Machine) -> None:
    busy("mkdir -p /run/systemd/system/sysbox-{fs,mgr}.service.d")
    busy("for name in fs mgr; do printf '[Service]\\nWatchdogSec=4\\n' >/run/systemd/system/sysbox-$name.service.d/test.conf; done")
    busy("systemctl daemon-reload; systemctl restart sysbox")
    main = "systemctl show -P MainPID sysbox"
    for name, pid in (("the supervisor", f"$(pgrep -P $({main}-fs))"), ("sysbox-fs", f"$({main}-fs)"), ("sysbox-mgr", f"$({main}-mgr)")):
        old = busy(f"echo {pid}")
        busy(f"kill -STOP {old}")
        busy.eventually(f"! kill -0 {old} && systemctl is-active sysbox-fs sysbox-mgr", 60), name
        goes_on(busy)
    busy("rm -r /run/systemd/system/sysbox-*.service.d; systemctl daemon-reload; systemctl restart sysbox")


def test_a_service_replaces_what_a_container_has_started(busy: Machine) -> None:
    busy("systemctl stop sysbox; rm /run/sysbox/*.managed; docker run --rm --runtime=sysbox-runc busybox true")
    assert busy("systemctl is-active sysbox-fs || pgrep -cf 'sysbox-fs --daemonize'").split()[0] == "inactive"
    busy("systemctl start sysbox")
    assert busy("pgrep -f 'sysbox-(fs|mgr) --daemonize' || echo none") == "none"
    goes_on(busy)


def test_logs_are_rotated(docker: Machine) -> None:
    docker("logrotate -f /etc/logrotate.d/sysbox; sleep 1; systemctl kill -s KILL --kill-whom=main sysbox-mgr; sleep 1")
    docker("kill -KILL $(pgrep -P $(systemctl show -P MainPID sysbox-fs))")
    docker.eventually("grep -q Ready /var/log/sysbox-fs.log && grep -q Ready /var/log/sysbox-mgr.log")
    docker("ls /var/log/sysbox-fs.log.1 /var/log/sysbox-mgr.log.1")


@pytest.mark.smoke
def test_apparmor_confines_the_daemons_and_lets_containers_be(busy: Machine) -> None:
    for name in ("mgr", "fs"):
        assert busy(f"cat /proc/$(systemctl show -P MainPID sysbox-{name})/attr/current") == "sysbox (enforce)"
    profile = "cat /proc/self/attr/current"
    assert busy(f"docker exec c1 {profile}") == "sysbox-container (enforce)"
    assert busy(f"docker run --rm --runtime=sysbox-runc --security-opt no-new-privileges busybox {profile}") == "sysbox-container (enforce)"
    assert busy(f"docker run --rm --runtime=sysbox-runc --security-opt apparmor=unconfined busybox {profile}") == "unconfined"
    assert busy(f"docker run --rm --runtime=sysbox-runc -e SYSBOX_SYSCONT_MODE=FALSE busybox {profile}") == "docker-default (enforce)"
    busy("echo 'profile sysbox-test flags=(attach_disconnected) { file, capability, deny /root/** w, }' | apparmor_parser -r")
    own = "docker run --rm --runtime=sysbox-runc --security-opt apparmor=sysbox-test busybox"
    assert busy(f"{own} {profile}") == "sysbox-test (enforce)"
    assert busy.tried(f"{own} touch /root/x")[0]
    status, said = busy.tried(f"docker run --rm --runtime=sysbox-runc --security-opt apparmor=no-such busybox {profile}")
    assert status
    assert "AppArmor profile no-such: it is not loaded" in said
    assert busy("journalctl -q --no-pager -k | grep 'apparmor=\"DENIED\"' | grep -E 'profile=\"sysbox(-container)?\"' || true") == ""


@pytest.mark.smoke
def test_user_namespaces_inside(busy: Machine) -> None:
    """Ubuntu's kernel lets processes whose profile says so make them, and puts others under a profile of its own."""
    restrict = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
    busy(f"if test -e {restrict}; then echo 1 >{restrict}; fi")
    assert busy("docker exec -u 1000 c1 unshare -Ur sh -c 'id -u; cat /proc/self/attr/current'") == "0\nsysbox-container (enforce)"
    assert busy("docker exec c1 unshare -Ur sh -c 'id -u; cat /proc/self/attr/current'") == "0\nsysbox-container (enforce)"


def test_oom_scores(docker: Machine) -> None:
    run = "docker run --rm --runtime=sysbox-runc"
    assert docker(f"{run} busybox sh -c 'echo -999 >/proc/self/oom_score_adj && cat /proc/self/oom_score_adj'") == "-999"
    assert docker(f"{run} --oom-score-adj=-100 busybox cat /proc/self/oom_score_adj") == "-100"
    status, _ = docker.tried(f"{run} busybox sh -c 'echo -1000 >/proc/self/oom_score_adj'")
    assert status
    # dockerd may itself be unkillable: a container never is
    docker("echo -1000 >/proc/$(pgrep -x containerd | head -n 1)/oom_score_adj")
    docker(f"{run} busybox true")


def test_sysctls_that_are_too_low_are_raised_and_others_left(guest: Machine) -> None:
    names = "fs.inotify.max_user_instances kernel.keys.maxkeys"
    assert guest(f"sysctl -n {names}").split() == ["1048576", "20000"]
    guest("sysctl -q fs.inotify.max_user_instances=100 kernel.keys.maxkeys=30000; make -s -C /root/sysbox install")
    assert guest(f"sysctl -n {names}").split() == ["1048576", "30000"]
    assert guest("sysctl --system >/dev/null; sysctl -n fs.inotify.max_user_instances") == "1048576"


def test_it_is_uninstalled_and_installed_again(guest: Machine) -> None:
    guest("make -s -C /root/sysbox uninstall")
    assert guest("ls /lib/systemd/system/sysbox* /etc/apparmor.d/sysbox /usr/lib/sysctl.d/*sysbox* 2>/dev/null || true") == ""
    assert guest("pgrep -f sbin/sysbox || true") == ""
    assert "sysbox-container" not in guest("cat /sys/kernel/security/apparmor/profiles")
    guest("make -s -C /root/sysbox install")
    assert guest("systemctl is-active sysbox") == "active"
