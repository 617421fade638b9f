"""Compiling a seccomp profile: check, widen, libseccomp, and a prologue for system calls newer than the profile. Off the hot path."""

from __future__ import annotations

import errno
import os
import struct
import sys
from typing import Any

from sysbox.errors import Failure
from sysbox.linux import _kernel as k
from sysbox.oci.seccomp import ALLOW, WHERE, malformed
from sysbox.oci.syscalls import ALWAYS, CONDITIONS_KEPT, NEW

MODULES = "/usr/lib/python3/dist-packages"  # Debian's, which `python3 -S` does not look at
ACTIONS = ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP")
DENYING = ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP")
OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # the filter is loaded by a process with one thread
    "SECCOMP_FILTER_FLAG_LOG": k.SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": k.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 0,  # is about notifications, of which there are none
}
# OCI name -> AUDIT_ARCH_* (linux/audit.h) of architectures whose programs this project's hosts can run
ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0xC000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
}
NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
COMPAT = {"SCMP_ARCH_X86_64": ("SCMP_ARCH_X86", "SCMP_ARCH_X32"), "SCMP_ARCH_AARCH64": ("SCMP_ARCH_ARM",)}
X32_BIT = 0x40000000
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000  # linux/seccomp.h
LD_ABS, JA, JEQ, JGT, JGE, RET = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06  # linux/bpf_common.h
LAST_OLD = 423  # Linux 5.1 began to number calls the same on every architecture, after this one: whoever writes a list knows those before
MOST = 0xFFF  # errno values end here


def check(profile: Any) -> None:
    """Refuse a profile of the wrong shape. Raises Failure 2101, 2103."""

    def member(box: dict[str, Any], name: str, kind: type | tuple[type, ...], expected: str, where: str, *, needed: bool = False) -> Any:
        value = box.get(name)
        if value is None and not needed:
            return None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise malformed(f"{where}.{name}", expected, value)
        return value

    def action(box: dict[str, Any], name: str, where: str) -> None:
        value = member(box, name, str, "an action", where, needed=True)
        if value.removeprefix("SCMP_ACT_") not in ACTIONS or not value.startswith("SCMP_ACT_"):
            raise malformed(f"{where}.{name}", f"SCMP_ACT_ and one of {', '.join(ACTIONS)}", value)
        if value == "SCMP_ACT_NOTIFY":
            hint = "leave SCMP_ACT_NOTIFY out of the profile"
            raise Failure(2103, f"{where}.{name} is SCMP_ACT_NOTIFY, which conflicts with the listener of system containers", hint)

    def number(box: dict[str, Any], name: str, most: int, where: str, *, needed: bool = False) -> None:
        value = member(box, name, int, "an integer", where, needed=needed)
        if value is not None and not 0 <= value <= most:
            raise malformed(f"{where}.{name}", f"an integer from 0 to {most}", value)

    def each(box: dict[str, Any], name: str, kind: type, expected: str, where: str) -> list[tuple[str, Any]]:
        found = []
        for index, value in enumerate(member(box, name, list, "an array", where) or ()):
            if not isinstance(value, kind):
                raise malformed(f"{where}.{name}[{index}]", expected, value)
            found.append((f"{where}.{name}[{index}]", value))
        return found

    action(profile, "defaultAction", WHERE)
    number(profile, "defaultErrnoRet", MOST, WHERE)
    if profile.get("listenerPath"):
        raise Failure(
            2103, f"{WHERE}.listenerPath conflicts with the listener of system containers", "leave listenerPath out of the profile"
        )
    for place, name in each(profile, "architectures", str, "an architecture", WHERE):
        if not name.startswith("SCMP_ARCH_"):
            raise malformed(place, "a name such as SCMP_ARCH_X86_64", name)
    for place, name in each(profile, "flags", str, "a flag", WHERE):
        if name not in FLAGS:
            raise malformed(place, f"one of {', '.join(FLAGS)}", name)
    for place, rule in each(profile, "syscalls", dict, "an object", WHERE):
        if not each(rule, "names", str, "the name of a system call", place):
            raise malformed(f"{place}.names", "at least one name", rule.get("names"))
        action(rule, "action", place)
        number(rule, "errnoRet", MOST, place)
        for spot, condition in each(rule, "args", dict, "an object", place):
            number(condition, "index", 5, spot, needed=True)
            for name in ("value", "valueTwo"):
                number(condition, name, (1 << 64) - 1, spot, needed=name == "value")
            operator = member(condition, "op", str, "an operator", spot, needed=True)
            if operator.removeprefix("SCMP_CMP_") not in OPERATORS or not operator.startswith("SCMP_CMP_"):
                raise malformed(f"{spot}.op", f"SCMP_CMP_ and one of {', '.join(OPERATORS)}", operator)


def widen(profile: dict[str, Any]) -> dict[str, Any]:
    """Return the profile with the system calls of ALWAYS allowed; what else it denies stays denied."""
    free = ALWAYS - CONDITIONS_KEPT
    rules: list[dict[str, Any]] = []
    settled: set[str] = set()  # what the profile says about these stays as it is
    for rule in profile.get("syscalls") or ():
        if rule["action"] == ALLOW:
            settled.update(CONDITIONS_KEPT.intersection(rule["names"]))
            names = [name for name in rule["names"] if name not in free]
        elif rule["action"] in ("SCMP_ACT_LOG", "SCMP_ACT_TRACE"):
            settled.update(rule["names"])
            names = rule["names"]
        else:
            names = [name for name in rule["names"] if name not in ALWAYS or (rule.get("args") and name in CONDITIONS_KEPT)]
        if names:
            rules.append({**rule, "names": names})
    if profile["defaultAction"] in DENYING:
        rules.append({"names": sorted(ALWAYS - settled), "action": ALLOW})
    return {**profile, "syscalls": rules}


def compile_profile(profile: dict[str, Any], *, regular: bool = False) -> tuple[int, bytes]:
    """Compile a profile: (flags of seccomp(2), struct sock_filter[]). Raises Failure 21xx."""
    check(profile)
    seccomp = _library()
    architectures = _architectures(profile)
    wide = profile if regular else widen(profile)
    library = seccomp.SyscallFilter(_action(seccomp, profile["defaultAction"], profile.get("defaultErrnoRet")))
    library.set_attr(seccomp.Attr.CTL_NNP, 0)
    for name in architectures:
        arch = getattr(seccomp.Arch, name.removeprefix("SCMP_ARCH_"))
        if not library.exist_arch(arch):
            library.add_arch(arch)
    default = (profile["defaultAction"], profile.get("defaultErrnoRet"))
    for index, rule in enumerate(wide["syscalls"]):
        if (rule["action"], rule.get("errnoRet")) == default or (rule["action"] == default[0] and rule["action"] != "SCMP_ACT_ERRNO"):
            continue  # libseccomp refuses a rule that says what the default says
        _add(seccomp, library, rule, f"{WHERE}.syscalls[{index}]")
    program = _export(library)
    if profile["defaultAction"] in DENYING:
        program = _prologue(seccomp, profile, architectures) + program
    flags = 0
    for name in profile.get("flags") or ():
        flags |= FLAGS[name]
    return flags, program


def _library() -> Any:
    sys.path.append(MODULES)
    try:
        import seccomp  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        cause = f"cannot compile the seccomp profile: libseccomp's Python module is missing ({error})"
        raise Failure(2110, cause, "apt install python3-seccomp") from error
    finally:
        sys.path.remove(MODULES)
    return seccomp


def _architectures(profile: dict[str, Any]) -> list[str]:
    native = NATIVE.get(os.uname().machine, "")
    known = (native, *COMPAT.get(native, ()))
    wanted = [name for name in profile.get("architectures") or () if name in known]
    return [native, *(name for name in wanted if name != native)] if native else []


def _action(seccomp: Any, name: str, value: int | None) -> int:
    if name == "SCMP_ACT_ERRNO":
        return int(seccomp.ERRNO(errno.EPERM if value is None else value))
    if name == "SCMP_ACT_TRACE":
        return int(seccomp.TRACE(errno.EPERM if value is None else value))
    if name in ("SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD"):
        return 0  # SECCOMP_RET_KILL_THREAD
    return int(getattr(seccomp, name.removeprefix("SCMP_ACT_")))


def _add(seccomp: Any, library: Any, rule: dict[str, Any], where: str) -> None:
    action = _action(seccomp, rule["action"], rule.get("errnoRet"))
    conditions = []
    for one in rule.get("args") or ():
        operator = getattr(seccomp, one["op"].removeprefix("SCMP_CMP_"))
        values = (one["value"], one.get("valueTwo") or 0) if one["op"] == "SCMP_CMP_MASKED_EQ" else (one["value"],)
        conditions.append((one["index"], seccomp.Arg(one["index"], operator, *values)))
    # libseccomp takes one condition an argument in a rule; several of them are several rules
    several = len({index for index, _ in conditions}) < len(conditions)
    groups = [[one] for _, one in conditions] if several else [[one for _, one in conditions]]
    for name in rule["names"]:
        for group in groups:
            try:
                library.add_rule(action, name, *group)
            except (RuntimeError, ValueError, OSError) as error:
                if seccomp.resolve_syscall(seccomp.Arch(), name) == -1:
                    continue  # of another architecture, or too new for libseccomp: the prologue knows those that matter
                raise Failure(2102, f"{where}: libseccomp refuses the rule for {name}: {error}", "correct the seccomp profile") from error


def _export(library: Any) -> bytes:
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        library.export_bpf(file)
        file.seek(0)
        return file.read()


def _prologue(seccomp: Any, profile: dict[str, Any], architectures: list[str]) -> bytes:
    """Answer ENOSYS for system calls newer than any the profile names, and than Linux 5.0.

    The author of the profile cannot have meant to deny them, and libc falls back on older calls. Those that ALWAYS has are allowed here,
    whether libseccomp knows them or not.
    """
    named = {name for rule in profile.get("syscalls") or () for name in rule["names"]}
    sections: list[tuple[int, list[int]]] = []
    for name in architectures:
        if name == "SCMP_ARCH_X32":
            continue  # its numbers have a bit of their own and go on to the filter
        arch = seccomp.Arch(getattr(seccomp.Arch, name.removeprefix("SCMP_ARCH_")))
        newest = max([LAST_OLD, *(seccomp.resolve_syscall(arch, one) for one in named)])
        high = sorted(number for one, number in NEW.items() if number > newest and one in ALWAYS)
        code = [_op(LD_ABS, 0, 0, 0)]  # seccomp_data.nr
        tail = [_op(RET, 0, 0, RET_ERRNO | errno.ENOSYS), _op(RET, 0, 0, RET_ALLOW)]
        tests = [_op(JEQ, len(high) - index, 0, number) for index, number in enumerate(high)]
        body = [*tests, *tail]
        checks = [_op(JGE, 1, 0, X32_BIT), _op(JGT, 1, 0, newest), _op(JA, 0, 0, len(body))]
        sections.append((ARCHITECTURES[name], [*code, *checks, *body]))
    out: list[int] = []
    rest = 0
    for audit, code in reversed(sections):
        # the JA above must leave all sections behind: lengthen it by what follows this one
        code[3] += rest << 32
        out = [_op(LD_ABS, 0, 0, 4), _op(JEQ, 0, len(code), audit), *code, *out]
        rest = len(out)
    return struct.pack(f"<{len(out)}Q", *out)


def _op(code: int, true: int, false: int, value: int) -> int:
    """Encode a struct sock_filter as a number."""
    return code | true << 16 | false << 24 | value << 32
