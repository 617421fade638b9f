"""A dockerd in userns-remap mode brings its own ids: they are honoured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docker.engine import BUSYBOX, RUNTIME, SYSBOX, Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

USER, START = "daemon", 900_000_000


@pytest.fixture(scope="module")
def remapped(place: Path) -> Iterator[Engine]:
    """A second dockerd; the ids of its user are in /etc/subuid and /etc/subgid only as long as it runs."""
    files = [Path("/etc/subuid"), Path("/etc/subgid")]
    before = [path.read_text() for path in files]
    engine = Engine(place / "remap", f"--userns-remap={USER}")
    try:
        for path, text in zip(files, before, strict=True):
            others = [line for line in text.splitlines() if line and not line.startswith(f"{USER}:")]
            path.write_text("\n".join([*others, f"{USER}:{START}:65536"]) + "\n")
        engine.start()
        engine.load(BUSYBOX)
        yield engine
        engine.clean()
    finally:
        engine.stop()
        for path, text in zip(files, before, strict=True):
            path.write_text(text)
    assert engine.leftovers() == []


@pytest.fixture(autouse=True)
def clean(remapped: Engine) -> Iterator[None]:
    yield
    remapped.clean()


def test_dockers_range_is_used(remapped: Engine) -> None:
    first, second = remapped.up(), remapped.up()
    for name in (first, second):
        assert remapped.exec(name, "cat /proc/self/uid_map /proc/self/gid_map").split() == ["0", str(START), "65536"] * 2


def test_files_volumes_and_binds(remapped: Engine) -> None:
    name = remapped.up("-v", "vol:/data")
    remapped.exec(name, "touch /mine /data/mine; chown 1000:33 /mine /data/mine")
    assert remapped.exec(name, "stat -c %u:%g /mine /data/mine /etc/passwd").split() == ["1000:33", "1000:33", "0:0"]
    upper = Path(remapped.get(name, ".GraphDriver.Data.UpperDir"))
    assert (upper / "mine").stat().st_uid == START + 1000
    source = Path(remapped.get(name, "(index .Mounts 0).Source"))
    assert (source / "mine").stat().st_uid == START + 1000


def test_cp_commit_and_restart(remapped: Engine, tmp_path: Path) -> None:
    name = remapped.up()
    (tmp_path / "file").write_text("x")
    assert remapped.exec(name, "ls /root/file 2>/dev/null || echo absent") == "absent"
    remapped("cp", str(tmp_path / "file"), f"{name}:/root/file")
    assert remapped.exec(name, "cat /root/file; stat -c :%u /root/file") == "x:0"
    remapped.exec(name, "chown 1000 /root/file")
    remapped("commit", name, "made")
    assert remapped.run("made", "stat", "-c", "%u", "/root/file") == "1000"
    remapped("restart", "-t", "0", name)
    assert remapped.exec(name, "stat -c %u /root/file") == "1000"


@pytest.mark.sysbox
def test_host_user_namespace_is_refused(remapped: Engine) -> None:
    done = remapped.fails("--userns=host", BUSYBOX, "true")
    assert "userns" in done.stderr or "user namespace" in done.stderr
    assert "SBX-" in done.stderr


def test_limits_and_runtime(remapped: Engine) -> None:
    name = remapped.up("--memory", "32m")
    assert remapped.limit(name, "memory/memory.limit_in_bytes", "memory.max") == str(32 << 20)
    assert remapped.get(name, ".HostConfig.Runtime") == (RUNTIME if SYSBOX else "runc")
