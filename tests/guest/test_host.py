"""Docker as Debian installs it on a host with systemd: cgroup v2, the systemd driver, an older kernel than overlayfs wants."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING

import pytest

from container.bundle import CONFIG, SAFE

if TYPE_CHECKING:
    from guest.machine import Machine

GROUP = "C=/sys/fs/cgroup/system.slice/docker-$(docker inspect -f '{{.Id}}' c1).scope"


@pytest.mark.smoke
def test_the_machine_is_the_host_that_we_mean(docker: Machine) -> None:
    assert docker("docker info -f '{{.CgroupDriver}} {{.CgroupVersion}}'") == "systemd 2"
    assert docker("systemctl is-system-running; findmnt -no PROPAGATION /") == "running\nshared"


@pytest.mark.smoke
def test_a_container_is_a_scope_with_limits_that_stay(docker: Machine) -> None:
    docker("docker run -d --name c1 --runtime=sysbox-runc -m 64m --cpus 0.5 --pids-limit 50 busybox sleep 1000")
    limits = f"{GROUP}; cat $C/memory.max $C/cpu.max $C/pids.max"
    expected = ["67108864", "50000 100000", "50"]
    assert docker(limits).split("\n") == expected
    assert docker(f"systemctl daemon-reload; {limits}").split("\n") == expected
    docker("docker update -m 128m --memory-swap 256m c1; systemctl daemon-reload")
    assert docker(f"{GROUP}; cat $C/memory.max") == "134217728"
    assert docker("docker exec c1 cat /proc/1/cgroup /proc/self/cgroup").splitlines()[0] == "0::/init.scope"
    assert docker("docker exec c1 cat /sys/fs/cgroup/cgroup.controllers").split() == docker("cat /sys/fs/cgroup/cgroup.controllers").split()
    status, said = docker.tried("docker exec c1 sh -c 'echo max >/sys/fs/cgroup/memory.max'")
    assert status != 0, "root inside has lifted its own limit"
    assert "denied" in said or "not permitted" in said
    docker("docker pause c1; docker unpause c1")


@pytest.mark.smoke
def test_nothing_is_left_of_it(docker: Machine) -> None:
    mounts = "grep -c 'overlay' /proc/self/mountinfo || true"
    docker("docker rm -f c1")
    docker.eventually("! systemctl list-units --all 'docker-*.scope' --no-legend | grep .", 30)
    assert docker("ls -d /sys/fs/cgroup/system.slice/docker-*.scope 2>/dev/null || true") == ""
    assert docker(mounts) == "0"


def test_more_memory_than_allowed(docker: Machine) -> None:
    status, _ = docker.tried(
        "docker run --name c1 --runtime=sysbox-runc -m 32m --memory-swap 32m busybox sh -c 'head -c 100m /dev/zero | tail'"
    )
    assert status == 137 or docker("docker inspect -f '{{.State.OOMKilled}}' c1") == "true"
    docker("docker rm -f c1")


def settled(guest: Machine, command: str, seconds: float) -> str:
    """Run ``systemctl is-system-running`` somewhere until everything has started; what it says then."""
    return guest(f"until out=$({command} 2>/dev/null); [[ $out == running || $out == degraded ]]; do sleep 1; done; echo $out", seconds)


@pytest.mark.parametrize(
    ("name", "rootfs", "flag"),
    [("debian12", "/srv/systemd", ""), pytest.param("debian13-scope", "/srv/systemd13", "--systemd-cgroup", marks=pytest.mark.smoke)],
)
def test_systemd_inside(guest: Machine, name: str, rootfs: str, flag: str) -> None:
    """Its own cgroups are below its scope; with both drivers."""
    run = f"sysbox-runc {flag}"
    config = copy.deepcopy(CONFIG)
    config["process"].update(args=["/sbin/init"], env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
    config["root"]["path"] = rootfs
    config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*SAFE, "ro"]})
    config["linux"]["namespaces"].append({"type": "cgroup"})
    config["linux"]["cgroupsPath"] = "" if flag else f"/deep/{name}"  # two groups that are new
    config["linux"]["resources"].update(hugepageLimits=[{"pageSize": "2MB", "limit": 4 << 20}], cpu={"cpus": "0"}, blockIO={"weight": 500})
    guest(f"mkdir -p /srv/{name}; cat >/srv/{name}/config.json <<'END'\n{json.dumps(config)}\nEND")
    guest(f"cd /srv/{name}; {run} create {name} >/tmp/log 2>&1 </dev/null || {{ cat /tmp/log; exit 1; }}; {run} start {name}")
    try:
        state = f"{run} exec {name} systemctl is-system-running"
        said = settled(guest, state, 180)
        failed = guest(f"{run} exec {name} systemctl --failed --no-legend --plain")
        assert said == "running", failed
        group = f"/sys/fs/cgroup$(cut -d: -f3 /proc/$({run} state {name} | jq .pid)/cgroup)/.."
        assert guest(f"cat {group}/hugetlb.2MB.max {group}/cpuset.cpus").split() == [str(4 << 20), "0"]
        assert "system.slice" in guest(f"{run} exec {name} ls /sys/fs/cgroup")
        guest(f"{run} exec {name} systemd-run --wait -q -p MemoryMax=30M -p TasksMax=20 true")
        guest(f"{run} kill {name} TERM")
        guest.eventually(f"{run} state {name} | grep stopped", 60)
    finally:
        guest.tried(f"{run} delete --force {name}")


def import_host(guest: Machine, tree: str = "systemd", name: str = "host") -> None:
    """Make an image of a directory that has systemd."""
    guest(f"docker image inspect {name} >/dev/null 2>&1 || tar -C /srv/{tree} -c . | docker import -c 'CMD [\"/sbin/init\"]' - {name}", 300)


def boot(guest: Machine, name: str, options: str = "", image: str = "host") -> None:
    """Start a container and wait until its systemd has started everything."""
    guest(f"docker run -d --name {name} --runtime=sysbox-runc {options} {image}")
    state = f"docker exec {name} systemctl is-system-running"
    assert settled(guest, state, 240) == "running"


def test_systemd_inside_docker_and_docker_inside_that(docker: Machine) -> None:
    """On cgroup v2, below a scope of the host's systemd: inner limits hold, all controllers are there, a stop is orderly."""
    import_host(docker)
    boot(docker, "h1", "-m 700m --restart=always")
    assert docker("docker exec h1 systemctl --failed --no-legend --plain") == ""
    docker("docker exec h1 docker load -qi /usr/share/sysbox/busybox.tar")
    run = "docker exec h1 docker run --rm"
    assert docker(
        f"{run} -m 50m --cpus 0.5 --pids-limit 20 busybox cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max"
    ) == ("52428800\n50000 100000\n20")
    status, _ = docker.tried(f"{run} -m 50m --memory-swap 50m busybox sh -c 'head -c 200m /dev/zero | tail >/dev/null; exit $?'")
    assert status == 137
    status, said = docker.tried(f"{run} --pids-limit 20 busybox sh -c 'for i in $(seq 60); do sleep 5 & done 2>/dev/null; jobs | wc -l'")
    assert status
    assert said == "" or int(said.split()[-1]) < 20 or "fork" in said
    host = set(docker("cat /sys/fs/cgroup/cgroup.controllers").split())
    assert host - set(docker("docker exec h1 cat /sys/fs/cgroup/cgroup.controllers").split()) == set()
    assert set(docker("docker exec h1 cat /sys/fs/cgroup/cgroup.subtree_control").split()) >= {"memory", "pids", "cpu"}
    # what runs as a service inside has a score of its own
    docker("docker exec h1 systemd-run -q --unit low -p OOMScoreAdjust=-900 sleep 1000")
    assert docker("docker exec h1 sh -c 'cat /proc/$(systemctl show -P MainPID low)/oom_score_adj'") == "-900"
    assert docker(f"{run} --oom-score-adj -500 busybox cat /proc/self/oom_score_adj") == "-500"
    docker.tried("docker exec h1 systemctl reboot")
    docker.eventually("test $(docker inspect -f '{{.RestartCount}}' h1) = 1", 120)
    docker.eventually("docker exec h1 systemctl is-active docker", 180)
    begin = float(docker("cut -d' ' -f1 /proc/uptime"))
    docker("docker stop -t 100 h1", 150)
    assert float(docker("cut -d' ' -f1 /proc/uptime")) - begin < 90, "it was killed"
    docker("docker rm -f h1")


@pytest.mark.smoke
def test_what_the_kernel_keeps_of_emulated_files(docker: Machine) -> None:
    """Each kernel has its own ways with sendfile(2) (busybox's cat), cached listings and binds on an overlay."""
    docker("docker run -d --name e1 --runtime=sysbox-runc busybox sleep 10000")
    names = ["a", "abcdef", "abc", "abcdefghi"]
    script = "".join(f"hostname {name}; cat /proc/sys/kernel/hostname /proc/sys/kernel/hostname | cat;" for name in names)
    other = "(for n in $(seq 50); do ls -l /proc/sys/kernel/hostname; cat /proc/sys/kernel/hostname; done) >/dev/null &"
    script += f"{other} for n in $(seq 50); do cat /proc/sys/kernel/hostname | cat; done"
    assert docker(f"docker exec e1 sh -c '{script}'").split() == [name for name in names for _ in range(2)] + names[-1:] * 50
    inside = "nsenter -n -t $(docker inspect -f '{{.State.Pid}}' e1) ip link"
    listed = "docker exec e1 sh -c 'ls /proc/sys/net/ipv4/neigh; ls /proc/sys/net/ipv4/neigh'"
    for change, found in (("add v0 type veth peer v1", ["v0", "v1"]), ("set v0 name v2", ["v1", "v2"]), ("del v2", [])):
        assert docker(f"{inside} {change}; {listed}").split() == ["default", "eth0", "lo", *found] * 2
    chroot = "mkdir -p /c; mount -t tmpfs c /c; mkdir /c/proc /c/sys; mount -t proc p /c/proc; mount --rbind /sys /c/sys"
    apart = "awk '$5 ~ \"^/c($|/)\" { print $5 }' /proc/self/mountinfo | tac | while read -r m; do umount $m || echo $m; done; ls /c"
    assert docker(f"docker exec -i e1 sh <<'END'\n{chroot}\n{apart}\nEND") == ""
    docker("docker rm -f e1")


def test_modules_and_headers_of_the_host(docker: Machine) -> None:
    docker(
        """
        headers=/usr/src/linux-headers-$(uname -r) common=/usr/src/linux-headers-$(uname -r | cut -d- -f1)-common  # as Debian has it
        mkdir -p $headers $common /usr/lib/linux-kbuild-0/scripts
        touch $headers/Makefile $common/Kconfig /usr/lib/linux-kbuild-0/scripts/tool
        ln -sfn ../../lib/linux-kbuild-0/scripts $headers/scripts
        """
    )
    script = "ls /lib/modules/$(uname -r) | grep -c modules.dep$; cd /usr/src; ls linux-headers-$(uname -r) linux-headers-*-common/Kconfig"
    seen = docker(f"docker run --name m1 --runtime=sysbox-runc busybox sh -c '{script}; ls linux-headers-$(uname -r)/scripts/'").split()
    assert (seen[0], seen[-1]) == ("1", "tool")
    assert {"Makefile", "scripts"} < set(seen)
    assert any(one.endswith("-common/Kconfig") for one in seen)
    assert "A " not in docker("docker diff m1; docker rm m1"), "it has left a trace in the container's layer"
    write = "mount -o remount,bind,rw /lib/modules/$(uname -r); touch /lib/modules/$(uname -r)/x || ! test -e /lib/modules/$(uname -r)/x"
    docker(f"docker run --rm --runtime=sysbox-runc busybox sh -c '{write}'; test ! -e /lib/modules/$(uname -r)/x")
