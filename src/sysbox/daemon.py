"""What both daemons do alike: one instance, its log, its way into the background, and systemd."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sysbox.errors import Failure, reason
from sysbox.linux._kernel import close_range
from sysbox.linux.jsons import dumps
from sysbox.wire import message as wire

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR, "fatal": logging.CRITICAL}
PATIENCE = 10.0  # seconds to wait for the socket of an instance that is starting


def log_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about the log."""
    add = parser.add_argument
    add("--log", metavar="FILE", help="append the log to FILE (default: standard error)")
    add("--log-level", choices=LEVELS, default="info", help="the least severe messages that are logged (default: info)")
    add("--log-format", choices=("text", "json"), default="text", help="how a line of the log looks (default: text)")


def switch(parser: argparse.ArgumentParser, name: str, effect: str, default: str | None) -> None:
    """Add an option that may stand alone or have a value: --name, --name=true, --name=false."""
    parser.add_argument(f"--{name}", nargs="?", const="true", choices=("true", "false"), default=default, help=effect)


def main(name: str, chosen: argparse.Namespace, run: Callable[[argparse.Namespace, Callable[[], None]], int], socket_path: str) -> int:
    """Call ``run``, in the background if so chosen, and return the exit status; ``run`` calls what it is given when it is ready."""
    try:
        return _daemonize(chosen, run, socket_path) if chosen.daemonize else run(chosen, lambda: None)
    except Failure as failure:
        print(f"{name}: {failure}", file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        print(f"{name}: {reason(error)} [SBX-3000]", file=sys.stderr, flush=True)
        return 1


def _daemonize(chosen: argparse.Namespace, run: Callable[[argparse.Namespace, Callable[[], None]], int], socket_path: str) -> int:
    """Serve in a child without a terminal; in the parent return when it is ready, or with its status when it failed."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_PID"):
        os.environ.pop(name, None)  # meant for whoever started us
    close_range(3, (1 << 32) - 1, 0)  # a lock or pipe of whoever started us must not live as long as we do
    told, tell = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child:
        os.close(tell)
        if os.read(told, 1):
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(told)
    os.setsid()
    os.chdir("/")
    os.umask(0o022)

    def ready() -> None:
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.close(null)
        os.write(tell, b"1")
        os.close(tell)

    try:
        return run(chosen, ready)
    except Failure as failure:
        if failure.code == 3001 and answers(socket_path):
            return 0
        raise


def listen(path: str) -> socket.socket:
    """Make the socket; it replaces what lies there. Only root may connect. Raises OSError."""
    fresh = f"{path}.new"
    for old in (fresh, path):
        try:
            os.unlink(old)
        except FileNotFoundError:
            pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(fresh)
    os.chmod(fresh, 0o600)
    sock.listen(1024)
    sock.setblocking(False)  # noqa: FBT003 - positional only
    os.rename(fresh, path)  # a socket that can be seen answers
    return sock


def lock(path: str, pid_file: str) -> int:
    """Become the one instance: the lock's descriptor, after the pid file is written. Raises Failure 3001.

    As a service we replace an instance that a container has started: it hands over all that it has.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    service = "NOTIFY_SOCKET" in os.environ
    end = time.monotonic() + (PATIENCE if service else 0)
    ask = service and not os.path.exists(managed(pid_file))
    while not _locked(lock):
        pid = _pid(pid_file)
        if ask and pid.isdigit():
            ask = False
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGTERM)
        if time.monotonic() >= end:
            os.close(lock)
            raise Failure(3001, f"already running as pid {pid}")
        time.sleep(0.01)
    fresh = f"{pid_file}.new"
    with open(fresh, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(fresh, pid_file)
    if service:
        with open(managed(pid_file), "w", encoding="ascii"):
            pass
    else:
        with suppress(FileNotFoundError):
            os.unlink(managed(pid_file))
    return lock


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def managed(pid_file: str) -> str:
    """Name the file that says that systemd starts us, and again when we are killed: the runtime then does not."""
    return pid_file.removesuffix(".pid") + ".managed"


def _pid(pid_file: str) -> str:
    """Read the pid of the instance that has the lock; it writes it right after it has got the lock."""
    pid = "?"
    for _ in range(50):
        with suppress(OSError, ValueError), open(pid_file, encoding="ascii") as file:
            pid = file.read().strip()
            os.kill(int(pid), 0)
            break
        time.sleep(0.01)
    return pid


def answers(path: str) -> bool:
    """Wait until the program that listens there answers; False if it does not in time."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(OSError, ValueError):
            sock = wire.connect(path)
            try:
                sock.settimeout(PATIENCE)
                wire.send(sock, {"v": wire.VERSION, "op": "ping"})
                if wire.receive(sock)[0].get("ok"):
                    return True
            finally:
                sock.close()
        time.sleep(0.01)
    return False


class _Lines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one message, with its traceback if it has one."""
        line: dict[str, Any] = {"time": self.formatTime(record), "level": record.levelname.lower(), "msg": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return dumps(line)


def log_to(log: logging.Logger, chosen: argparse.Namespace) -> None:
    """Send the log where the command line says."""
    logging.addLevelName(logging.CRITICAL, "FATAL")
    logging.raiseExceptions = False  # standard error may be a pipe that nobody reads any more
    handler = logging.FileHandler(chosen.log) if chosen.log else logging.StreamHandler()
    handler.setFormatter(_Lines() if chosen.log_format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(LEVELS[chosen.log_level])
    log.propagate = False


def reopen(log: logging.Logger) -> None:
    """Open the log's file anew with the next message: logrotate has moved it."""
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()


class Watchdog:
    """Tells systemd in time that we live, if it asks: sd_watchdog_enabled(3)."""

    def __init__(self) -> None:
        """Begin to count."""
        self.every = int(os.environ.get("WATCHDOG_USEC", "0")) / 2_000_000
        self.due = time.monotonic() + self.every

    def left(self) -> float | None:
        """Return the seconds until ``beat`` is to be called; None: never."""
        return max(self.due - time.monotonic(), 0) if self.every else None

    def beat(self) -> bool:
        """Tell systemd if it is time, and say whether it was."""
        if not self.every or time.monotonic() < self.due:
            return False
        self.due = time.monotonic() + self.every
        notify("WATCHDOG=1")
        return True


def notify(state: str, *fds: int) -> None:
    """Tell systemd, if it asked: sd_notify(3); ``fds`` go along."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect("\0" + address[1:] if address[0] == "@" else address)
            wire.send_bytes(sock, state.encode(), fds)


def store(name: str, fd: int) -> None:
    """Have systemd hold a descriptor for our next instance (sd_pid_notify_with_fds(3)). Its names are not longer than 255 bytes."""
    notify(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name[:255]}", fd)


def unstore(name: str) -> None:
    """Have systemd close the descriptors that it holds by this name."""
    notify(f"FDSTOREREMOVE=1\nFDNAME={name[:255]}")


def stored() -> list[tuple[str, int]]:
    """Take what systemd holds for us: (name, descriptor) of each; sd_listen_fds_with_names(3)."""
    told = [os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")]
    if told[0] != str(os.getpid()):
        return []
    fds = range(3, 3 + int(told[1]))
    for fd in fds:
        os.set_inheritable(fd, False)  # noqa: FBT003 - positional only
    return list(zip(told[2].split(":"), fds, strict=False))
