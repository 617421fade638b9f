"""trusted.overlay.* extended attributes, which the kernel gives to root of the host alone: SYSBOX_ALLOW_TRUSTED_XATTR."""

from __future__ import annotations

import os
from errno import E2BIG, EPERM, ERANGE

from sysbox.fs.trap.caller import CAP_SYS_ADMIN, Place
from sysbox.linux import _kernel as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sysbox.fs.trap.caller import Call
    from sysbox.fs.trap.mount import Work
    from sysbox.fs.trap.slots import Slot

PREFIX = "trusted.overlay."
NAME_MAX, VALUE_MAX = 256, 8192


def handle(call: Call, _: dict[str, Any], __: object) -> Work | None:
    """Act as root of the host on the caller's file, for a caller with CAP_SYS_ADMIN; other attributes are the kernel's affair."""
    verb = call.name.lstrip("lf").removesuffix("xattr") if not call.name.startswith("listxattr") else "list"
    if verb == "ist":
        verb = "list"
    name = "" if verb == "list" else call.text(1, NAME_MAX)
    if verb == "list" or not name.startswith(PREFIX):
        call.answer(0, go_on=True)
        return None
    target: str | int = call.args[0] & 0xFFFFFFFF if call.name.startswith("f") else call.text(0)
    value, flags = b"", 0
    if verb == "set":
        if call.args[3] > VALUE_MAX:
            raise OSError(E2BIG, "too long a value")
        value, flags = call.memory(call.args[2], call.args[3]) if call.args[3] else b"", call.args[4] & 0xFFFFFFFF

    def work(_: Slot) -> None:
        place = Place(call)
        if not place.able(CAP_SYS_ADMIN):
            raise PermissionError(EPERM, "CAP_SYS_ADMIN is missing")
        if isinstance(target, int):
            fd = os.open(f"/proc/{call.pid}/fd/{target}", os.O_PATH | os.O_CLOEXEC)
            place.join(privileged=True)
        else:
            [(at, path)] = place.join(target, privileged=True)
            nofollow = os.O_NOFOLLOW if call.name.startswith("l") and not call.name.startswith("list") else 0
            fd = os.open(path or ".", os.O_PATH | os.O_CLOEXEC | nofollow, dir_fd=None if at == k.AT_FDCWD else at)
        os.fchdir(place.proc)
        path = f"self/fd/{fd}"
        if verb == "set":
            os.setxattr(path, name, value, flags)
            call.answer(0)
        elif verb == "remove":
            os.removexattr(path, name)
            call.answer(0)
        else:
            found = os.getxattr(path, name)
            if call.args[3]:
                if len(found) > call.args[3]:
                    raise OSError(ERANGE, "too small a buffer")
                if call.valid():
                    k.process_vm_writev(call.pid, call.args[2], found)
            call.answer(len(found))

    return work
