"""The life of a container, seen and steered through Docker."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from docker.engine import RUNTIME, SYSBOX, eventually

if TYPE_CHECKING:
    from docker.engine import Engine

COUNT = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.05; done"
GRACEFUL = "trap 'echo stopping; exit 9' TERM; trap 'echo other; exit 8' USR1; echo ready; while :; do sleep 0.05; done"


def graceful(engine: Engine, *options: str) -> str:
    name = engine.up(*options, "--", "sh", "-c", GRACEFUL)
    eventually(lambda: "ready" in engine("logs", name), what="ready")
    return name


def test_stop_lets_it_end_by_itself(engine: Engine) -> None:
    name = graceful(engine)
    begin = time.monotonic()
    engine("stop", name)
    assert time.monotonic() - begin < 5
    assert engine.get(name, ".State.ExitCode") == "9"
    assert engine("logs", name).splitlines() == ["ready", "stopping"]


def test_stop_signal(engine: Engine) -> None:
    name = graceful(engine, "--stop-signal", "SIGUSR1")
    engine("stop", name)
    assert engine.get(name, ".State.ExitCode") == "8"


def test_stop_ends_by_force_what_does_not_listen(engine: Engine) -> None:
    name = engine.up("--", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    engine("stop", "-t", "1", name)
    assert engine.get(name, ".State.ExitCode") == "137"


def test_kill(engine: Engine) -> None:
    name = graceful(engine)
    engine("kill", "-s", "USR1", name)
    assert engine("wait", name) == "8"
    name = engine.up()
    engine("kill", name)
    assert engine.get(name, ".State.ExitCode") == "137"


def test_restart_keeps_files_and_their_owners(engine: Engine) -> None:
    name = engine.up()
    engine.exec(name, "echo kept >/kept; chown 1000 /kept; rm /etc/group")
    before = engine.get(name, ".State.StartedAt")
    for _ in range(3):
        engine("restart", "-t", "0", name)
        assert engine.exec(name, "cat /kept; stat -c %u /kept; ls /etc/group 2>/dev/null || echo gone").split() == ["kept", "1000", "gone"]
    assert engine.get(name, ".State.StartedAt") != before
    engine("stop", "-t", "0", name)
    engine("start", name)
    assert engine.exec(name, "cat /kept; stat -c %u /kept").split() == ["kept", "1000"]


def test_restart_policies(engine: Engine) -> None:
    name = engine.up("--restart", "on-failure:2", "--", "sh", "-c", "echo try; exit 1")
    eventually(lambda: engine.get(name, ".RestartCount") == "2" and engine.get(name, ".State.Status") == "exited", what="two restarts")
    assert engine("logs", name).split() == ["try"] * 3
    name = engine.up("--restart", "always")
    pid = engine.get(name, ".State.Pid")
    os.kill(int(pid), signal.SIGKILL)
    eventually(
        lambda: engine.get(name, ".State.Pid") not in (pid, "0") and engine.get(name, ".State.Status") == "running", what="running again"
    )
    assert engine.exec(name, "echo back") == "back"


def test_pause_and_unpause(engine: Engine) -> None:
    name = engine.up("--", "sh", "-c", COUNT)
    eventually(lambda: engine.tried("exec", name, "cat", "/count").stdout.strip(), what="/count")
    upper = engine.get(name, ".GraphDriver.Data.UpperDir")

    def count() -> str:
        with open(f"{upper}/count", encoding="ascii") as file:
            return file.read().strip()

    engine("pause", name)
    assert engine.get(name, ".State.Status") == "paused"
    before = count()
    time.sleep(0.4)
    assert count() == before
    assert "paused" in engine.tried("exec", name, "true").stderr
    engine("unpause", name)
    eventually(lambda: count() not in ("", before), what="counting on")
    engine("pause", name)
    engine("rm", "-f", name)


def test_rename(engine: Engine) -> None:
    name = engine.up("--name", "before")
    engine("rename", "before", "after")
    assert engine.exec("after", "echo x") == "x"
    assert engine.get(name, ".Name") == "/after"


def test_update(engine: Engine) -> None:
    name = engine.up("--memory", "64m")
    engine("update", "--memory", "96m", "--memory-swap", "-1", "--cpus", "0.7", "--pids-limit", "77", "--cpu-shares", "256", name)
    assert engine.limit(name, "memory/memory.limit_in_bytes", "memory.max") == str(96 << 20)
    assert engine.limit(name, "cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "70000"
    assert engine.limit(name, "pids/pids.max", "pids.max") == "77"
    assert engine.limit(name, "cpu/cpu.shares", "cpu.weight") in ("256", "10")
    engine("update", "--restart", "no", "--cpuset-cpus", "0", name)
    assert engine.limit(name, "cpuset/cpuset.cpus", "cpuset.cpus") == "0"


def test_stats(engine: Engine) -> None:
    name = engine.up("--memory", "64m", "--", "sh", "-c", "sleep 1000 & sleep 1000 & wait")
    seen = json.loads(engine("stats", "--no-stream", "--format", "{{json .}}", name))
    assert int(seen["PIDs"]) == 3
    assert "/ 64MiB" in seen["MemUsage"]
    assert not seen["MemUsage"].startswith("0B")


def test_top(engine: Engine) -> None:
    name = engine.up("--", "sh", "-c", "sleep 1111")
    lines = engine("top", name, "-eo", "uid,pid,args").splitlines()[1:]
    assert any(line.endswith("sleep 1111") for line in lines)
    uids = {int(line.split()[0]) for line in lines}
    assert uids == {0} if not SYSBOX else min(uids) >= 65536
    assert "sleep 1111" in engine("top", name)


def test_events(engine: Engine) -> None:
    begin = f"{time.time():.6f}"
    name = engine.up()
    engine.exec(name, "true")
    engine("pause", name)
    engine("unpause", name)
    engine("stop", "-t", "0", name)
    engine("rm", name)
    lines = engine("events", "--since", begin, "--until", f"{time.time():.6f}", "--filter", f"container={name}", "--format", "{{.Action}}")
    events = [line.split(":")[0] for line in lines.splitlines()]
    order = ["create", "start", "exec_create", "exec_start", "exec_die", "pause", "unpause", "kill", "die", "stop", "destroy"]
    assert list(dict.fromkeys(event for event in events if event in order)) == order


def test_oom_event(engine: Engine) -> None:
    begin = f"{time.time():.6f}"
    name = engine.up("--memory", "32m", "--memory-swap", "32m")
    engine.tried("exec", name, "sh", "-c", "x=aaaaaaaa; while :; do x=$x$x; done")
    query = ["events", "--since", begin, "--filter", f"container={name}", "--filter", "event=oom", "--format", "{{.Action}}"]
    eventually(lambda: engine(*query, "--until", f"{time.time():.6f}") != "", what="an oom event")


def test_healthcheck(engine: Engine) -> None:
    name = engine.up("--health-cmd", "test -e /healthy", "--health-interval", "300ms", "--health-retries", "2")
    eventually(lambda: engine.get(name, ".State.Health.Status") == "unhealthy", what="unhealthy")
    engine.exec(name, "touch /healthy")
    eventually(lambda: engine.get(name, ".State.Health.Status") == "healthy", what="healthy")


def test_exec_options(engine: Engine) -> None:
    name = engine.up("-e", "FROM=run")
    show = "id -u; id -g; echo $FROM $MORE; pwd"
    assert engine.exec(name, show, "-u", "1000:33", "-e", "MORE=exec", "-w", "/etc").split() == ["1000", "33", "run", "exec", "/etc"]
    done = engine.tried("exec", name, "sh", "-c", "echo err >&2; exit 42")
    assert (done.returncode, done.stderr) == (42, "err\n")
    assert engine("exec", "-i", name, "cat", text="typed") == "typed"
    engine("exec", "-d", name, "sh", "-c", "echo detached >/detached")
    eventually(lambda: engine.tried("exec", name, "cat", "/detached").stdout == "detached\n", what="/detached")


def test_exec_on_a_terminal(engine: Engine) -> None:
    name = engine.up()
    status, seen = engine.terminal(
        "exec", "-it", name, "sh", "-c", "tty; read -r line; sleep 0.3; stty size; echo $line; exit 4", text="word\n"
    )
    assert status == 4
    assert re.search(r"/dev/pts/\d+", seen)
    assert "33 111\nword" in seen


def test_exec_is_in_the_same_namespaces_and_cgroup(engine: Engine) -> None:
    name = engine.up()
    show = "for ns in ipc mnt net pid user uts cgroup; do readlink /proc/{}/ns/$ns; done; cat /proc/{}/cgroup"
    assert engine.exec(name, show.replace("{}", "self")) == engine.exec(name, show.replace("{}", "1"))


def test_exec_of_what_is_missing(engine: Engine) -> None:
    name = engine.up()
    done = engine.tried("exec", name, "/no/such")
    assert done.returncode in (126, 127)
    assert "/no/such" in done.stderr + done.stdout
    assert engine.exec(name, "echo still fine") == "still fine"


@pytest.mark.parametrize("count", [20])
def test_many_execs(engine: Engine, count: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    name = engine.up()
    with ThreadPoolExecutor(5) as pool:
        seen = list(pool.map(lambda number: engine.exec(name, f"echo {number}"), range(count)))
    assert seen == [str(number) for number in range(count)]
    assert len(engine("top", name).splitlines()) == 2


def test_logs_follow_and_wait(engine: Engine) -> None:
    name = engine.up("--", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done; exit 3")
    assert engine("logs", "-f", name).split() == ["1", "2", "3"]
    assert engine("wait", name) == "3"
    assert engine("logs", "--tail", "1", name) == "3"


def test_attach(engine: Engine) -> None:
    name = engine.up("--", "sh", "-c", "sleep 1; echo out; echo err >&2; sleep 0.2; exit 6")
    done = engine.tried("attach", "--no-stdin", name)
    assert (done.returncode, done.stdout, done.stderr) == (6, "out\n", "err\n")


def test_rm_of_a_running_container_takes_all_of_it(engine: Engine) -> None:
    name = engine.up("--", "sh", "-c", "sleep 1000 & sleep 1000 & sleep 1000")
    pid = engine.get(name, ".State.Pid")
    merged = engine.get(name, ".GraphDriver.Data.MergedDir")
    assert "Try:" in engine.tried("rm", name).stderr or "running" in engine.tried("rm", name).stderr
    engine("rm", "-f", name)
    assert not os.path.exists(f"/proc/{pid}")
    assert not os.path.exists(merged)
    assert not list((engine.directory / "exec").glob(f"runtime-{RUNTIME}/*/{name}"))


def test_init_killed_from_outside(engine: Engine) -> None:
    name = engine.up("--", "sh", "-c", "sleep 1000 & sleep 1000")
    os.kill(int(engine.get(name, ".State.Pid")), signal.SIGKILL)
    assert engine("wait", name) == "137"
    engine("start", name)
    assert engine.exec(name, "echo again") == "again"


def test_zombies_of_a_daemon_are_those_of_pid_1(engine: Engine) -> None:
    name = engine.up("--", "sh", "-c", "while :; do sleep 0.1; done")
    pid = engine.exec(name, "sh -c 'sleep 0.1 >/dev/null 2>&1 & echo $!'")
    eventually(lambda: engine.tried("exec", name, "test", "-e", f"/proc/{pid}").returncode == 1, what="the orphan taken by process 1")
