"""The command line of sysbox-mgr: one instance, its log, its signals, its way into the background."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sysbox.errors import Failure, reason
from sysbox.linux._kernel import close_range
from sysbox.linux.jsons import dumps
from sysbox.mgr.registry import Registry
from sysbox.mgr.server import Server, listen
from sysbox.mgr.store import Store
from sysbox.mgr.subid import SubIds
from sysbox.mgr.userns import Namespaces
from sysbox.mgr.watch import Watch
from sysbox.version import VERSION
from sysbox.wire import message as wire

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("sysbox-mgr")
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR, "fatal": logging.CRITICAL}
PATIENCE = 10.0  # seconds to wait for the socket of an instance that is starting


def options(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; paths come back absolute. Exits by SystemExit on --help, --version and nonsense."""
    parser = argparse.ArgumentParser("sysbox-mgr", description="Decides which container has which ids and volumes.", allow_abbrev=False)
    add = parser.add_argument
    add("--log", metavar="FILE", help="append the log to FILE (default: standard error)")
    add("--log-level", choices=LEVELS, default="info", help="the least severe messages that are logged (default: info)")
    add("--log-format", choices=("text", "json"), default="text", help="how a line of the log looks (default: text)")
    add("--data-root", metavar="DIR", default="/var/lib/sysbox", help="where records last (default: /var/lib/sysbox)")
    add("--run-dir", metavar="DIR", default="/run/sysbox", help="where socket and pid file are (default: /run/sysbox)")
    add(
        "--subid-user", metavar="NAME", default="sysbox", help="whose ranges of /etc/subuid and /etc/subgid are given out (default: sysbox)"
    )
    add("--daemonize", action="store_true", help="go to the background; return when the socket answers")
    add("--version", action="version", version=f"sysbox-mgr {VERSION}", help="show the version and exit")
    add("--subuid-file", default="/etc/subuid", help=argparse.SUPPRESS)
    add("--subgid-file", default="/etc/subgid", help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    for name in ("log", "data_root", "run_dir", "subuid_file", "subgid_file"):
        if getattr(chosen, name):
            setattr(chosen, name, os.path.abspath(getattr(chosen, name)))
    return chosen


def main(argv: list[str]) -> int:
    """Run sysbox-mgr with these arguments (without the program's name) and return its exit status."""
    chosen = options(argv)
    try:
        return _daemonize(chosen) if chosen.daemonize else _run(chosen, lambda: None)
    except Failure as failure:
        print(f"sysbox-mgr: {failure}", file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        print(f"sysbox-mgr: {reason(error)} [SBX-3000]", file=sys.stderr, flush=True)
        return 1


def _daemonize(chosen: argparse.Namespace) -> int:
    """Serve in a child without a terminal; in the parent return when it is ready, or with its status when it failed."""
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
        return _run(chosen, ready)
    except Failure as failure:
        if failure.code == 3001 and _answers(f"{chosen.run_dir}/sysmgr.sock"):
            return 0
        raise


def _run(chosen: argparse.Namespace, ready: Callable[[], None]) -> int:
    """Serve until a signal ends it. Raises Failure, OSError before ``ready`` is called."""
    if os.geteuid():
        raise Failure(3005, "only root can run it", "sudo sysbox-mgr")
    os.makedirs(chosen.run_dir, exist_ok=True)
    os.chmod(chosen.run_dir, 0o700)
    pid_file = f"{chosen.run_dir}/sysmgr.pid"
    lock = _lock(f"{chosen.run_dir}/sysmgr.lock", pid_file)
    _log_to(chosen)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.eventfd_write(stop, 1))
    signal.signal(signal.SIGHUP, lambda *_: _reopen())
    path = f"{chosen.run_dir}/sysmgr.sock"
    store = Store(chosen.data_root)
    watch, namespaces = Watch(), Namespaces()
    try:
        subids = SubIds(chosen.subid_user, chosen.subuid_file, chosen.subgid_file)
        server = Server(listen(path), Registry(store, subids, namespaces, watch))
        log.info("Ready")
        ready()
        _notify("READY=1")
        server.serve(stop)
        _notify("STOPPING=1")
        server.close()
        log.info("Stopped")
    finally:
        watch.close()
        namespaces.close()
        store.close()
        for name in (path, pid_file):
            with suppress(FileNotFoundError):
                os.unlink(name)
        os.close(stop)
        os.close(lock)
    return 0


def _lock(path: str, pid_file: str) -> int:
    """Become the one instance: the lock's descriptor, after the pid file is written. Raises Failure 3001."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Failure(3001, f"already running as pid {_pid(pid_file)}") from None
    fresh = f"{pid_file}.new"
    with open(fresh, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(fresh, pid_file)
    return lock


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


def _answers(path: str) -> bool:
    """Wait until the manager that listens there answers; False if it does not in time."""
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


def _log_to(chosen: argparse.Namespace) -> None:
    logging.addLevelName(logging.CRITICAL, "FATAL")
    logging.raiseExceptions = False  # standard error may be a pipe that nobody reads any more
    handler = logging.FileHandler(chosen.log) if chosen.log else logging.StreamHandler()
    handler.setFormatter(_Lines() if chosen.log_format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(LEVELS[chosen.log_level])
    log.propagate = False


def _reopen() -> None:
    """Open the log's file anew with the next message: logrotate has moved it."""
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()


def _notify(state: str) -> None:
    """Tell systemd, if it asked: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
