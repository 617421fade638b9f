"""Device rules: ``linux.resources.devices`` for cgroup v1 (files) and v2 (a BPF program).

The rules are a list in which, for each of read, write and mknod, the last rule that fits a device decides; without one the answer is no.
"""

from __future__ import annotations

from sysbox.errors import Failure
from sysbox.oci.fields import ROOT, number, objects, typed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Rule = tuple[bool, str, int, int, int]  # allow, type, major, minor, access bits; -1 is "any"

LETTERS = (("r", 2), ("w", 4), ("m", 1))  # BPF_DEVCG_ACC_READ, _WRITE and _MKNOD, in the order in which cgroup v1 reads them
ALL = 7
BLOCK, CHAR = 1, 2  # BPF_DEVCG_DEV_BLOCK and _CHAR
KINDS = {"a": (BLOCK, CHAR), "b": (BLOCK,), "c": (CHAR,)}
MOST = 2**31 - 1  # BPF compares with signed immediates; real numbers have 12 and 20 bits


def _allow(kind: str, major: int, minor: int, access: str = "rwm") -> dict[str, Any]:
    return {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}


DEFAULT_DEVICES: tuple[dict[str, Any], ...] = (
    _allow("c", -1, -1, "m"),  # a node alone opens nothing
    _allow("b", -1, -1, "m"),
    _allow("c", 1, 3),  # null
    _allow("c", 1, 8),  # random
    _allow("c", 1, 7),  # full
    _allow("c", 5, 0),  # tty
    _allow("c", 1, 5),  # zero
    _allow("c", 1, 9),  # urandom
    _allow("c", 136, -1),  # pts/*
    _allow("c", 5, 2),  # ptmx
    _allow("c", 10, 200),  # net/tun: VPNs and inner container networks
    _allow("c", 10, 229),  # fuse: inner fuse-overlayfs and sshfs
    _allow("c", 1, 11, "r"),  # kmsg: kubelet reads it
)


def effective(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``rules`` followed by DEFAULT_DEVICES, which therefore win, as with runc."""
    return [*rules, *DEFAULT_DEVICES]


def _parse(rules: list[dict[str, Any]]) -> list[Rule]:
    """Return the rules as tuples. Raises Failure 2001, 2002, 2006."""
    parsed: list[Rule] = []
    for place, item in objects({"devices": rules}, "devices", ROOT):
        kind: str = typed(item, "type", place, str, "a string") or "a"
        if kind not in KINDS:
            raise Failure(2006, f'{place}.type: "{kind}" is none of a, b, c', 'use "c" for character, "b" for block devices, "a" for both')
        access: str = typed(item, "access", place, str, "a string") or ""
        if not access or access.strip("rwm"):
            raise Failure(2006, f'{place}.access: "{access}" is not made of r, w and m', 'write some of "rwm"')
        bits = 0
        for letter, bit in LETTERS:
            bits |= bit if letter in access else 0
        major, minor = (number(item, key, place, -1, MOST) for key in ("major", "minor"))
        allow = bool(typed(item, "allow", place, bool, "true or false"))
        parsed.append((allow, kind, -1 if major is None else major, -1 if minor is None else minor, bits))
    return parsed


def _line(kind: str, major: int, minor: int, bits: int) -> str:
    """Return the kernel's form of a rule: ``c 136:* rwm``."""
    access = "".join([letter for letter, bit in LETTERS if bits & bit])
    return f"{kind} {'*' if major < 0 else major}:{'*' if minor < 0 else minor} {access}"


def devices_v1(rules: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return (``devices``, ``devices.allow`` or ``devices.deny``, value) writes that replace whatever the cgroup allowed.

    cgroup v1 knows a default and exceptions to it, and cannot cut a hole into an exception with a wildcard: Failure 2007 then (runc
    refuses it too). It also wants one exception to cover the whole of an access: reading and writing granted by two rules with
    different wildcards is no grant for both at once. The cgroup must not have children yet.
    Raises Failure 2001, 2002, 2006, 2007. Source: security/device_cgroup.c of the kernel.
    """
    default = False
    exceptions: dict[tuple[str, int, int], int] = {}
    for index, (allow, kind, major, minor, bits) in enumerate(_parse(rules)):
        if (kind, major, minor, bits) == ("a", -1, -1, ALL):
            default = allow
            exceptions.clear()
            continue
        for one in ("b", "c") if kind == "a" else (kind,):
            if allow is not default:
                exceptions[one, major, minor] = exceptions.get((one, major, minor), 0) | bits
            else:
                _subtract(exceptions, (one, major, minor), bits, f"{ROOT}.devices[{index}]")
    writes = [("devices", _file(default), "a *:* rwm")]
    writes += [("devices", _file(not default), _line(*device, bits)) for device, bits in exceptions.items() if bits]
    return writes


def _file(allow: bool) -> str:
    return "devices.allow" if allow else "devices.deny"


def _subtract(exceptions: dict[tuple[str, int, int], int], rule: tuple[str, int, int], bits: int, place: str) -> None:
    """Take ``bits`` from the exceptions that ``rule`` covers. Raises Failure 2007 when it covers one in part."""
    kind, major, minor = rule
    for other, present in exceptions.items():
        shared = major in (-1, other[1]) or other[1] == -1
        shared = shared and (minor in (-1, other[2]) or other[2] == -1)
        if other[0] != kind or not shared or not present & bits:
            continue
        if major not in (-1, other[1]) or minor not in (-1, other[2]):
            cause = f"{place}: cgroup v1 cannot take {_line(*rule, bits)} out of the earlier {_line(*other, present)}"
            raise Failure(2007, cause, "name the devices instead of using a wildcard, or use a host with cgroup v2")
        exceptions[other] = present & ~bits  # the key exists: the dict may be iterated on


def _op(code: int, target: int, source: int = 0, jump: int = 0, value: int = 0) -> bytes:
    """Encode a struct bpf_insn (linux/bpf.h), little endian."""
    return bytes((code, target | source << 4)) + jump.to_bytes(2, "little", signed=True) + value.to_bytes(4, "little", signed=True)


_LOAD, _MOVE, _SET, _AND, _SHIFT, _UNLESS, _IF, _EXIT = 0x61, 0xBF, 0xB7, 0x57, 0x77, 0x55, 0x15, _op(0x95, 0)


def device_program(rules: list[dict[str, Any]]) -> bytes:
    """Return the rules as a BPF_PROG_TYPE_CGROUP_DEVICE program: struct bpf_insn after struct bpf_insn, little endian.

    From the last rule to the first, each decides those of the accesses it names that are still undecided.
    Raises Failure 2001, 2002, 2006. Source: struct bpf_cgroup_dev_ctx in linux/bpf.h.
    """
    # r1: the context; r2: type; r3: accesses still undecided; r4: major; r5: minor; r0: scratch, then the answer
    program = [
        _op(_LOAD, 2, 1, 0),  # access_type: access << 16 | type
        _op(_MOVE, 3, 2),
        _op(_SHIFT, 3, value=16),
        _op(_AND, 2, value=0xFFFF),
        _op(_LOAD, 4, 1, 4),
        _op(_LOAD, 5, 1, 8),
    ]
    for allow, kind, major, minor, bits in reversed(_parse(rules)):
        if (kind, major, minor, bits) == ("a", -1, -1, ALL):  # nothing before it matters
            program += [_op(_SET, 0, value=int(allow)), _EXIT]
            break
        if allow:
            body = [_op(_AND, 3, value=~bits), _op(_UNLESS, 3, jump=2), _op(_SET, 0, value=1), _EXIT]
        else:
            body = [_op(_MOVE, 0, 3), _op(_AND, 0, value=bits), _op(_IF, 0, jump=2), _op(_SET, 0), _EXIT]
        for register, wanted in ((5, minor), (4, major), (2, -1 if kind == "a" else KINDS[kind][0])):
            if wanted >= 0:
                body.insert(0, _op(_UNLESS, register, jump=len(body), value=wanted))
        program += body
    else:
        program += [_op(_SET, 0), _EXIT]
    return b"".join(program)
