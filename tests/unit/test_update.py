from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from sysbox.errors import Failure
from sysbox.oci import resources as oci
from sysbox.oci import update

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("argv", "resources"),
    [
        ("c1", {}),
        ("--memory 64m c1", {"memory": {"limit": 64 << 20}}),
        ("c1 --memory=-1 --memory-swap -1", {"memory": {"limit": -1, "swap": -1}}),
        ("--memory-reservation 1.5g c1", {"memory": {"reservation": 3 << 29}}),
        ("--kernel-memory 1k --kernel-memory-tcp 2KiB c1", {"memory": {"kernel": 1024, "kernelTCP": 2048}}),
        ("--cpu-quota -1 --cpu-period 100000 --cpu-share 2 c1", {"cpu": {"quota": -1, "period": 100000, "shares": 2}}),
        ("--cpu-burst 0 --cpu-idle 1 c1", {"cpu": {"burst": 0, "idle": 1}}),
        ("--cpu-rt-period 7 --cpu-rt-runtime -1 c1", {"cpu": {"realtimePeriod": 7, "realtimeRuntime": -1}}),
        ("--cpuset-cpus 0-3 --cpuset-mems=0 c1", {"cpu": {"cpus": "0-3", "mems": "0"}}),
        ("-pids-limit 9 --blkio-weight 10 c1", {"pids": {"limit": 9}, "blockIO": {"weight": 10}}),
        ("--l3-cache-schema L3:0=f --mem-bw-schema MB:0=9 c1", {"intelRdt": {"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=9"}}),
        ("--cpuset-cpus= c1", {}),
        ("--pids-limit 1 -- c1", {"pids": {"limit": 1}}),
    ],
)
def test_flags(argv: str, resources: dict[str, Any]) -> None:
    assert update.parse(argv.split()) == ("c1", resources)
    oci.v2(resources)


@pytest.mark.parametrize(
    ("argv", "code", "cause"),
    [
        ("--no-such 1 c1", 2010, "--no-such"),
        ("c1 --memory", 2011, "--memory needs a value"),
        ("--memory 5x c1", 2011, '--memory: "5x" is not a size'),
        ("--memory 5mm c1", 2011, '"5mm"'),
        ("--memory m c1", 2011, '"m"'),
        ("--memory 1. c1", 2011, '"1."'),
        ("--memory -2 c1", 2011, '"-2"'),
        ("--cpu-quota 1.5 c1", 2011, '--cpu-quota: expected an integer, got "1.5"'),
        ("--cpu-share -1 c1", 2011, '--cpu-share: expected an unsigned integer, got "-1"'),
        ("--memory 1m", 2012, "got 0"),
        ("a b", 2012, "got 2"),
        ("-r /no/such/file c1", 2013, "/no/such/file"),
    ],
)
def test_refusals(argv: str, code: int, cause: str) -> None:
    with pytest.raises(Failure) as caught:
        update.parse(argv.split())
    assert caught.value.code == code
    assert cause in caught.value.cause
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "size"), [("7", 7), ("7b", 7), ("1kb", 1024), ("1K", 1024), ("2 GiB", 2 << 30), ("0.5m", 1 << 19), ("1t", 1 << 40)]
)
def test_sizes(text: str, size: int) -> None:
    assert update.size(text, "here") == size


def test_file_stands_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resources"
    path.write_text('{"pids": {"limit": 5}}')
    assert update.parse(["-r", str(path), "--memory", "1m", "c1"]) == ("c1", {"pids": {"limit": 5}})
    monkeypatch.setattr("sys.stdin", io.StringIO('{"cpu": {"shares": 5}}'))
    assert update.parse(["--resources=-", "c1"]) == ("c1", {"cpu": {"shares": 5}})
    for text in ("{", "[]", "\udcff"):
        path.write_text(text, errors="surrogateescape")
        with pytest.raises(Failure) as caught:
            update.parse(["-r", str(path), "c1"])
        assert caught.value.code == 2014
