"""What becomes of each trapped system call: a table from name to handler.

A handler looks at the call and either answers it at once, which takes microseconds, or returns what is to be done in the caller's
place. That runs in a child of the worker: it may wait for file systems of the container, ours among them, while the worker serves.
"""

from __future__ import annotations

import os
import posixpath
from errno import EPERM

from sysbox.fs.trap import mount, newapi, umount, xattr
from sysbox.fs.trap.caller import CAP_SYS_ADMIN, CAP_SYS_BOOT, CAP_SYS_TIME
from sysbox.linux import _kernel as k
from sysbox.wire import traps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sysbox.fs.trap.caller import Call
    from sysbox.fs.trap.mount import Work
    from sysbox.fs.trap.slots import Slot

    Handler = Callable[[Call, dict[str, Any], newapi.Contexts], "Work | None"]


def _pretend(capability: int) -> Handler:
    """Answer success without doing anything, to those who could do it on a host of their own: not in a user namespace inside."""

    def handler(call: Call, container: dict[str, Any], _: newapi.Contexts) -> None:
        users = {os.stat(f"/proc/{pid}/ns/user").st_ino for pid in (call.pid, container["pid"])}
        call.answer(0, 0 if call.able(capability) and len(users) == 1 else EPERM)

    return handler


def _chown(call: Call, container: dict[str, Any], _: newapi.Contexts) -> Work | None:
    """Ignore a change of owner of /sys itself, as images do it that think they run with a sysfs of their own."""
    where = f"/proc/{call.pid}"
    if call.name.startswith("fchown") and call.name != "fchownat":
        path, base = f"{where}/fd/{call.args[0]}", ""
    else:
        index = 1 if call.name == "fchownat" else 0
        text = call.text(index)
        if posixpath.normpath(text) not in ("/sys", "//sys", "sys", "."):
            call.answer(0, go_on=True)
            return None
        if call.name == "fchownat" and not text.startswith("/"):
            at = call.args[0] & 0xFFFFFFFF
            base = f"{where}/cwd" if at == 0xFFFFFF9C else f"{where}/fd/{at}"
        else:
            base = f"{where}/root" if text.startswith("/") else f"{where}/cwd"
        path = f"{base}/{text.strip('/')}".rstrip("/")

    def work(_: Slot) -> None:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            call.answer(0, go_on=True)
            return
        ignored = k.statx_cached(fd) == mount.ROOT and mount.of(call.pid, fd).get("type") == "sysfs"
        call.answer(0, go_on=not ignored)

    return work


def _mount_passes(fields: tuple[int, ...], contexts: newapi.Contexts) -> bool:
    """Look at fields of struct seccomp_notif as ``caller.NOTIF`` has them: id, pid, flags, nr, arch, instruction pointer, arguments."""
    if fields[9] & k.MS_BIND:
        if fields[9] & k.MS_REC:
            contexts.pretended.forget()
            return contexts.planted
        source, ends, _ = k.process_vm_readv(fields[1], fields[6], SHORT).partition(b"\0")
        return bool(ends) and not mount.is_root(fields[1], source.decode("utf-8", "surrogateescape"), contexts.uid, contexts.above)
    kind = k.process_vm_readv(fields[1], fields[8], 16).partition(b"\0")[0]
    return kind not in KINDS


def _umount_passes(_: tuple[int, ...], contexts: newapi.Contexts) -> bool:
    """Without a proc or sysfs but the first ones there is none to take off: those are in use."""
    return not contexts.planted


def _openat2_passes(fields: tuple[int, ...], _: newapi.Contexts) -> bool:
    """``resolve`` is at 16 in struct open_how."""
    return k.process_vm_readv(fields[1], fields[8], 24)[16:] == bytes(8)


def _open_tree_passes(fields: tuple[int, ...], contexts: newapi.Contexts) -> bool:
    return contexts.planted and fields[8] & k.AT_RECURSIVE != 0


SHORT = 256  # bytes that are enough for most paths
KINDS = {kind.encode() for kind in mount.LOOKED_AT}
_NATIVE = {"x86_64": traps.X86_64, "aarch64": traps.AARCH64}.get(os.uname().machine, 0)
# (arch, number) -> says at once, without taking the call apart, that the kernel may do what is asked. Raises OSError.
QUICK = {
    (_NATIVE, traps.CALLS[_NATIVE][name]): passes
    for name, passes in {
        "mount": _mount_passes,
        "umount2": _umount_passes,
        "openat2": _openat2_passes,
        "open_tree": _open_tree_passes,
    }.items()
    if _NATIVE
}
PLANTING = ("mount", "fsmount", "open_tree")  # after these there may be more than one proc or sysfs in the container
HANDLERS: dict[str, Handler] = {
    "mount": mount.mount,
    "umount": umount.umount,
    "umount2": umount.umount,
    "fsopen": newapi.fsopen,
    "fsmount": newapi.fsmount,
    "open_tree": newapi.open_tree,
    "openat2": newapi.openat2,
    **dict.fromkeys(("swapon", "swapoff"), _pretend(CAP_SYS_ADMIN)),
    "reboot": _pretend(CAP_SYS_BOOT),
    **dict.fromkeys(("settimeofday", "stime", "clock_settime", "clock_settime64"), _pretend(CAP_SYS_TIME)),
    **dict.fromkeys(traps.CHOWN, _chown),
    **dict.fromkeys(traps.XATTR, xattr.handle),
}
