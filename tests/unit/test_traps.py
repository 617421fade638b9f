"""The filter of traps against a written table: which calls sysbox-fs is asked about."""

import struct

import pytest

from sysbox.fs.trap.caller import magic
from sysbox.wire import traps

ASKED, ALLOWED, UNKNOWN = 0x7FC00000, 0x7FFF0000, 0x00050026
MAGIC = 0xC0ED0000
RDONLY, REMOUNT, BIND, MOVE, REC, UNBINDABLE, PRIVATE, SLAVE, SHARED = 1, 32, 4096, 8192, 16384, 1 << 17, 1 << 18, 1 << 19, 1 << 20
MOUNTS = {
    0: ASKED,
    RDONLY: ASKED,
    BIND: ASKED,
    BIND | RDONLY: ASKED,
    BIND | REC: ASKED,
    REMOUNT: ALLOWED,
    REMOUNT | BIND | RDONLY: ALLOWED,
    MOVE: ALLOWED,
    PRIVATE | REC: ALLOWED,
    SLAVE: ALLOWED,
    SHARED: ALLOWED,
    UNBINDABLE: ALLOWED,
    BIND | SHARED: ASKED,  # the kernel looks for MS_BIND first
}


def verdict(program: bytes, arch: int, number: int, *args: int) -> int:
    """Run a filter: linux/filter.h."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *args, *[0] * (6 - len(args)))
    at = accumulator = 0
    while True:
        op, true, false, value = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if op == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif op == 0x54:
            accumulator &= value
        elif op == 0x05:
            at += value
        elif op == 0x06:
            return int(value)
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[op]
            at += true if holds else false


PLAIN = traps.program(chown=False, xattr=False)
ALL = traps.program(chown=True, xattr=True)


@pytest.mark.parametrize("arch", traps.CALLS)
@pytest.mark.parametrize("flags", MOUNTS)
def test_mount_by_its_flags(arch: int, flags: int) -> None:
    number = traps.CALLS[arch]["mount"]
    assert verdict(PLAIN, arch, number, 1, 2, 3, flags, 4) == MOUNTS[flags]
    if flags < 1 << 16:  # with the magic of old the lower half counts
        assert verdict(PLAIN, arch, number, 1, 2, 3, MAGIC | flags, 4) == MOUNTS[flags]


@pytest.mark.parametrize("arch", traps.CALLS)
def test_other_calls_by_their_flags(arch: int) -> None:
    calls = traps.CALLS[arch]
    assert [verdict(PLAIN, arch, calls["umount2"], 1, flags) for flags in (0, 1, 2, 4, 8, 10)] == [
        ASKED,
        ASKED,
        ALLOWED,
        ASKED,
        ASKED,
        ALLOWED,
    ]
    assert [verdict(PLAIN, arch, calls["open_tree"], 1, 2, flags) for flags in (0, 1, 0x8001, 0x80001)] == [ALLOWED, ASKED, ASKED, ASKED]
    commands = (0, 0x89ABCDEF, 0x1234567, 0x4321FEDC, 0xCDEF0123, 0xA1B2C3D4)
    assert [verdict(PLAIN, arch, calls["reboot"], 1, 2, one) for one in commands] == [ASKED, ASKED, *[ALLOWED] * 4]
    for name in ("fsopen", "fsmount", "openat2", "swapon", "swapoff", "settimeofday", "clock_settime"):
        assert verdict(PLAIN, arch, calls[name]) == ASKED


@pytest.mark.parametrize("arch", traps.CALLS)
def test_nothing_else_is_asked_about(arch: int) -> None:
    numbers = set(range(600)) - set(traps.CALLS[arch].values())
    assert {verdict(ALL, arch, number) for number in numbers} == {ALLOWED}
    for name, number in traps.CALLS[arch].items():
        knob = name in (*traps.CHOWN, *traps.XATTR)
        if knob:
            assert (verdict(PLAIN, arch, number), verdict(ALL, arch, number)) == (ALLOWED, ASKED)


def test_x32_is_unknown_to_this_kernel() -> None:
    assert {verdict(PLAIN, traps.X86_64, traps.X32 | number) for number in range(600)} == {UNKNOWN}
    assert verdict(PLAIN, 0x1234, 165) == ALLOWED


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/proc/self/fd/3", ("fd/3", "")),
        ("/proc/self/fd/3/", ("fd/3", "")),
        ("/proc/self/fd/3/a/b", ("fd/3", "a/b")),
        ("/proc/self/task/17/ns/net", ("ns/net", "")),
        ("/proc/thread-self/root/etc", ("root", "etc")),
        ("/proc/self/cwd", ("cwd", "")),
        ("/proc/self/ns/pid_for_children", ("ns/pid_for_children", "")),
        ("/proc/self/ns/../../1/root", None),
        ("/proc/self/fd/../ns", None),
        ("/proc/self/fd", None),
        ("/proc/self/fdinfo/3", None),
        ("/proc/self/task/x/root", None),
        ("/proc/thread-self/task/1/root", None),
        ("/proc/1/root", None),
        ("proc/self/root", None),
        ("/tmp/proc/self/root", None),
        ("", None),
    ],
)
def test_links_of_the_callers_own_proc_are_known(path: str, parts: tuple[str, str] | None) -> None:
    assert magic(path) == parts
