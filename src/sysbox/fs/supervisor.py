"""The supervisor's logic: it takes requests, keeps a worker for every container and one to spare, and passes on what they hold.

It may die at any moment: the keeper starts it anew with all descriptors, and the workers, who have gone on meanwhile, come back.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from errno import ESRCH
from socket import SO_PEERCRED, SOL_SOCKET, socket
from typing import TYPE_CHECKING, Any

from sysbox import daemon
from sysbox.fs import memory
from sysbox.fs.emulate.nodes import NODES
from sysbox.fs.start import spawn
from sysbox.linux import mountinfo
from sysbox.linux.jsons import dumps
from sysbox.version import VERSION
from sysbox.wire import message as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("sysbox-fs")
CREATING = ("memory", "fuse", "room")  # what a worker has before it has a container
NEEDED = (*CREATING, "init")
ATTEMPTS = 5  # to have a worker forked, by zygotes that are killed at it


class Record:
    """One container, or the spare (id ""): its worker's socket and what is held for it."""

    def __init__(self, name: str = "") -> None:
        """Know nothing but the name."""
        self.name = name
        self.sock: socket | None = None
        self.held: dict[str, int] = {}
        self.pid = 0
        self.done = False


class Supervisor:
    """The loop over clients, workers and the keeper."""

    def __init__(self, listener: socket, keeper: socket, settings: dict[str, Any]) -> None:
        """Serve ``listener``, back up everything with ``keeper``."""
        self.listener, self.keeper = listener, keeper
        self.settings = settings
        self.zygote = self._start_zygote()
        self.records: dict[str, Record] = {}
        self.spare: Record | None = None
        self.poll = select.epoll()
        self.actions: dict[int, Callable[[], None]] = {}
        self.clients: dict[int, socket] = {}

    def _watch(self, fd: int, action: Callable[[], None]) -> None:
        self.actions[fd] = action
        self.poll.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        del self.actions[fd]
        self.poll.unregister(fd)

    def serve(self) -> None:
        """Serve until the keeper is gone."""
        self._take_over()
        self._prepare_spare()
        self._watch(self.keeper.fileno(), self._kept)
        self._watch(self.listener.fileno(), self._accept)
        self._tell({"op": "ready"})
        log.info("Ready, with %d containers", len(self.records))
        while True:
            for fd, _ in self.poll.poll():
                action = self.actions.get(fd)
                if action:
                    action()
            if self.spare is None:
                self._prepare_spare()

    # --- the keeper

    def _take_over(self) -> None:
        """Get what the keeper holds; start workers where there is none alive."""
        while True:
            try:
                message, fds = wire.receive(self.keeper)
            except OSError:
                message, fds = {}, []
            if not message or message["op"] == "begin":
                break  # without a beginning the keeper was killed meanwhile: workers that live come back with what is missing
            record = self.records.setdefault(message["id"], Record(message["id"]))
            record.held[message["name"]] = fds[0]
        for record in list(self.records.values()):
            if any(name not in record.held for name in NEEDED):
                self._drop(record)
                continue
            shared = memory.Memory(record.held["memory"])
            pid, started = shared.owner
            if memory.identity(pid) == (pid, started) and pid:
                self._wait_for(record, pid)
            else:
                self._fork(record)

    def _wait_for(self, record: Record, pid: int) -> None:
        """Expect a worker that lives to come back; start another when it ends instead."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fork(record)
            return

        def ended() -> None:
            self._unwatch(pidfd)
            os.close(pidfd)
            if record.sock is None and not record.done:
                self._fork(record)

        self._watch(pidfd, ended)

    def _keep(self, record: Record, name: str) -> None:
        self._tell({"op": "hold", "id": record.name, "name": name}, record.held[name])

    def _tell(self, message: dict[str, Any], *fds: int) -> None:
        """Tell the keeper; when it has just been killed, the next one is told everything."""
        with suppress(OSError):
            wire.send(self.keeper, message, fds)

    def _kept(self) -> None:
        """Hear from the keeper: "stop", or that it is gone. Under systemd it comes back by itself; otherwise a new one is started."""
        try:
            message, _ = wire.receive(self.keeper)
        except OSError:
            message = {}
        if message.get("op") == "ping":
            self._tell({"op": "pong"})
            return
        if message.get("op") == "reopen":
            daemon.reopen(log)
            return
        if message.get("op") == "taken":  # another instance has the lock: the workers go there
            os._exit(1)
        if message.get("op") == "stop":
            for record in self.records.values():
                if record.sock:
                    with suppress(OSError):
                        wire.send(record.sock, {"op": "orphan"})
        if message.get("op") == "stop" or not self.settings["command"]:
            os._exit(0)  # the workers wait for the next instance, and give it what they hold
        self._unwatch(self.keeper.fileno())
        self.keeper.close()
        self._start_keeper()

    def _start_keeper(self) -> None:
        """Start a keeper in place of one that was killed: what it is to hold is on its way before it runs."""
        self.keeper, theirs = _pair()
        for record in self.records.values():
            for name in record.held:
                self._keep(record, name)
        settings = dumps({"channel": theirs.fileno(), "listener": self.listener.fileno()})
        spawn([*self.settings["command"], "--keep", settings], theirs.fileno(), self.listener.fileno())
        theirs.close()
        self._watch(self.keeper.fileno(), self._kept)

    # --- workers

    def _prepare_spare(self) -> None:
        self.spare = Record()
        self.spare.held["memory"] = memory.fresh(NODES)
        self._fork(self.spare)

    def _fork(self, record: Record) -> None:
        """Give it a worker. Raises OSError."""
        ours, theirs = _pair()
        for left in reversed(range(ATTEMPTS)):
            try:
                pid, pidfd = self._ask_zygote(theirs.fileno(), record.held)
                break
            except OSError:  # it was killed
                if not left:
                    raise
                self.zygote.close()
                self.zygote = self._start_zygote()
        theirs.close()
        self._attach(record, ours, pid, pidfd)

    def _hear_out(self, record: Record, sock: socket) -> None:
        """Take what a worker that has ended still had to say."""
        while record.sock is sock and _readable(sock.fileno()):
            self._heard(record, sock)
        if record.sock is sock:
            self._lost(record, sock)

    def _ask_zygote(self, channel: int, held: dict[str, int]) -> tuple[int, int]:
        for name, fd in held.items():
            wire.send(self.zygote, {"hold": name}, [fd])
        wire.send(self.zygote, {}, [channel])
        reply, fds = wire.receive(self.zygote)
        if "pid" not in reply:
            raise OSError(reply.get("errno", ESRCH), "the zygote cannot fork")
        return reply["pid"], fds[0]

    def _start_zygote(self) -> socket:
        ours, theirs = _pair()
        fds = (theirs.fileno(), self.settings["home"], self.settings["run"], *self.settings["doors"])
        settings = dumps({**self.settings, "channel": theirs.fileno(), "level": log.level})
        subprocess.Popen([os.path.realpath(sys.argv[0]), "--zygote", settings], pass_fds=fds)
        theirs.close()
        return ours

    def _attach(self, record: Record, sock: socket, pid: int, pidfd: int) -> None:
        """Listen to a worker until its end. The pidfd tells of that: a child of its that waits for its successor has the socket too."""
        record.sock, record.pid = sock, pid
        self._watch(sock.fileno(), lambda: self._heard(record, sock))

        def ended() -> None:
            self._unwatch(pidfd)
            os.close(pidfd)
            self._hear_out(record, sock)

        self._watch(pidfd, ended)

    def _heard(self, record: Record, sock: socket) -> None:
        try:
            message, fds = wire.receive(sock)
        except (OSError, ValueError):
            message, fds = {}, []
        operation = message.get("op", "")
        if operation == "hold":
            self._replace(record, message["name"], fds[0])
        elif operation == "drop":
            self._replace(record, message["name"], -1)
        elif operation == "log":
            log.log(message["level"], "%s", message["text"])
        elif operation == "bye":
            record.done = True
        elif not operation:
            self._lost(record, sock)

    def _replace(self, record: Record, name: str, fd: int) -> None:
        old = record.held.pop(name, -1)
        if old >= 0:
            os.close(old)
        if fd >= 0:
            record.held[name] = fd
        if record.name:
            if fd >= 0:
                self._keep(record, name)
            else:
                self._tell({"op": "drop", "id": record.name, "name": name})

    def _lost(self, record: Record, sock: socket) -> None:
        """See whether a worker has ended with its container, or another must go on."""
        self._unwatch(sock.fileno())
        sock.close()
        if record.sock is not sock:
            return
        record.sock = None
        if record is self.spare:
            self._drop(record)
            self.spare = None
        elif record.done or ("init" in record.held and _readable(record.held["init"])):
            self._drop(record)
        elif any(name not in record.held for name in NEEDED):
            log.error("container %s: its worker (pid %d) was killed, and nobody else has %s", record.name, record.pid, list(record.held))
            self._drop(record)
        else:
            log.warning("container %s: its worker (pid %d) was killed: another goes on", record.name, record.pid)
            self._fork(record)

    def _drop(self, record: Record) -> None:
        record.done = True
        for fd in record.held.values():
            os.close(fd)
        record.held.clear()
        if record.name and self.records.get(record.name) is record:
            del self.records[record.name]
            self._tell({"op": "drop", "id": record.name})

    # --- clients

    def _accept(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        _, uid, _ = struct.unpack("3i", sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))
        if uid:
            sock.close()
            return
        self.clients[sock.fileno()] = sock
        self._watch(sock.fileno(), lambda: self._asked(sock))

    def _asked(self, sock: socket) -> None:
        """Take a client's one request; it is the worker that answers."""
        self._unwatch(sock.fileno())
        del self.clients[sock.fileno()]
        try:
            message, fds = wire.receive(sock)
        except (OSError, ValueError):
            message, fds = {}, []
        operation = message.get("op", "")
        try:
            if message.get("v") != wire.VERSION:
                if message:
                    _refuse(sock, 4002, f"protocol version {message.get('v')!r} is not {wire.VERSION}", "install programs of one version")
            elif operation == "worker":
                self._returned(sock)
                return
            elif operation == "ping":
                pids = {record.name: record.pid for record in self.records.values()}
                wire.send(sock, {"ok": True, "version": VERSION, "pid": os.getpid(), "workers": pids})
            elif operation == "create":
                self._create(sock, message, fds)
            elif operation == "listener":
                record = self.records.get(message["id"])
                if record is None:
                    _refuse(sock, 4003, f"container {message['id']} is unknown", "start the container anew")
                elif record.sock:
                    wire.send(record.sock, {"op": "listener"}, [sock.fileno(), *fds])
            else:
                _refuse(sock, 4002, f"unknown operation {operation!r}", "install programs of one version")
        except OSError as error:
            log.info("%s: no answer: %s", operation, error)  # the client asks again
        finally:
            for fd in fds:
                os.close(fd)
        sock.close()

    def _create(self, sock: socket, message: dict[str, Any], fds: list[int]) -> None:
        name = message["container"]["id"]
        record = self.records.get(name)
        if record is None or record.done:
            if self.spare is None or self.spare.sock is None:
                self._prepare_spare()
            record, self.spare = self.spare, None
            if record is None or record.sock is None:
                return
            record.name = name
            self.records[name] = record
            for held in record.held:
                self._keep(record, held)
        if record.sock:
            wire.send(record.sock, {"op": "create", "container": message["container"]}, [sock.fileno(), *fds])

    def _returned(self, sock: socket) -> None:
        """Take a worker back that has outlived a supervisor."""
        try:
            message, _ = wire.receive(sock)
        except (OSError, ValueError):
            message = {}
        if message.get("op") != "hello":
            sock.close()
            return
        record = self.records.setdefault(message["id"], Record(message["id"]))
        if record.sock is not None:  # another one has been started, and waits for this one to end
            with suppress(OSError):
                wire.send(sock, {"op": "retire"})
            sock.close()
            return
        try:
            self._attach(record, sock, message["pid"], os.pidfd_open(message["pid"]))
        except ProcessLookupError:
            record.sock = sock
            self._watch(sock.fileno(), lambda: self._heard(record, sock))
            self._hear_out(record, sock)
            return
        if message["version"] != VERSION:
            log.info("container %s: its worker is of version %s: another goes on", record.name, message["version"])
            with suppress(OSError):
                wire.send(sock, {"op": "retire"})


def _pair() -> tuple[socket, socket]:
    from socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socketpair

    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _refuse(sock: socket, code: int, cause: str, hint: str) -> None:
    wire.send(sock, {"ok": False, "code": code, "cause": cause, "hint": hint})


def _doors() -> Iterator[int]:
    """Open the ways back from the v1 cgroups that workers enter."""
    (v1, _), own = mountinfo.hierarchies(mountinfo.read()), mountinfo.own_cgroups()
    for path in mountinfo.of_processor_time({names: where + own[names] for names, where in v1.items() if names in own}):
        with suppress(OSError):
            yield os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC)


def run(listener: int, keeper: int, settings: dict[str, Any]) -> None:
    """Be the supervisor: descriptors of the listening socket and of the keeper's. Returns never but by an exception."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for workers: their sockets tell of their end
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the keeper is whom to talk to
    # a worker's room has no /run: it finds the socket by way of this descriptor
    settings["run"] = os.open(os.path.dirname(settings["socket"]), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    settings["home"] = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    settings["doors"] = list(_doors())
    Supervisor(socket(fileno=listener), socket(fileno=keeper), settings).serve()
