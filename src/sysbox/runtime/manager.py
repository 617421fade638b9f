"""Talking to sysbox-mgr: who answers on its socket, or is started when nobody does."""

from __future__ import annotations

import posix
import sys
import time
from errno import ECONNREFUSED, ENOENT

from sysbox.errors import Failure, reason
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any

PATIENCE = 30.0  # seconds in which there must be an answer
PAUSE = 0.02
RESTART = 1.0  # seconds after which a service that has ended may be one that stays so
LOG = "/var/log/sysbox-mgr.log"


def ask(message: dict[str, Any], fds: list[int] | None = None) -> socket:
    """Send one request over a connection of its own, from which ``answer`` gets the reply. Raises Failure 1003."""
    try:
        sock = wire.connect(wire.SOCKET)
    except OSError as error:
        if error.errno not in (ENOENT, ECONNREFUSED):
            raise Failure(1003, f"cannot reach sysbox-mgr at {wire.SOCKET}: {reason(error)}", "run as root") from error
        start("sysbox-mgr", LOG, wire.SOCKET)
        try:
            sock = wire.connect(wire.SOCKET)
        except OSError as again:
            raise Failure(1003, f"cannot reach sysbox-mgr at {wire.SOCKET}: {reason(again)}", f"see {LOG}") from again
    tell(sock, message, fds)
    return sock


def tell(sock: socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Send one more request over a connection. Raises Failure 1003."""
    try:
        wire.send(sock, {"v": wire.VERSION, **message}, fds or ())
    except OSError as error:
        raise Failure(1003, f"sysbox-mgr did not take the request: {reason(error)}", f"see {LOG}, then try again") from error


def answer(sock: socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for the reply. Raises Failure: the manager's own, or 1003 when it ended instead."""
    try:
        reply, fds = wire.receive(sock)
    except (OSError, ValueError) as error:
        cause = reason(error) if isinstance(error, OSError) else str(error)
        raise Failure(1003, f"sysbox-mgr did not answer: {cause}", f"see {LOG}, then try again") from error
    if not reply:
        raise Failure(1003, "sysbox-mgr ended before it answered", f"see {LOG}, then try again")
    if not reply.get("ok"):
        raise Failure(reply.get("code", 3000), reply.get("cause", "sysbox-mgr refused"), reply.get("hint", ""))
    return reply, fds


def start(name: str, log: str, socket_path: str) -> None:
    """Start the daemon that lies beside us; fine when another does so at the same time. Raises Failure 1003.

    If systemd has started it and will again, wait for that: it alone gives it what it held.
    """
    begin = time.monotonic()
    while posix.access(socket_path.removesuffix(".sock") + ".managed", posix.F_OK):
        try:
            wire.connect(socket_path).close()
        except OSError as error:
            waited = time.monotonic() - begin
            active = waited < RESTART or _active(name)
            if active is None:
                break
            if waited > PATIENCE or not active:
                raise Failure(
                    1003, f"cannot reach {name} at {socket_path}: its service does not run", "systemctl restart sysbox"
                ) from error
            time.sleep(PAUSE if waited < RESTART else RESTART)
        else:
            return
    program = f"{_real(sys.argv[0]).rpartition('/')[0] or '.'}/{name}"
    told, tell_ = posix.pipe2(posix.O_CLOEXEC)
    null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
    actions = [(posix.POSIX_SPAWN_DUP2, null, 0), (posix.POSIX_SPAWN_DUP2, null, 1), (posix.POSIX_SPAWN_DUP2, tell_, 2)]
    try:
        pid = posix.posix_spawn(
            program, [program, "--daemonize", "--log", log], posix.environ, file_actions=actions, setsid=True, setsigmask=()
        )
        posix.close(tell_)
        tell_ = -1
        said = b""
        while part := posix.read(told, 4096):
            said += part
        status = posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])
    except OSError as error:
        raise Failure(1003, f"{name} is not running and cannot be started: {reason(error)}", "make install") from error
    finally:
        for fd in (told, null, tell_):
            if fd >= 0:
                posix.close(fd)
    if status:
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2].removeprefix(f"{name}: ")
        raise Failure(1003, f"{name} is not running and could not be started: {last or f'status {status}'}", f"see {log}")


def _active(name: str) -> bool | None:
    """Ask systemd whether a service runs or is about to; None: this host has no systemd."""
    import subprocess

    if not posix.access("/run/systemd/system", posix.F_OK):
        return None
    try:
        done = subprocess.run(["systemctl", "is-active", name], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError:
        return False
    return done.stdout.strip() in ("active", "activating", "deactivating", "reloading")


def _real(path: str) -> str:
    """Follow the symlinks that a program was called by."""
    for _ in range(8):
        try:
            target = posix.readlink(path)
        except OSError:
            break
        path = target if target.startswith("/") else f"{path.rpartition('/')[0] or '.'}/{target}"
    return path
