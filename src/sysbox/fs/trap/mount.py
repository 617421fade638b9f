"""mount(2): proc and sysfs come with the container's parts, overlays with xattrs that root inside may set.

Everything else is the kernel's own affair: what must stay is locked. A caller that changes its arguments after we have read them gets
what the kernel gives it, which is no bare proc or sysfs: mount_too_revealing() in fs/namespace.c.
"""

from __future__ import annotations

import os
from errno import EACCES, EAGAIN, EINVAL, ENOTDIR, EPERM, EXDEV

from sysbox.fs import tree
from sysbox.fs.trap.caller import CAP_SYS_ADMIN, O_PATH, Place, magic
from sysbox.linux import _kernel as k
from sysbox.oci.mountoptions import attributes
from sysbox.wire import traps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sysbox.fs.trap.caller import Call
    from sysbox.fs.trap.slots import Slot

    Work = Callable[[Slot], None]
    Mounts = dict[int, dict[str, Any]]

TREES = ("proc", "sysfs")
SOURCE = "sysbox-fs"  # of our FUSE file system
KIND = 64  # bytes of the name of a file system type that we look at
NETWORKED = ("nfs", "nfs4", "cifs", "smb3")
LOOKED_AT = (*TREES, *NETWORKED, "overlay")
ROOT = (1, 0o040555)  # inode number and mode of the root of every proc and sysfs, and of little else
asks = [0]  # the file system uid to begin with, see ``_open_cached``
FOLLOW = k.MOVE_MOUNT_F_EMPTY_PATH | k.MOVE_MOUNT_T_SYMLINKS | k.MOVE_MOUNT_T_AUTOMOUNTS


def mount(call: Call, container: dict[str, Any], _: object) -> Work | None:
    """Handle a new mount or a bind: the filter lets the others pass."""
    flags = call.args[3] & 0xFFFFFFFF
    if flags & traps.MAGIC_MASK == traps.MAGIC:
        flags &= 0xFFFF
    if flags & k.MS_BIND:
        return _bind(call, flags, container)
    kind = call.text(2, KIND)
    if kind not in LOOKED_AT:
        call.answer(0, go_on=True)
        return None
    source, target, data = call.text(0), call.text(1), call.text(4) if call.args[4] else ""
    if kind in TREES:
        return lambda slot: _tree(call, slot, container, kind, target, flags, data)
    if kind == "overlay":
        return lambda slot: _overlay(call, slot, source, target, flags, data)
    return lambda slot: _networked(call, slot, kind, source, target, flags, data)


# directories of the kernel that are there to be mounted on, and otherwise empty: what covers them hides nothing
MOUNT_POINTS = {
    "proc": ("/sys/fs/binfmt_misc",),
    "sysfs": (
        "/firmware/efi/efivars",
        "/fs/bpf",
        "/fs/cgroup",
        "/fs/fuse/connections",
        "/fs/pstore",
        "/fs/resctrl",
        "/fs/selinux",
        "/kernel/config",
        "/kernel/debug",
        "/kernel/security",
        "/kernel/tracing",
    ),
}


def check_visible(call: Call, place: Place, container: dict[str, Any], kind: str, attr: int) -> None:
    """Refuse a proc or sysfs to a nested user namespace which sees none of which nothing is hidden but what the container hides.

    So the kernel does (mount_too_revealing() in fs/namespace.c), by locks that root of the container's own user namespace may have put:
    the masks of an inner container. Raises PermissionError.
    """
    if not place.owns(place.pidns if kind == "proc" else place.spaces[0][0]):
        raise PermissionError(EPERM, "the namespace that it would show belongs to somebody else")
    if place.user_number == os.stat(f"/proc/{container['pid']}/ns/user").st_ino:
        return
    every = mounts(call.pid)
    for one in every.values():
        plain = one["type"] == kind and one["root"] == "/" and (attr & k.MOUNT_ATTR_RDONLY or not one["readonly"])
        if plain and not covered(one, every, container, kind):
            return
    raise PermissionError(EPERM, "what is mounted there would show what is hidden from the caller")


def covered(tree_: dict[str, Any], every: Mounts, container: dict[str, Any], kind: str) -> bool:
    """Say whether there is more on a tree than the container's parts, each once, and what may be mounted anyway."""
    expected = list(container["parts"][kind])
    todo = on(tree_["id"], every)
    while todo:
        one = todo.pop()
        path = _within(tree_, one)
        if any(path == point or path.startswith(point + "/") for point in MOUNT_POINTS[kind]):
            continue
        if path not in expected:
            return True
        expected.remove(path)
        todo += on(one["id"], every)
    return False


def _within(tree_: dict[str, Any], one: dict[str, Any]) -> str:
    """Say where a mount is in the file system that another one, above, shows all or a directory of."""
    return str(tree_["root"].rstrip("/") + one["path"][len(tree_["path"].rstrip("/")) :])


def build(call: Call, place: Place, container: dict[str, Any], kind: str, attr: int, data: str) -> int:
    """Build a tree for the caller, in its pid or network namespace: a detached mount that is locked for its user namespace."""
    check_visible(call, place, container, kind, attr)
    place.others()
    context = tree.proc_context(place.pidns) if kind == "proc" else tree.sysfs_context()
    tree.enter()
    tree.configure(context, kind, data)
    if kind == "sysfs" and container["sys_readonly"]:
        attr |= k.MOUNT_ATTR_RDONLY
    owner = (place.ids[0][1], place.ids[1][1]) if kind == "proc" else None
    top = tree.plant(kind, context, container, attr, owner=owner)
    place.become()
    return tree.clone(top, attr)


def _tree(call: Call, slot: Slot, container: dict[str, Any], kind: str, target: str, flags: int, data: str) -> None:
    place = Place(call)
    if not place.able(CAP_SYS_ADMIN):
        raise PermissionError(EPERM, "CAP_SYS_ADMIN is missing")
    fd = build(call, place, container, kind, attributes(flags)[0], data)
    slot.note_mount(fd)
    [(at, path)] = place.join(target)
    k.move_mount(fd, "", at, path, FOLLOW | (0 if path else k.MOVE_MOUNT_T_EMPTY_PATH))
    call.answer(0)


def _overlay(call: Call, slot: Slot, source: str, target: str, flags: int, data: str) -> None:
    """Mount as the caller would. In a user namespace only user.overlay.* xattrs can be set: without them no directory becomes opaque."""
    place = Place(call)
    [(at, path)] = place.join(target)
    if not place.same_user and "userxattr" not in data.split(","):
        data = f"{data},userxattr"
    if not slot.done(number_at(at, path, place.proc)):
        k.mount(source or None, relative(at, path), "overlay", flags, data)
    call.answer(0)


def _networked(call: Call, slot: Slot, kind: str, source: str, target: str, flags: int, data: str) -> None:
    """Mount what the kernel lets nobody but root of the host mount, in the caller's namespaces."""
    place = Place(call)
    if not place.able(CAP_SYS_ADMIN):
        raise PermissionError(EPERM, "CAP_SYS_ADMIN is missing")
    [(at, path)] = place.join(target, privileged=True)
    if not slot.done(number_at(at, path, place.proc)):
        k.mount(source or None, relative(at, path), kind, flags | k.MS_NODEV | k.MS_NOSUID, data or None)
    call.answer(0)


def mounts(pid: int) -> Mounts:
    """Read the mounts that a process sees, by number. Raises OSError."""
    out = {}
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            fields = left.split()
            kind, source = right.split(" ")[:2]
            one = {"id": int(fields[0]), "parent": int(fields[1]), "root": fields[3], "path": fields[4], "type": kind, "source": source}
            out[int(fields[0])] = {**one, "readonly": "ro" in fields[5].split(",")}
    return out


def on(number: int, every: Mounts) -> list[dict[str, Any]]:
    """List what is mounted on a mount itself."""
    return [one for one in every.values() if one["parent"] == number]


def of(pid: int, fd: int) -> dict[str, Any]:
    """Return the mount that a descriptor of ours is on, as ``pid`` sees it; {} if it sees none."""
    return mounts(pid).get(mount_id(fd), {})


def mount_id(fd: int, proc: int | None = None) -> int:
    """Return the number of the mount that a descriptor of ours is on; ``proc``: a descriptor of the host's /proc."""
    info = os.open(f"{'/proc/' if proc is None else ''}self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    with open(info, encoding="utf-8") as file:
        return int(next(line for line in file if line.startswith("mnt_id:")).split()[1])


def number_at(at: int, path: str, proc: int, nofollow: int = 0) -> int:
    """Return the number of the mount to which (descriptor, path) leads. Raises OSError."""
    fd = os.open(path or ".", O_PATH | nofollow, dir_fd=None if at == k.AT_FDCWD else at)
    try:
        return mount_id(fd, proc)
    finally:
        os.close(fd)


def _bind(call: Call, flags: int, container: dict[str, Any]) -> Work | None:
    """Bind with all that is mounted below if the source is a directory of a proc or a sysfs itself: its locked parts would make it fail."""
    source = call.text(0)
    if not flags & k.MS_REC and is_root(call.pid, source, container["uid"], tuple(container["above"])):
        target = call.text(1)
        return lambda slot: _bind_tree(call, slot, container, source, target)
    call.answer(0, go_on=True)
    return None


def is_root(pid: int, path: str, uid: int, directories: tuple[str, ...] | None = None) -> bool:
    """Say whether a path may lead to the root of a proc or sysfs. ``uid``: container root's.

    With ``directories`` also to one of these, by its name, or to any of a proc, by its mode. Only then a closer look is worth a process.

    It waits for no file system, for we serve one: what the kernel has not cached is worth the closer look. Raises OSError ESRCH.
    """
    if directories and f"/{path}".rstrip("/").endswith(directories):
        return True
    base, rest = magic(path) or ("root" if path.startswith("/") else "cwd", path.strip("/"))
    try:
        fd = top = os.open(f"/proc/{pid}/{base}", O_PATH)
    except OSError:
        return False
    try:
        if rest:
            fd = _open_cached(top, rest, k.RESOLVE_CACHED | (k.RESOLVE_IN_ROOT if base == "root" else 0), uid)
        found = k.statx_cached(fd)
        return found == ROOT or (directories is not None and found[1] == ROOT[1])
    except OSError as error:
        return error.errno in (EAGAIN, EXDEV, EACCES)
    finally:
        os.close(top)
        if fd != top:
            os.close(fd)


def _open_cached(top: int, path: str, resolve: int, uid: int) -> int:
    """Open what the kernel has cached. An overlay has no ACLs cached: it is only of the owner that it knows, at once, what he may do.

    So we ask as root of the host or of the container: whoever was answered last time first. Raises OSError.
    """
    first = asks[0]
    try:
        return _open_as(first, top, path, resolve)
    except OSError:
        other = 0 if first else uid
        fd = _open_as(other, top, path, resolve)
        asks[0] = other
        return fd


def _open_as(who: int, top: int, path: str, resolve: int) -> int:
    if not who:
        return k.openat2(top, path, O_PATH, 0, resolve)
    k.setfsuid(who)
    try:
        return k.openat2(top, path, O_PATH, 0, resolve)
    finally:
        k.setfsuid(0)


def _bind_tree(call: Call, slot: Slot, container: dict[str, Any], source: str, target: str) -> None:
    place = Place(call)
    every = mounts(call.pid)
    (at, path), (to, there) = place.join(source, target)
    fd = open_tree(place, every, container, at, path)
    if fd < 0:
        call.answer(0, go_on=True)
        return
    slot.note_mount(fd, place.proc)
    try:
        k.move_mount(fd, "", to, there, FOLLOW | (0 if there else k.MOVE_MOUNT_T_EMPTY_PATH))
    except OSError as error:
        raise OSError(ENOTDIR if error.errno == EINVAL else error.errno, error.strerror) from None  # as mount(2) has it
    call.answer(0)


def open_tree(place: Place, every: Mounts, container: dict[str, Any], at: int, path: str) -> int:
    """Clone a directory of a proc or sysfs with all that is mounted below; -1 if it is none: the kernel needs no help. Raises OSError."""
    try:
        fd = os.open(path or ".", O_PATH, dir_fd=None if at == k.AT_FDCWD else at)
    except OSError:
        return -1  # /proc/self, say, is not ours: whatever it is, the kernel will see it as the caller does
    try:
        one = every.get(mount_id(fd, place.proc))
        ours = os.fstat(fd).st_dev == container["device"]
        if not (one and (ours or one["type"] in TREES or part(one, every, container))):
            return -1
        return k.open_tree(fd, "", k.OPEN_TREE_CLONE | k.OPEN_TREE_CLOEXEC | k.AT_EMPTY_PATH | k.AT_RECURSIVE)
    finally:
        os.close(fd)


def part(me: dict[str, Any], every: Mounts, container: dict[str, Any]) -> dict[str, Any]:
    """Return the proc or sysfs, or the directory that we rebuild, of which a mount is one of the container's parts; {} if it is none."""
    found: dict[str, Any] = {}
    ours = me["type"] in TREES or me["source"] == SOURCE
    top, most = me, 1
    while top := every.get(top["parent"], {}):
        if top["type"] in TREES and (path := _within(top, me)) in container["parts"][top["type"]]:
            found, most = top, container["parts"][top["type"]].count(path)
        elif not found and ours and (top["source"] == SOURCE or (top["type"] == "tmpfs" and top["source"] in TREES)):
            found = top
    here = [one for one in every.values() if one["path"] == me["path"]]
    return found if len(here) <= most else {}  # or else it covers ours


def relative(at: int, path: str) -> str:
    """Return a path for a call that takes no descriptor, for which the working directory changes if need be."""
    if at == k.AT_FDCWD:
        return path
    os.fchdir(at)
    return path or "."
