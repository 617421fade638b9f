"""Many containers at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

from docker.engine import SYSBOX

if TYPE_CHECKING:
    from docker.engine import Engine

COUNT = 20


def test_twenty_started_at_once_have_ranges_of_their_own(engine: Engine) -> None:
    with ThreadPoolExecutor(COUNT) as pool:
        names = list(pool.map(lambda number: engine.up("--name", f"p{number}"), range(COUNT)))
        maps = list(pool.map(lambda name: engine.exec(name, "cat /proc/self/uid_map").split(), names))
        written = list(pool.map(lambda name: engine.exec(name, "echo $HOSTNAME >/mine; cat /mine; stat -c %u /mine").split(), names))
    assert written == [[name[:12], "0"] for name in names]
    if SYSBOX:
        starts = sorted(int(line[1]) for line in maps)
        assert {line[2] for line in maps} == {"65536"}
        assert all(after - before >= 65536 for before, after in pairwise(starts)), starts
    engine("rm", "-f", *names)
    assert engine("ps", "-aq") == ""


def test_run_rm_in_parallel_leaves_nothing(engine: Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda number: engine.sh(f"echo {number}"), range(24)))
    assert seen == [str(number) for number in range(24)]
    assert engine("ps", "-aq") == ""
