"""The systemd driver: a container's cgroup is a transient scope that systemd makes.

Source: systemd.io/CGROUP_DELEGATION, org.freedesktop.systemd1(5), systemd.resource-control(5).
systemd is spoken to by its own busctl(1): it knows D-Bus and its errors, and is there where systemd is.
"""

from __future__ import annotations

import posix
import time

from sysbox.errors import Failure
from sysbox.linux import _kernel as k
from sysbox.linux import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Property = tuple[str, str, str]  # name, signature, value as busctl reads it

SUFFIX = ".scope"
WAIT = 10.0  # seconds for systemd to put a process into a new scope
INFINITY = str(2**64 - 1)
MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")


def parse(path: str, name: str) -> dict[str, str]:
    """Read ``linux.cgroupsPath`` in the form slice:prefix:name: {"unit", "slice", "path"}. Raises Failure 1030."""
    parts = path.split(":") if path else ["", "sysbox-runc", name]
    if len(parts) != 3 or not parts[2]:
        cause = f"$.linux.cgroupsPath is {path!r}, but --systemd-cgroup wants slice:prefix:name"
        raise Failure(1030, cause, "system.slice:docker:NAME, or the cgroupfs driver")
    slice_, prefix, name = parts
    slice_ = slice_ or "system.slice"
    if name.endswith(".slice"):
        cause = f"the container's cgroup is the systemd slice {name}, of which systemd delegates nothing"
        raise Failure(1030, cause, "a name of its own: it becomes a scope")
    words = slice_.removesuffix(".slice").split("-") if slice_ != "-.slice" else []
    if not slice_.endswith(".slice") or "/" in path or not all(words):
        raise Failure(1030, f"{slice_!r} in $.linux.cgroupsPath is no systemd slice", "system.slice, or a-b.slice for b in a")
    unit = name if name.endswith(SUFFIX) else f"{prefix}-{name}{SUFFIX}" if prefix else name + SUFFIX
    above = "".join(f"/{'-'.join(words[: number + 1])}.slice" for number in range(len(words)))
    return {"unit": unit, "slice": slice_, "path": f"{above}/{unit}"}


def properties(writes: list[tuple[str, str]]) -> list[Property]:
    """Say what of the limits (file of cgroup v2, value) systemd has properties for: it would undo those that it does not know of."""
    found: dict[str, Property] = {}
    for file, value in writes:
        for name, signature, translate in PROPERTIES.get(file, ()):
            told = translate(value)
            if told:
                found[name] = (name, signature, told)
    return list(found.values())


def _number(value: str) -> str:
    return INFINITY if value == "max" else value


def _quota(value: str) -> str:
    quota, _, period = value.partition(" ")
    return INFINITY if quota == "max" else str(-(-int(quota) * 1_000_000 // int(period or 100_000) // 10_000) * 10_000)


def _period(value: str) -> str:
    return value.partition(" ")[2]


def _mask(value: str) -> str:
    """Make an array of bytes of a list such as 0-2,5: one bit for each."""
    bits = 0
    for part in value.split(","):
        first, _, last = part.strip().partition("-")
        for number in range(int(first), int(last or first) + 1):
            bits |= 1 << number
    octets = bits.to_bytes(max(1, (bits.bit_length() + 7) // 8), "little")
    return " ".join((str(len(octets)), *map(str, octets)))


PROPERTIES: dict[str, tuple[tuple[str, str, Callable[[str], str]], ...]] = {
    "pids.max": (("TasksMax", "t", _number),),
    "memory.max": (("MemoryMax", "t", _number),),
    "memory.high": (("MemoryHigh", "t", _number),),
    "memory.low": (("MemoryLow", "t", _number),),
    "memory.min": (("MemoryMin", "t", _number),),
    "memory.swap.max": (("MemorySwapMax", "t", _number),),
    "cpu.weight": (("CPUWeight", "t", _number),),
    "cpu.max": (("CPUQuotaPerSecUSec", "t", _quota), ("CPUQuotaPeriodUSec", "t", _period)),
    "cpuset.cpus": (("AllowedCPUs", "ay", _mask),),
    "cpuset.mems": (("AllowedMemoryNodes", "ay", _mask),),
}


def start(unit: dict[str, str], resources: dict[str, Any]) -> Callable[[], None]:
    """Have systemd make the scope; returns what ends the process that keeps it until the container's init is in it. Raises Failure 1035."""
    from sysbox.oci import resources as oci

    pid, pidfd = k.clone3(0, -1) or (0, -1)
    if not pid:
        k.prctl(k.PR_SET_PDEATHSIG, 9)
        while True:
            time.sleep(1000)

    keeper = [pidfd]

    def end() -> None:
        if keeper:  # once
            k.pidfd_send_signal(pidfd, 9)
            posix.waitpid(pid, 0)
            posix.close(keeper.pop())

    wanted: dict[str, Property] = {one[0]: one for one in [("TasksMax", "t", INFINITY), *properties(oci.v2(resources))]}
    fixed: list[Property] = [
        ("Description", "s", f"system container {unit['unit'].removesuffix(SUFFIX)}"),
        ("Slice", "s", unit["slice"]),
        ("Delegate", "b", "true"),
        ("DefaultDependencies", "b", "false"),
        ("CollectMode", "s", "inactive-or-failed"),
        ("PIDs", "au", f"1 {pid}"),
    ]
    try:
        _call("StartTransientUnit", "ssa(sv)a(sa(sv))", unit["unit"], "fail", _words([*fixed, *wanted.values()]), "0")
        deadline = time.monotonic() + WAIT
        while not any(line.endswith(unit["path"]) for line in files.read(f"/proc/{pid}/cgroup").decode().split("\n")):
            if time.monotonic() > deadline:
                raise Failure(1035, f"systemd has not made {unit['unit']} in {WAIT:.0f} seconds", f"systemctl status {unit['unit']}")
            time.sleep(0.002)
    except BaseException:
        end()
        raise
    return end


def update(unit: str, resources: dict[str, Any]) -> None:
    """Tell systemd of new limits. Raises Failure 1035."""
    from sysbox.oci import resources as oci

    if changed := properties(oci.v2(resources)):
        _call("SetUnitProperties", "sba(sv)", unit, "true", _words(changed))


def _words(wanted: list[Property]) -> str:
    """Write properties as busctl(1) takes an a(sv), words separated by NUL."""
    return "\0".join([str(len(wanted)), *(f"{name}\0{signature}\0{_spread(signature, value)}" for name, signature, value in wanted)])


def _spread(signature: str, value: str) -> str:
    return value.replace(" ", "\0") if signature[0] == "a" else value


def _call(method: str, signature: str, *arguments: str) -> None:
    import subprocess

    words = [word for argument in arguments for word in argument.split("\0")]
    command = ["busctl", "--system", "--quiet", "call", *MANAGER, method, signature, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise Failure(1035, "--systemd-cgroup needs systemd, and its busctl is not here", "the cgroupfs driver") from error
    if done.returncode:
        cause = f"systemd refuses {method} of {words[0]}: {done.stderr.strip().removeprefix('Call failed: ')}"
        raise Failure(1035, cause, "see journalctl -b, or use the cgroupfs driver")
