"""Seccomp: profiles in, filters out, checked by running the filter as the kernel would."""

import json
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sysbox.errors import Failure
from sysbox.oci import seccomp
from sysbox.oci import seccomp_compile as compiler
from sysbox.oci.syscalls import ALWAYS, NEW

SRC = Path(__file__).resolve().parents[2] / "src"
X86_64, X86 = 0xC000003E, 0x40000003
ALLOWED, KILLED = 0x7FFF0000, 0
READ, OPEN, SOCKET, QUOTACTL, ACCT, MOUNT, UNSHARE, PERSONALITY, CLONE = 0, 2, 41, 179, 163, 165, 272, 135, 56
EPERM, ENOSYS = 0x00050001, 0x00050026
pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of system calls here are those of x86_64")


def verdict(program: bytes, number: int, *args: int, arch: int = X86_64) -> int:
    """Run a filter on one system call: what the kernel would do (linux/seccomp.h SECCOMP_RET_*)."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *args, *[0] * (6 - len(args)))
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    for _ in range(100_000):
        op, true, false, value = code[at]
        at += 1
        if op == 0x20:
            accumulator = int(struct.unpack_from("<I", data, value)[0])
        elif op == 0x06:
            return int(value)
        elif op == 0x05:
            at += value
        elif op == 0x54:
            accumulator &= value
        elif op in (0x15, 0x25, 0x35, 0x45):
            holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[op]
            at += true if holds else false
        else:
            pytest.fail(f"unknown instruction {op:#x}")
    pytest.fail("the filter does not end")


def allow_list(*rules: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": list(rules), **more}


def rule(names: str, action: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    return {"names": names.split(), "action": action, **more}


def compiled(profile: dict[str, Any]) -> bytes:
    return compiler.compile_profile(profile)[1]


def test_an_allow_list_is_widened_for_a_virtual_host() -> None:
    program = compiled(allow_list(rule("read openat2")))
    assert {verdict(program, number) for number in (READ, MOUNT, UNSHARE, SOCKET, PERSONALITY, CLONE)} == {ALLOWED}
    assert {verdict(program, number) for number in (QUOTACTL, ACCT)} == {EPERM}


def test_conditions_are_lifted_except_where_they_guard_the_kernel() -> None:
    masked = {"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    no_vsock = {"index": 0, "value": 40, "op": "SCMP_CMP_NE"}
    program = compiled(allow_list(rule("clone", args=[masked]), rule("socket", args=[no_vsock]), rule("read")))
    assert verdict(program, CLONE, 0x10000000) == ALLOWED
    assert (verdict(program, SOCKET, 2), verdict(program, SOCKET, 40)) == (ALLOWED, EPERM)


def test_what_is_newer_than_the_profile_is_not_denied_but_unknown() -> None:
    program = compiled(allow_list(rule("read openat2")))  # 437
    assert verdict(program, 500) == ENOSYS
    assert verdict(program, 440) == ENOSYS  # process_madvise: not for everybody
    assert {verdict(program, number) for name, number in NEW.items()} == {ALLOWED}
    assert verdict(program, 500, arch=X86) == ENOSYS
    assert verdict(program, 0x40000000 | READ) not in (ALLOWED, ENOSYS)  # x32
    assert verdict(program, READ, arch=0xC00000B7) not in (ALLOWED, ENOSYS)  # an architecture that the profile lacks


def test_a_deny_list_denies_what_it_says_but_not_what_a_host_needs() -> None:
    program = compiled(allow_list(rule("mount quotactl", "SCMP_ACT_ERRNO", errnoRet=13), default="SCMP_ACT_ALLOW"))
    assert (verdict(program, MOUNT), verdict(program, QUOTACTL), verdict(program, ACCT), verdict(program, 500)) == (
        ALLOWED,
        0x0005000D,
        ALLOWED,
        ALLOWED,
    )


def test_several_conditions_on_one_argument_are_alternatives() -> None:
    either = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (7, 9)]
    program = compiled(allow_list(rule("read"), rule("acct", args=either)))
    assert [verdict(program, ACCT, value) for value in (7, 8, 9)] == [ALLOWED, EPERM, ALLOWED]


@pytest.mark.parametrize(
    ("action", "result"),
    [
        ("SCMP_ACT_KILL", KILLED),
        ("SCMP_ACT_KILL_THREAD", KILLED),
        ("SCMP_ACT_KILL_PROCESS", 0x80000000),
        ("SCMP_ACT_TRAP", 0x00030000),
        ("SCMP_ACT_LOG", 0x7FFC0000),
        ("SCMP_ACT_TRACE", 0x7FF00001),
        ("SCMP_ACT_ERRNO", EPERM),
    ],
)
def test_actions(action: str, result: int) -> None:
    program = compiled(allow_list(rule("acct", action), default="SCMP_ACT_ALLOW"))
    assert (verdict(program, ACCT), verdict(program, READ)) == (result, ALLOWED)


def test_errno_values_of_default_and_rule() -> None:
    program = compiled(allow_list(rule("read"), rule("acct", "SCMP_ACT_ERRNO", errnoRet=38), defaultErrnoRet=13))
    assert (verdict(program, QUOTACTL), verdict(program, ACCT)) == (0x0005000D, ENOSYS)


def test_unknown_names_are_ignored() -> None:
    assert verdict(compiled(allow_list(rule("read no_such_call"))), READ) == ALLOWED


def test_nothing_that_a_host_needs_is_ever_denied() -> None:
    done = subprocess.run(
        ["/usr/bin/python3", "-c", f"import seccomp; print([(n, seccomp.resolve_syscall(seccomp.Arch(), n)) for n in {sorted(ALWAYS)!r}])"],
        capture_output=True,
        text=True,
        check=True,
    )
    numbers = {name: number for name, number in eval(done.stdout) if number >= 0}  # noqa: S307 - our own output
    assert len(numbers) > 250
    for profile in (
        allow_list(rule("read")),
        allow_list(rule("read openat2"), rule(" ".join(ALWAYS), "SCMP_ACT_ERRNO")),
        allow_list(default="SCMP_ACT_KILL"),
    ):
        program = compiled(profile)
        denied = [name for name, number in numbers.items() if verdict(program, number) != ALLOWED]
        assert not denied


BAD = [
    ({"defaultAction": "ALLOW"}, 2101, "$.linux.seccomp.defaultAction"),
    ({"syscalls": []}, 2101, "$.linux.seccomp.defaultAction"),
    (allow_list({"names": [], "action": "SCMP_ACT_ALLOW"}), 2101, "syscalls[0].names"),
    (allow_list({"names": "read", "action": "SCMP_ACT_ALLOW"}), 2101, "syscalls[0].names"),
    (allow_list(rule("read", "SCMP_ACT_MAYBE")), 2101, "syscalls[0].action"),
    (allow_list(rule("read", errnoRet=5000)), 2101, "syscalls[0].errnoRet"),
    (allow_list(rule("read", args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}])), 2101, "args[0].index"),
    (allow_list(rule("read", args=[{"index": 1, "op": "SCMP_CMP_EQ"}])), 2101, "args[0].value"),
    (allow_list(rule("read", args=[{"index": 1, "value": 1, "op": "EQ"}])), 2101, "args[0].op"),
    (allow_list(flags=["SECCOMP_FILTER_FLAG_WHAT"]), 2101, "flags[0]"),
    (allow_list(architectures=["X86"]), 2101, "architectures[0]"),
    (allow_list(rule("read", "SCMP_ACT_NOTIFY")), 2103, "syscalls[0].action"),
    (allow_list(default="SCMP_ACT_NOTIFY"), 2103, "defaultAction"),
    (allow_list(listenerPath="/x"), 2103, "listenerPath"),
]


@pytest.mark.parametrize(("profile", "code", "said"), BAD)
def test_malformed(profile: dict[str, Any], code: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        seccomp.load(profile, str(tmp_path))
    assert caught.value.code == code
    assert said in str(caught.value)


def test_flags() -> None:
    flags, _ = compiler.compile_profile(allow_list(rule("read"), flags=["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]))
    assert flags == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="the cache must belong to root")
def test_the_cache(tmp_path: Path) -> None:
    profile = allow_list(rule("read"))
    cache = tmp_path / "cache"
    first = seccomp.load(profile, str(cache))
    [file] = cache.iterdir()
    script = (
        f"import sys; sys.path.insert(0, {str(SRC)!r}); from sysbox.oci import seccomp; import json\n"
        f"found = seccomp.load(json.loads({json.dumps(json.dumps(profile))}), {str(cache)!r})\n"
        "print(len(found[1]), 'sysbox.oci.seccomp_compile' in sys.modules)"
    )
    done = subprocess.run(["/usr/bin/python3", "-ISE", "-B", "-c", script], capture_output=True, text=True, check=True)
    assert first is not None
    assert done.stdout.split() == [str(len(first[1])), "False"]
    whole = file.read_bytes()
    for damaged in (b"", whole[:-8], whole + b"12345678"):
        file.write_bytes(damaged)
        assert seccomp.load(profile, str(cache)) == first
    file.chmod(0o666)
    file.write_bytes(whole[:16] + bytes(len(whole) - 16))
    assert seccomp.load(profile, str(cache)) == first
    assert seccomp.load(None, str(cache)) is None
    assert seccomp.load({}, str(cache)) is None
