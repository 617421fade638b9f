"""The command line of sysbox-fs, and its keeper: the process that holds every descriptor and starts the supervisor anew when it dies."""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sysbox import daemon
from sysbox.errors import Failure
from sysbox.linux.jsons import dumps, loads
from sysbox.version import VERSION
from sysbox.wire import message as wire

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("sysbox-fs")
ALLOWED = {"remounts": "false", "unmounts": "true"}
EFFECTS = {"remounts": "make mounts writable that a container starts with read-only", "unmounts": "unmount what a container starts with"}
SEPARATOR = "%"  # between a container's id and the name of a descriptor: no id has it
PAUSE = 0.05  # seconds before a supervisor that has died at once is started again


def options(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; paths come back absolute. Exits by SystemExit on --help, --version and nonsense."""
    parser = argparse.ArgumentParser(
        "sysbox-fs", description="Gives containers a /proc and /sys of their own, and answers trapped system calls.", allow_abbrev=False
    )
    daemon.log_options(parser)
    add = parser.add_argument
    add("--run-dir", metavar="DIR", default="/run/sysbox", help="where socket and pid file are (default: /run/sysbox)")
    add(
        "--host-sysctl",
        choices=("never", "max"),
        default="never",
        help="whether a container that wants more than the host's limit raises it (default: never)",
    )
    for what, otherwise in ALLOWED.items():
        effect = f"whether root inside may {EFFECTS[what]}, from the next container on (default: {otherwise})"
        daemon.switch(parser, f"allow-immutable-{what}", effect, otherwise)
    add("--daemonize", action="store_true", help="go to the background; return when the socket answers")
    add("--version", action="version", version=f"sysbox-fs {VERSION}", help="show the version and exit")
    add("--supervise", metavar="JSON", help=argparse.SUPPRESS)
    add("--keep", metavar="JSON", help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    for name in ("log", "run_dir"):
        if getattr(chosen, name):
            setattr(chosen, name, os.path.abspath(getattr(chosen, name)))
    return chosen


def main(argv: list[str]) -> int:
    """Run sysbox-fs with these arguments (without the program's name) and return its exit status."""
    chosen = options(argv)
    if chosen.supervise:
        from sysbox.fs import supervisor

        daemon.log_to(log, chosen)
        settings = loads(chosen.supervise)
        try:
            supervisor.run(settings["listener"], settings["keeper"], settings)
        except Exception:
            log.exception("supervisor")
        return 1
    return daemon.main("sysbox-fs", chosen, _run, f"{chosen.run_dir}/sysfs.sock")


def _run(chosen: argparse.Namespace, ready: Callable[[], None]) -> int:
    """Keep until a signal ends it. Raises Failure, OSError before ``ready`` is called."""
    if os.geteuid():
        raise Failure(3005, "only root can run it", "sudo sysbox-fs")
    os.makedirs(chosen.run_dir, exist_ok=True)
    os.chmod(chosen.run_dir, 0o700)
    pid_file, path = f"{chosen.run_dir}/sysfs.pid", f"{chosen.run_dir}/sysfs.sock"
    given = loads(chosen.keep) if chosen.keep else {"listener": -1, "channel": -1}
    try:
        lock = daemon.lock(f"{chosen.run_dir}/sysfs.lock", pid_file)
    except Failure:
        if given["listener"] >= 0:
            wire.send(socket.socket(fileno=given["channel"]), {"op": "taken"})
        raise
    daemon.log_to(log, chosen)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.eventfd_write(stop, 1))
    listener = socket.socket(fileno=given["listener"]) if given["listener"] >= 0 else daemon.listen(path)
    keeper = Keeper(listener, chosen, ready)
    signal.signal(signal.SIGHUP, lambda *_: keeper.reopen())
    keeper.recover(daemon.stored())
    if chosen.keep:
        keeper.inherit(socket.socket(fileno=given["channel"]), lasting=given["listener"] >= 0)
    keeper.serve(stop)
    daemon.notify("STOPPING=1")
    log.info("Stopped: containers that run go on, and are taken over by the next instance")
    for name in (path, pid_file):
        with suppress(FileNotFoundError):
            os.unlink(name)
    os.close(lock)
    return 0


class Keeper:
    """Holds descriptors by container and name, and does nothing else that could fail."""

    def __init__(self, listener: socket.socket, chosen: argparse.Namespace, ready: Callable[[], None]) -> None:
        """Hold for the supervisor that will listen on ``listener``; ``ready`` is called when the first one is ready."""
        self.listener = listener
        self.chosen = chosen
        self.ready = ready
        self.held: dict[str, dict[str, int]] = {}
        self.channel: socket.socket | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.unanswered = 0

    def recover(self, stored: list[tuple[str, int]]) -> None:
        """Take up what systemd held when no process of ours was left."""
        for label, fd in stored:
            container, _, name = label.partition(SEPARATOR)
            self.held.setdefault(container, {})[name] = fd

    def inherit(self, channel: socket.socket, *, lasting: bool) -> None:
        """Take up what a supervisor (``lasting``: it stays) or a worker held when our predecessor was killed."""
        if lasting:
            self.channel = channel
            self.ready()
            self.ready = lambda: None
            return
        while True:
            message, fds = wire.receive(channel)
            if not message:
                break
            self._keep(message, fds)
        channel.close()

    def serve(self, stop: int) -> None:
        """Keep until the descriptor ``stop`` becomes readable."""
        watchdog = daemon.Watchdog()
        while True:
            if self.channel is None:
                self._start()
            assert self.channel is not None  # noqa: S101 - for the type checker
            found, _, _ = select.select([self.channel, stop], [], [], watchdog.left())
            if watchdog.beat():
                self._check()
            if stop in found:
                with suppress(OSError):
                    wire.send(self.channel, {"op": "stop"})
                return
            if self.channel in found:
                self._hear(self.channel)

    def reopen(self) -> None:
        """Open the log anew, here and in the supervisor."""
        daemon.reopen(log)
        if self.channel:
            with suppress(OSError):
                wire.send(self.channel, {"op": "reopen"})

    def _check(self) -> None:
        """See whether the supervisor still answers; if it has not twice, have it replaced."""
        if self.unanswered > 1 and self.child:
            log.error("the supervisor does not answer: it is killed")
            self.child.kill()
        elif self.channel:
            self.unanswered += 1
            with suppress(OSError):
                wire.send(self.channel, {"op": "ping"})

    def _start(self) -> None:
        """Start a supervisor from the program on disk, which may be newer than we are, and give it everything."""
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [os.path.realpath(sys.argv[0]), "--log-level", self.chosen.log_level, "--log-format", self.chosen.log_format]
        command += ["--log", self.chosen.log] if self.chosen.log else []
        command += ["--run-dir", self.chosen.run_dir, "--host-sysctl", self.chosen.host_sysctl]
        allowed = {what: getattr(self.chosen, f"allow_immutable_{what}") for what in ALLOWED}
        command += [f"--allow-immutable-{what}={value}" for what, value in allowed.items()]
        settings: dict[str, Any] = {
            "listener": self.listener.fileno(),
            "keeper": theirs.fileno(),
            "socket": f"{self.chosen.run_dir}/sysfs.sock",
            "host_sysctl": self.chosen.host_sysctl,
            "allowed": {what: value == "true" for what, value in allowed.items()},
            "command": command if "NOTIFY_SOCKET" not in os.environ else [],  # systemd starts keepers by itself
        }
        silent = subprocess.DEVNULL
        self.child = subprocess.Popen(
            [*command, "--supervise", dumps(settings)],
            pass_fds=(self.listener.fileno(), theirs.fileno()),
            stdin=silent,
            stdout=silent,
            stderr=silent if self.chosen.daemonize or self.chosen.keep else None,  # who started us waits for the end of ours
        )
        theirs.close()
        with suppress(OSError):  # it has been killed already: the loop will see
            for container, fds in self.held.items():
                for name, fd in fds.items():
                    wire.send(self.channel, {"op": "hold", "id": container, "name": name}, [fd])
            wire.send(self.channel, {"op": "begin"})

    def _hear(self, channel: socket.socket) -> None:
        try:
            message, fds = wire.receive(channel)
        except (OSError, ValueError):
            message, fds = {}, []
        operation = message.get("op")
        if operation in ("hold", "drop"):
            self._keep(message, fds)
        elif operation == "ready":
            self.ready()
            self.ready = lambda: None
            daemon.notify("READY=1")
            log.info("Ready")
        elif operation == "pong":
            self.unanswered = 0
        elif not message:
            self._lost(channel)

    def _keep(self, message: dict[str, Any], fds: list[int]) -> None:
        if message["op"] == "hold":
            self._let_go(message["id"], message["name"])
            self.held.setdefault(message["id"], {})[message["name"]] = fds[0]
            daemon.store(f"{message['id']}{SEPARATOR}{message['name']}", fds[0])
        else:
            names = [message["name"]] if "name" in message else list(self.held.get(message["id"], {}))
            for name in names:
                self._let_go(message["id"], name)
            if not self.held.get(message["id"]):
                self.held.pop(message["id"], None)

    def _let_go(self, container: str, name: str) -> None:
        fd = self.held.get(container, {}).pop(name, -1)
        if fd >= 0:
            os.close(fd)
            daemon.unstore(f"{container}{SEPARATOR}{name}")

    def _lost(self, channel: socket.socket) -> None:
        """Forget a supervisor that has ended; the loop starts another."""
        channel.close()
        self.channel = None
        self.unanswered = 0
        if self.child:
            self.child.wait()
        log.warning("the supervisor has ended: another is started")
        time.sleep(PAUSE)
