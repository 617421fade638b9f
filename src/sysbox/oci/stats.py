"""What a container uses, and when it runs out of memory: the ``events`` of runc 1.1, read from cgroup files.

As in runc's JSON, most zeros are left out; the units are bytes and nanoseconds.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

UNLIMITED = 2**64 - 1
CPUSET_FLAGS = (
    "cpu_exclusive",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
)
# name in the answer, file on cgroup v1 after "blkio." or "blkio.bfq."
BLOCK = (
    ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
    ("ioServicedRecursive", "io_serviced_recursive"),
    ("ioQueueRecursive", "io_queued_recursive"),
    ("ioServiceTimeRecursive", "io_service_time_recursive"),
    ("ioWaitTimeRecursive", "io_wait_time_recursive"),
    ("ioMergedRecursive", "io_merged_recursive"),
    ("ioTimeRecursive", "time_recursive"),
    ("sectorsRecursive", "sectors_recursive"),
)


def stats(v1: dict[str, str], v2: str | None) -> dict[str, Any]:
    """Return the ``data`` of ``events --stats``: cpu, cpuset, memory, pids, blkio, hugetlb, intel_rdt, network_interfaces.

    ``v1``: controller (or several, with commas) -> directory; ``v2``: directory, used for what v1 does not have. What is missing or
    unreadable gives zeros or empty sections; nothing is raised.
    """
    where = {name: path for names, path in v1.items() for name in names.split(",")}
    return {
        "cpu": _cpu_v1(where) if "cpu" in where or "cpuacct" in where else _cpu_v2(v2 or ""),
        "cpuset": _cpuset(where.get("cpuset", "")),
        "memory": _memory_v1(where["memory"]) if "memory" in where else _memory_v2(v2 or ""),
        "pids": _some(
            {key: _number(where.get("pids", v2 or ""), f"pids.{file}") for key, file in (("current", "current"), ("limit", "max"))}
        ),
        "blkio": _block_v1(where["blkio"]) if "blkio" in where else _block_v2(v2 or ""),
        "hugetlb": _huge_v1(where["hugetlb"]) if "hugetlb" in where else _huge_v2(v2 or ""),
        "intel_rdt": {},  # no container of ours is in a resctrl group
        "network_interfaces": None,  # as runc says for networks that others made
    }


def _read(directory: str, file: str) -> str:
    if not directory:
        return ""
    try:
        with open(f"{directory}/{file}", encoding="ascii", errors="replace") as opened:
            return opened.read().strip()
    except OSError:
        return ""


def _integer(text: str, unlimited: int = 0) -> int:
    if text == "max":
        return unlimited
    try:
        return int(text)
    except ValueError:
        return 0


def _number(directory: str, file: str, unlimited: int = 0) -> int:
    return _integer(_read(directory, file), unlimited)


def _pairs(directory: str, file: str) -> dict[str, int]:
    """Read lines of a name and a number."""
    words = [line.split() for line in _read(directory, file).splitlines()]
    return {pair[0]: _integer(pair[1]) for pair in words if len(pair) == 2}


def _some(values: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """Leave out zeros and what is empty, as Go's omitempty does."""
    return {key: value for key, value in values.items() if value or key in keep}


def _throttling(periods: int, throttled: int, nanoseconds: int) -> dict[str, Any]:
    return _some({"periods": periods, "throttledPeriods": throttled, "throttledTime": nanoseconds})


def _cpu_v1(where: dict[str, str]) -> dict[str, Any]:
    account = where.get("cpuacct", "")
    spent, times = _pairs(account, "cpuacct.stat"), _pairs(where.get("cpu", ""), "cpu.stat")
    by_cpu = [[_integer(word) for word in line.split()] for line in _read(account, "cpuacct.usage_all").splitlines()[1:]]
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    usage = {
        "total": _number(account, "cpuacct.usage"),
        "percpu": [_integer(word) for word in _read(account, "cpuacct.usage_percpu").split()],
        "percpu_kernel": [row[2] for row in by_cpu if len(row) == 3],
        "percpu_user": [row[1] for row in by_cpu if len(row) == 3],
        "kernel": spent.get("system", 0) * tick,
        "user": spent.get("user", 0) * tick,
    }
    throttling = _throttling(times.get("nr_periods", 0), times.get("nr_throttled", 0), times.get("throttled_time", 0))
    return {"usage": _some(usage, ("kernel", "user")), "throttling": throttling}


def _cpu_v2(path: str) -> dict[str, Any]:
    times = _pairs(path, "cpu.stat")
    usage = {name: times.get(key, 0) * 1000 for name, key in (("total", "usage_usec"), ("kernel", "system_usec"), ("user", "user_usec"))}
    throttling = _throttling(times.get("nr_periods", 0), times.get("nr_throttled", 0), times.get("throttled_usec", 0) * 1000)
    return {"usage": _some(usage, ("kernel", "user")), "throttling": throttling}


def _cpuset(path: str) -> dict[str, Any]:
    """Read cgroup v1's cpuset; runc reports none of v2."""
    values: dict[str, Any] = {"cpus": _list(_read(path, "cpuset.cpus")), "cpu_exclusive": 0, "mems": _list(_read(path, "cpuset.mems"))}
    values.update({flag: _number(path, f"cpuset.{flag}") for flag in CPUSET_FLAGS})
    return _some(values, CPUSET_FLAGS)


def _list(text: str) -> list[int]:
    """Unfold ``0-2,5``."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found += range(int(first), _integer(last or first) + 1)
    return found


def _entry(limit: int = 0, usage: int = 0, most: int = 0, failed: int = 0) -> dict[str, int]:
    return _some({"limit": limit, "usage": usage, "max": most, "failcnt": failed}, ("limit", "failcnt"))


def _memory_v1(path: str) -> dict[str, Any]:
    raw = _pairs(path, "memory.stat")
    values: dict[str, Any] = {"cache": raw.get("cache", 0)}
    for name, part in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp.")):
        files = ("limit_in_bytes", "usage_in_bytes", "max_usage_in_bytes", "failcnt")
        values[name] = _entry(*[_number(path, f"memory.{part}{file}") for file in files])
    return _some({**values, "raw": raw})


def _memory_v2(path: str) -> dict[str, Any]:
    """Read cgroup v2's memory; swap counts memory too, as on v1."""
    raw = _pairs(path, "memory.stat")
    limit, used = _number(path, "memory.max", UNLIMITED), _number(path, "memory.current")
    swap_limit, swap = _number(path, "memory.swap.max", UNLIMITED), _number(path, "memory.swap.current")
    both = UNLIMITED if UNLIMITED in (limit, swap_limit) else limit + swap_limit
    values = {"cache": raw.get("file", 0), "usage": _entry(limit, used), "swap": _entry(both, swap + used)}
    return _some({**values, "kernel": _entry(), "kernelTCP": _entry(), "raw": raw})


def _block_v1(path: str) -> dict[str, Any]:
    """Read the first of BFQ's, CFQ's and the throttle's counters that has any, as runc does."""
    for prefix in ("blkio.bfq.", "blkio.", "blkio.throttle."):
        if _entries(_read(path, prefix + BLOCK[1][1])):
            return _some({name: _entries(_read(path, prefix + file)) for name, file in BLOCK})
    return _some({name: _entries(_read(path, "blkio.throttle." + file.removesuffix("_recursive"))) for name, file in BLOCK[:2]})


def _entries(text: str) -> list[dict[str, Any]]:
    """Take apart lines ``8:0 Read 4096`` or ``8:0 4096``; the sum over all devices (``Total 4096``) is left out."""
    found = []
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if len(words) in (3, 4) and words[0].isdigit():
            values = {"major": int(words[0]), "minor": _integer(words[1]), "op": "".join(words[2:-1]), "value": _integer(words[-1])}
            found.append(_some(values))
    return found


def _block_v2(path: str) -> dict[str, Any]:
    tables: dict[str, list[str]] = {"rbytes": [], "rios": []}
    for line in _read(path, "io.stat").splitlines():
        device, *fields = line.split()
        for field in fields:
            key, _, value = field.partition("=")
            if key[1:] in ("bytes", "ios") and key[0] in "rw":
                tables["r" + key[1:]].append(f"{device} {'Read' if key[0] == 'r' else 'Write'} {value}")
    named = (("ioServiceBytesRecursive", "rbytes"), ("ioServicedRecursive", "rios"))
    return _some({name: _entries("\n".join(tables[key])) for name, key in named})


def _sizes(path: str, ending: str) -> list[str]:
    """Find the page sizes: prefixes of files, counting reservations where the kernel has them."""
    try:
        names = set(os.listdir(path)) if path else set()
    except OSError:
        return []
    plain = sorted(name.removesuffix(ending) for name in names if name.endswith(ending) and name.count(".") == 2)
    return [prefix + ".rsvd" if f"{prefix}.rsvd{ending}" in names else prefix for prefix in plain if prefix.startswith("hugetlb.")]


def _huge_v1(path: str) -> dict[str, Any]:
    files = (("usage", "usage_in_bytes"), ("max", "max_usage_in_bytes"), ("failcnt", "failcnt"))
    prefixes = _sizes(path, ".usage_in_bytes")
    return {one.split(".")[1]: _some({key: _number(path, f"{one}.{file}") for key, file in files}, ("failcnt",)) for one in prefixes}


def _huge_v2(path: str) -> dict[str, Any]:
    found = {}
    for prefix in _sizes(path, ".current"):
        failed = _pairs(path, f"{prefix.removesuffix('.rsvd')}.events").get("max", 0)
        found[prefix.split(".")[1]] = _some({"usage": _number(path, f"{prefix}.current"), "failcnt": failed}, ("failcnt",))
    return found


def oom_watch(v1: dict[str, str], v2: str | None) -> Iterator[None]:
    """Yield once per time that the container ran out of memory, until its cgroup goes. Arguments as of ``stats``.

    Watching starts with the first ``next``. Raises OSError when there is no memory cgroup to watch.
    Source: cgroup-v1/memory.rst ("OOM Control") and cgroup-v2.rst ("memory.events") of the kernel.
    """
    for names, path in v1.items():
        if "memory" in names.split(","):
            yield from _oom_v1(path)
            return
    if v2:
        yield from _oom_v2(v2)


def _oom_v1(path: str) -> Iterator[None]:
    control = os.open(f"{path}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    event = -1
    try:
        event = os.eventfd(0, os.EFD_CLOEXEC)
        with open(f"{path}/cgroup.event_control", "w", encoding="ascii") as register:
            register.write(f"{event} {control}")
        while True:
            count = os.eventfd_read(event)
            if not os.path.exists(f"{path}/cgroup.event_control"):
                return  # the kernel also signals the end of the cgroup
            for _ in range(count):
                yield None
    finally:
        os.close(control)
        if event >= 0:
            os.close(event)


def _oom_v2(path: str) -> Iterator[None]:
    """Poll for POLLPRI, with which the kernel says that such a file changed since it was read."""
    events = os.open(f"{path}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
    state = -1
    try:
        state = os.open(f"{path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        poll.register(state, select.POLLPRI)
        seen = _counter(events, "oom_kill")
        while seen is not None and _counter(state, "populated"):
            poll.poll(10_000)  # a net below the notification: removal of an empty cgroup gives none
            now = _counter(events, "oom_kill")
            for _ in range(seen, now or seen):
                yield None
            seen = now
    finally:
        os.close(events)
        if state >= 0:
            os.close(state)


def _counter(fd: int, name: str) -> int | None:
    """Return a number of such a file, None when its cgroup is gone."""
    try:
        lines = os.pread(fd, 4096, 0).decode().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(name + " ")), 0)
