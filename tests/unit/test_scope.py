"""The systemd driver's names and numbers."""

import pytest

from sysbox.errors import Failure
from sysbox.runtime.scope import parse, properties


@pytest.mark.parametrize(
    ("path", "unit", "where"),
    [
        ("", "sysbox-runc-c1.scope", "/system.slice/sysbox-runc-c1.scope"),
        ("system.slice:docker:c1", "docker-c1.scope", "/system.slice/docker-c1.scope"),
        (":docker:c1", "docker-c1.scope", "/system.slice/docker-c1.scope"),
        ("kube-pods-x.slice:cri:c1", "cri-c1.scope", "/kube.slice/kube-pods.slice/kube-pods-x.slice/cri-c1.scope"),
        ("-.slice::c1", "c1.scope", "/c1.scope"),
    ],
)
def test_a_path_becomes_a_unit(path: str, unit: str, where: str) -> None:
    found = parse(path, "c1")
    assert (found["unit"], found["path"]) == (unit, where)


@pytest.mark.parametrize(
    "path", ["/a/b", "a.slice:b", "system.slice:docker:x.slice", "system:docker:c1", "a--b.slice:d:c", "../x.slice:d:c", "a:b:c:d"]
)
def test_what_is_no_path_for_systemd(path: str) -> None:
    with pytest.raises(Failure) as caught:
        parse(path, "c1")
    assert caught.value.code == 1030


def test_limits_that_systemd_must_know_of() -> None:
    writes = [
        ("pids.max", "max"),
        ("memory.max", "1048576"),
        ("cpu.max", "max 100000"),
        ("cpu.max", "25001 50000"),
        ("cpuset.cpus", "0-1,9"),
        ("rdma.max", "x"),
    ]
    assert properties(writes) == [
        ("TasksMax", "t", str(2**64 - 1)),
        ("MemoryMax", "t", "1048576"),
        ("CPUQuotaPerSecUSec", "t", "510000"),
        ("CPUQuotaPeriodUSec", "t", "50000"),
        ("AllowedCPUs", "ay", "2 3 2"),
    ]
