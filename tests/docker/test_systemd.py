"""systemd as a container's init."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING

import pytest

from docker.engine import RUNTIME, SYSBOX, Engine, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not SYSBOX, reason="systemd needs a system container")
IMAGE = "sysbox/systemd"


def booted(engine: Engine, name: str) -> str:
    """Wait until systemd has started everything; what it says of itself and of what failed."""
    state = "systemctl is-system-running; systemctl --failed --no-legend --plain"
    eventually(lambda: engine.tried("exec", name, "sh", "-c", state).stdout.split()[:1] in (["running"], ["degraded"]), 60, "booted")
    return engine.exec(name, f"{state}; true")


@pytest.fixture
def host(engine: Engine) -> Iterator[str]:
    """A container that has booted."""
    engine.load(IMAGE)
    name = engine("run", "-d", f"--runtime={RUNTIME}", IMAGE)
    try:
        booted(engine, name)
        yield name
    finally:
        engine("rm", "-f", name)


def test_it_runs_and_nothing_has_failed(engine: Engine, host: str) -> None:
    assert booted(engine, host) == "running"
    assert engine.exec(host, "systemd-detect-virt --container; cat /run/systemd/container").split()[1] == "private-users"
    assert engine.exec(host, "journalctl -q --no-pager -p err..emerg; journalctl -u docker --no-pager | grep -c Started") == "1"


def test_units_timers_and_logins(engine: Engine, host: str) -> None:
    assert "it was here" in engine.exec(host, "systemd-run --wait --collect -q sh -c 'echo it was here'; journalctl --no-pager | grep here")
    # By itself systemd may be a minute late (AccuracySec=, systemd.timer(5)), by a phase that each machine draws.
    engine.exec(host, "systemd-run --on-active=1 --timer-property=AccuracySec=100ms touch /run/timer")
    eventually(lambda: engine.exec(host, "test -e /run/timer && echo yes || true"), 20, "the timer")
    assert "container" in engine.exec(host, "hostnamectl | grep Virtualization")
    assert engine.exec(host, "timedatectl show -p NTP; loginctl list-sessions --no-legend").startswith("NTP=")


def test_its_docker_runs_containers(engine: Engine, host: str) -> None:
    engine.exec(host, "docker load -qi /usr/share/sysbox/busybox.tar")
    assert engine.exec(host, "docker run --rm --memory 50m busybox cat /proc/1/comm") == "cat"


def test_it_stops_at_once_and_orderly(engine: Engine) -> None:
    engine.load(IMAGE)
    name = engine("run", "-d", f"--runtime={RUNTIME}", IMAGE)
    try:
        booted(engine, name)
        start = time.monotonic()
        engine("stop", "-t", "60", name)
        assert time.monotonic() - start < 50, "it was killed"
        assert engine.get(name, ".State.ExitCode") in ("0", "130")
        engine("start", name)
        assert booted(engine, name) == "running"
    finally:
        engine("rm", "-f", name)


def test_a_reboot_is_a_restart(engine: Engine) -> None:
    engine.load(IMAGE)
    name = engine("run", "-d", f"--runtime={RUNTIME}", "--restart=always", IMAGE)
    try:
        booted(engine, name)
        engine.tried("exec", name, "systemctl", "reboot")
        eventually(lambda: engine.get(name, ".RestartCount") == "1", 60, "the restart")
        assert booted(engine, name) == "running"
    finally:
        engine("rm", "-f", name)


@pytest.mark.parametrize("command", ["/lib/systemd/systemd", "/usr/sbin/init", "systemd", "sh -c 'exec \"$@\"' sh /sbin/init"])
def test_by_any_of_its_names(engine: Engine, command: str) -> None:
    engine.load(IMAGE)
    words = shlex.split(command)
    if words == ["systemd"]:
        words = ["/usr/bin/env", "PATH=/lib/systemd:/bin", "systemd"]
    name = engine("run", "-d", f"--runtime={RUNTIME}", IMAGE, *words)
    try:
        assert booted(engine, name) == "running"
        assert engine.exec(name, "findmnt -no FSTYPE,OPTIONS /run").startswith("tmpfs")
        engine("stop", "-t", "60", name)
        assert engine.get(name, ".State.ExitCode") != "137"
    finally:
        engine("rm", "-f", name)
