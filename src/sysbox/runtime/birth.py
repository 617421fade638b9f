"""Birth and early death of a container's init, as its parent sees them."""

from __future__ import annotations

import posix
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket, socketpair

from sysbox.errors import Failure
from sysbox.linux import _kernel as k
from sysbox.linux import files
from sysbox.runtime import init
from sysbox.runtime.steps import Step, report
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CLD_EXITED = 1  # of siginfo_t: sigaction(2)
CLONE = {
    "user": k.CLONE_NEWUSER,
    "mount": k.CLONE_NEWNS,
    "pid": k.CLONE_NEWPID,
    "network": k.CLONE_NEWNET,
    "ipc": k.CLONE_NEWIPC,
    "uts": k.CLONE_NEWUTS,
    "cgroup": k.CLONE_NEWCGROUP,
    "time": k.CLONE_NEWTIME,
}


def clone(wanted: dict[str, Any], job: dict[str, Any], v2: int) -> tuple[int, int]:
    """Give birth to init in its new namespaces: (pid, pidfd)."""
    paths = wanted["namespaces"]
    joined = {kind: path for kind, path in paths.items() if path}
    flags = 0
    for kind, path in paths.items():
        if not path and kind != "cgroup":
            flags |= CLONE[kind]
    if joined or wanted["offsets"]:
        return _clone_joined(joined, wanted["offsets"], job, flags, v2)
    pid, pidfd = k.clone3(flags, v2) or (0, -1)
    if not pid:
        init.main(job)
    return pid, pidfd


def _clone_joined(joined: dict[str, str], offsets: dict[str, Any], job: dict[str, Any], flags: int, v2: int) -> tuple[int, int]:
    """Join namespaces in a process in between, which then gives birth to init as our child."""
    fds = {kind: posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC) for kind, path in joined.items()}
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    between, between_fd = k.clone3(0, -1) or (0, -1)
    if not between:
        try:
            for kind in (
                "network",
                "ipc",
                "uts",
                "time",
                "cgroup",
                "pid",
                "user",
            ):  # the user namespace last: the others may be its elders'
                if kind in fds:
                    Step.name = f"join {kind} namespace {joined[kind]}"
                    k.setns(fds[kind], CLONE[kind])
            if offsets:
                Step.name = "set time offsets"
                k.unshare(k.CLONE_NEWTIME)
                flags &= ~k.CLONE_NEWTIME
                text = "".join(f"{clock} {one.get('secs') or 0} {one.get('nanosecs') or 0}\n" for clock, one in offsets.items())
                files.write("/proc/self/timens_offsets", text)
            Step.name = "clone init"
            pid, pidfd = k.clone3(flags | k.CLONE_PARENT, v2) or (0, -1)
            if not pid:
                init.main(job)
            wire.send(theirs, {"pid": pid}, [pidfd])
        except BaseException as error:  # noqa: BLE001 - everything is told
            report(theirs, error)
        posix._exit(0)
    theirs.close()
    posix.close(between_fd)
    for fd in fds.values():
        posix.close(fd)
    told, received = wire.receive(ours)
    ours.close()
    posix.waitpid(between, 0)
    if "pid" not in told:
        raise _failure(told.get("error"), "init was not born")
    return told["pid"], received[0]


def end(pid: int, pidfd: int) -> None:
    """Kill init, and with it everything in its pid namespace."""
    try:
        k.pidfd_send_signal(pidfd, 9)
    except OSError:
        pass  # it has ended by itself
    posix.waitpid(pid, 0)
    posix.close(pidfd)


def _failure(error: dict[str, Any] | None, otherwise: str) -> Failure:
    if error:
        return Failure(error["code"], error["cause"], error["hint"])
    return Failure(1020, otherwise, "see dmesg; perhaps the memory limit is too low")


def hear(channel: socket, word: str, pid: int, pidfd: int) -> dict[str, Any]:
    """Wait until init is at ``word``: what it says then. Raises Failure: its own report, or how it ended without one."""
    try:
        told, _ = wire.receive(channel)
    except OSError:
        told = {}
    if told.get("at") == word:
        return told
    if told.get("error"):
        raise _failure(told["error"], "")
    raise lost(pid, pidfd, f"before it was {word}") or _failure(None, f"init (pid {pid}) closed its socket before it was {word}")


def lost(pid: int, pidfd: int, when: str) -> Failure | None:
    """Say how init ended, if it has ended: what went wrong with it may have no other cause."""
    for _ in range(20):  # its sockets close before it can be waited for
        ended = posix.waitid(posix.P_PIDFD, pidfd, posix.WEXITED | posix.WNOWAIT | posix.WNOHANG)
        if ended:
            how = f"status {ended.si_status}" if ended.si_code == CLD_EXITED else f"signal {ended.si_status}"
            return _failure(None, f"init (pid {pid}) ended by {how} {when}")
        time.sleep(0.005)
    return None
