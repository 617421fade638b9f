"""``linux.resources`` as writes to cgroup files, planned and checked, not executed. Devices are in ``devices``.

Errors of this module, of ``fields``, ``devices`` and ``update`` (each names the place in config.json):

==== =====================================================================
2001 a value has the wrong JSON type
2002 a number is out of the range the kernel takes
2003 memory limits that contradict each other
2004 ``unified`` on a host with cgroup v1
2005 a name in ``unified`` that is not a plain file name
2006 a device rule with an unknown type or access
2007 a device rule that cgroup v1 cannot express
2008 a text (CPU list, page size, interface, RDMA device) of the wrong form
2009 the new memory limit is below what is in use (``checkBeforeUpdate``)
2010 ``update``: a flag that does not exist
2011 ``update``: a flag without a value, or with a wrong one
2012 ``update``: no container ID, or more than one
2013 ``update``: the resources file cannot be read
2014 ``update``: the resources file is not a JSON object
==== =====================================================================

0 means "not set" and -1 "no limit" wherever runc reads them so. Whoever executes the writes follows two conventions: EINVAL does not
matter when the same file comes again later in the list, and ``missing`` says what to do about ENOENT.
"""

from __future__ import annotations

from sysbox.errors import Failure
from sysbox.oci.devices import DEFAULT_DEVICES, device_program, devices_v1, effective
from sysbox.oci.fields import I64, ROOT, U32, U64, number, objects, section, typed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Write = tuple[str, str]  # file, value

__all__ = ["DEFAULT_DEVICES", "check_usage", "device_program", "devices_v1", "effective", "merge", "missing", "v1", "v2"]

SHARES = (2, 262144)  # the kernel's MIN_SHARES and MAX_SHARES (kernel/sched/sched.h)
# OCI name, file on cgroup v1, key on cgroup v2
THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)


def _text(box: dict[str, Any], key: str, where: str, form: str, extra: str = "") -> str:
    """Return the string ``box[key]``, "" when absent; ``extra``: its only characters when given. Raises Failure 2001, 2008."""
    value: str = typed(box, key, where, str, "a string") or ""
    if value.strip(extra) if extra else "\n" in value or " " in value:
        raise Failure(2008, f'{where}.{key}: "{value}" is not {form}', f"write {form}")
    return value


def _memory(resources: dict[str, Any]) -> tuple[dict[str, Any], str, int, int, int]:
    """Return the section, its place, limit, memory+swap limit and reservation (0: not set). Raises Failure 2001..2003.

    Limits of kernel memory are checked, then ignored: kernels since 5.16 refuse or ignore them.
    """
    memory, where = section(resources, "memory", ROOT), ROOT + ".memory"
    values = [number(memory, key, where, -1, I64) or 0 for key in ("limit", "swap", "reservation", "kernel", "kernelTCP")]
    limit, swap, reservation = values[:3]
    if swap > 0 and limit == -1:
        raise Failure(2003, f"{where}.swap: a limit of {swap} without a limit of memory", "set memory.limit too: swap counts both together")
    if 0 < swap < limit:
        cause = f"{where}.swap: {swap} is below the memory limit {limit}, but counts memory and swap together"
        raise Failure(2003, cause, "make swap equal to the limit for no swap, or higher")
    for flag in ("disableOOMKiller", "useHierarchy", "checkBeforeUpdate"):
        typed(memory, flag, where, bool, "true or false")
    return memory, where, limit, swap, reservation


def _cpu(resources: dict[str, Any]) -> dict[str, Any]:
    """Return the checked numbers and lists of ``cpu`` by their OCI names, None where absent. Raises Failure 2001, 2002, 2008."""
    cpu, where = section(resources, "cpu", ROOT), ROOT + ".cpu"
    limits = (
        ("shares", 0, U64),
        ("quota", -I64 - 1, I64),
        ("period", 1000, 1_000_000),  # the kernel's min_cfs_quota_period and max_cfs_quota_period
        ("burst", 0, I64),
        ("realtimeRuntime", -1, I64),
        ("realtimePeriod", 1, I64),
        ("idle", 0, 1),
    )
    values: dict[str, Any] = {key: number(cpu, key, where, low, high) for key, low, high in limits}
    if 0 < (values["quota"] or 0) < 1000:
        raise Failure(2002, f"{where}.quota: {values['quota']} is below 1000 microseconds, the least the kernel takes", "raise it")
    for key in ("cpus", "mems"):
        values[key] = _text(cpu, key, where, 'a list like "0-3,7"', "0123456789,-:/ \n")
    return values


def _throttles(block: dict[str, Any], where: str) -> list[tuple[int, str, int]]:
    """Return (index into THROTTLES, ``major:minor``, rate per second) of each throttled device. Raises Failure 2001, 2002."""
    found = []
    for index, (key, _, _) in enumerate(THROTTLES):
        for place, item in objects(block, key, where):
            found.append((index, _device(item, place), number(item, "rate", place, 0, U64) or 0))
    return found


def _device(item: dict[str, Any], place: str) -> str:
    return f"{number(item, 'major', place, 0, U32) or 0}:{number(item, 'minor', place, 0, U32) or 0}"


def _weight(box: dict[str, Any], key: str, where: str) -> int:
    return number(box, key, where, 10, 1000) or 0  # the range of the OCI specification


def _pids(resources: dict[str, Any]) -> str:
    limit = number(section(resources, "pids", ROOT), "limit", ROOT + ".pids", -I64 - 1, I64) or 0
    return str(limit) if limit > 0 else "max" if limit else ""


def _huge(resources: dict[str, Any]) -> list[Write]:
    """Return (``hugetlb.<size>``, limit in bytes) of each page size. Raises Failure 2001, 2002, 2008."""
    found = []
    for place, item in objects(resources, "hugepageLimits", ROOT):
        size = _text(item, "pageSize", place, 'a page size like "2MB"')
        if not (size[:-2].isdigit() and size[-2:] in ("KB", "MB", "GB")):
            raise Failure(2008, f'{place}.pageSize: "{size}" is not a page size', 'write one like "2MB"')
        found.append((f"hugetlb.{size}", str(number(item, "limit", place, 0, U64) or 0)))
    return found


def _rdma(resources: dict[str, Any]) -> list[str]:
    """Return a line for ``rdma.max`` per device. Raises Failure 2001, 2002, 2008."""
    rdma, where, lines = section(resources, "rdma", ROOT), ROOT + ".rdma", []
    for device in rdma:
        if not device or len(device.split()) != 1:
            raise Failure(2008, f'{where}: "{device}" is not the name of an RDMA device', "look in /sys/class/infiniband")
        limits, place, line = section(rdma, device, where), f"{where}.{device}", device
        for key, name in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
            limit = number(limits, key, place, 0, U32)
            line += "" if limit is None else f" {name}={limit}"
        lines.append(line)
    return lines


def v1(resources: dict[str, Any], *, update: bool = False) -> list[tuple[str, str, str]]:
    """Return (controller, file, value) writes for cgroup v1, in the order that the kernel accepts.

    ``update``: the cgroup has limits already. Pairs that the kernel checks against one another (memory and memory+swap, period and
    quota) then get a second try of the first of the pair: raising and lowering want opposite orders.
    Raises Failure 2001..2004, 2008. Source: Documentation/admin-guide/cgroup-v1 of the kernel.
    """
    if section(resources, "unified", ROOT):
        raise Failure(2004, f"{ROOT}.unified: this host has cgroup v1", "use memory, cpu, pids... instead, or boot with cgroup v2")
    cpu = _cpu(resources)
    writes = [("cpuset", f"cpuset.{key}", cpu[key]) for key in ("cpus", "mems") if cpu[key]]
    writes += [("memory", file, value) for file, value in _memory_v1(resources, update=update)]
    writes += [("cpu", file, value) for file, value in _cpu_v1(cpu, update=update)]
    pids = _pids(resources)
    if pids:
        writes.append(("pids", "pids.max", pids))
    writes += [("blkio", file, value) for file, value in _block_v1(resources)]
    for prefix, limit in _huge(resources):
        writes += [("hugetlb", f"{prefix}{kind}.limit_in_bytes", limit) for kind in ("", ".rsvd")]
    network, where = section(resources, "network", ROOT), ROOT + ".network"
    if class_id := number(network, "classID", where, 0, U32):
        writes.append(("net_cls", "net_cls.classid", str(class_id)))
    for place, item in objects(network, "priorities", where):
        name = _text(item, "name", place, "the name of an interface")
        writes.append(("net_prio", "net_prio.ifpriomap", f"{name} {number(item, 'priority', place, 0, U32) or 0}"))
    writes += [("rdma", "rdma.max", line) for line in _rdma(resources)]
    return writes


def _memory_v1(resources: dict[str, Any], *, update: bool) -> list[Write]:
    memory, where, limit, swap, reservation = _memory(resources)
    writes: list[Write] = []
    if memory.get("useHierarchy"):  # the only kind since 5.11, where false is refused
        writes.append(("memory.use_hierarchy", "1"))
    if swap > 0 and not limit and not update:
        raise Failure(2003, f"{where}.swap: a limit of {swap} without a limit of memory", "set memory.limit too: swap counts both together")
    if limit == -1 and not swap and update:
        swap = -1  # no limit of memory is no limit of both
    pair = [(file, str(value)) for file, value in (("memory.limit_in_bytes", limit), ("memory.memsw.limit_in_bytes", swap)) if value]
    if swap == -1:
        pair.reverse()
    writes += pair
    if update and len(pair) == 2 and swap != -1:
        writes.append(pair[0])
    if reservation:
        writes.append(("memory.soft_limit_in_bytes", str(reservation)))
    if memory.get("disableOOMKiller"):
        writes.append(("memory.oom_control", "1"))
    if memory.get("swappiness") not in (-1, U64):  # runc and Docker know -1, also as unsigned, for "leave it"
        swappiness = number(memory, "swappiness", where, 0, 100)
        if swappiness is not None:
            writes.append(("memory.swappiness", str(swappiness)))
    return writes


def _cpu_v1(cpu: dict[str, Any], *, update: bool) -> list[Write]:
    shares, period, quota, burst, idle = cpu["shares"], cpu["period"], cpu["quota"], cpu["burst"], cpu["idle"]
    writes: list[Write] = []
    if idle == 0:
        writes.append(("cpu.idle", "0"))  # an idle group takes no shares
    if shares:
        if not SHARES[0] <= shares <= SHARES[1]:  # the kernel would round it silently
            cause = f"{ROOT}.cpu.shares: {shares} is not between {SHARES[0]} and {SHARES[1]}"
            raise Failure(2002, cause, f"choose a value from {SHARES[0]} to {SHARES[1]}")
        writes.append(("cpu.shares", str(shares)))
    if period:
        writes.append(("cpu.cfs_period_us", str(period)))
    if burst is not None and update:
        writes.append(("cpu.cfs_burst_us", str(burst)))  # must be lowered before the quota, or raised after it
    if quota:
        writes.append(("cpu.cfs_quota_us", str(max(quota, -1))))
        if period and update:
            writes.append(("cpu.cfs_period_us", str(period)))
    if burst is not None:
        writes.append(("cpu.cfs_burst_us", str(burst)))
    runtime, span = cpu["realtimeRuntime"], cpu["realtimePeriod"]
    if span:
        writes.append(("cpu.rt_period_us", str(span)))
    if runtime:
        writes.append(("cpu.rt_runtime_us", str(runtime)))
        if span and update:
            writes.append(("cpu.rt_period_us", str(span)))
    if idle:
        writes.append(("cpu.idle", "1"))
    return writes


def _block_v1(resources: dict[str, Any]) -> list[Write]:
    block, where = section(resources, "blockIO", ROOT), ROOT + ".blockIO"
    writes: list[Write] = []
    for key, file in (("weight", "blkio.weight"), ("leafWeight", "blkio.leaf_weight")):
        if weight := _weight(block, key, where):
            writes.append((file, str(weight)))
    for place, item in objects(block, "weightDevice", where):
        for key, file in (("weight", "blkio.weight_device"), ("leafWeight", "blkio.leaf_weight_device")):
            if weight := _weight(item, key, place):
                writes.append((file, f"{_device(item, place)} {weight}"))
    writes += [(THROTTLES[index][1], f"{device} {rate}") for index, device, rate in _throttles(block, where)]
    return writes


def v2(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (file, value) writes for cgroup v2; ``unified`` comes last, one write per line, and so wins.

    Memory+swap becomes swap alone, shares become a weight (2..262144 onto 1..10000). What v2 has no form for (realtime, swappiness,
    disableOOMKiller, network, leaf weights) is checked and left out, as runc does.
    Raises Failure 2001..2003, 2005, 2008. Source: Documentation/admin-guide/cgroup-v2.rst of the kernel.
    """
    pids = _pids(resources)
    writes: list[Write] = [("pids.max", pids)] if pids else []
    writes += _memory_v2(resources)
    writes += _block_v2(resources)
    cpu = _cpu(resources)
    writes += _cpu_v2(cpu)
    writes += [(f"cpuset.{key}", cpu[key]) for key in ("cpus", "mems") if cpu[key]]
    for prefix, limit in _huge(resources):
        writes += [(f"{prefix}{kind}.max", limit) for kind in ("", ".rsvd")]
    writes += [("rdma.max", line) for line in _rdma(resources)]
    unified, where = section(resources, "unified", ROOT), ROOT + ".unified"
    for name in unified:
        if "/" in name or "." not in name.strip("."):
            raise Failure(2005, f'{where}: "{name}" is not the name of a cgroup file', 'write names like "memory.high", without slashes')
        value = typed(unified, name, where, str, "a string")
        writes += [(name, line) for line in (value or "").split("\n") if line]
    return writes


def _memory_v2(resources: dict[str, Any]) -> list[Write]:
    _, where, limit, swap, reservation = _memory(resources)
    writes: list[Write] = []
    if swap > 0 and not limit:
        raise Failure(2003, f"{where}.swap: a limit of {swap} without a limit of memory", "set memory.limit too: swap counts both together")
    if swap == -1 or (limit == -1 and not swap):
        writes.append(("memory.swap.max", "max"))
    elif swap:
        writes.append(("memory.swap.max", str(swap - limit)))
    for file, value in (("memory.max", limit), ("memory.low", reservation)):
        if value:
            writes.append((file, "max" if value == -1 else str(value)))
    return writes


def _cpu_v2(cpu: dict[str, Any]) -> list[Write]:
    shares, period, quota, burst, idle = cpu["shares"], cpu["period"], cpu["quota"], cpu["burst"], cpu["idle"]
    writes: list[Write] = []
    if idle == 0:
        writes.append(("cpu.idle", "0"))  # an idle group takes no weight
    if shares:
        clamped = min(max(shares, SHARES[0]), SHARES[1])
        writes.append(("cpu.weight", str(1 + (clamped - 2) * 9999 // 262142)))
    if quota or period:
        maximum = ("cpu.max", f"{quota if (quota or 0) > 0 else 'max'} {period or 100_000}")  # the kernel's default period
        # a burst above the quota is refused: try it before (lowering both) and after (raising both)
        writes += [maximum] if burst is None else [("cpu.max.burst", str(burst)), maximum]
    if burst is not None:
        writes.append(("cpu.max.burst", str(burst)))
    if idle:
        writes.append(("cpu.idle", "1"))
    return writes


def _block_v2(resources: dict[str, Any]) -> list[Write]:
    block, where = section(resources, "blockIO", ROOT), ROOT + ".blockIO"
    writes: list[Write] = []
    if weight := _weight(block, "weight", where):
        writes.append(("io.bfq.weight", str(weight)))
    _weight(block, "leafWeight", where)
    for place, item in objects(block, "weightDevice", where):
        if weight := _weight(item, "weight", place):
            writes.append(("io.bfq.weight", f"{_device(item, place)} {weight}"))
    for index, device, rate in _throttles(block, where):
        writes.append(("io.max", f"{device} {THROTTLES[index][2]}={rate or 'max'}"))  # 0 lifts the limit on v1, but is refused here
    return writes


def missing(file: str, value: str) -> tuple[str, str] | None:
    """Say what to do when ``file`` does not exist (ENOENT): another (file, value), ("", "") for nothing, None for: it is an error.

    Kernels differ in the I/O scheduler that gives weights, and a limit that cannot exist is as good as lifted.
    """
    if file.endswith((".rsvd.limit_in_bytes", ".rsvd.max")) or file in ("cpu.cfs_burst_us", "cpu.max.burst"):
        return ("", "")
    if (file, value) in (("memory.swap.max", "max"), ("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", "-1"), ("cpu.idle", "0")):
        return ("", "")
    if file in ("blkio.weight", "blkio.weight_device"):
        return file.replace("blkio.", "blkio.bfq."), value
    if file == "io.bfq.weight":  # io.weight has 1..10000 for 10..1000; by device only BFQ has one
        return ("", "") if ":" in value else ("io.weight", str(1 + (int(value) - 10) * 9999 // 990))
    return None


def check_usage(resources: dict[str, Any], used: int) -> None:
    """Refuse an update with ``checkBeforeUpdate`` whose memory limit is below ``used`` bytes. Raises Failure 2001..2003, 2009."""
    memory, where, limit, _, _ = _memory(resources)
    if memory.get("checkBeforeUpdate") and 0 < limit < used:
        raise Failure(
            2009, f"{where}.limit: {limit} is below the {used} bytes in use", "choose a higher limit, or free memory inside first"
        )


# where 0 is a value, not "not set"
_ZERO_COUNTS = ("swappiness", "idle", "burst", "hcaHandles", "hcaObjects")


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return ``old`` with the values of ``new`` over it, section by section; both stay as they are.

    What ``new`` does not set (absent, null, "", 0 where that means "not set") stays; arrays are replaced as a whole.
    """
    merged = dict(old)
    for key, value in new.items():
        if type(value) is dict:
            before = merged.get(key)
            merged[key] = merge(before if type(before) is dict else {}, value)
        elif value is not None and value != "" and (type(value) is not int or value or key in _ZERO_COUNTS):
            merged[key] = value
    return merged
