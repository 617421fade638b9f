"""What happens to a container after its creation: start, kill, pause, resume, delete, state."""

from __future__ import annotations

import posix
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket
from errno import ESRCH
from select import POLLIN, poll

from sysbox.errors import Failure, reason
from sysbox.linux import _kernel as k
from sysbox.runtime import cgroup, log, state
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# from 1 on: signal(7); alpha, mips and sparc differ and are no hosts of ours
SIGNALS = [
    "HUP",
    "INT",
    "QUIT",
    "ILL",
    "TRAP",
    "ABRT",
    "BUS",
    "FPE",
    "KILL",
    "USR1",
    "SEGV",
    "USR2",
    "PIPE",
    "ALRM",
    "TERM",
    "STKFLT",
    "CHLD",
    "CONT",
    "STOP",
    "TSTP",
    "TTIN",
    "TTOU",
    "URG",
    "XCPU",
    "XFSZ",
    "VTALRM",
    "PROF",
    "WINCH",
    "IO",
    "PWR",
    "SYS",
]
ALIASES = {"IOT": 6, "POLL": 29, "CLD": 17, "RTMIN": 34, "RTMAX": 64}
PATIENCE = 10000  # milliseconds in which a killed init must be gone


def signal_number(text: str) -> int:
    """Read TERM, SIGTERM, 15, RTMIN+3. Raises Failure 1001."""
    name = text.upper().removeprefix("SIG")
    if name.isdigit() and 0 <= int(name) <= ALIASES["RTMAX"]:
        return int(name)
    if name in SIGNALS:
        return SIGNALS.index(name) + 1
    base, sign, offset = name.partition("+") if "+" in name else name.partition("-")
    if base in ALIASES and (not sign or offset.isdigit()):
        return ALIASES[base] + (int(offset or 0) if sign != "-" else -int(offset))
    raise Failure(1001, f"{text!r} is no signal", "a name such as SIGTERM, or a number from 1 to 64")


def start(root: str, name: str) -> None:
    """Let a created container's init go on to its program. Raises Failure."""
    directory = state.lock(root, name)
    try:
        now = state.load(root, name)
        status = state.status(root, now)
        if status != "created":
            raise Failure(1008, f"cannot start container {name}: it is {status}", "start one that is created")
        started(directory, now)
        from_hooks(root, now, "poststart")
    finally:
        posix.close(directory)


def started(directory: int, now: dict[str, Any]) -> None:
    """Open the door to init and wait until it has become its program. Raises Failure, its own report included."""
    with_init = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    try:
        with_init.connect(f"/proc/self/fd/{directory}/start.sock")
        said, fds = wire.receive(with_init)
        if said.get("listener"):
            from sysbox.runtime import emulation

            emulation.listen(now["id"], fds[0])
            wire.send(with_init, {"do": "go"})
            said, _ = wire.receive(with_init)
    except OSError as error:
        raise Failure(
            1008, f"cannot start container {now['id']}: its init is gone: {reason(error)}", "delete it, create it again"
        ) from error
    finally:
        with_init.close()
    posix.unlink("start.sock", dir_fd=directory)
    if said:
        error_ = said["error"]
        raise Failure(error_["code"], error_["cause"], error_["hint"])


def from_hooks(root: str, now: dict[str, Any], kind: str) -> None:
    """Run hooks that may fail without harm."""
    if now["hooks"].get(kind):
        from sysbox.runtime import hooks

        told = state.oci(root, now, "stopped" if kind == "poststop" else "running")
        hooks.run(kind, now["hooks"][kind], told, lambda failure: log.warning(str(failure)))


def kill(root: str, name: str, number: int, *, everyone: bool) -> None:
    """Send a signal to init, or to every process of the container. Raises Failure."""
    now = state.load(root, name)
    if everyone:
        for pid in cgroup.pids(now["cgroup"]):
            try:
                posix.kill(pid, number)
            except ProcessLookupError:
                continue
        return
    if now.get("systemd"):
        from sysbox.runtime import systemd

        number = systemd.MEANT.get(number, number)
    try:
        pidfd = init_pidfd(now)
        try:
            k.pidfd_send_signal(pidfd, number)
        finally:
            posix.close(pidfd)
    except OSError as error:
        if error.errno != ESRCH:
            raise
        raise not_running(name) from error
    if number == 9 and cgroup.is_frozen(now["cgroup"]):
        cgroup.freeze(now["cgroup"], frozen=False)


def not_running(name: str) -> Failure:
    """Say it in words that containerd knows."""
    return Failure(1008, f"container not running: {name} has stopped", "see its log")


def init_pidfd(now: dict[str, Any]) -> int:
    """Open the container's init, surely that process and no later one with its number. Raises Failure 1008."""
    if not now.get("pid"):
        raise not_running(now["id"])
    try:
        pidfd = posix.pidfd_open(now["pid"])
    except ProcessLookupError:
        raise not_running(now["id"]) from None
    if state.starttime(now["pid"]) != now["starttime"]:
        posix.close(pidfd)
        raise not_running(now["id"])
    return pidfd


def pause(root: str, name: str, *, frozen: bool) -> None:
    """Freeze or thaw. Raises Failure."""
    directory = state.lock(root, name)
    try:
        now = state.load(root, name)
        status = state.status(root, now)
        if status != ("running" if frozen else "paused") and not (frozen and status == "created"):
            raise Failure(1008, f"cannot {'pause' if frozen else 'resume'} container {name}: it is {status}", "see sysbox-runc list")
        cgroup.freeze(now["cgroup"], frozen=frozen)
    finally:
        posix.close(directory)


def delete(root: str, name: str, *, force: bool) -> None:
    """End a container, with force also a running one, and remove all that is left of it. Raises Failure."""
    try:
        directory = state.lock(root, name)
    except Failure as failure:
        if force and failure.code == 1004:
            return
        raise
    try:
        try:
            now = state.load(root, name)
        except (Failure, ValueError):
            if not force:
                raise
            now = {
                "id": name,
                "pid": 0,
                "cgroup": {"v1": {}, "v2": ""},
                "rootfs": {},
                "hooks": {},
                "bundle": "",
                "version": "",
                "annotations": {},
            }
        status = state.status(root, now)
        if not force and status not in ("stopped", "created"):
            raise Failure(1008, f"cannot delete container {name}: it is {status}", "kill it first, or delete --force")
        destroy(root, now, directory)
    finally:
        posix.close(directory)


def destroy(root: str, now: dict[str, Any], directory: int) -> None:
    """Remove a container whose directory is locked: processes, cgroups, what is on disk, ids, the directory. Raises Failure."""
    from sysbox.runtime import manager, rootfs, special

    groups = now["cgroup"]
    _end(now, groups)
    cgroup.remove(cgroup.directories(groups))
    rootfs.restore(now["rootfs"])
    special.tidy(now["rootfs"])
    connection = manager.ask({"op": "delete", "id": now["id"], "root": root})  # last: from here on others may have its ids
    manager.answer(connection)
    connection.close()
    state.discard(root, now["id"], directory)
    from_hooks(root, now, "poststop")


def _end(now: dict[str, Any], groups: dict[str, Any]) -> None:
    """Kill init if it lives, and whoever else is in the cgroups; wait for init's end. Raises Failure 1008."""
    try:
        pidfd = init_pidfd(now)
    except Failure:
        pidfd = -1
    if pidfd >= 0:
        k.pidfd_send_signal(pidfd, 9)
    left = cgroup.pids(groups) if groups["v1"] or groups["v2"] else []
    if pidfd >= 0 or left:
        if cgroup.is_frozen(groups):
            cgroup.freeze(groups, frozen=False)
        if left:
            cgroup.kill(groups)
    if pidfd >= 0:
        poller = poll()
        poller.register(pidfd, POLLIN)
        gone = poller.poll(PATIENCE)
        posix.close(pidfd)
        if not gone:
            raise Failure(
                1008, f"init (pid {now['pid']}) of container {now['id']} does not die", "see what it waits for in /proc/PID/stack"
            )


def describe(root: str, name: str) -> dict[str, Any]:
    """Return what ``state`` and ``list`` show, in the form of runc. Raises Failure 1004."""
    now = state.load(root, name)
    told = state.oci(root, now)
    seconds, fraction = divmod(now.get("created") or 0, 1)
    return {
        "ociVersion": told["ociVersion"],
        "id": told["id"],
        "pid": told["pid"],
        "status": told["status"],
        "bundle": told["bundle"],
        "rootfs": now["rootfs"].get("path") or "",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(fraction * 1e9):09d}Z",
        "annotations": told.get("annotations") or {},
        "owner": "",
    }
