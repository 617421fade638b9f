"""umount2(2): a proc or sysfs that was mounted inside comes off with its parts, which are locked."""

from __future__ import annotations

import os
import time
from errno import EBUSY

from sysbox.fs.trap import mount
from sysbox.fs.trap.caller import Place
from sysbox.linux import _kernel as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sysbox.fs.trap.caller import Call
    from sysbox.fs.trap.mount import Mounts, Work
    from sysbox.fs.trap.newapi import Contexts
    from sysbox.fs.trap.slots import Slot

MOST = 4096  # paths
MINUTE = 60.0  # seconds


class Pretended:
    """Parts of which we have said that they are off: once each, so that umount(8) -R gets to the tree, and a loop to its end."""

    def __init__(self) -> None:
        """Begin with none."""
        self.times: dict[tuple[int, str], list[float]] = {}

    def may(self, call: Call, target: str, container: dict[str, Any]) -> bool:
        """Note a path, as the caller calls it; say whether a part there is left of which it was not said lately."""
        name = target.rstrip("/")
        if name.rpartition("/")[2] not in container["names"]:
            return False
        if len(self.times) > MOST:
            self.times.clear()
        there = sum(name.endswith(part) for parts in container["parts"].values() for part in parts)
        now = time.monotonic()
        times = self.times.setdefault((os.stat(f"/proc/{call.pid}/ns/mnt").st_ino, name), [])
        times[:] = [one for one in times if now - one < MINUTE]
        if len(times) >= max(there, 1):
            return False
        times.append(now)
        return True

    def forget(self) -> None:
        """Forget all: something new may be mounted there."""
        self.times.clear()


def umount(call: Call, container: dict[str, Any], contexts: Contexts) -> Work | None:
    """Take a proc or sysfs off with the container's parts below it, which cannot be taken off one by one."""
    target = call.text(0)
    pretend = contexts.pretended.may(call, target, container)
    if not (pretend or call.again or mount.is_root(call.pid, target, container["uid"], ())):
        call.answer(0, go_on=True)
        return None
    flags = call.args[1] & 0xFFFFFFFF if call.name == "umount2" else 0
    return lambda slot: _umount(call, slot, container, (target, flags), pretend=pretend)


def _umount(call: Call, slot: Slot, container: dict[str, Any], arguments: tuple[str, int], *, pretend: bool) -> None:
    target, flags = arguments
    place = Place(call)
    every = mount.mounts(call.pid)
    initial = _initial(int(container["pid"]))
    [(at, path)] = place.join(target)
    number = mount.number_at(at, path, place.proc, os.O_NOFOLLOW if flags & k.UMOUNT_NOFOLLOW else 0)
    if slot.done(number):
        call.answer(0)
        return
    me = every.get(number)
    top = mount.part(me, every, container) if me else {}
    below = mount.on(number, every)
    if me is None or top.get("id") in initial or (top and not pretend):
        call.answer(0, go_on=True)
    elif top:
        call.answer(0)  # it goes with the tree, which is next
    elif not below or not (me["type"] in mount.TREES or me["source"] == mount.SOURCE):
        call.answer(0, go_on=True)
    elif number in initial or _is_busy(me, below, every, container):
        raise OSError(EBUSY, "it is the container's own, or something else is mounted below")
    else:
        k.umount2(mount.relative(at, path), flags | k.MNT_DETACH)
        call.answer(0)


def _is_busy(me: dict[str, Any], below: list[dict[str, Any]], every: Mounts, container: dict[str, Any]) -> bool:
    if me["type"] in mount.TREES:
        return mount.covered(me, every, container, me["type"])
    return not all(mount.part(one, every, container) for one in below)


def _initial(pid: int) -> list[int]:
    """Return the mounts that the container began with, the undermost at /proc and /sys."""
    found: dict[str, int] = {}
    for one in mount.mounts(pid).values():
        if one["path"] in ("/proc", "/sys"):
            found.setdefault(one["path"], one["id"])
    return list(found.values())
