"""What a container pays for an emulated /proc and trapped calls: probe.c inside, beside the kernel alone, runc and LXCFS.

All times in microseconds, medians of one run of the probe; "in C": with a listener that does nothing. That is a process which is
woken twice, on the caller's processor, so that umount2 finds the kernel's thread for which it waits on another one. Wanted: 15 µs
more than native for a trapped call that is allowed, 5 ms for a mount of proc, a `sysctl -a` of at most three times runc's, 1.5 MiB
of private memory a worker.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROBE = Path(__file__).with_name("probe.c")
UPTIME, SYSCTL, NETWORK, OTHER = (
    "/proc/uptime",
    "/proc/sys/kernel/panic",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/kernel/ostype",
)
READS = {"emulated": UPTIME, "emulated sysctl": SYSCTL, "mirrored sysctl": NETWORK, "other of /proc/sys": OTHER}
ALL = "/bin/busybox sysctl -a"
MOUNTS = ("tmpfs", "bind", "proc")
THREES = [
    *(word for path in READS.values() for word in ("2000", "read", path)),
    *("11", "spawn", ALL),
    *("2000", "getppid", "-"),
    *("2000", "openat2", OTHER),
]
MOUNTING = ["1000", "tmpfs", "/mnt", "1000", "bind", "/mnt", "60", "proc", "/mnt"]
ALLOWED = ["2000", "openat2", OTHER, *MOUNTING[:6]]
REST = 2.5  # seconds after which a worker has given back what it does not need
Found = dict[str, list[float]]  # operation and argument -> microseconds


def measure(command: list[str]) -> Found:
    """Run a probe. Raises CalledProcessError."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=120)
    lines = (line.split("\t") for line in done.stdout.splitlines())
    return {name: [float(value) / 1000 for value in values] for name, *values in lines}


@contextlib.contextmanager
def container(call: list[str], place: Path, root: Path) -> Iterator[Callable[[list[str]], Found]]:
    """Run a container that sleeps; gives what measures in it."""
    name = f"inside-{time.monotonic_ns()}"
    at = [*call, "--root", str(root)]
    with (place / "said").open("w") as said:
        subprocess.run([*at, "run", "-d", "-b", str(place), name], stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=True)
    try:
        yield lambda threes: measure([*at, "exec", name, "/bin/probe", *threes])
    finally:
        subprocess.run([*at, "delete", "-f", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def lxcfs(directory: Path, probe: Path) -> float:
    """Read an uptime by LXCFS; 0 when it is not installed or does not run here."""
    program = shutil.which("lxcfs")
    if not program:
        return 0
    place = directory / "lxcfs"
    place.mkdir()
    silent = subprocess.DEVNULL
    child = subprocess.Popen([program, "-f", "-p", str(directory / "lxcfs.pid"), str(place)], stdin=silent, stdout=silent, stderr=silent)
    try:
        file = place / "proc/uptime"
        for _ in range(100):
            if file.exists():
                return measure([str(probe), "2000", "read", str(file)])[f"read {file}"][0]
            time.sleep(0.05)
        return 0
    finally:
        child.terminate()
        child.wait()
        subprocess.run(["umount", "-l", place], stderr=silent, check=False)


def private(pid: int) -> float:
    """Return a process's private memory in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def workers() -> dict[str, int]:
    """Return the pids of sysbox-fs's workers that have a container."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect("/run/sysbox/sysfs.sock")
        sock.send(b'{"v": 1, "op": "ping"}')
        return dict(json.loads(sock.recv(1 << 16))["workers"])


def run(calls: dict[str, list[str]], bundle: Callable[..., Path], directory: Path) -> list[str]:
    """Measure; lines to print. ``bundle`` makes a bundle, see bench.py."""
    probe = directory / "probe"
    subprocess.run(["cc", "-O2", "-static", "-o", probe, PROBE], check=True)
    found: dict[str, Found] = {}
    kinds = {"sysbox": calls["sysbox-runc"], "native": [*calls["sysbox-runc"], "--no-sysbox-fs"], "runc": calls["runc"]}
    memory: list[float] = []
    for name, call in kinds.items():
        place = bundle(directory / f"inside-{name}", ["sleep", "1000"], foreign=name == "runc")
        config = json.loads((place / "config.json").read_text())
        del config["linux"]["seccomp"]  # it writes to the host's log
        (place / "config.json").write_text(json.dumps(config))
        shutil.copy(probe, place / "rootfs/bin/probe")
        (place / "rootfs/mnt").mkdir()
        with container(call, place, directory / f"inside-{name}-state") as ask:
            found[name] = ask([*THREES, *(MOUNTING if name != "runc" else [])])
            if name == "native":
                found["floor"] = ask(["floor", "poll", *ALLOWED])
            if name == "sysbox":
                worker = next(pid for id_, pid in workers().items() if id_.startswith("inside-"))
                at_work = private(worker)
                time.sleep(REST)
                memory = [at_work, private(worker)]
    return _table(found, lxcfs(directory, probe), memory)


def _table(found: dict[str, Found], other: float, memory: list[float]) -> list[str]:
    lines = [f"{'inside, µs':<26}{'sysbox-runc':>12}{'native':>10}{'in C':>10}{'runc':>10}  "]

    def row(title: str, key: str, index: int = 0, wanted: Callable[[list[float]], str] = lambda _: "") -> None:
        values = [found[name][key][index] if key in found[name] else 0 for name in ("sysbox", "native", "floor", "runc")]
        cells = "".join(
            f"{value:>{width}.1f}" if value else f"{'-':>{width}}" for value, width in zip(values, (12, 10, 10, 10), strict=True)
        )
        lines.append(f"{title:<26}{cells}  {wanted(values)}")

    def overhead(values: list[float]) -> str:
        return f"{values[0] - values[1]:+.1f} (wanted: 15), {values[0] - values[2]:+.1f} to a listener in C"

    for title, path in READS.items():
        row(f"read: {title}", f"read {path}")
    lines[1] += f"LXCFS: {other:.1f}" if other else "LXCFS: not here"
    row("sysctl -a", f"spawn {ALL}", wanted=lambda values: f"{values[0] / values[3]:.2f} times runc (wanted: 3)")
    row("a call that is not trapped", "getppid -")
    row("openat2", f"openat2 {OTHER}", wanted=overhead)
    for kind in MOUNTS:
        for index, title in enumerate(("mount", "umount")):
            row(f"{title} {kind}", f"{kind} /mnt", index, (lambda _: "(wanted: 5000)") if kind == "proc" else overhead)
    lines.append("private memory of a worker: {:.2f} MiB, at rest {:.2f} (wanted: 1.5)".format(*memory))
    return lines
