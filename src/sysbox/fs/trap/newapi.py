"""The new mount API and openat2(2), as far as the kernel cannot be left alone with them.

fsopen(2) of a proc, sysfs or overlay is done in the caller's place, and the context is remembered: fsmount(2) of it gives a tree with
the container's parts. All other contexts, and all other calls of that API, are the kernel's affair.
"""

from __future__ import annotations

import os
from errno import EPERM

from sysbox.fs import tree
from sysbox.fs.emulate import tables
from sysbox.fs.emulate.tables import MIRRORS, ROWS
from sysbox.fs.trap import mount, umount
from sysbox.fs.trap.caller import CAP_SYS_ADMIN, Place
from sysbox.linux import _kernel as k
from sysbox.linux.ignoring import ignoring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sysbox.fs.trap.caller import Call
    from sysbox.fs.trap.slots import Slot

CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
NAMES = {path.rpartition("/")[2] for path in ROWS} | {path.rpartition("/")[2] for path in MIRRORS}
MOST = 64  # contexts remembered


class Contexts:
    """What trapped calls leave behind for later ones.

    So what was given to processes: contexts (descriptor -> type), and detached trees (type ""), which we keep alive.
    """

    def __init__(self) -> None:
        """Remember none."""
        self.kinds: dict[int, str] = {}
        self.used: dict[int, int] = {}  # id of a call of fsmount -> the context that it uses up
        self.pretended = umount.Pretended()
        self.planted = False  # has the container any proc or sysfs but those that it began with?
        self.above: tuple[str, ...] = ()  # see ``tree.summary``
        self.uid = 0  # of the container's root

    def find(self, call: Call, fd: int) -> tuple[int, str] | None:
        """Return ours that is the caller's descriptor ``fd``."""
        for ours, kind in self.kinds.items():
            if not kind:
                continue
            try:
                if k.kcmp(os.getpid(), call.pid, k.KCMP_FILE, ours, fd) == 0:
                    return ours, kind
            except OSError:
                continue
        return None

    def done(self, id_: int) -> None:
        """Close the context that a call has used up."""
        self.forget(self.used.pop(id_, -1))

    def forget(self, ours: int) -> None:
        """Close one."""
        if self.kinds.pop(ours, None) is not None:
            os.close(ours)


def fsopen(call: Call, container: dict[str, Any], contexts: Contexts) -> mount.Work | None:
    """Open a context of proc, sysfs or overlay for the caller."""
    kind = call.text(0, mount.KIND)
    if kind not in (*mount.TREES, "overlay"):
        call.answer(0, go_on=True)
        return None
    return lambda slot: _fsopen(call, slot, kind)


def _fsopen(call: Call, slot: Slot, kind: str) -> None:
    place = Place(call)
    if not place.able(CAP_SYS_ADMIN):
        raise PermissionError(EPERM, "CAP_SYS_ADMIN is missing")
    if kind == "proc":
        context = tree.proc_context(place.pidns)
    elif kind == "sysfs":
        place.others()
        context = tree.sysfs_context()
    else:
        place.join()
        context = k.fsopen(kind, k.FSOPEN_CLOEXEC)
        if not place.same_user:
            k.fsconfig(context, k.FSCONFIG_SET_FLAG, "userxattr", None, 0)
    if kind != "overlay":
        slot.remember(context, kind)
    call.give(context, cloexec=bool(call.args[1] & CLOEXEC))


def fsmount(call: Call, container: dict[str, Any], contexts: Contexts) -> mount.Work | None:
    """Make a tree of a remembered context."""
    found = contexts.find(call, call.args[0] & 0xFFFFFFFF) if contexts.kinds else None
    if not found:
        call.answer(0, go_on=True)
        return None
    context, kind = found
    contexts.used[call.id] = context

    def work(slot: Slot) -> None:
        place = Place(call)
        if not place.able(CAP_SYS_ADMIN):
            raise PermissionError(EPERM, "CAP_SYS_ADMIN is missing")
        mount.check_visible(call, place, container, kind, call.args[2] & 0xFFFFFFFF)
        place.others()
        tree.enter()
        attr = call.args[2] & 0xFFFFFFFF | (k.MOUNT_ATTR_RDONLY if kind == "sysfs" and container["sys_readonly"] else 0)
        owner = (place.ids[0][1], place.ids[1][1]) if kind == "proc" else None
        top = tree.plant(kind, context, container, attr, owner=owner)
        place.become()
        fd = tree.clone(top, attr)
        slot.remember(fd, "")
        call.give_tree(fd, cloexec=bool(call.args[1] & CLOEXEC))

    return work


def open_tree(call: Call, container: dict[str, Any], contexts: Contexts) -> mount.Work | None:
    """Clone a proc or sysfs with its parts, when the caller asks for it without."""
    path = call.text(1)
    at, flags = call.args[0] & 0xFFFFFFFF, call.args[2] & 0xFFFFFFFF
    if flags & k.AT_RECURSIVE:
        call.answer(0, go_on=True)
        return None
    if at != 0xFFFFFF9C and not path.startswith("/"):
        base = f"/proc/self/fd/{at}"
        path = f"{base}/{path}" if path else base
    if not mount.is_root(call.pid, path, container["uid"], tuple(container["above"])):
        call.answer(0, go_on=True)
        return None

    def work(slot: Slot) -> None:
        place, every = Place(call), mount.mounts(call.pid)
        [(base, rest)] = place.join(path)
        fd = mount.open_tree(place, every, container, base, rest)
        if fd < 0:
            call.answer(0, go_on=True)
        else:
            slot.remember(fd, "")
            call.give_tree(fd, cloexec=bool(flags & k.OPEN_TREE_CLOEXEC))

    return work


def openat2(call: Call, container: dict[str, Any], contexts: Contexts) -> mount.Work | None:
    """Open an emulated file for a caller that will cross no mount: it cannot know that the file is one."""
    how = call.memory(call.args[2], 24)
    flags, mode, resolve = (int.from_bytes(how[at : at + 8], "little") for at in (0, 8, 16))
    if not resolve & k.RESOLVE_NO_XDEV or len(how) < 24 or flags & os.O_CREAT:
        call.answer(0, go_on=True)
        return None
    path = call.text(1)
    # an absolute one crosses a mount before it gets to us
    if path.startswith("/") or (path.rstrip("/").rpartition("/")[2] not in NAMES and "/net/" not in f"/{path}"):
        call.answer(0, go_on=True)
        return None
    at = call.args[0] & 0xFFFFFFFF

    def work(_: Slot) -> None:
        base = os.open(f"/proc/{call.pid}/fd/{at}", os.O_PATH | os.O_CLOEXEC) if at != 0xFFFFFF9C else k.AT_FDCWD
        Place(call).join()
        wanted = flags | os.O_CLOEXEC
        if flags & os.O_PATH:  # no such descriptor can be given (see give_tree): one for reading serves as well
            wanted = wanted & ~os.O_PATH | os.O_NONBLOCK
        fd = _open(base, path, (wanted, mode, resolve), container["device"])
        if fd < 0:
            call.answer(0, go_on=True)  # the kernel has its own view of that
        else:
            call.give(fd, cloexec=bool(flags & os.O_CLOEXEC))

    return work


def _open(base: int, path: str, how: tuple[int, int, int], device: int) -> int:
    """Open a file of ours, or one of the kernel's that a mirror of ours leads to, over no other mount; -1: it is neither."""
    flags, mode, resolve = how
    with ignoring(OSError):  # ELOOP: with O_NOFOLLOW a mirror's link is none
        fd = k.openat2(base, path, flags, mode, resolve & ~k.RESOLVE_NO_XDEV)
        if os.fstat(fd).st_dev == device:
            return fd
        os.close(fd)
    try:
        mirror, _, below = f"/{path}".partition("/sys/net/")
        top = k.openat2(base, f"{mirror}/sys/net"[1:], os.O_PATH | os.O_CLOEXEC, 0, resolve & ~k.RESOLVE_NO_XDEV)
        if os.fstat(top).st_dev != device:
            return -1
        kernel = k.openat2(top, tables.KERNEL, os.O_PATH | os.O_CLOEXEC, 0, k.RESOLVE_BENEATH)
        return k.openat2(kernel, below, flags, mode, resolve | k.RESOLVE_BENEATH)
    except OSError:
        return -1
