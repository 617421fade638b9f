"""Software that mounts, in a system container: Debian 13's util-linux with the new mount calls, bootstraps of Debian, FUSE."""

from __future__ import annotations

import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docker.engine import RUNTIME
from docker.test_inner import KEEP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.engine import Engine

pytestmark = pytest.mark.sysbox
PACKAGES = Path(os.environ.get("SYSBOX_IMAGES", "/var/cache/sysbox-images"))


@pytest.fixture(scope="module")
def trixie(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, str, Path]]:
    """A container with a read-only volume at /v."""
    engine.load("sysbox/trixie")
    volume = tmp_path_factory.mktemp("volume")
    (volume / "file").write_text("as it was\n")
    name = KEEP
    engine("run", "-d", f"--runtime={RUNTIME}", "--name", name, "-v", f"{volume}:/v:ro", "sysbox/trixie", "sleep", "10000")
    yield engine, name, volume
    engine("rm", "-f", "-v", name)


def test_the_new_mount_calls_are_used(trixie: tuple[Engine, str, Path]) -> None:
    """Or the other tests here would show nothing."""
    engine, name, _ = trixie
    assert "2.4" in engine.exec(name, "mount --version")
    assert engine.exec(name, "grep -c -a fsconfig /usr/lib/*/libmount.so.1") != "0"


def test_mounts_of_every_kind(trixie: tuple[Engine, str, Path]) -> None:
    engine, name, _ = trixie
    script = """
    set -e; mkdir -p /m/a /m/b; cd /m
    mount -t proc proc a; cat a/uptime a/swaps | wc -l; findmnt -n -o FSTYPE a; echo 3 > a/sys/kernel/panic; cat /proc/sys/kernel/panic
    umount a; mount -t sysfs sysfs a; ls -d a/kernel/config; umount a
    mount -t tmpfs -o size=1m,mode=700 t a; touch a/x; mount -o remount,bind,ro a
    touch a/y 2>/dev/null && exit 1; mount -o remount,bind,rw a; touch a/y
    mount --bind a b; ls b; umount b; mount --bind -o ro a b; touch b/z 2>/dev/null && exit 1; umount b
    mount --move a b; findmnt -n -o TARGET b; umount b; mount --rbind /proc a; cat a/uptime >/dev/null; umount -l a
    mount --bind /proc a; cat a/uptime > /dev/null; umount a
    mount -t tmpfs t a; mount --make-rshared a; mkdir a/in; mount -t tmpfs t2 a/in; umount -R a; findmnt | grep -c /m/ || true
    """
    assert engine.exec(name, script).split("\n") == ["2", "proc", "3", "a/kernel/config", "x", "y", "/m/b", "0"]


def test_overlays_with_whiteouts_and_opaque_directories(trixie: tuple[Engine, str, Path]) -> None:
    engine, name, _ = trixie
    script = """
    set -e; mkdir /o; mount -t tmpfs t /o; cd /o; mkdir -p low/d low/e up work m; echo 1 > low/d/x; echo 2 > low/e/y
    mount -t overlay -o lowerdir=low,upperdir=up,workdir=work o m
    rm -r m/d m/e/y; mkdir m/d; echo 3 > m/d/z; umount m
    mount -t overlay -o lowerdir=low,upperdir=up,workdir=work o m; find m -type f; stat -c %F up/e/y; umount m; cd /; umount /o
    """
    assert engine.exec(name, script).split("\n") == ["m/d/z", "character special file"]


def test_namespaces_of_ones_own(trixie: tuple[Engine, str, Path]) -> None:
    engine, name, _ = trixie
    out = engine.exec(name, "unshare -Urmpf --mount-proc sh -c 'echo $$; wc -l < /proc/uptime; mount -t proc proc /mnt && ls -d /mnt/1'")
    assert out.split() == ["1", "1", "/mnt/1"]


@pytest.mark.parametrize("way_in", ["", "unshare -m ", "unshare -Urm "])
def test_a_read_only_volume_stays_so(trixie: tuple[Engine, str, Path], way_in: str) -> None:
    engine, name, volume = trixie
    script = """
    mkdir -p /w; write() { mountpoint -q $1 && echo changed > $1/file && echo "written by $2"; }
    mount -o remount,rw /v; write /v remount
    mount -o remount,bind,rw /v; write /v bind-remount
    mount --bind /v /w; write /w bind; mount -o remount,bind,rw /w; write /w bind-and-remount; umount /w
    mount --bind -o rw /v /w; write /w bind-rw; umount /w
    mount --rbind -o rw=recursive /v /w; write /w rbind-rw; umount -R /w
    mount --move /v /w && { mount -o remount,bind,rw /w; write /w move; mount --move /w /v; }
    cat /v/file
    """
    assert engine.tried("exec", name, "sh", "-c", f"{way_in}sh -c '{script}' 2>/dev/null").stdout == "as it was\n"
    assert (volume / "file").read_text() == "as it was\n"


def test_a_read_only_volume_stays_so_without_seccomp(engine: Engine, tmp_path: Path) -> None:
    engine.load("sysbox/trixie")
    script = "mount -o remount,bind,rw /v; mount --bind /v /mnt; mount -o remount,bind,rw /mnt; touch /v/x; touch /mnt/x; true"
    engine("run", "--rm", f"--runtime={RUNTIME}", "--security-opt", "seccomp=unconfined", "-v", f"{tmp_path}:/v:ro", "sysbox/trixie",
           "sh", "-c", script)  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def index(packages: Path, into: Path, suite: str) -> None:
    """Make a repository of Debian packages, flat and not signed: links to them, the list of them, what suite it is."""

    def entry(deb: Path) -> str:
        os.link(deb, into / deb.name) if deb.stat().st_dev == into.stat().st_dev else (into / deb.name).write_bytes(deb.read_bytes())
        fields = subprocess.run(["dpkg-deb", "-f", deb], capture_output=True, text=True, check=True).stdout
        data = deb.read_bytes()
        return f"{fields}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n"

    with ThreadPoolExecutor(4) as pool:
        listing = "".join(pool.map(entry, sorted(packages.glob("*.deb")))).encode()
    (into / "Packages").write_bytes(listing)
    (into / "Release").write_text(f"Suite: {suite}\nSHA256:\n {hashlib.sha256(listing).hexdigest()} {len(listing)} Packages\n")


@pytest.mark.timeout(300)
def test_a_bootstrap_of_debian_inside(engine: Engine, tmp_path: Path) -> None:
    engine.load("sysbox/tools")
    suite = next(line.partition("=")[2] for line in Path("/etc/os-release").read_text().splitlines() if line.startswith("VERSION_CODENAME"))
    index(PACKAGES / f"packages-{suite}", tmp_path, suite)
    script = f"""
    mmdebstrap --quiet --variant=essential --dpkgopt=path-exclude=/usr/share/doc/\\* {suite} /tree "deb [trusted=yes] copy:/debs ./" >&2 &&
    chroot /tree sh -c "cat /etc/debian_version >/dev/null && id -un && stat -c %U:%G /var/mail" && grep -c " /tree" /proc/mounts
    """
    done = engine.tried(
        "run", "--rm", f"--runtime={RUNTIME}", "-v", f"{tmp_path}:/debs:ro", "sysbox/tools", "sh", "-c", script, seconds=280
    )
    assert done.stdout.split() == ["root", "root:mail", "0"], done.stderr[-2000:]


def test_an_image_mounted_by_fuse_inside(engine: Engine) -> None:
    engine.load("sysbox/tools")
    script = """
    set -e; mkdir -p /d/e /m; echo hello > /d/e/f; mksquashfs /d /image -quiet -no-progress >/dev/null; squashfuse /image /m
    cat /m/e/f; findmnt -n -o FSTYPE /m; umount /m; ls /m
    """
    out = engine("run", "--rm", f"--runtime={RUNTIME}", "--device", "/dev/fuse", "sysbox/tools", "sh", "-c", script)
    assert out.split() == ["hello", "fuse.squashfuse"]
