"""The command line of sysbox-mgr: one instance, its log, its signals, its way into the background."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from sysbox import daemon
from sysbox.errors import Failure
from sysbox.mgr import host
from sysbox.mgr.registry import Registry
from sysbox.mgr.server import Server
from sysbox.mgr.store import Store
from sysbox.mgr.subid import SubIds
from sysbox.mgr.userns import Namespaces
from sysbox.mgr.watch import Watch
from sysbox.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("sysbox-mgr")
# options about all containers -> the environment variable of one container, what it does, what holds without either
KNOBS = {
    "honor-caps": ("SYSBOX_HONOR_CAPS", "give root inside the capabilities that its engine asks for, not all", "false"),
    "syscont-mode": ("SYSBOX_SYSCONT_MODE", "make system containers; false: regular ones in a user namespace", "true"),
    "ignore-sysfs-chown": ("SYSBOX_IGNORE_SYSFS_CHOWN", "let a chown of /sys inside succeed and do nothing", "false"),
    "allow-trusted-xattr": ("SYSBOX_ALLOW_TRUSTED_XATTR", "let root inside use extended attributes trusted.overlay.*", "false"),
}


def options(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; paths come back absolute. Exits by SystemExit on --help, --version and nonsense."""
    parser = argparse.ArgumentParser("sysbox-mgr", description="Decides which container has which ids and volumes.", allow_abbrev=False)
    add = parser.add_argument
    daemon.log_options(parser)
    add("--data-root", metavar="DIR", default="/var/lib/sysbox", help="where records last (default: /var/lib/sysbox)")
    add("--run-dir", metavar="DIR", default="/run/sysbox", help="where socket and pid file are (default: /run/sysbox)")
    add(
        "--subid-user", metavar="NAME", default="sysbox", help="whose ranges of /etc/subuid and /etc/subgid are given out (default: sysbox)"
    )
    for flag, (knob, effect, otherwise) in KNOBS.items():
        daemon.switch(parser, flag, f"{effect} (default: {otherwise}; {knob} overrides it)", None)
    daemon.switch(parser, "alias-dns", "let inner containers ask Docker's resolver on networks of its users (default: true)", "true")
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
    return daemon.main("sysbox-mgr", chosen, _run, f"{chosen.run_dir}/sysmgr.sock")


def _run(chosen: argparse.Namespace, ready: Callable[[], None]) -> int:
    """Serve until a signal ends it. Raises Failure, OSError before ``ready`` is called."""
    if os.geteuid():
        raise Failure(3005, "only root can run it", "sudo sysbox-mgr")
    os.makedirs(chosen.run_dir, exist_ok=True)
    os.chmod(chosen.run_dir, 0o700)
    pid_file = f"{chosen.run_dir}/sysmgr.pid"
    lock = daemon.lock(f"{chosen.run_dir}/sysmgr.lock", pid_file)
    daemon.log_to(log, chosen)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.eventfd_write(stop, 1))
    signal.signal(signal.SIGHUP, lambda *_: daemon.reopen(log))
    path = f"{chosen.run_dir}/sysmgr.sock"
    _tell_knobs(chosen)
    store = Store(chosen.data_root)
    watch, namespaces = Watch(), Namespaces()
    try:
        subids = SubIds(chosen.subid_user, chosen.subuid_file, chosen.subgid_file)
        server = Server(daemon.listen(path), Registry(store, subids, namespaces, watch))
        for name, now, wanted in host.low():
            log.warning("%s is %d, too little for many system containers. Try: sysctl %s=%d, or make install", name, now, name, wanted)
        log.info("Ready")
        ready()
        daemon.notify("READY=1")
        server.serve(stop)
        daemon.notify("STOPPING=1")
        server.close()
        log.info("Stopped")
    finally:
        watch.close()
        namespaces.close()
        store.close()
        for name in (path, pid_file, f"{chosen.run_dir}/knobs"):
            with suppress(FileNotFoundError):
                os.unlink(name)
        os.close(stop)
        os.close(lock)
    return 0


def _tell_knobs(chosen: argparse.Namespace) -> None:
    """Write where the runtime reads it what holds for containers that set no SYSBOX_ variable themselves."""
    values = {knob: getattr(chosen, flag.replace("-", "_")) for flag, (knob, _, _) in KNOBS.items()}
    fresh = f"{chosen.run_dir}/knobs.new"
    with open(fresh, "w", encoding="ascii") as file:
        file.writelines(f"{knob}={value.upper()}\n" for knob, value in values.items() if value)
        file.write(f"alias-dns={chosen.alias_dns.upper()}\n")
    os.rename(fresh, fresh.removesuffix(".new"))
