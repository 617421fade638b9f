"""Talking to sysbox-fs: a container's /proc and /sys, and the listener of its trapped system calls.

A request is repeated until it is answered: whichever process of sysbox-fs dies meanwhile, another takes over.
"""

from __future__ import annotations

import posix
import time
from errno import ECONNREFUSED, ENOENT

from sysbox.errors import Failure, reason
from sysbox.linux import files, mountinfo
from sysbox.runtime import manager
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SOCKET = "/run/sysbox/sysfs.sock"
LOG = "/var/log/sysbox-fs.log"
PATIENCE, PAUSE = manager.PATIENCE, manager.PAUSE
UNKNOWN, RETURN = 4003, 1.0  # what a new supervisor says until, after as many seconds at most, all workers have come back to it
TREES = ("/proc", "/sys")
ALLOWED = {"remounts": False, "unmounts": True}  # what root of a container may do with its first, immutable, mounts


def ask(message: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Ask until there is an answer. Raises Failure: that of sysbox-fs, or 1018."""
    begin = time.monotonic()
    end = begin + PATIENCE
    while True:
        try:
            reply, received = _once(message, fds)
        except (OSError, ValueError) as error:
            reply, received = {}, []
            cause = reason(error) if isinstance(error, OSError) else str(error)
        else:
            cause = "it ended before it answered"
        if reply.get("ok"):
            return reply, received
        if reply.get("code") == UNKNOWN and time.monotonic() < begin + RETURN:
            cause = "the container's worker has not come back yet"
        elif reply:
            raise Failure(reply.get("code", 4000), reply.get("cause", "sysbox-fs refused"), reply.get("hint", ""))
        if time.monotonic() > end:
            raise Failure(1018, f"cannot reach sysbox-fs at {SOCKET}: {cause}", f"see {LOG}")
        time.sleep(PAUSE)


def _once(message: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
    try:
        sock = wire.connect(SOCKET)
    except OSError as error:
        if error.errno not in (ENOENT, ECONNREFUSED):
            raise
        manager.start("sysbox-fs", LOG, SOCKET)
        sock = wire.connect(SOCKET)
    try:
        wire.send(sock, {"v": wire.VERSION, **message}, fds)
        return wire.receive(sock)
    finally:
        sock.close()


def describe(plan: dict[str, Any], ids: Any, created: float) -> dict[str, Any]:
    """Tell what sysbox-fs must know of a planned container, and take what it does out of the plan: masks and read-only paths."""
    mounts = {mount["dest"]: mount for mount in plan["mounts"]}
    others = tuple(f"{dest}/" for dest in mounts if dest not in TREES)
    out: dict[str, Any] = {"id": plan["id"], "uid": ids.uid, "gid": ids.gid, "size": ids.size}
    boot = plan["offsets"].get("boottime") or {}
    out["created"] = created - (boot.get("secs") or 0) - (boot.get("nanosecs") or 0) / 1e9
    for key, name in (("masked", "masked"), ("readonly_paths", "readonly")):
        paths = [files.clean(path) for path in plan[key]]
        out[name] = [path for path in paths if path.startswith(("/proc/", "/sys/")) and not f"{path}/".startswith(others)]
        plan[key] = [path for path in paths if path not in out[name]]
    out["flags"] = {kind: mounts[dest]["flags"] for dest, kind in zip(TREES, ("proc", "sysfs"), strict=True)}
    out["data"] = {kind: mounts[dest]["data"] for dest, kind in zip(TREES, ("proc", "sysfs"), strict=True)}
    out["sys_readonly"] = plan["readonly"]
    return out


def trees(container: dict[str, Any], pid: int, pidfd: int, groups: dict[str, Any]) -> tuple[list[int], dict[str, bool]]:
    """Get a new container's /proc and /sys for its init ``pid``: two detached mounts, and as ``ALLOWED`` what the operator wants.

    ``groups``: the cgroups that pay for it, on v1 only. A group of v2 has memory and a freezer too: a container that is paused or out of
    memory would take along who answers it; and while it has a process it cannot hand controllers on to the groups of an inner systemd.
    Raises Failure, OSError.
    """
    paths = mountinfo.of_processor_time(groups["v1"])
    doors = [posix.open(f"{path}/tasks", posix.O_WRONLY | posix.O_CLOEXEC) for path in paths]
    try:
        reply, fds = ask({"op": "create", "container": {**container, "pid": pid}}, [pidfd, *doors])
    finally:
        for fd in doors:
            posix.close(fd)
    return fds, reply["allowed"]


def listen(name: str, listener: int) -> None:
    """Hand over the listener of a container's process, which waits for it. Raises Failure."""
    ask({"op": "listener", "id": name}, [listener])
    posix.close(listener)
