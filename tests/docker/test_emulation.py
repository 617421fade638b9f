"""Real software on an emulated /proc and /sys: inner privileged containers, sandboxes, FUSE, stressors; and daemons that die meanwhile."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docker.engine import RUNTIME, eventually
from docker.test_inner import KEEP, Inner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.engine import Engine

NAME = KEEP  # which the tests of other modules do not share, but have removed by then
KILLS = int(os.environ.get("SYSBOX_TEST_KILLS", "100"))
PROBE = Path(__file__).resolve().parents[1] / "bench/probe.c"  # mounts so many times in one process
pytestmark = pytest.mark.sysbox
# what runs while daemons die: it stops at the first thing that is not as it should be
BUSY = """
n=0
while test ! -e /stop; do
    out=$(docker run --rm --privileged busybox sh -c 'echo 7 > /proc/sys/kernel/panic && cat /proc/sys/kernel/panic /proc/swaps' 2>&1) &&
        test "$(echo "$out" | head -n 1)" = 7 || { echo "$out"; exit 1; }
    docker exec steady cat /proc/uptime >/dev/null 2>&1 || { echo exec; exit 1; }
    unshare -Urmpf --mount-proc cat /proc/uptime >/dev/null || { echo unshare; exit 1; }
    n=$((n + 1)); echo $n > /m; mv /m /n
done
echo good
"""


@pytest.fixture(scope="module")
def inner(engine: Engine) -> Iterator[Inner]:
    engine.load("sysbox/tools")
    engine("run", "-d", f"--runtime={RUNTIME}", "--name", NAME, "--device", "/dev/fuse", "sysbox/tools", "sleep", "10000")
    inner = Inner(engine, NAME)
    inner.up()
    inner("load", "-q", "-i", "/usr/share/sysbox/busybox.tar")
    yield inner
    engine("rm", "-f", "-v", NAME)


def uptime(text: str) -> float:
    return float(text.split()[0])


def test_an_inner_privileged_container_sees_the_outer_ones_host(inner: Inner) -> None:
    age = uptime(inner("run", "--rm", "--privileged", "busybox", "cat", "/proc/uptime"))
    assert 0 < age < 600
    script = "mkdir /p; mount -t proc proc /p; cat /p/uptime; umount /p; echo 3 > /proc/sys/kernel/panic; cat /proc/sys/kernel/panic"
    out = inner("run", "--rm", "--privileged", "busybox", "sh", "-c", script).split()
    assert float(out[0]) >= age
    assert out[2] == "3"
    assert inner.engine.exec(NAME, "cat /proc/sys/kernel/panic") == "3"
    assert inner("run", "--rm", "busybox", "cat", "/proc/swaps").split()[0] == "Filename"


def test_inner_sysctls(inner: Inner) -> None:
    out = inner(
        "run", "--rm", "--sysctl", "net.ipv4.ip_unprivileged_port_start=80", "busybox", "sysctl", "net.ipv4.ip_unprivileged_port_start"
    )
    assert out == "net.ipv4.ip_unprivileged_port_start = 80"


def test_unshare_with_a_proc_of_its_own(inner: Inner) -> None:
    out = inner.engine.exec(
        NAME, "unshare -Urmpf --mount-proc sh -c 'echo $$; wc -c < /proc/keys; cat /proc/uptime; umount /proc/uptime; cat /proc/uptime'"
    )
    lines = out.split("\n")
    assert lines[:2] == ["1", "0"]
    assert uptime(lines[2]) <= uptime(lines[3]) < 600  # it stays, whatever umount says


def test_bubblewrap(inner: Inner) -> None:
    command = "bwrap --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp --unshare-all sh -c 'cat /proc/uptime; ls /proc | grep -c ^[0-9]'"
    age, count = inner.engine.exec(NAME, command).split("\n")
    assert uptime(age) < 600
    assert int(count) <= 4


def test_a_chroot_with_proc_and_sys(inner: Inner) -> None:
    script = """
    mkdir -p /c/bin /c/proc /c/sys; cp /bin/busybox /c/bin; mount -t proc proc /c/proc; mount -t sysfs sysfs /c/sys
    chroot /c /bin/busybox cat /proc/uptime; chroot /c /bin/busybox ls -d /sys/kernel/config
    umount /c/sys; umount /c/proc; mount --bind /proc /c/proc; cat /c/proc/uptime; umount /c/proc; grep -c ' /c' /proc/mounts
    """
    lines = inner.engine.tried("exec", NAME, "sh", "-c", script).stdout.strip().split("\n")
    assert uptime(lines[0]) < 600
    assert uptime(lines[2]) < 600
    assert (lines[1], lines[3]) == ("/sys/kernel/config", "0")


@pytest.mark.parametrize("how", ["-t proc proc proc; mount -t sysfs sysfs sys", "--rbind /proc proc; mount --rbind /sys sys"])
def test_a_chroot_is_taken_apart_recursively(inner: Inner, how: str) -> None:
    """As builders of images do."""
    script = f"d=$(mktemp -d); mount -t tmpfs c $d; cd $d; mkdir proc sys; mount {how}; cd /; umount -R $d && ls $d | wc -l"
    assert inner.engine.exec(NAME, script) == "0"


def test_binds_and_unmounts_are_answered_without_a_process_for_each(inner: Inner, tmp_path: Path) -> None:
    """On Docker's overlay, which has no ACLs cached, and after a proc was mounted: then there may be one to take off."""
    program = tmp_path / "probe"
    subprocess.run(["cc", "-O1", "-static", "-o", program, PROBE], check=True, timeout=60)
    inner.engine("cp", str(program), f"{NAME}:/usr/bin/probe")
    inner.engine.exec(NAME, "mount -t proc proc /mnt; umount /mnt")

    def started() -> int:
        return int(Path("/proc/loadavg").read_text().split()[-1])  # the last pid

    before = started()
    inner.engine.exec(NAME, "probe 1000 bind /mnt")
    assert started() - before < 500


def test_fuse_inside(inner: Inner) -> None:
    script = """
    mkdir -p /f/l/d /f/u /f/w /f/m; echo low > /f/l/d/x; fuse-overlayfs -o lowerdir=/f/l,upperdir=/f/u,workdir=/f/w /f/m
    echo high > /f/m/y; rm -r /f/m/d; ls /f/m /f/l/d; umount /f/m; ls /f/m
    """
    assert inner.engine.exec(NAME, script).split() == ["/f/l/d:", "x", "/f/m:", "y"]


@pytest.mark.timeout(200)
def test_stressors_of_mounts_proc_and_sys(inner: Inner) -> None:
    inner.engine(
        "exec",
        NAME,
        "timeout",
        "150",
        "stress-ng",
        "--procfs",
        "1",
        "--sysfs",
        "1",
        "--bind-mount",
        "1",
        "--chroot",
        "1",
        "-t",
        "10s",
        "--quiet",
        seconds=170,
    )
    assert uptime(inner.engine.exec(NAME, "cat /proc/uptime")) > 0


def _processes() -> list[int]:
    """List every process of sysbox-fs of this run of tests."""
    mark = f"SYSBOX_TEST_DIR={os.environ['SYSBOX_TEST_DIR']}\0"
    found = []
    for pid in subprocess.run(["pgrep", "-f", "sbin/sysbox-(fs|mgr)"], capture_output=True, text=True).stdout.split():
        try:
            if mark in Path(f"/proc/{pid}/environ").read_text():
                found.append(int(pid))
        except OSError:
            continue
    return found


@pytest.mark.timeout(600)
def test_an_inner_docker_at_work_notices_no_death(inner: Inner) -> None:
    """Each process of sysbox-fs and sysbox-mgr is killed, at random; SYSBOX_TEST_KILLS=1000 for more."""
    inner("run", "-d", "--name", "steady", "busybox", "sleep", "10000")
    inner.write("/busy.sh", BUSY)
    inner.engine("exec", "-d", NAME, "sh", "-c", "sh /busy.sh > /said 2>&1")

    def said() -> str:
        return inner.engine.exec(NAME, "cat /said")

    choose = random.Random()
    for number in range(KILLS):
        found = _processes()
        if found:
            try:
                os.kill(choose.choice(found), 9)
            except ProcessLookupError:
                continue
        time.sleep(0.2 + choose.random() * 0.3)
        if number % 20 == 19:
            assert said() == ""
    done = int(inner.engine.exec(NAME, "cat /n"))
    eventually(lambda: int(inner.engine.exec(NAME, "cat /n")) > done + 1, 60, "work goes on")
    inner.engine.exec(NAME, "touch /stop")
    eventually(said, 60, "the end of the work")
    assert said() == "good"
