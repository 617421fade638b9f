"""Ratios to runc (and crun): interleaved rounds of the same life of a container, medians.

usage: bench.py [--rounds N] [--only NAME[,NAME...]] [--json FILE]

Raw: run, create, start, state, exec, kill, delete -f of a bundle with user namespace, network, limits, mounts and a seccomp profile.
cpu: user and system time of all processes of a run. 100th: a create when 99 containers run. memory: the manager's own, in MiB (PSS).
Docker: docker run --rm and docker exec, with a dockerd of its own. Inside: see inside.py.
Absolute times depend on the machine; ratios count.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
OURS = os.environ.get("OCI_RUNTIME", str(TOP / "build/root/sbin/sysbox-runc"))
FOREIGN = 1_000_000
# name -> most that ours may take, as a multiple of runc
TARGETS = {
    "run": 1.2,
    "create": 1.2,
    "start": 2.5,
    "state": 2.5,
    "exec": 1.2,
    "kill": 2.5,
    "delete -f": 1.2,
    "cpu of a run": 1.2,
    "100th create": 1.2,
    "docker run": 1.1,
    "docker exec": 1.1,
}
Times = dict[tuple[str, str], list[float]]


def runtimes() -> dict[str, list[str]]:
    """Return name -> how to call it. crun 1.8 refuses a cgroup2 mount beside v1 ones, so it is called where that is unmounted."""
    found = {"sysbox-runc": [OURS]}
    if runc := shutil.which("runc"):
        found["runc"] = [runc]
    if crun := shutil.which("crun"):
        unified = Path("/sys/fs/cgroup/unified").is_dir()
        found["crun"] = ["unshare", "-m", "sh", "-c", f'umount /sys/fs/cgroup/unified; exec {crun} "$@"', "crun"] if unified else [crun]
    return found


def bundle(directory: Path, args: list[str], *, foreign: bool) -> Path:
    """Write an equivalent bundle."""
    rootfs = directory / "rootfs"
    for name in ("bin", "proc", "sys", "dev"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", rootfs / "bin/busybox")
    for name in ("sh", "true", "sleep"):
        (rootfs / "bin" / name).symlink_to("busybox")
    safe = ["nosuid", "noexec", "nodev"]
    names = [
        "read",
        "write",
        "openat",
        "open",
        "close",
        "execve",
        "exit",
        "exit_group",
        "mmap",
        "brk",
        "mprotect",
        "munmap",
        "arch_prctl",
        "nanosleep",
        "clock_nanosleep",
    ]
    config: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*safe, "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": safe},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*safe, "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*safe, "relatime", "ro"]},
        ],
        "linux": {
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],
                "memory": {"limit": 1 << 30},
                "cpu": {"shares": 512},
                "pids": {"limit": 1000},
            },
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_LOG",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
            },
        },
    }
    if foreign:
        config["linux"]["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            config["linux"][name] = [{"containerID": 0, "hostID": FOREIGN, "size": 65536}]
        subprocess.run(["chown", "-hR", f"{FOREIGN}:{FOREIGN}", rootfs], check=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def timed(command: list[str]) -> float:
    """Run a command; milliseconds. Raises CalledProcessError."""
    begin = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, close_fds=False)
    return (time.perf_counter() - begin) * 1000


def life(call: list[str], short: Path, long: Path, name: str) -> Iterator[tuple[str, float]]:
    """Measure one container's life."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield "run", timed([*call, "run", "-b", str(short), name])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield "cpu of a run", (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000
    yield "create", timed([*call, "create", "-b", str(long), name])
    yield "start", timed([*call, "start", name])
    yield "state", timed([*call, "state", name])
    yield "exec", timed([*call, "exec", name, "true"])
    yield "kill", timed([*call, "kill", name, "0"])
    yield "delete -f", timed([*call, "delete", "-f", name])


def manager_memory() -> float:
    """Return the PSS of sysbox-mgr in MiB, 0 when it does not run."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(Path("/run/sysbox/sysmgr.pid").read_text())
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def raw(calls: dict[str, list[str]], rounds: int, directory: Path, times: Times) -> None:
    """Measure interleaved rounds; the first two warm up."""
    places = {}
    for name in calls:
        short = bundle(directory / name / "short", ["true"], foreign=name != "sysbox-runc")
        places[name] = (short, bundle(directory / name / "long", ["sleep", "1000"], foreign=name != "sysbox-runc"))
    for number in range(rounds + 2):
        for name, call in calls.items():
            with_root = [*call, "--root", str(directory / name / "state")]
            for what, value in life(with_root, *places[name], f"bench-{os.getpid()}-{number}"):
                if number >= 2:
                    times.setdefault((what, name), []).append(value)
        progress(f"raw: round {number + 1} of {rounds + 2}")


def crowd(calls: dict[str, list[str]], directory: Path, times: Times, facts: dict[str, float]) -> None:
    """Measure the 100th container, and the manager's memory with none and with 50."""
    facts["manager with 0 containers, MiB"] = manager_memory()
    for name in ("sysbox-runc", "runc"):
        if name not in calls:
            continue
        call = [*calls[name], "--root", str(directory / name / "crowd")]
        place = str(directory / name / "long")
        names = [f"crowd-{os.getpid()}-{number}" for number in range(104)]
        try:
            for number, one in enumerate(names):
                value = timed([*call, "create", "-b", place, one])
                if number >= 99:
                    times.setdefault(("100th create", name), []).append(value)
                if number == 49 and name == "sysbox-runc":
                    facts["manager with 50 containers, MiB"] = manager_memory()
                progress(f"{name}: container {number + 1} of {len(names)}")
        finally:
            for one in names:
                subprocess.run([*call, "delete", "-f", one], stderr=subprocess.DEVNULL, check=False)


def docker(rounds: int, directory: Path, times: Times) -> None:
    """Measure docker run and docker exec with a dockerd of our own."""
    engine = directory / "engine"
    env = {**os.environ, "SYSBOX_RUNC": OURS, "DOCKER_HOST": f"unix://{engine}/docker.sock"}
    subprocess.run([TOP / "scr/docker-engine", "start", engine], env=env, check=True, stdout=subprocess.DEVNULL)
    try:
        tar = subprocess.run(["tar", "-C", directory / "sysbox-runc/long/rootfs", "-c", "."], check=True, capture_output=True).stdout
        subprocess.run(["docker", "import", "-", "bench"], env=env, input=tar, check=True, stdout=subprocess.DEVNULL)
        os.environ.update(env)
        names = ("sysbox-runc", "runc")
        for name in names:
            subprocess.run(
                ["docker", "run", "-d", "--name", name, "--runtime", name, "bench", "sleep", "1000"], check=True, stdout=subprocess.DEVNULL
            )
        for number in range(rounds + 2):
            for name in names:
                run = timed(["docker", "run", "--rm", "--runtime", name, "bench", "true"])
                execute = timed(["docker", "exec", name, "true"])
                if number >= 2:
                    times.setdefault(("docker run", name), []).append(run)
                    times.setdefault(("docker exec", name), []).append(execute)
            progress(f"docker: round {number + 1} of {rounds + 2}")
    finally:
        subprocess.run(
            ["docker", "rm", "-f", "sysbox-runc", "runc"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
        subprocess.run([TOP / "scr/docker-engine", "stop", engine], env=env, check=False, stdout=subprocess.DEVNULL)


def progress(text: str) -> None:
    """Show where we are, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{text:<40}", end="", file=sys.stderr, flush=True)


def table(times: Times, facts: dict[str, float]) -> None:
    """Print medians and ratios."""
    print(f"{'median, ms':<16}{'sysbox-runc':>12}{'runc':>10}{'crun':>10}{'ratio':>8}{'target':>8}")
    for what, target in TARGETS.items():
        medians = {name: statistics.median(times[what, name]) for name in ("sysbox-runc", "runc", "crun") if (what, name) in times}
        if "sysbox-runc" not in medians:
            continue
        cells = "".join(
            f"{medians[name]:>{width}.1f}" if name in medians else f"{'-':>{width}}"
            for name, width in (("sysbox-runc", 12), ("runc", 10), ("crun", 10))
        )
        ratio = medians["sysbox-runc"] / medians["runc"] if "runc" in medians else 0
        print(f"{what:<16}{cells}{ratio:>8.2f}{target:>8.1f}  {'ok' if ratio <= target else 'over'}")
    for what, value in facts.items():
        print(f"{what}: {value:.1f}")


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="raw,crowd,docker,inside", help="of raw, crowd, docker, inside")
    parser.add_argument("--json", help="write all values there")
    chosen = parser.parse_args()
    if os.geteuid():
        sys.exit("bench: must run as root")
    times: Times = {}
    facts: dict[str, float] = {}
    kinds = chosen.only.split(",")
    lines: list[str] = []
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))
    directory.chmod(0o755)
    try:
        calls = runtimes()
        raw(calls, chosen.rounds if "raw" in kinds else 1, directory, times)
        if "crowd" in kinds:
            crowd(calls, directory, times, facts)
        if "docker" in kinds:
            docker(chosen.rounds, directory, times)
        if "inside" in kinds:
            from bench import inside

            lines = inside.run(calls, bundle, directory)
    finally:
        progress("")
        shutil.rmtree(directory, ignore_errors=True)
    table(times, facts)
    print(*lines, sep="\n")
    if chosen.json:
        Path(chosen.json).write_text(
            json.dumps({"times": {" / ".join(key): values for key, values in times.items()}, "facts": facts}, indent=1)
        )


if __name__ == "__main__":
    main()
