"""Which system calls of a container sysbox-fs is asked about: the filter that the runtime loads, the numbers that sysbox-fs gets back.

The filter lets pass by itself what the kernel can be trusted with: remounts, moves, changes of propagation and lazy unmounts, for
what must stay read-only or in place is locked (mount_namespaces(7)). Where it does not ask, it costs nothing: the kernel
remembers that a number is allowed (seccomp(2), since Linux 5.11).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7  # AUDIT_ARCH_*: linux/audit.h
X32 = 0x40000000
_NEW = {"open_tree": 428, "fsopen": 430, "fsmount": 432, "openat2": 437}  # the same everywhere
_XATTR = "setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr"


def _xattrs(first: int) -> dict[str, int]:
    return {name: first + index for index, name in enumerate(_XATTR.split())}


def _calls(words: str, xattrs: int) -> dict[str, int]:
    return {**{name: int(number) for name, _, number in (word.partition("=") for word in words.split())}, **_NEW, **_xattrs(xattrs)}


CALLS = {
    X86_64: _calls(
        "mount=165 umount2=166 swapon=167 swapoff=168 reboot=169 settimeofday=164 clock_settime=227 "
        "chown=92 lchown=94 fchown=93 fchownat=260",
        188,
    ),
    I386: _calls(
        "mount=21 umount=22 umount2=52 swapon=87 swapoff=115 reboot=88 settimeofday=79 stime=25 clock_settime=264 clock_settime64=404 "
        "chown=182 chown32=212 lchown=16 lchown32=198 fchown=95 fchown32=207 fchownat=298",
        226,
    ),
    AARCH64: _calls("mount=40 umount2=39 swapon=224 swapoff=225 reboot=142 settimeofday=170 clock_settime=112 fchown=55 fchownat=54", 5),
}
NAMES = {arch: {number: name for name, number in calls.items()} for arch, calls in CALLS.items()}
_ALWAYS = "mount umount umount2 fsopen fsmount open_tree openat2 swapon swapoff settimeofday stime clock_settime clock_settime64 reboot"
CHOWN = ["chown", "chown32", "lchown", "lchown32", "fchown", "fchown32", "fchownat"]
XATTR = _XATTR.split()

# linux/mount.h and the like: written out here, for they are part of what is agreed
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_PROPAGATION = 1 << 5, 1 << 12, 1 << 13, 1 << 14, 0b1111 << 17
MAGIC, MAGIC_MASK = 0xC0ED0000, 0xFFFF0000
MNT_DETACH = 2
OPEN_TREE_CLONE, AT_RECURSIVE = 1, 0x8000
CAD = (0, 0x89ABCDEF)  # LINUX_REBOOT_CMD_CAD_OFF, _ON: reboot(2)
_ALLOW, _NOTIFY, _ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000
_ENOSYS = 38
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data

# linux/filter.h: BPF_LD|W|ABS, BPF_JMP|JEQ|K, ...
_LOAD, _EQUAL, _ATLEAST, _ANY, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06


def _op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return code.to_bytes(2, "little") + bytes((yes, no)) + k.to_bytes(4, "little")


def _argument(index: int) -> bytes:
    return _op(_LOAD, _ARGS + 8 * index)


_ALLOWED, _ASKED = _op(_RETURN, _ALLOW), _op(_RETURN, _NOTIFY)
_MOUNT = (
    _argument(3)
    + _op(_AND, MAGIC_MASK)
    + _op(_EQUAL, MAGIC, 0, 3)  # the flags are the lower half then, as in the kernel's path_mount
    + _argument(3)
    + _op(_AND, 0xFFFF)
    + _op(_ATLEAST, 0, 1, 1)
    + _argument(3)
    + _op(_ANY, MS_REMOUNT, 2, 0)
    + _op(_ANY, MS_BIND, 0, 2)
    + _ASKED
    + _ALLOWED
    + _op(_ANY, MS_PROPAGATION | MS_MOVE, 1, 0)
    + _ASKED
    + _ALLOWED
)
_UMOUNT2 = _argument(1) + _op(_ANY, MNT_DETACH, 1, 0) + _ASKED + _ALLOWED
_OPEN_TREE = _argument(2) + _op(_ANY, OPEN_TREE_CLONE, 0, 1) + _ASKED + _ALLOWED
_REBOOT = _argument(2) + _op(_EQUAL, CAD[0], 1, 0) + _op(_EQUAL, CAD[1], 0, 1) + _ASKED + _ALLOWED
_SPECIAL = {"mount": _MOUNT, "umount2": _UMOUNT2, "open_tree": _OPEN_TREE, "reboot": _REBOOT}


def _block(calls: dict[str, int], names: Iterable[str]) -> bytes:
    """Test the number, which is loaded, for each of ``names``."""
    out = b""
    for name in names:
        if name in calls:
            body = _SPECIAL.get(name, _ASKED)
            out += _op(_EQUAL, calls[name], 0, len(body) // 8) + body
    return out + _ALLOWED


def program(*, chown: bool, xattr: bool) -> bytes:
    """Build the filter as an array of struct sock_filter; ``chown``, ``xattr``: ask about these too."""
    names = [*_ALWAYS.split(), *(CHOWN if chown else ()), *(XATTR if xattr else ())]
    out = _op(_LOAD, _ARCH)
    for arch, calls in CALLS.items():
        body = _op(_LOAD, _NR)
        if arch == X86_64:
            body += _op(_ATLEAST, X32, 0, 1) + _op(_RETURN, _ERRNO | _ENOSYS)
        body += _block(calls, names)
        out += _op(_EQUAL, arch, 1, 0) + (0x05).to_bytes(2, "little") + bytes(2) + (len(body) // 8).to_bytes(4, "little") + body
    return out + _ALLOWED
