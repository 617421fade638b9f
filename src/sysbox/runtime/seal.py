"""Mounts that stay read-only: root of the container can lift that by no call, in no namespace of its own.

The kernel locks the flags of mounts that are copied with their mount namespace into another user namespace (mount_namespaces(7),
"Restrictions"). So when init has mounted everything, its parent clones the read-only mounts, has the clones copied that way in a process
of its own, and init puts them in the place of what it had mounted.
"""

from __future__ import annotations

import posix
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socketpair

from sysbox.errors import Failure
from sysbox.linux import _kernel as k
from sysbox.linux import files, mountinfo
from sysbox.runtime.steps import Step, report
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PLACE = "/dev"  # where the clones are for a moment, in a mount namespace that nobody else sees
CLONE = k.OPEN_TREE_CLONE | k.OPEN_TREE_CLOEXEC
O_PATH = posix.O_PATH | posix.O_CLOEXEC


def wanted(plan: dict[str, Any], allowed: dict[str, bool]) -> tuple[list[str], bool]:
    """List what to seal, from the root down, by init after pivot_root; and whether that is with all below. Raises OSError.

    ``allowed``: what root of the container may do with its first mounts, "remounts" and "unmounts". /proc and /sys are sealed already
    when they are sysbox-fs's.
    """
    if not allowed["unmounts"]:
        return ["/"], True
    if allowed["remounts"] or not (plan["readonly"] or plan["masked"] or plan["readonly_paths"] or any(map(_is_readonly, plan["mounts"]))):
        return [], False
    dests = [mount["dest"] for mount in plan["mounts"] if not (plan["emulated"] and mount["dest"] in ("/proc", "/sys"))]
    found = set(late(plan))
    hosts = {mount["dest"] for mount in plan["mounts"] if "host" in mount}  # need no seal: see hostdirs.py
    lines = mountinfo.read()
    for line in lines:
        path = mountinfo.point(line)
        if path in hosts or "ro" not in line.split(" ", 6)[5].split(",") or mountinfo.at(lines, path) is not line:
            continue
        if not plan["emulated"] or not path.startswith(("/proc/", "/sys/")) or any(f"{path}/".startswith(f"{dest}/") for dest in dests):
            found.add(path)
    if plan["emulated"]:
        found -= {"/proc", "/sys"}
    return sorted(path for path in found if _number(path) == _number_in(lines, path)), False


def late(plan: dict[str, Any]) -> list[str]:
    """List the mounts that become read-only when everything else is done, for mount points are made in them."""
    return ["/"] * plan["readonly"] + [one["dest"] for one in plan["mounts"] if one["type"] == "tmpfs" and one["flags"] & k.MS_RDONLY]


def _is_readonly(mount: dict[str, Any]) -> bool:
    return "host" not in mount and bool(mount["flags"] & k.MS_RDONLY or mount["set"] & k.MOUNT_ATTR_RDONLY)


def _number(path: str) -> str:
    """Return the number of the mount to which a path leads, as in mountinfo; "" if it leads nowhere."""
    try:
        fd = posix.open(path, O_PATH)
    except OSError:
        return ""
    try:
        info = files.read(f"/proc/self/fdinfo/{fd}").decode()
    finally:
        posix.close(fd)
    return info.partition("mnt_id:")[2].split(maxsplit=1)[0]


def _number_in(lines: list[str], path: str) -> str:
    return (mountinfo.at(lines, path) or "").partition(" ")[0]


def clones(pid: int, paths: list[str], *, whole: bool) -> list[int]:
    """Clone what ``wanted`` has listed, read-only and locked, from the mounts of init: detached mounts. Raises Failure."""
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    child, child_fd = k.clone3(0, -1) or (0, -1)
    if not child:
        try:
            for fd in _clone(pid, paths, k.AT_RECURSIVE if whole else 0):
                wire.send(theirs, {"at": "cloned"}, [fd])
        except BaseException as error:  # noqa: BLE001 - everything is told
            report(theirs, error)
        posix._exit(0)
    theirs.close()
    posix.close(child_fd)
    fds: list[int] = []
    while True:
        told, received = wire.receive(ours)
        fds += received
        if told.get("error"):
            raise Failure(told["error"]["code"], told["error"]["cause"], told["error"]["hint"])
        if not told:
            break
    ours.close()
    posix.waitpid(child, 0)
    if len(fds) != len(paths):
        raise Failure(1020, "a process of ours was killed while mounts were sealed", "see dmesg")
    return fds


def _clone(pid: int, paths: list[str], deep: int) -> list[int]:
    Step.name = "join the mounts of init"
    theirs, users, home = (
        posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC) for path in (f"/proc/{pid}/ns/mnt", f"/proc/{pid}/ns/user", "/proc/self/ns/mnt")
    )
    k.setns(theirs, k.CLONE_NEWNS)
    fds = []
    for path in paths:
        Step.name = f"clone {path}"
        fds.append(k.open_tree(k.AT_FDCWD, path, CLONE | deep))
    Step.name = "seal mounts"
    k.setns(home, k.CLONE_NEWNS)
    k.unshare(k.CLONE_NEWNS)
    k.mount(None, "/", None, k.MS_REC | k.MS_PRIVATE, None)
    k.mount("tmpfs", PLACE, "tmpfs", 0, "mode=755")
    for number, fd in enumerate(fds):
        place = f"{PLACE}/{number}"
        if posix.fstat(fd).st_mode & 0o170000 == 0o040000:
            posix.mkdir(place, 0o755)
        else:
            posix.close(posix.open(place, posix.O_CREAT | posix.O_CLOEXEC, 0o644))
        if not deep:
            k.mount_setattr(fd, "", k.AT_EMPTY_PATH, k.MOUNT_ATTR_RDONLY, 0, 0, 0)
        k.move_mount(fd, "", k.AT_FDCWD, place, k.MOVE_MOUNT_F_EMPTY_PATH)
    k.setns(users, k.CLONE_NEWUSER)
    k.unshare(k.CLONE_NEWNS)
    return [k.open_tree(k.AT_FDCWD, f"{PLACE}/{number}", CLONE | deep) for number in range(len(fds))]


def put(path: str, fd: int, *, whole: bool) -> None:
    """Put a sealed clone, a descriptor, in the place of the mount at ``path``; what is mounted on that moves over. Raises OSError."""
    Step.name = f"seal {path}"
    root = path == "/"
    below = [] if whole else _below(path)
    if root or below:
        k.move_mount(fd, "", k.AT_FDCWD, "/", k.MOVE_MOUNT_F_EMPTY_PATH)  # on top of the root, where no path leads
    for number, point in below:
        _move(number, point, fd, point[len(path.rstrip("/")) + 1 :])
    if root:
        posix.fchdir(fd)
        k.pivot_root(".", ".")
        k.umount2(".", k.MNT_DETACH)
        posix.chdir("/")
    else:
        k.umount2(path, k.MNT_DETACH)
        k.move_mount(fd, "", k.AT_FDCWD, path, k.MOVE_MOUNT_F_EMPTY_PATH)
    posix.close(fd)


def _below(path: str) -> list[tuple[str, str]]:
    """List (number, path) of what is mounted directly on the mount at a path."""
    lines = mountinfo.read()
    number = _number_in(lines, path)
    found = [(line.split(" ", 1)[0], mountinfo.point(line)) for line in lines if line.split(" ", 2)[1] == number]
    return sorted(found, key=lambda one: one[1] == "/proc")  # with its help the others are told apart


def _move(number: str, point: str, fd: int, name: str) -> None:
    """Move a mount, with what is stacked on it, to a path within the mount ``fd``."""
    stack = []
    while True:
        top = k.open_tree(k.AT_FDCWD, point, k.OPEN_TREE_CLOEXEC)
        last = _number(f"/proc/self/fd/{top}") == number
        stack.append(top)
        if last:
            break
        k.move_mount(top, "", k.AT_FDCWD, "/", k.MOVE_MOUNT_F_EMPTY_PATH)
    while stack:
        top = stack.pop()
        k.move_mount(top, "", fd, name, k.MOVE_MOUNT_F_EMPTY_PATH)
        posix.close(top)
