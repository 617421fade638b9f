from __future__ import annotations

import copy
from itertools import product
from random import Random
from typing import Any

import pytest

from sysbox.errors import Failure
from sysbox.oci import resources as oci

MIB = 1 << 20
DEVICE = {"major": 8, "minor": 16}

# resources, what v1 writes at creation, what v2 writes
CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({}, [], []),
    ({"memory": None, "cpu": {"shares": None}}, [], []),
    ({"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": ""}, "pids": {"limit": 0}}, [], []),
    (
        {"memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB, "swappiness": 0, "disableOOMKiller": True}},
        [
            "memory memory.limit_in_bytes 67108864",
            "memory memory.memsw.limit_in_bytes 100663296",
            "memory memory.soft_limit_in_bytes 33554432",
            "memory memory.oom_control 1",
            "memory memory.swappiness 0",
        ],
        ["memory.swap.max 33554432", "memory.max 67108864", "memory.low 33554432"],
    ),
    (
        {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}},
        ["memory memory.limit_in_bytes 67108864", "memory memory.memsw.limit_in_bytes 67108864"],
        ["memory.swap.max 0", "memory.max 67108864"],
    ),
    (
        {"memory": {"limit": 64 * MIB, "swap": -1}},
        ["memory memory.memsw.limit_in_bytes -1", "memory memory.limit_in_bytes 67108864"],
        ["memory.swap.max max", "memory.max 67108864"],
    ),
    ({"memory": {"limit": -1}}, ["memory memory.limit_in_bytes -1"], ["memory.swap.max max", "memory.max max"]),
    ({"memory": {"kernel": MIB, "kernelTCP": MIB, "swappiness": 2**64 - 1}}, [], []),
    ({"memory": {"swappiness": -1, "useHierarchy": True}}, ["memory memory.use_hierarchy 1"], []),
    (
        {"cpu": {"shares": 1024, "quota": 50000, "period": 100000, "burst": 1000, "cpus": "0-1", "mems": "0"}},
        [
            "cpuset cpuset.cpus 0-1",
            "cpuset cpuset.mems 0",
            "cpu cpu.shares 1024",
            "cpu cpu.cfs_period_us 100000",
            "cpu cpu.cfs_quota_us 50000",
            "cpu cpu.cfs_burst_us 1000",
        ],
        ["cpu.weight 39", "cpu.max.burst 1000", "cpu.max 50000 100000", "cpu.max.burst 1000", "cpuset.cpus 0-1", "cpuset.mems 0"],
    ),
    ({"cpu": {"shares": 2}}, ["cpu cpu.shares 2"], ["cpu.weight 1"]),
    ({"cpu": {"shares": 262144}}, ["cpu cpu.shares 262144"], ["cpu.weight 10000"]),
    ({"cpu": {"quota": -1}}, ["cpu cpu.cfs_quota_us -1"], ["cpu.max max 100000"]),
    ({"cpu": {"period": 5000}}, ["cpu cpu.cfs_period_us 5000"], ["cpu.max max 5000"]),
    ({"cpu": {"quota": 5000}}, ["cpu cpu.cfs_quota_us 5000"], ["cpu.max 5000 100000"]),
    ({"cpu": {"idle": 1, "shares": 9}}, ["cpu cpu.shares 9", "cpu cpu.idle 1"], ["cpu.weight 1", "cpu.idle 1"]),
    ({"cpu": {"idle": 0, "shares": 9}}, ["cpu cpu.idle 0", "cpu cpu.shares 9"], ["cpu.idle 0", "cpu.weight 1"]),
    ({"cpu": {"realtimeRuntime": 95, "realtimePeriod": 100}}, ["cpu cpu.rt_period_us 100", "cpu cpu.rt_runtime_us 95"], []),
    ({"pids": {"limit": 50}}, ["pids pids.max 50"], ["pids.max 50"]),
    ({"pids": {"limit": -1}}, ["pids pids.max max"], ["pids.max max"]),
    (
        {"blockIO": {"weight": 1000, "leafWeight": 10, "weightDevice": [{**DEVICE, "weight": 10, "leafWeight": 20}]}},
        [
            "blkio blkio.weight 1000",
            "blkio blkio.leaf_weight 10",
            "blkio blkio.weight_device 8:16 10",
            "blkio blkio.leaf_weight_device 8:16 20",
        ],
        ["io.bfq.weight 1000", "io.bfq.weight 8:16 10"],
    ),
    (
        {
            "blockIO": {
                "throttleReadBpsDevice": [{**DEVICE, "rate": 1}],
                "throttleWriteBpsDevice": [{**DEVICE, "rate": 2}],
                "throttleReadIOPSDevice": [{**DEVICE, "rate": 3}],
                "throttleWriteIOPSDevice": [{"major": 254, "rate": 0}],
            }
        },
        [
            "blkio blkio.throttle.read_bps_device 8:16 1",
            "blkio blkio.throttle.write_bps_device 8:16 2",
            "blkio blkio.throttle.read_iops_device 8:16 3",
            "blkio blkio.throttle.write_iops_device 254:0 0",
        ],
        ["io.max 8:16 rbps=1", "io.max 8:16 wbps=2", "io.max 8:16 riops=3", "io.max 254:0 wiops=max"],
    ),
    (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 9}]},
        ["hugetlb hugetlb.2MB.limit_in_bytes 9", "hugetlb hugetlb.2MB.rsvd.limit_in_bytes 9"],
        ["hugetlb.2MB.max 9", "hugetlb.2MB.rsvd.max 9"],
    ),
    (
        {"network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]}},
        ["net_cls net_cls.classid 1048577", "net_prio net_prio.ifpriomap eth0 5"],
        [],
    ),
    (
        {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 0}, "mlx4_0": {"hcaObjects": 7}}},
        ["rdma rdma.max mlx5_1 hca_handle=3 hca_object=0", "rdma rdma.max mlx4_0 hca_object=7"],
        ["rdma.max mlx5_1 hca_handle=3 hca_object=0", "rdma.max mlx4_0 hca_object=7"],
    ),
]


@pytest.mark.parametrize(("resources", "old", "new"), CASES)
def test_writes(resources: dict[str, Any], old: list[str], new: list[str]) -> None:
    before = copy.deepcopy(resources)
    assert [" ".join(write) for write in oci.v1(resources)] == old
    assert [" ".join(write) for write in oci.v2(resources)] == new
    assert resources == before


UPDATES: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"memory": {"limit": 5, "swap": 6}},
        ["memory.limit_in_bytes 5", "memory.memsw.limit_in_bytes 6", "memory.limit_in_bytes 5"],
    ),
    ({"memory": {"limit": -1}}, ["memory.memsw.limit_in_bytes -1", "memory.limit_in_bytes -1"]),
    ({"memory": {"limit": 5, "swap": -1}}, ["memory.memsw.limit_in_bytes -1", "memory.limit_in_bytes 5"]),
    ({"memory": {"swap": 6}}, ["memory.memsw.limit_in_bytes 6"]),
    ({"cpu": {"quota": 2000, "period": 1000}}, ["cpu.cfs_period_us 1000", "cpu.cfs_quota_us 2000", "cpu.cfs_period_us 1000"]),
    ({"cpu": {"quota": 2000, "burst": 7}}, ["cpu.cfs_burst_us 7", "cpu.cfs_quota_us 2000", "cpu.cfs_burst_us 7"]),
    ({"cpu": {"realtimeRuntime": 2, "realtimePeriod": 3}}, ["cpu.rt_period_us 3", "cpu.rt_runtime_us 2", "cpu.rt_period_us 3"]),
]


@pytest.mark.parametrize(("resources", "writes"), UPDATES)
def test_update_tries_the_first_of_a_pair_again(resources: dict[str, Any], writes: list[str]) -> None:
    assert [f"{file} {value}" for _, file, value in oci.v1(resources, update=True)] == writes


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"memory": []}, 2001, "$.linux.resources.memory: expected an object, got []"),
    ({"memory": {"limit": "x"}}, 2001, '$.linux.resources.memory.limit: expected an integer, got "x"'),
    ({"memory": {"limit": 1.5}}, 2001, "$.linux.resources.memory.limit: expected an integer, got 1.5"),
    ({"memory": {"limit": True}}, 2001, "$.linux.resources.memory.limit: expected an integer, got True"),
    ({"memory": {"disableOOMKiller": 1}}, 2001, "$.linux.resources.memory.disableOOMKiller: expected true or false, got 1"),
    ({"cpu": {"cpus": 3}}, 2001, "$.linux.resources.cpu.cpus: expected a string, got 3"),
    ({"blockIO": {"weightDevice": {}}}, 2001, "$.linux.resources.blockIO.weightDevice: expected an array, got {}"),
    ({"blockIO": {"weightDevice": [5]}}, 2001, "$.linux.resources.blockIO.weightDevice[0]: expected an object, got 5"),
    ({"memory": {"limit": -2}}, 2002, "$.linux.resources.memory.limit: -2 is not between"),
    ({"memory": {"limit": 2**63}}, 2002, "$.linux.resources.memory.limit"),
    ({"cpu": {"period": 999}}, 2002, "$.linux.resources.cpu.period"),
    ({"cpu": {"quota": 999}}, 2002, "$.linux.resources.cpu.quota"),
    ({"cpu": {"idle": 2}}, 2002, "$.linux.resources.cpu.idle"),
    ({"cpu": {"shares": -1}}, 2002, "$.linux.resources.cpu.shares"),
    ({"blockIO": {"weight": 9}}, 2002, "$.linux.resources.blockIO.weight"),
    ({"rdma": {"mlx": {"hcaHandles": 2**32}}}, 2002, "$.linux.resources.rdma.mlx.hcaHandles"),
    ({"memory": {"limit": 5, "swap": 4}}, 2003, "$.linux.resources.memory.swap: 4 is below the memory limit 5"),
    ({"memory": {"limit": -1, "swap": 4}}, 2003, "$.linux.resources.memory.swap"),
    ({"memory": {"swap": 4}}, 2003, "$.linux.resources.memory.swap"),
    ({"cpu": {"cpus": "all"}}, 2008, '$.linux.resources.cpu.cpus: "all" is not a list'),
    ({"hugepageLimits": [{"pageSize": "big", "limit": 1}]}, 2008, '$.linux.resources.hugepageLimits[0].pageSize: "big"'),
    ({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}, 2008, "$.linux.resources.hugepageLimits[0].pageSize"),
    ({"rdma": {"a b": {}}}, 2008, "$.linux.resources.rdma"),
]


@pytest.mark.parametrize(("resources", "code", "cause"), WRONG)
def test_refusals_name_the_place(resources: dict[str, Any], code: int, cause: str) -> None:
    for call in (oci.v1, oci.v2):
        with pytest.raises(Failure) as caught:
            call(resources)
        assert caught.value.code == code
        assert caught.value.cause.startswith(cause)
        assert caught.value.hint


def test_what_only_v1_refuses() -> None:
    for resources, code in (
        ({"unified": {"memory.high": "1"}}, 2004),
        ({"cpu": {"shares": 1}}, 2002),
        ({"memory": {"swappiness": 101}}, 2002),
        ({"network": {"priorities": [{"name": "a b"}]}}, 2008),
    ):
        with pytest.raises(Failure) as caught:
            oci.v1(resources)
        assert caught.value.code == code
        if code != 2004:
            oci.v2(resources)


def test_unified_is_written_last_line_by_line() -> None:
    unified = {"memory.high": "max", "io.max": "8:0 rbps=1\n8:16 rbps=2\n"}
    writes = oci.v2({"unified": unified, "pids": {"limit": 1}})
    assert writes == [("pids.max", "1"), ("memory.high", "max"), ("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2")]


@pytest.mark.parametrize("name", ["a/b", "../x.y", "", ".", "..", "procs", "/memory.max"])
def test_unified_takes_file_names_only(name: str) -> None:
    with pytest.raises(Failure) as caught:
        oci.v2({"unified": {name: "1"}})
    assert caught.value.code == 2005


@pytest.mark.parametrize(
    ("file", "value", "instead"),
    [
        ("blkio.weight", "10", ("blkio.bfq.weight", "10")),
        ("blkio.weight_device", "8:0 10", ("blkio.bfq.weight_device", "8:0 10")),
        ("io.bfq.weight", "10", ("io.weight", "1")),
        ("io.bfq.weight", "1000", ("io.weight", "10000")),
        ("io.bfq.weight", "8:0 10", ("", "")),
        ("hugetlb.2MB.rsvd.max", "1", ("", "")),
        ("memory.swap.max", "0", ("", "")),
        ("memory.swap.max", "max", ("", "")),
        ("memory.swap.max", "5", None),
        ("memory.memsw.limit_in_bytes", "5", None),
        ("memory.max", "max", None),
    ],
)
def test_missing_files(file: str, value: str, instead: tuple[str, str] | None) -> None:
    assert oci.missing(file, value) == instead


def test_check_before_update() -> None:
    oci.check_usage({"memory": {"limit": 5}}, 6)
    oci.check_usage({"memory": {"limit": 5, "checkBeforeUpdate": True}}, 5)
    oci.check_usage({"memory": {"limit": -1, "checkBeforeUpdate": True}}, 5)
    with pytest.raises(Failure) as caught:
        oci.check_usage({"memory": {"limit": 5, "checkBeforeUpdate": True}}, 6)
    assert caught.value.code == 2009


def test_merge() -> None:
    old = {"memory": {"limit": 5, "swap": 9, "swappiness": 60}, "cpu": {"cpus": "0", "quota": 7}, "devices": [1]}
    new = {"memory": {"limit": 6, "swap": 0, "swappiness": 0}, "cpu": {"cpus": "", "quota": None}, "pids": {"limit": 3}, "devices": []}
    before = copy.deepcopy((old, new))
    merged = oci.merge(old, new)
    assert merged == {
        "memory": {"limit": 6, "swap": 9, "swappiness": 0},
        "cpu": {"cpus": "0", "quota": 7},
        "devices": [],
        "pids": {"limit": 3},
    }
    merged["memory"]["limit"] = 1
    assert (old, new) == before


DENY_ALL = {"allow": False, "access": "rwm"}


def rule(text: str) -> dict[str, Any]:
    """Read ``allow c 1:* rw``."""
    verb, kind, numbers, access = text.split()
    major, minor = (-1 if word == "*" else int(word) for word in numbers.split(":"))
    return {"allow": verb == "allow", "type": kind, "major": major, "minor": minor, "access": access}


@pytest.mark.parametrize(
    ("rules", "writes"),
    [
        ([], ["deny a *:* rwm"]),
        (["allow c 5:1 rw", "deny a *:* rwm", "allow c 1:* mr"], ["deny a *:* rwm", "allow c 1:* rm"]),
        (["allow c 1:3 r", "allow c 1:3 w"], ["deny a *:* rwm", "allow c 1:3 rw"]),
        (["allow c 1:3 rwm", "deny c 1:3 w"], ["deny a *:* rwm", "allow c 1:3 rm"]),
        (["allow c 1:3 rwm", "deny c *:* rwm"], ["deny a *:* rwm"]),
        (["allow a *:* rwm", "deny b *:* m", "deny c 10:1 rwm"], ["allow a *:* rwm", "deny b *:* m", "deny c 10:1 rwm"]),
        (["allow a *:* r"], ["deny a *:* rwm", "allow b *:* r", "allow c *:* r"]),
        (["allow c 1:* r", "deny c 1:3 w"], ["deny a *:* rwm", "allow c 1:* r"]),
    ],
)
def test_devices_v1(rules: list[str], writes: list[str]) -> None:
    found = oci.devices_v1([rule(text) for text in rules])
    assert [f"{file.removeprefix('devices.')} {value}" for controller, file, value in found if controller == "devices"] == writes


def test_devices_v1_like_runc_with_its_default_bundle() -> None:
    values = [value for _, _, value in oci.devices_v1(oci.effective([DENY_ALL]))]
    runc = {"b *:* m", "c *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm"}
    runc |= {"c 10:200 rwm", "c 136:* rwm"}
    assert values[0] == "a *:* rwm"
    assert set(values[1:]) - runc == {"c 10:229 rwm", "c 1:11 r"}
    assert runc <= set(values)


def test_defaults_win_over_rules() -> None:
    values = [value for _, _, value in oci.devices_v1(oci.effective([DENY_ALL, rule("deny c 10:229 rwm")]))]
    assert "c 10:229 rwm" in values


@pytest.mark.parametrize("hole", ["deny c 1:3 r", "deny c *:3 r", "deny a 1:3 rwm"])
def test_devices_v1_refuses_holes(hole: str) -> None:
    with pytest.raises(Failure) as caught:
        oci.devices_v1([DENY_ALL, rule("allow c 1:* rw"), rule(hole)])
    assert caught.value.code == 2007
    assert caught.value.cause.startswith("$.linux.resources.devices[2]: ")


@pytest.mark.parametrize(
    ("wrong", "code", "place"),
    [
        ({"access": "rwm", "type": "p"}, 2006, "$.linux.resources.devices[1].type"),
        ({"access": "rwx"}, 2006, "$.linux.resources.devices[1].access"),
        ({"type": "c"}, 2006, "$.linux.resources.devices[1].access"),
        ({"access": "r", "major": -2}, 2002, "$.linux.resources.devices[1].major"),
        ({"access": "r", "minor": "1"}, 2001, "$.linux.resources.devices[1].minor"),
        ({"access": "r", "allow": "yes"}, 2001, "$.linux.resources.devices[1].allow"),
    ],
)
def test_wrong_device_rules(wrong: dict[str, Any], code: int, place: str) -> None:
    for call in (oci.devices_v1, oci.device_program):
        with pytest.raises(Failure) as caught:
            call([DENY_ALL, wrong])
        assert caught.value.code == code
        assert caught.value.cause.startswith(place)


def wanted(rules: list[dict[str, Any]], kind: str, major: int, minor: int, access: str) -> bool:
    answer = False
    for one in rules:
        fits = one["type"] in ("a", kind) and one["major"] in (-1, major) and one["minor"] in (-1, minor)
        answer = one["allow"] if fits and access in one["access"] else answer
    return answer


def kernel(writes: list[tuple[str, str, str]], kind: str, major: int, minor: int, access: str) -> bool:
    default = writes[0][1] == "devices.allow"
    for _, file, value in writes[1:]:
        one = rule(f"{file.removeprefix('devices.')} {value}")
        assert one["allow"] is not default
        if one["type"] == kind and one["major"] in (-1, major) and one["minor"] in (-1, minor) and access in one["access"]:
            return not default
    return default


def test_devices_v1_means_that_the_last_rule_wins() -> None:
    random, compared = Random(7), 0
    for _ in range(2000):
        numbers = ("*", "1", "2")
        rules = []
        for _ in range(random.randint(0, 5)):
            access = "".join(random.sample("rwm", random.randint(1, 3)))
            verb, kind = random.choice(("allow", "deny")), random.choice("aabc")
            rules.append(rule(f"{verb} {kind} {random.choice(numbers)}:{random.choice(numbers)} {access}"))
        try:
            writes = oci.devices_v1(rules)
        except Failure as failure:
            if failure.code != 2007:
                raise
            continue
        compared += 1
        for kind, major, minor, access in product("bc", (1, 2, 3), (1, 2, 3), "rwm"):
            assert kernel(writes, kind, major, minor, access) is wanted(rules, kind, major, minor, access), (rules, writes)
    assert compared > 1000
