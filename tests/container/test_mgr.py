"""sysbox-mgr as a process: its protocol, many clients, crashes, and Docker's view of the files."""

import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from container.bundle import OURS, RUNTIME, wait_for
from sysbox.mgr.store import starttime
from sysbox.wire import message as wire

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not OURS, reason="needs root and our own runtime")
PROGRAM = str(Path(RUNTIME).parent / "sysbox-mgr")


class Manager:
    """A manager with directories of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("subuid", "subgid"):
            (directory / name).write_text("sysbox:1000000:4194304\n")  # 64 containers
        flags = {"--run-dir": "run", "--data-root": "data", "--subuid-file": "subuid", "--subgid-file": "subgid", "--log": "log"}
        self.command = [PROGRAM, *(word for flag, name in flags.items() for word in (flag, str(directory / name)))]
        self.socket = str(directory / "run/sysmgr.sock")
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        wait_for(self.answers)

    def answers(self) -> bool:
        try:
            return bool(self.ask({"op": "ping"})[0].get("ok"))
        except OSError:
            return False

    def connect(self) -> Any:
        return wire.connect(self.socket)

    def ask(self, message: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        sock = self.connect()
        try:
            wire.send(sock, {"v": wire.VERSION, **message})
            return wire.receive(sock)
        finally:
            sock.close()

    def create(self, name: str, **more: Any) -> tuple[Any, dict[str, Any]]:
        sock = self.connect()
        wire.send(
            sock, {"v": wire.VERSION, "op": "create", "id": name, "root": "/none", "ids": None, "netns": None, "exclusive": [], **more}
        )
        reply, fds = wire.receive(sock)
        for fd in fds:
            os.close(fd)
        return sock, reply

    def commit(self, sock: Any, pid: int) -> dict[str, Any]:
        message = {"op": "commit", "pid": pid, "starttime": starttime(pid), "netns": [1, pid], "rootfs": None}
        wire.send(sock, {"v": wire.VERSION, **message})
        reply = wire.receive(sock)[0]
        sock.close()
        return reply

    def list(self) -> list[dict[str, Any]]:
        return list(self.ask({"op": "list"})[0]["containers"])


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    one = Manager(tmp_path)
    one.start()
    assert one.process is not None
    yield one
    one.process.kill()
    one.process.wait()


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


def test_create_commit_list_delete(manager: Manager, sleeper: int) -> None:
    sock, reply = manager.create("c1")
    assert (reply["ok"], reply["uid"], reply["gid"], reply["size"]) == (True, 1000000, 1000000, 65536)
    assert manager.commit(sock, sleeper)["ok"]
    assert [(one["id"], one["alive"]) for one in manager.list()] == [("c1", True)]
    _, again = manager.create("c1")
    assert again["code"] == 3003
    assert manager.ask({"op": "delete", "id": "c1", "root": "/none"})[0]["ok"]
    assert manager.ask({"op": "delete", "id": "c1", "root": "/none"})[0]["ok"]
    assert manager.list() == []


def test_the_namespace_maps_the_range(manager: Manager) -> None:
    sock = manager.connect()
    wire.send(sock, {"v": wire.VERSION, "op": "create", "id": "c", "root": "/none", "ids": None, "netns": None, "exclusive": []})
    _, [fd] = wire.receive(sock)
    script = f"import os; os.setns({fd}, 0)" if hasattr(os, "setns") else ""
    done = subprocess.run(
        ["nsenter", f"--user=/proc/self/fd/{fd}", "cat", "/proc/self/uid_map"], pass_fds=[fd], capture_output=True, text=True
    )
    assert done.stdout.split() == ["0", "1000000", "65536"], (script, done.stderr)
    os.close(fd)
    sock.close()


def test_a_connection_that_ends_takes_everything_back(manager: Manager) -> None:
    for _ in range(70):  # more often than there are ranges
        sock, reply = manager.create("c1")
        assert reply.get("uid") == 1000000, reply
        sock.close()
        wait_for(lambda: not manager.list())


def test_fifty_at_once_have_fifty_ranges_and_the_65th_none(manager: Manager) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda number: manager.create(f"c{number}"), range(64)))
    assert len({reply["uid"] for _, reply in made}) == 64
    sock, reply = manager.create("one more")
    assert reply["code"] == 3011
    assert "64 ranges" in reply["cause"]
    for one, _ in made:
        one.close()
    sock.close()


def test_a_kill_loses_no_record(manager: Manager, sleeper: int) -> None:
    assert manager.process is not None
    sock, _ = manager.create("kept")
    manager.commit(sock, sleeper)
    manager.create("half")
    manager.process.kill()
    manager.process.wait()
    manager.start()
    assert [one["id"] for one in manager.list()] == ["kept"]
    sock, reply = manager.create("next")
    assert reply["uid"] == 1000000 + 65536
    sock.close()


def test_leftovers_of_the_dead_are_collected_at_start(manager: Manager) -> None:
    assert manager.process is not None
    with subprocess.Popen(["sleep", "1000"]) as process:
        sock, _ = manager.create("gone")
        manager.commit(sock, process.pid)
        process.kill()
    manager.process.terminate()
    manager.process.wait()
    manager.start()
    assert manager.list() == []


def test_a_volume_in_use_names_the_other_container(manager: Manager, sleeper: int) -> None:
    volume = [{"source": "/volume", "dest": "/var/lib/docker", "dev": 5, "ino": 6}]
    sock, _ = manager.create("first", exclusive=volume)
    manager.commit(sock, sleeper)
    _, reply = manager.create("second", exclusive=volume)
    assert reply["code"] == 3004
    assert "container first" in reply["cause"]
    other, reply = manager.create("third", exclusive=[{**volume[0], "ino": 7}])
    assert reply["ok"]
    other.close()


def test_who_shares_a_network_shares_the_user_namespace(manager: Manager, sleeper: int) -> None:
    sock, reply = manager.create("owner")
    manager.commit(sock, sleeper)
    other, shared = manager.create("guest", netns=[1, sleeper])
    assert (shared["uid"], shared["userns"]) == (reply["uid"], f"/proc/{sleeper}/ns/user")
    other.close()


def test_a_second_instance_says_so(manager: Manager) -> None:
    assert manager.process is not None
    done = subprocess.run(manager.command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert f"already running as pid {manager.process.pid} [SBX-3001]" in done.stderr
    assert manager.answers()


def test_many_may_start_it_at_once(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    started = [subprocess.Popen([*manager.command, "--daemonize"], stderr=subprocess.PIPE) for _ in range(12)]
    for one in started:
        assert one.wait(30) == 0
        assert one.stderr is not None
        one.stderr.close()
    pid = int((tmp_path / "run/sysmgr.pid").read_text())
    assert manager.ask({"op": "ping"})[0]["pid"] == pid
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not Path(manager.socket).exists())


def test_clients_that_dawdle_hold_nobody_up(manager: Manager) -> None:
    silent = [manager.connect() for _ in range(50)]
    begin = time.monotonic()
    times = []
    for number in range(50):
        before = time.monotonic()
        sock, reply = manager.create(f"c{number}")
        times.append(time.monotonic() - before)
        assert reply["ok"]
        sock.close()
    assert time.monotonic() - begin < 20
    for one in silent:
        one.close()
    print(f"median answer: {sorted(times)[25] * 1000:.2f} ms")


def test_nonsense_gets_an_answer(manager: Manager) -> None:
    chance = random.Random(5)
    values: list[Any] = [None, True, -1, 1 << 70, "", "x", [], {}, [1, 2], [[1]], {"uid": 1}]
    names = ("v", "op", "id", "root", "ids", "netns", "exclusive", "pid", "starttime", "rootfs")
    for _ in range(300):
        message = {name: chance.choice(values) for name in names if chance.random() < 0.8}
        message["op"] = chance.choice(["create", "commit", "delete", "list", "ping", "nonsense", 5])
        message["v"] = 1
        sock = manager.connect()
        wire.send(sock, message)
        assert "ok" in wire.receive(sock)[0]
        sock.close()
    for raw in (b"{", b"[]", b"\xff", b"null", b"[" * 5000):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(manager.socket)
            client.send(raw)
            assert json.loads(client.recv(1 << 16))["code"] == 3002
    assert manager.answers()


def test_no_descriptor_leaks(manager: Manager) -> None:
    assert manager.process is not None
    path = f"/proc/{manager.process.pid}/fd"

    def cycle(count: int) -> None:
        for number in range(count):
            manager.create(f"c{number}")[0].close()
        wait_for(lambda: not manager.list())

    cycle(30)
    time.sleep(0.1)  # what is about to be closed is none of those that stay
    before = len(os.listdir(path))
    cycle(200)
    wait_for(lambda: len(os.listdir(path)) <= before + 2)


SEEN = """
mkdir -p lower/etc upper work merged view work2; echo old > lower/etc/file; echo gone > lower/etc/gone
mount -t overlay first -o lowerdir=lower,upperdir=upper,workdir=work,index=off merged
chmod 755 merged/etc
mount -t overlay second -o lowerdir=lower,upperdir=upper,workdir=work2,index=off view
"""


def test_what_docker_writes_is_seen_inside_and_the_other_way_round(manager: Manager, sleeper: int, tmp_path: Path) -> None:
    area = tmp_path / "area"
    area.mkdir()
    subprocess.run(["sh", "-ec", SEEN], cwd=area, check=True)
    try:
        view, merged = area / "view", area / "merged"
        fds = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (view, merged)]
        sock, _ = manager.create("c1")
        message = {"op": "commit", "pid": sleeper, "starttime": starttime(sleeper), "netns": [1, 2], "rootfs": str(merged)}
        wire.send(sock, {"v": wire.VERSION, **message}, fds)
        assert wire.receive(sock)[0]["ok"]
        for fd in fds:
            os.close(fd)
        for number in range(5):
            new = f"etc/new{number}"
            assert not (view / new).exists()
            assert (view / "etc/file").read_text() != f"changed {number}"
            (merged / new).write_text("hello")
            fresh = merged / "etc/.fresh"
            fresh.write_text(f"changed {number}")
            fresh.rename(merged / "etc/file")
            wait_for(lambda new=new: (view / new).exists(), 2)
            wait_for(lambda number=number: (view / "etc/file").read_text() == f"changed {number}", 2)
        assert (view / "etc/gone").exists()
        os.listdir(merged / "etc")
        (merged / "etc/gone").unlink()
        wait_for(lambda: not (view / "etc/gone").exists(), 2)
        time.sleep(0.1)
        assert not (merged / "etc/inside").exists()
        time.sleep(0.1)
        (view / "etc/inside").write_text("from inside")
        wait_for(lambda: (merged / "etc/inside").exists(), 2)
        sock.close()
        subprocess.run(["umount", view], check=False)
    finally:
        for name in ("view", "merged"):
            subprocess.run(["umount", "-l", area / name], check=False, stderr=subprocess.DEVNULL)
