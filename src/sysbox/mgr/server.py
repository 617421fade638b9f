"""The socket of sysbox-mgr: one loop over all connections, so that a client that dawdles holds up nobody but itself."""

from __future__ import annotations

import logging
import os
import select
import socket
from struct import unpack
from time import sleep
from typing import TYPE_CHECKING, Any

from sysbox import daemon
from sysbox.errors import Failure
from sysbox.linux.jsons import dumps
from sysbox.mgr.registry import need
from sysbox.version import VERSION
from sysbox.wire import message as wire

if TYPE_CHECKING:
    from sysbox.mgr.registry import Registry
    from sysbox.mgr.store import Record

log = logging.getLogger("sysbox-mgr")
PAUSE = 0.02  # seconds without a request after which there is time for housekeeping
ROOM = wire.LIMIT - 1024  # bytes of containers in one reply to "list"


class Server:
    """Connections, and of each the container that is created over it."""

    def __init__(self, sock: socket.socket, registry: Registry) -> None:
        """Serve ``registry`` on a listening, non-blocking socket."""
        self.sock = sock
        self.registry = registry
        self.poll = select.epoll()
        self.connections: dict[int, socket.socket] = {}
        self.pending: dict[int, Record] = {}

    def serve(self, stop: int) -> None:
        """Answer until the descriptor ``stop`` becomes readable."""
        self.poll.register(stop, select.EPOLLIN)
        self.poll.register(self.sock, select.EPOLLIN)
        watchdog = daemon.Watchdog()
        while True:
            watchdog.beat()
            idle = not (self.registry.cold or self.registry.store.dirty)
            ready = [fd for fd, _ in self.poll.poll(watchdog.left() if idle else PAUSE)]
            if stop in ready:
                return
            if not ready and self.registry.cold:
                self.registry.warm()
            elif not ready:
                self.registry.store.tidy()
            for fd in ready:
                if fd == self.sock.fileno():
                    self._accept()
                elif fd in self.connections:
                    self._answer(fd, self.connections[fd])

    def close(self) -> None:
        """Close all connections; what was not committed is rolled back."""
        for fd in list(self.connections):
            self._close(fd)
        self.sock.close()
        self.poll.close()

    def _accept(self) -> None:
        try:
            sock, _ = self.sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            log.error("accept: %s", error)  # noqa: TRY400 - out of descriptors: no traceback tells more
            sleep(PAUSE)
            return
        sock.setblocking(False)  # noqa: FBT003 - positional only
        pid, uid, _ = unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid:
            log.warning("process %d of user %d was turned away", pid, uid)
            sock.close()
            return
        self.connections[sock.fileno()] = sock
        self.poll.register(sock, select.EPOLLIN)

    def _close(self, fd: int) -> None:
        self.connections.pop(fd).close()
        record = self.pending.pop(fd, None)
        if record:
            try:
                self.registry.rollback(record)
            except Failure as failure:
                log.error("%s", failure)  # noqa: TRY400 - says it all

    def _answer(self, fd: int, sock: socket.socket) -> None:
        fds: list[int] = []
        out: list[int] = []
        reply: dict[str, Any]
        try:
            message, fds = wire.receive(sock)
            if not message:
                self._close(fd)
                return
            log.debug("%s", message)
            reply, out = self._operate(fd, message, fds)
        except BlockingIOError:
            return
        except ConnectionError:
            self._close(fd)
            return
        except Failure as failure:
            log.info("refused: %s", failure)
            reply = {"ok": False, "code": failure.code, "cause": failure.cause, "hint": failure.hint}
        except (ValueError, RecursionError) as error:
            reply = {"ok": False, "code": 3002, "cause": f"malformed message: {error}"[:1000], "hint": ""}
        except Exception as error:  # one odd request must not end the service of all
            log.exception("internal error")
            reply = {"ok": False, "code": 3099, "cause": f"internal error: {error!r}"[:1000], "hint": "look at the manager's log"}
        finally:
            for one in fds:
                os.close(one)
        try:
            wire.send(sock, reply, out)
        except OSError as error:
            log.info("no reply: %s", error)
            self._close(fd)

    def _operate(self, fd: int, message: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        """Do what ``message`` asks: the reply and descriptors to send with it, which stay ours. Raises Failure."""
        registry = self.registry
        operation = message.get("op")
        if message.get("v", wire.VERSION if operation == "commit" else None) != wire.VERSION:
            raise Failure(
                3002, f"protocol version {message.get('v')!r} is not {wire.VERSION}", "install runtime and manager of one version"
            )
        reply: dict[str, Any] = {"ok": True}
        if operation == "create":
            if fd in self.pending:
                raise Failure(3002, "this connection is creating a container already", "open another connection")
            reply, userns, self.pending[fd] = registry.create(message)
            return reply, [userns]
        if operation == "commit":
            if fd not in self.pending:
                raise Failure(3002, "nothing was created over this connection", "send create first")
            registry.commit(self.pending[fd], message, fds)
            del self.pending[fd]
        elif operation == "delete":
            registry.delete(message)
        elif operation == "list":
            reply |= _page(registry.list(), need(message, "from", int) if "from" in message else 0)
        elif operation == "ping":
            reply |= {"version": VERSION, "pid": os.getpid(), "containers": len(registry)}
        else:
            raise Failure(3002, f"unknown operation {operation!r}", "install runtime and manager of one version")
        return reply, []


def _page(containers: list[dict[str, Any]], start: int) -> dict[str, Any]:
    """Cut from ``start`` what fits into one message; ``more`` says where the next begins."""
    room = ROOM
    for at in range(max(start, 0), len(containers)):
        room -= len(dumps(containers[at])) + 2
        if room < 0 and at > start:
            return {"containers": containers[start:at], "more": at}
    return {"containers": containers[max(start, 0) :]}
