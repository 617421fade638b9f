"""Volumes and bind mounts: who owns what, on both sides."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from docker.engine import BUSYBOX, Engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHOW = "stat -c %n=%u:%g"


def owner(path: Path) -> tuple[int, int]:
    seen = path.lstat()
    return seen.st_uid, seen.st_gid


@pytest.fixture
def source(place: Path) -> Iterator[Path]:
    """A directory of the host with files of several owners."""
    path = place / "source"
    path.mkdir()
    path.chmod(0o755)
    for name, uid in (("root", 0), ("user", 1000), ("last", 65535), ("beyond", 70000)):
        (path / name).write_text(name)
        os.chown(path / name, uid, uid)
    yield path
    while os.path.ismount(path / "mount"):
        subprocess.run(["umount", "-l", path / "mount"], check=True)
    subprocess.run(["rm", "-rf", path], check=True)


def test_named_volume_lasts_and_has_container_owners(engine: Engine) -> None:
    engine.sh("-v", "vol:/data", "echo one >/data/a; touch /data/b; chown 1000:33 /data/b; chmod 4755 /data/b")
    seen = engine.sh("-v", "vol:/data", f"cat /data/a; {SHOW}:%a /data/a /data/b")
    assert seen.split() == ["one", "/data/a=0:0:644", "/data/b=1000:33:4755"]
    disk = engine.directory / "data/volumes/vol/_data"
    assert owner(disk / "b") == (1000, 33)
    assert "vol" in engine("volume", "ls", "-q").split()
    engine("volume", "rm", "vol")


def test_new_volume_gets_what_the_image_has_there(engine: Engine) -> None:
    assert engine.sh("-v", "vol:/etc", f"{SHOW} /etc/passwd; test -s /etc/passwd && echo copied").split() == ["/etc/passwd=0:0", "copied"]
    engine("volume", "rm", "vol")


def test_bind_mount_shows_owners_and_writes_them(engine: Engine, source: Path) -> None:
    seen = engine.sh(
        "-v", f"{source}:/src", f"cd /src; {SHOW} root user last; cat user; touch new; touch mine; chown 1000:1000 mine; rm last"
    )
    assert seen.split() == ["root=0:0", "user=1000:1000", "last=65535:65535", "user"]
    assert owner(source / "new") == (0, 0)
    assert owner(source / "mine") == (1000, 1000)
    assert not (source / "last").exists()
    assert owner(source / "user") == (1000, 1000), "owners on the host are as they were"


@pytest.mark.sysbox
def test_owners_beyond_the_range_are_nobody(engine: Engine, source: Path) -> None:
    assert (
        engine.sh("-v", f"{source}:/src", f"cd /src; {SHOW} beyond; chown 0 beyond 2>&1 | grep -o 'permitted'")
        == "beyond=65534:65534\npermitted"
    )


def test_user_of_the_host_and_of_the_container_are_the_same(engine: Engine, source: Path) -> None:
    (source / "secret").write_text("x")
    (source / "secret").chmod(0o600)
    os.chown(source / "secret", 1000, 1000)
    assert engine.sh("-u", "1000", "-v", f"{source}:/src", "cat /src/secret") == "x"
    assert engine.sh("-u", "1001", "-v", f"{source}:/src", "cat /src/secret 2>/dev/null || echo refused") == "refused"


def test_single_file_in_both_directions(engine: Engine, source: Path) -> None:
    name = engine.up("-v", f"{source}/user:/etc/one.conf")
    assert engine.exec(name, f"cat /etc/one.conf; {SHOW} /etc/one.conf") == "user/etc/one.conf=1000:1000"
    (source / "user").write_text("changed")
    assert engine.exec(name, "cat /etc/one.conf") == "changed"
    engine.exec(name, "echo inside >/etc/one.conf")
    assert (source / "user").read_text() == "inside\n"


def test_read_only_bind(engine: Engine, source: Path) -> None:
    show = "touch /src/x 2>&1; echo x 2>&1 >/src/user || true; touch /file 2>&1 || true"
    seen = engine.sh("-v", f"{source}:/src:ro", "-v", f"{source}/user:/file:ro", show)
    assert seen.count("Read-only file system") == 3
    assert not (source / "x").exists()


def test_mounts_below_the_source_come_along(engine: Engine, source: Path) -> None:
    (source / "mount").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,uid=1000,gid=1000", "none", source / "mount"], check=True)
    (source / "mount/file").write_text("below")
    os.chown(source / "mount/file", 33, 33)
    assert engine.sh("-v", f"{source}:/src", f"cat /src/mount/file; {SHOW} /src/mount /src/mount/file").split() == [
        "below/src/mount=1000:1000",
        "/src/mount/file=33:33",
    ]


@pytest.mark.parametrize(("propagation", "arrives"), [("rprivate", False), ("rslave", True), ("rshared", True)])
def test_propagation(engine: Engine, source: Path, propagation: str, arrives: bool) -> None:
    (source / "mount").mkdir()
    subprocess.run(["mount", "--bind", source, source], check=True)
    try:
        subprocess.run(["mount", "--make-shared", source], check=True)
        name = engine.up("--mount", f"type=bind,source={source},target=/src,bind-propagation={propagation}")
        subprocess.run(["mount", "-t", "tmpfs", "none", source / "mount"], check=True)
        (source / "mount/late").write_text("late")
        assert engine.exec(name, "cat /src/mount/late 2>/dev/null || echo absent") == ("late" if arrives else "absent")
        subprocess.run(["umount", source / "mount"], check=True)
        engine("rm", "-f", name)
    finally:
        subprocess.run(["umount", "-l", source], check=True)


def test_mount_syntax_with_volume_tmpfs_and_subdirectory(engine: Engine, source: Path) -> None:
    mounts = [
        f"type=bind,source={source},target=/a/b/c,readonly",
        "type=volume,source=vol,target=/vol",
        "type=tmpfs,target=/tmpfs,tmpfs-size=1m,tmpfs-mode=1700",
    ]
    options = [word for mount in mounts for word in ("--mount", mount)]
    seen = engine.sh(
        *options, "cat /a/b/c/user; echo; touch /vol/x; stat -c %a:%u /tmpfs; df -k /tmpfs | tail -n 1 | tr -s ' ' | cut -d' ' -f2"
    )
    assert seen.split() == ["user", "1700:0", "1024"]
    engine("volume", "rm", "vol")


def test_one_source_in_two_containers_at_once(engine: Engine, source: Path) -> None:
    first, second = engine.up("-v", f"{source}:/src"), engine.up("-v", f"{source}:/src")
    engine.exec(first, "echo hello >/src/greeting; chown 1000 /src/greeting")
    assert engine.exec(second, f"cat /src/greeting; {SHOW} /src/greeting").split() == ["hello", "/src/greeting=1000:0"]


def test_missing_source_is_an_error(engine: Engine, source: Path) -> None:
    done = engine.fails("--mount", f"type=bind,source={source}/absent,target=/x", BUSYBOX, "true")
    assert "absent" in done.stderr
