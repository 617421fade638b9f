"""Limits: the host's on a container, a container's on inner ones and on groups of its own; shown by using up what is limited."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docker.engine import DOCKER, RUNTIME, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.engine import Engine

KEEP = "limited"
pytestmark = pytest.mark.sysbox
V1 = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
FILL = "head -c 200m /dev/zero | tail >/dev/null"
FORK = "for i in $(seq 60); do sleep 5 & done 2>/dev/null; jobs | wc -l"
BURN = "timeout 3 sh -c 'while :; do :; done'"
MEMORY = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes") if V1 else ("/sys/fs/cgroup", "memory.max")
PIDS = ("/sys/fs/cgroup/pids", "pids.max") if V1 else ("/sys/fs/cgroup", "pids.max")


@pytest.fixture(scope="module")
def outer(engine: Engine) -> Iterator[str]:
    """A container with limits, and a dockerd in it."""
    limits = ["--memory", "600m", "--memory-swap", "600m", "--pids-limit", "400", "--cpus", "1.5"]
    engine("run", "-d", f"--runtime={RUNTIME}", "--name", KEEP, *limits, DOCKER, "sh", "-c", "dockerd >/var/log/dockerd.log 2>&1")
    eventually(lambda: engine.tried("exec", KEEP, "docker", "version").returncode == 0, 40, "the inner dockerd")
    engine.exec(KEEP, "docker load -qi /usr/share/sysbox/busybox.tar")
    yield KEEP
    engine("rm", "-f", KEEP)


def inner(engine: Engine, *words: str, timeout: float = 60) -> tuple[int, str]:
    """``docker run --rm`` inside: its status and what it printed."""
    done = engine.tried("exec", KEEP, "docker", "run", *words[:-1], "busybox", "sh", "-c", words[-1], seconds=timeout)
    return done.returncode, done.stdout.strip()


def test_memory_of_an_inner_container(engine: Engine, outer: str) -> None:
    since = str(int(time.time()))
    status, _ = inner(engine, "--name", "filled", "-m", "64m", "--memory-swap", "64m", f"{FILL}; sleep 0")
    assert engine.exec(outer, "docker inspect -f '{{.State.OOMKilled}}' filled") == "true" or status == 137
    told = "--filter event=oom --format '{{.Actor.Attributes.name}}'"
    events = f"docker events --since {since} --until $(date +%s) {told}"
    eventually(lambda: "filled" in engine.exec(outer, events).split(), 20, "the event")
    assert engine.get(outer, ".State.OOMKilled") == "false"
    assert inner(engine, "--rm", "-m", "300m", "head -c 100m /dev/zero | tail | wc -c") == (0, str(100 << 20)), "what fits is not touched"
    engine.exec(outer, "docker rm -f filled")


def test_processes_of_an_inner_container(engine: Engine, outer: str) -> None:
    status, said = inner(engine, "--rm", "--pids-limit", "20", f"{FORK}; true")
    assert status != 0 or int(said.split()[-1]) < 20
    assert inner(engine, "--rm", FORK) == (0, "60")
    assert engine.exec(outer, "echo alive") == "alive"


def test_processor_time_of_an_inner_container(engine: Engine, outer: str) -> None:
    """Some 3 seconds of wall clock: a fifth of a processor gives 0.6 s, which nothing raises."""
    used = "awk '/^user|^sys/ { gsub(/[a-z]/, \"\"); sum += $1 * 60 + $2 } END { print sum }'"
    status, said = inner(engine, "--rm", "--cpus", "0.2", f"{{ time {BURN}; }} 2>&1 | {used}")
    assert status == 0
    assert 0.2 < float(said) < 1.2
    _, said = inner(engine, "--rm", f"{{ time {BURN}; }} 2>&1 | {used}")
    assert float(said) > 1.5
    assert outer


def test_the_outer_limits_hold_for_all_inside(engine: Engine, outer: str) -> None:
    status, _ = inner(engine, "--rm", "-m", "2g", "head -c 900m /dev/zero | tail >/dev/null", timeout=90)
    assert status != 0, "more than the outer container has"
    assert engine.exec(outer, "docker run --rm busybox echo still there") == "still there"
    for directory, name in (MEMORY, PIDS):
        done = engine.tried("exec", outer, "sh", "-c", f"echo 100000000000 >{directory}/{name}")
        assert done.returncode != 0, f"root inside has lifted its own {name}"


def test_groups_of_its_own_nest(engine: Engine) -> None:
    """Two levels made by hand; the inner one's limit holds, and so does the outer's for both."""
    prepare = (
        ""
        if V1
        else "mkdir /sys/fs/cgroup/self; for p in $(cat /sys/fs/cgroup/cgroup.procs); do echo $p >/sys/fs/cgroup/self/cgroup.procs; done;"
    )
    enable = "" if V1 else "for d in . a; do echo '+memory +pids' >/sys/fs/cgroup/$d/cgroup.subtree_control; done;"
    directory, name = MEMORY
    make = f"mkdir -p {directory}/a/b; {prepare} {enable} echo 80m >{directory}/a/{name}; echo 40m >{directory}/a/b/{name}"
    enter = f"echo $$ >{directory}/a/b/cgroup.procs"
    test = f"sh -c '{enter}; {FILL}'; echo status $?; sh -c '{enter}; head -c 10m /dev/zero | tail | wc -c'"
    said = engine.run(DOCKER, "sh", "-c", f"{make} && {{ {test}; }} 2>/dev/null").split()
    assert said[-1] == str(10 << 20)
    assert said[:2] != ["status", "0"] or "Killed" in said


def test_it_sees_no_group_but_its_own(engine: Engine) -> None:
    lines = engine.sh("cat /proc/self/cgroup").splitlines()
    assert {line.split(":", 2)[2] for line in lines} <= {"/", "/init.scope"}
    assert "docker" not in engine.sh("cat /proc/self/mountinfo | grep cgroup | cut -d' ' -f4")
    controllers = engine.sh("ls /sys/fs/cgroup").split()
    assert "memory" in controllers or "memory.max" in controllers
