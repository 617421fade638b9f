"""The manager's parts without its socket: ranges, and records that survive."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sysbox.errors import Failure
from sysbox.mgr import host
from sysbox.mgr.store import Record, Store
from sysbox.mgr.subid import CHUNK, SubIds, intersect, lowest, parse

SRC = Path(__file__).resolve().parents[2] / "src"


def test_lines_of_others_do_not_matter() -> None:
    text = "root:1:2\n# comment\nsysbox:165536:131072\nbroken line\nsysbox:400000:10\nsysboxy:1:1\n"
    assert parse(text, "f", ["sysbox"]) == [(165536, 131072), (400000, 10)]


@pytest.mark.parametrize("line", ["sysbox:1", "sysbox:a:1", "sysbox:1:-1", "sysbox:1:1:1", "sysbox:4294967295:1", "sysbox::5"])
def test_a_malformed_line_is_named(line: str) -> None:
    with pytest.raises(Failure) as caught:
        parse(f"x:1:1\n{line}\n", "/etc/subuid", ["sysbox"])
    assert caught.value.code == 3012
    assert "/etc/subuid line 2" in str(caught.value)


def test_overlapping_lines_give_no_id_twice() -> None:
    assert parse("sysbox:100:50\nsysbox:120:100\nsysbox:120:10\n", "f", ["sysbox"]) == [(100, 120)]


def test_only_what_both_files_have_is_given() -> None:
    assert intersect([(0, 3 * CHUNK)], [(CHUNK, 5 * CHUNK)]) == [(CHUNK, 2)]
    assert intersect([(0, CHUNK)], [(10, CHUNK)]) == []
    assert intersect([(0, CHUNK - 1)], [(0, CHUNK)]) == []


def test_the_lowest_free_range_is_given() -> None:
    chunks = [(1000, 2), (500000, 2)]
    used: list[tuple[int, int]] = []
    given = []
    while (start := lowest(chunks, used)) is not None:
        given.append(start)
        used.append((start, CHUNK))
    assert given == [1000, 1000 + CHUNK, 500000, 500000 + CHUNK]
    assert lowest(chunks, [(1000 + CHUNK - 1, 1)]) == 1000 + CHUNK
    assert lowest(chunks, [one for one in used if one[0] != 500000]) == 500000


def test_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    uid, gid = tmp_path / "subuid", tmp_path / "subgid"
    subids = SubIds("sysbox", str(uid), str(gid))
    with pytest.raises(Failure) as caught:
        subids.allocate([])
    assert caught.value.code in (3010, 3012)
    for file in (uid, gid):
        file.write_text("sysbox:165536:65536\n")
    assert subids.allocate([]) == 165536
    with pytest.raises(Failure) as caught:
        subids.allocate([(165536, CHUNK)])
    assert caught.value.code == 3011
    for file in (uid, gid):
        file.write_text("sysbox:165536:131072\nmore to change its size\n")
    assert subids.allocate([(165536, CHUNK)]) == 165536 + CHUNK
    assert uid.read_text().startswith("sysbox:165536:131072")


def test_records_come_back(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record = Record("/root", "c1", 1, 2, 3, os.getpid(), 5, (6, 7), "/merged", 8, [{"dest": "/d", "source": "/s", "dev": 1, "ino": 2}])
    store.put(record)
    store.put(Record("/root", "c2", 1, 2, 3, 9, 9))
    store.remove(("/root", "c2"))
    store.remove(("/root", "never"))
    store.close()
    assert Store(str(tmp_path)).load() == [record]


def test_records_survive_a_kill_at_any_moment(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(SRC)!r}); from sysbox.mgr.store import Record, Store; store = Store({str(tmp_path)!r})\n"
        "number = 0\n"
        "while True:\n"
        "    store.put(Record('/r', f'c{number % 50}', number, number, 1, 1, 1)); print(number, flush=True); number += 1\n"
        "    if number % 7 == 0: store.remove(('/r', f'c{number % 50}'))\n"
        "    if number % 31 == 0: store.tidy()\n"
    )
    for lines in (5, 40, 150):
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            last = [running.stdout.readline() for _ in range(lines)][-1]
            running.kill()
        store = Store(str(tmp_path))
        assert max(record.uid for record in store.load()) >= int(last) - 1
        store.close()


def test_a_damaged_or_newer_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "sysbox-mgr.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(Failure) as caught:
        Store(str(tmp_path))
    assert caught.value.code == 3020


def test_a_process_that_is_gone_is_not_alive(tmp_path: Path) -> None:
    done = subprocess.Popen(["true"])
    record = Record(str(tmp_path), "c1", 0, 0, 0, done.pid, 1)
    done.wait()
    assert not record.alive()
    assert record.stale()
    (tmp_path / "c1").mkdir()
    (tmp_path / "c1/state.json").write_text("{}")
    assert not record.stale()


def test_limits_of_the_host_that_are_too_low(tmp_path: Path) -> None:
    for name, wanted in host.SYSCTLS.items():
        path = tmp_path / name.replace(".", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{wanted}\n")
    assert host.low(str(tmp_path)) == []
    (tmp_path / "kernel/keys/maxkeys").write_text("200\n")
    (tmp_path / "user/max_user_namespaces").unlink()
    assert host.low(str(tmp_path)) == [("kernel.keys.maxkeys", 200, 20000)]
