"""One message a packet: a JSON object and file descriptors over a unix SEQPACKET socket."""

from __future__ import annotations

import posix
from _socket import AF_UNIX, CMSG_LEN, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_SEQPACKET, SOL_SOCKET, socket

from sysbox.linux.jsons import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

VERSION = 1
SOCKET = "/run/sysbox/sysmgr.sock"
LIMIT = 1 << 16  # bytes of JSON in one message
MOST_FDS = 16
INT = 4  # bytes of a file descriptor in SCM_RIGHTS


def connect(path: str) -> socket:
    """Connect to a program of ours. Raises OSError (ENOENT, ECONNREFUSED: it is not running)."""
    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def send(sock: socket, message: dict[str, Any], fds: Iterable[int] = ()) -> None:
    """Send one message; the descriptors stay open here. Raises OSError."""
    send_bytes(sock, dumps(message).encode(), fds)


def send_bytes(sock: socket, data: bytes, fds: Iterable[int]) -> None:
    """Send a packet with descriptors. Raises OSError."""
    packed = b"".join(fd.to_bytes(INT, "little") for fd in fds)
    control = [(SOL_SOCKET, SCM_RIGHTS, packed)] if packed else []
    sock.sendmsg([data], control)


def receive(sock: socket) -> tuple[dict[str, Any], list[int]]:
    """Receive one message: ``({}, [])`` when the other side has closed. Raises OSError, ValueError (not a JSON object)."""
    data, control, _flags, _ = sock.recvmsg(LIMIT, CMSG_LEN(MOST_FDS * INT), MSG_CMSG_CLOEXEC)
    fds = []
    for level, kind, packed in control:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            fds += [int.from_bytes(packed[at : at + INT], "little") for at in range(0, len(packed) - INT + 1, INT)]
    try:
        message = loads(data.decode()) if data else {}
        if not isinstance(message, dict):
            msg = f"a message must be a JSON object, not {type(message).__name__}"
            raise TypeError(msg)
    except (ValueError, TypeError) as error:
        for fd in fds:
            posix.close(fd)
        raise ValueError(str(error)) from error
    return message, fds
