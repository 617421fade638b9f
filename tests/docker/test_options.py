"""Options of docker run."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from docker.engine import BUSYBOX, RUNTIME, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from docker.engine import Engine

CLIENTS = [path for path in dict.fromkeys(["/usr/bin/docker", shutil.which("docker")]) if path and os.access(path, os.X_OK)]


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_gets_output_and_status(engine: Engine, client: str) -> None:
    done = engine.tried("run", "--rm", f"--runtime={RUNTIME}", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 7", cli=client)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert engine("ps", "-aq") == ""


def test_default_runtime_is_ours(engine: Engine) -> None:
    assert engine("info", "-f", "{{.DefaultRuntime}}") == RUNTIME
    name = engine("run", "-d", BUSYBOX, "true")
    assert engine.get(name, ".HostConfig.Runtime") == RUNTIME


@pytest.mark.sysbox
def test_root_inside_is_nobody_outside(engine: Engine) -> None:
    name = engine.up()
    inside, outside, size = engine.exec(name, "cat /proc/self/uid_map").split()
    assert (inside, size) == ("0", "65536")
    assert int(outside) >= 65536
    assert engine.exec(name, "cat /proc/self/gid_map").split() == [inside, outside, size]
    pid = engine.get(name, ".State.Pid")
    assert os.stat(f"/proc/{pid}").st_uid == int(outside)
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")


@pytest.mark.sysbox
def test_root_has_all_capabilities_of_its_namespace_and_users_none(engine: Engine) -> None:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        everything = f"{(1 << int(file.read()) + 1) - 1:016x}"
    show = "sed -n 's/^CapEff:.//p' /proc/self/status"
    assert engine.sh(show) == everything
    assert engine.sh("-u", "1000", show) == "0" * 16
    name = engine.up()
    assert engine.exec(name, show) == everything
    assert engine.exec(name, show, "-u", "1000") == "0" * 16


def test_terminal(engine: Engine) -> None:
    show = "test -t 0 && test -t 1 && tty; read -r line; sleep 0.5; stty size; echo read $line; exit 5"
    status, seen = engine.terminal("run", "--rm", "-it", f"--runtime={RUNTIME}", BUSYBOX, "sh", "-c", show, text="hello\n")
    assert status == 5
    assert "/dev/pts/0" in seen or "/dev/console" in seen
    assert "33 111\nread hello" in seen


def test_standard_input_is_passed_on(engine: Engine) -> None:
    assert engine("run", "--rm", "-i", f"--runtime={RUNTIME}", BUSYBOX, "tr", "a-z", "A-Z", text="hello\n") == "HELLO"


def test_large_output_arrives_whole(engine: Engine) -> None:
    assert engine.sh("seq 200000 | md5sum; seq 200000").splitlines()[-1] == "200000"


def test_init_reaps_and_forwards_signals(engine: Engine) -> None:
    name = engine.up("--init", "--", "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done")
    assert "init" in engine.exec(name, "cat /proc/1/comm /proc/1/cmdline")
    engine("stop", "-t", "10", name)
    assert engine.get(name, ".State.ExitCode") == "3"


def test_environment_and_working_directory(engine: Engine) -> None:
    assert engine.sh("-e", "A=1 2", "-e", "B=x", "-w", "/new/dir", 'echo "$A|$B|$HOME|$PWD"') == "1 2|x|/root|/new/dir"


def test_user_by_name_number_and_groups(engine: Engine) -> None:
    assert engine.sh("-u", "user", "id -u; id -g; echo $HOME").split() == ["1000", "1000", "/home"]
    assert engine.sh("-u", "4321:33", "id -u; id -g; touch /tmp/x; stat -c %u:%g /tmp/x").split() == ["4321", "33", "4321:33"]
    assert engine.sh("-u", "user", "--group-add", "33", "--group-add", "77", "id -G").split() == ["1000", "33", "77"]


def test_user_of_the_image_writes_where_it_may_only(engine: Engine) -> None:
    assert engine.sh("-u", "1000", "touch /tmp/x && touch /etc/x 2>/dev/null || echo refused") == "refused"


def test_hostname_domainname_hosts_and_dns(engine: Engine) -> None:
    options = ("--hostname", "box", "--domainname", "example.test", "--add-host", "db:10.9.8.7", "--dns", "10.1.1.1")
    seen = engine.sh(*options, "hostname; cat /proc/sys/kernel/domainname; cat /etc/hosts /etc/resolv.conf")
    assert seen.splitlines()[:2] == ["box", "example.test"]
    assert "10.9.8.7\tdb" in seen
    assert "nameserver 10.1.1.1" in seen


def test_etc_hosts_can_be_written(engine: Engine) -> None:
    assert engine.sh("echo 10.0.0.9 more >> /etc/hosts && stat -c %u:%g /etc/hosts && tail -n 1 /etc/hosts").split() == [
        "0:0",
        "10.0.0.9",
        "more",
    ]


def test_memory_limit_and_oom_kill(engine: Engine) -> None:
    name = engine.up("--memory", "32m", "--memory-swap", "32m", "--", "sh", "-c", "x=aaaaaaaa; while :; do x=$x$x; done")
    assert engine("wait", name) == "137"
    eventually(lambda: engine.get(name, ".State.OOMKilled") == "true", what="OOMKilled")
    name = engine.up("--memory", "32m", "--memory-reservation", "16m")
    assert engine.limit(name, "memory/memory.limit_in_bytes", "memory.max") == str(32 << 20)
    assert engine.limit(name, "memory/memory.soft_limit_in_bytes", "memory.low") == str(16 << 20)


def test_cpu_limits(engine: Engine) -> None:
    name = engine.up("--cpus", "0.5", "--cpuset-cpus", "0", "--cpu-shares", "512")
    assert engine.limit(name, "cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert engine.limit(name, "cpuset/cpuset.cpus", "cpuset.cpus") == "0"
    assert engine.limit(name, "cpu/cpu.shares", "cpu.weight") in ("512", "20")
    assert engine.exec(name, "sed -n 's/^Cpus_allowed_list:.//p' /proc/self/status") == "0"


def test_pids_limit(engine: Engine) -> None:
    done = engine.fails("--pids-limit", "20", BUSYBOX, "sh", "-c", "for i in $(seq 40); do sleep 3 & done; wait")
    assert "can't fork" in done.stderr


def test_ulimit(engine: Engine) -> None:
    seen = engine.sh("--ulimit", "nofile=100:200", "--ulimit", "core=0", "ulimit -n; ulimit -Hn; ulimit -c")
    assert seen.split() == ["100", "200", "0"]


def test_sysctl(engine: Engine) -> None:
    read = "cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax"
    options = (
        "--sysctl",
        "net.core.somaxconn=1234",
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=80",
        "--sysctl",
        "kernel.msgmax=4321",
    )
    assert engine.sh(*options, read).split() == ["1234", "80", "4321"]


def test_shm_size(engine: Engine) -> None:
    assert engine.sh("--shm-size", "16m", "df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d' ' -f2; touch /dev/shm/x").split() == ["16384"]


def test_read_only_root(engine: Engine) -> None:
    show = "touch /x 2>&1; touch /etc/x 2>&1; touch /scratch/x && echo written"
    seen = engine.sh("--read-only", "--tmpfs", "/scratch", show).splitlines()
    assert ["Read-only file system" in line for line in seen] == [True, True, False]
    assert seen[2] == "written"


def test_tmpfs_options(engine: Engine) -> None:
    seen = engine.sh(
        "--tmpfs",
        "/t:size=3m,mode=1770,noexec",
        "stat -c %a:%u /t; grep ' /t ' /proc/mounts; cp /bin/busybox /t/echo; /t/echo x 2>&1 || true",
    )
    assert seen.startswith("1770:0\ntmpfs /t tmpfs ")
    assert "size=3072k" in seen
    assert "noexec" in seen
    assert "Permission denied" in seen


def test_device(engine: Engine) -> None:
    seen = engine.sh("--device", "/dev/zero:/dev/nought", "head -c 4 /dev/nought | od -An -tx1; ls /dev")
    assert seen.splitlines()[0].split() == ["00"] * 4
    for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd", "stdin"):
        assert name in seen.split()
    assert not {"vda", "sda", "nvme0n1", "mem", "port"} & set(seen.split()[4:])


def test_standard_devices_work(engine: Engine) -> None:
    assert engine.sh("echo x >/dev/null; head -c 3 /dev/urandom | wc -c; echo full >/dev/full 2>/dev/null || echo no room").split() == [
        "3",
        "no",
        "room",
    ]


def test_oom_score_adj_and_no_new_privileges(engine: Engine) -> None:
    seen = engine.sh(
        "--oom-score-adj", "500", "--security-opt", "no-new-privileges", "cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status"
    )
    assert seen.split() == ["500", "NoNewPrivs:", "1"]


def test_seccomp_profiles(engine: Engine, tmp_path: Path) -> None:
    mode = "sed -n 's/^Seccomp:.//p' /proc/self/status"
    assert engine.sh(mode) == "2"
    profile = tmp_path / "profile.json"
    rule = {"names": ["settimeofday", "clock_settime", "syslog"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    option = f"seccomp={profile}"
    assert "not supported" in engine.sh("--security-opt", option, "dmesg 2>&1 || true").lower()
    name = engine.up("--security-opt", option)
    assert "not supported" in engine.exec(name, "dmesg 2>&1 || true").lower()
    assert engine.sh("--security-opt", "seccomp=unconfined", f"dmesg 2>&1 | grep -i 'not supported'; {mode}") in ("0", "2")


def test_labels_entrypoint_and_annotations_reach_the_container(engine: Engine) -> None:
    name = engine("run", "-d", f"--runtime={RUNTIME}", "--label", "a=b", "--entrypoint", "/bin/echo", BUSYBOX, "one", "two")
    engine("wait", name)
    assert engine("logs", name) == "one two"
    assert engine.get(name, '(index .Config.Labels "a")') == "b"


def test_ipc_and_volumes_of_another_container(engine: Engine) -> None:
    first = engine.up("--ipc", "shareable", "-v", "/shared")
    engine.exec(first, "echo here >/shared/file")
    assert engine.sh("--volumes-from", first, "cat /shared/file; stat -c %u:%g /shared/file").split() == ["here", "0:0"]


def test_missing_program_is_told_and_leaves_nothing(engine: Engine) -> None:
    done = engine.fails(BUSYBOX, "/no/such/program")
    assert done.returncode == 127
    assert "/no/such/program" in done.stderr
    done = engine.fails(BUSYBOX, "/etc/passwd")
    assert done.returncode == 126
    assert "ermission denied" in done.stderr
    assert engine("ps", "-aq") == ""
