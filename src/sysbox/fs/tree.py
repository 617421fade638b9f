"""/proc and /sys as a container sees them: the kernel's, with emulated files over some of its own, masks and read-only parts.

A tree is put together in a mount namespace that root of the host owns, then that namespace is copied into the container's user
namespace. So the kernel holds every part of it in its place and read-only what is read-only: no unmount, no remount, no move by whoever
is root inside lays bare or changes anything (mount_namespaces(7), "Restrictions"). Everything here runs in a child of the worker.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_SEQPACKET, socketpair
from errno import EINVAL, ENOENT, ENOTDIR

from sysbox.fs.emulate.nodes import entry
from sysbox.fs.emulate.tables import KERNEL, MIRRORS, ROWS, mirror_of
from sysbox.linux import _kernel as k
from sysbox.linux import files
from sysbox.linux.ignoring import ignoring
from sysbox.oci.mountoptions import attributes
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any

PLACE = "/tree"  # trees grow below it, in the worker's small root: see room.py
FUSE = "/fuse"
S_IFDIR, S_IFLNK, S_IFMT = 0o040000, 0o120000, 0o170000
SAFE = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC
CLONE = k.OPEN_TREE_CLONE | k.OPEN_TREE_CLOEXEC
MISSING = (ENOENT, ENOTDIR)
LINUX = files.linux()


def proc_context(pidns: int) -> int:
    """Open a file system context for the proc of a pid namespace. Raises OSError."""
    context = k.fsopen("proc", k.FSOPEN_CLOEXEC)
    try:
        k.fsconfig(context, k.FSCONFIG_SET_FD, "pidns", None, pidns)
    except OSError as error:
        os.close(context)
        if error.errno != EINVAL:
            raise
        return _proc_context_of_child(pidns)
    return context


def _proc_context_of_child(pidns: int) -> int:
    """Do so before Linux 6.17: a context is of the pid namespace of the process that opens it."""
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    k.setns(pidns, k.CLONE_NEWPID)
    if not (k.clone3(0, -1) or (0, -1))[0]:
        wire.send(theirs, {}, [k.fsopen("proc", k.FSOPEN_CLOEXEC)])
        os._exit(0)
    theirs.close()
    _, fds = wire.receive(ours)
    ours.close()
    return fds[0]


def sysfs_context() -> int:
    """Open a file system context for the sysfs of the network namespace that we are in. Raises OSError."""
    return k.fsopen("sysfs", k.FSOPEN_CLOEXEC)


def configure(context: int, kind: str, data: str) -> None:
    """Give a context its source and the options of mount(2). Raises OSError."""
    k.fsconfig(context, k.FSCONFIG_SET_STRING, "source", kind, 0)
    for word in data.split(","):
        name, _, value = word.partition("=")
        if name:
            k.fsconfig(context, k.FSCONFIG_SET_STRING if value else k.FSCONFIG_SET_FLAG, name, value or None, 0)
    k.fsconfig(context, k.FSCONFIG_CMD_CREATE, None, None, 0)


def enter() -> None:
    """Get a copy of the worker's mount namespace to build in."""
    k.unshare(k.CLONE_NEWNS)
    k.mount(None, "/", None, k.MS_REC | k.MS_PRIVATE, None)
    k.mount("tmpfs", PLACE, "tmpfs", 0, "mode=755")


def plant(kind: str, context: int, container: dict[str, Any], attr: int, *, owner: tuple[int, int] | None = None) -> str:
    """Mount a created context as a tree of ``kind`` (proc, sysfs) and put the container's parts over it: the path. Raises OSError.

    ``attr``: MOUNT_ATTR_*, of which those of SAFE are left to ``clone`` and ``lock``; ``owner``: who is to own its root.
    """
    fd = k.fsmount(context, k.FSMOUNT_CLOEXEC, attr & ~SAFE)
    try:
        top = graft(kind, fd, container, owner=owner)
    finally:
        os.close(fd)
    k.mount_setattr(k.AT_FDCWD, top, k.AT_RECURSIVE, 0, SAFE, 0, 0)
    return top


def graft(kind: str, fd: int, container: dict[str, Any], *, owner: tuple[int, int] | None = None) -> str:
    """Put the container's parts over a detached mount: the path. Raises OSError."""
    top = f"{PLACE}/{kind}"
    os.mkdir(top, 0o755)
    k.move_mount(fd, "", k.AT_FDCWD, top, k.MOVE_MOUNT_F_EMPTY_PATH)
    if owner:
        try:
            os.chown(top, *owner)
        except OSError:
            pass  # read-only
    prefix = "/proc" if kind == "proc" else "/sys"
    _emulate(top, prefix, container)
    _cover(top, prefix, container)
    return top


def _emulate(top: str, prefix: str, container: dict[str, Any]) -> None:
    absent: dict[str, list[str]] = {}
    mirrored = []
    for path in MIRRORS:
        if path.startswith(prefix + "/") and any(
            not _there(top + one[len(prefix) :]) for one, row in ROWS.items() if row.always and mirror_of(one) == path
        ):
            mirrored.append(path)
            target = top + path[len(prefix) :]
            native = k.open_tree(k.AT_FDCWD, target, CLONE)
            _bind(f"{FUSE}/{entry(path)}", target)
            k.move_mount(native, "", k.AT_FDCWD, f"{target}/{KERNEL}", k.MOVE_MOUNT_F_EMPTY_PATH)
            os.close(native)
    for path, row in ROWS.items():
        if not path.startswith(prefix + "/") or mirror_of(path) in mirrored:
            continue
        target = top + path[len(prefix) :]
        try:
            stat = os.lstat(target)
        except OSError:
            if row.always and prefix == "/sys":
                above = target.rpartition("/")[0]
                while not _there(above):
                    above = above.rpartition("/")[0]
                absent.setdefault(above, []).append(path)
            continue
        if row.suffices(stat, container) or row.namespaced <= LINUX:
            continue
        _bind(f"{FUSE}/{entry(path)}", target)
    for number, (above, paths) in enumerate(absent.items()):
        _extend(above, paths, f"{PLACE}/{number}", top, prefix)


def _there(path: str) -> bool:
    try:
        os.lstat(path)
    except OSError:
        return False
    return True


def _bind(source: str, target: str) -> bool:
    """Bind what is at ``source`` over ``target``; False if there is no such target, as where only some processes are shown."""
    try:
        k.mount(source, target, None, k.MS_BIND | k.MS_REC, None)
    except OSError as error:
        if error.errno not in MISSING:
            raise
        return False
    return True


def _extend(above: str, paths: list[str], place: str, top: str, prefix: str) -> None:
    """Cover a directory by one that has its entries, bound, and those of ``paths`` besides: sysfs takes no new ones."""
    os.mkdir(place)
    k.mount("sysfs", place, "tmpfs", 0, "mode=755,size=64k")
    for name in os.listdir(above):
        mode = os.lstat(f"{above}/{name}").st_mode
        if mode & S_IFMT == S_IFLNK:
            os.symlink(os.readlink(f"{above}/{name}"), f"{place}/{name}")
        else:
            _make(f"{place}/{name}", directory=mode & S_IFMT == S_IFDIR)
            _bind(f"{above}/{name}", f"{place}/{name}")
    for path in paths:
        inner = place + (top + path[len(prefix) :])[len(above) :]
        _make(inner, directory=bool(ROWS[path].mode & S_IFDIR))
        _bind(f"{FUSE}/{entry(path)}", inner)
    k.mount_setattr(k.AT_FDCWD, place, 0, k.MOUNT_ATTR_RDONLY | SAFE, 0, 0, 0)
    _bind(place, above)


def _make(path: str, *, directory: bool) -> None:
    parts = path.split("/")
    for number in range(2, len(parts) if not directory else len(parts) + 1):
        if not _there("/".join(parts[:number])):
            os.mkdir("/".join(parts[:number]), 0o755)
    if not directory:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))


def _cover(top: str, prefix: str, container: dict[str, Any]) -> None:
    """Mask and make read-only what the runtime was told to."""
    for path in container["masked"]:
        target = top + path[len(prefix) :]
        if path.startswith(prefix + "/") and _there(target):
            _bind("/empty" if os.stat(target).st_mode & S_IFMT == S_IFDIR else "/null", target)
    for path in container["readonly"]:
        target = top + path[len(prefix) :]
        if path.startswith(prefix + "/") and _there(target):
            _bind(target, target)
            k.mount_setattr(k.AT_FDCWD, target, k.AT_RECURSIVE, k.MOUNT_ATTR_RDONLY, 0, 0, 0)


def parts(top: str) -> list[str]:
    """List where something is mounted below a tree, from its root."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split()[4] for line in file]
    return [point[len(top) :] for point in points if point.startswith(top + "/")]


def summary(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Say of a container's parts, by tree, which directories of the sysfs are "above" some, and the "names", the last words, of all."""
    above = {part[:at] for part in found["sysfs"] for at, char in enumerate(part) if at and char == "/"}
    return {"above": [*above], "names": [*{path.rpartition("/")[2] for paths in found.values() for path in paths}]}


def lock(userns: int, *tops: tuple[str, int]) -> list[int]:
    """Join a user namespace and clone trees, as ``clone`` does. Raises OSError."""
    k.setns(userns, k.CLONE_NEWUSER)
    k.unshare(k.CLONE_NEWNS)
    return [_clone(top, attr) for top, attr in tops]


def clone(top: str, attr: int) -> int:
    """Clone a tree so that nobody in the user namespace that we are in can take it apart: a detached mount. Raises OSError."""
    k.unshare(k.CLONE_NEWNS)
    return _clone(top, attr)


def _clone(top: str, attr: int) -> int:
    fd = k.open_tree(k.AT_FDCWD, top, CLONE | k.AT_RECURSIVE)
    # Not locked: software binds parts of /proc and remounts them with no flags but its own (LXC), and the kernel
    # lets nobody execute, set ids by or open devices of these file systems anyway (SB_I_NOEXEC, SB_I_NODEV).
    k.mount_setattr(fd, "", k.AT_EMPTY_PATH, attr & SAFE, 0, 0, 0)
    return fd


def look_up() -> None:
    """Have the kernel look up every row. Raises OSError."""
    os.listdir(FUSE)
    for path in MIRRORS:
        os.stat(f"{FUSE}/{entry(path)}/{KERNEL}")


def look_over() -> None:
    """Read whatever there is."""
    for directory, _, names in os.walk(FUSE):
        for name in names:
            with ignoring(OSError):  # it is not to be read
                files.read(f"{directory}/{name}")


def grow(container: dict[str, Any], channel: socket) -> None:
    """Build and send a new container's /proc and /sys; in a child of the worker. Raises OSError."""
    where = f"/proc/{container['pid']}/ns"
    pidns, netns, ipcns, userns = (os.open(f"{where}/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("pid", "net", "ipc", "user"))
    k.setns(netns, k.CLONE_NEWNET)
    k.setns(ipcns, k.CLONE_NEWIPC)  # each has shm* of its own in /proc/sys/kernel, and we are to cover the container's, if any
    enter()
    tops: list[tuple[str, int]] = []
    for kind in ("proc", "sysfs"):
        context = proc_context(pidns) if kind == "proc" else sysfs_context()
        configure(context, kind, container["data"].get(kind, ""))
        owner = (container["uid"], container["gid"]) if kind == "proc" else None
        attr = attributes(container["flags"][kind])[0]
        tops.append((plant(kind, context, container, attr, owner=owner), attr))
    device = os.stat(FUSE).st_dev
    wire.send(channel, {"trees": len(tops)}, lock(userns, *tops))
    found = {kind: parts(top) for kind, (top, _) in zip(("proc", "sysfs"), tops, strict=True)}
    wire.send(channel, {"device": device, "parts": found})
