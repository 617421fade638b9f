"""What one container's worker knows, in memory that it shares with nobody but its successor.

A memfd of fixed layout: who serves, the request of /dev/fuse in hand, the trapped system calls in hand, the container's description
(written once), its values (written in turn to one of two places, of which a number says which is good), and the path of each nodeid
that the kernel may know. So a worker may be killed between any two instructions, and the next one goes on where it was.
"""

from __future__ import annotations

import mmap
import os
from errno import ENOSPC
from struct import Struct

from sysbox.fs.fuse.protocol import BUFFER
from sysbox.linux import files
from sysbox.linux.jsons import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OWNER = Struct("<QQ")  # pid, start time in clock ticks: /proc/pid/stat
FUSE = 4096
SLOTS, SLOT, SLOT_COUNT = 16384, 128, 64  # the first 80 bytes of a slot are a struct seccomp_notif
DESCRIPTION, DESCRIPTION_ROOM = 32768, 98304
VALUES, VALUES_ROOM = DESCRIPTION + DESCRIPTION_ROOM, 262144
PATHS, PATH, PATH_COUNT = VALUES + 2 * VALUES_ROOM, 128, 32768
SIZE = PATHS + PATH_COUNT * PATH
_WHICH = 64  # where the number of the good values is
_KNOWN = 72  # where the number of paths is


class Memory:
    """The mapped memory of ``fd``."""

    def __init__(self, fd: int) -> None:
        """Map it. Raises OSError."""
        self.fd = fd
        self.map = mmap.mmap(fd, SIZE)
        self.view = memoryview(self.map)
        self.fuse = self.view[FUSE : FUSE + BUFFER]

    @property
    def owner(self) -> tuple[int, int]:
        """Pid and start time of the worker that serves, (0, 0): none yet."""
        pid, started = _OWNER.unpack_from(self.view)
        return pid, started

    @owner.setter
    def owner(self, who: tuple[int, int]) -> None:
        _OWNER.pack_into(self.view, 0, *who)

    def slot(self, number: int) -> memoryview:
        """Return one place for a trapped system call in hand; its first 8 bytes are 0 when it is free."""
        return self.view[SLOTS + number * SLOT : SLOTS + (number + 1) * SLOT]

    def _read(self, at: int) -> Any:
        size = int.from_bytes(self.view[at : at + 4], "little")
        return loads(bytes(self.view[at + 4 : at + 4 + size]).decode()) if size else {}

    def _write(self, at: int, room: int, value: object) -> None:
        text = dumps(value).encode()
        if len(text) > room - 4:
            raise OSError(ENOSPC, "no room for more")
        self.view[at + 4 : at + 4 + len(text)] = text
        self.view[at : at + 4] = len(text).to_bytes(4, "little")

    @property
    def description(self) -> dict[str, Any]:
        """The container as the runtime described it; {} before it has."""
        return dict(self._read(DESCRIPTION))

    @description.setter
    def description(self, value: dict[str, Any]) -> None:
        self._write(DESCRIPTION, DESCRIPTION_ROOM, value)

    @property
    def values(self) -> dict[str, Any]:
        """What outlives the worker: read once at its start."""
        return dict(self._read(VALUES + self.view[_WHICH] * VALUES_ROOM))

    @values.setter
    def values(self, value: dict[str, Any]) -> None:
        other = 1 - self.view[_WHICH]
        self._write(VALUES + other * VALUES_ROOM, VALUES_ROOM, value)
        self.view[_WHICH] = other

    @property
    def count(self) -> int:
        """How many nodeids have a path, or had one."""
        return int.from_bytes(self.view[_KNOWN : _KNOWN + 4], "little")

    def path(self, index: int) -> str:
        """Return one of the paths, "" where one was forgotten or never was."""
        at = PATHS + index * PATH
        return bytes(self.view[at + 1 : at + 1 + self.view[at]]).decode("utf-8", "surrogateescape") if index < self.count else ""

    def begins_with(self, first: bytes) -> bool:
        """Say whether the first paths are these, as ``packed`` gives them."""
        return self.view[PATHS : PATHS + len(first)] == first

    def name(self, index: int, path: str) -> None:
        """Write one of the paths, before the kernel hears of its nodeid. Raises OSError ENOSPC."""
        text, at = path.encode("utf-8", "surrogateescape"), PATHS + index * PATH
        if len(text) >= PATH or index >= PATH_COUNT:
            raise OSError(ENOSPC, "no room for more paths", path)
        self.view[at : at + 1 + len(text)] = bytes((len(text),)) + text
        if index >= self.count:
            self.view[_KNOWN : _KNOWN + 4] = (index + 1).to_bytes(4, "little")


def packed(paths: list[str]) -> bytes:
    """Return paths as they lie in the memory."""
    return b"".join((bytes((len(path),)) + path.encode()).ljust(PATH, b"\0") for path in paths)


def fresh(paths: list[str]) -> int:
    """Make the memory of a new worker, with the first paths. Raises OSError."""
    fd = os.memfd_create("sysbox-fs", os.MFD_CLOEXEC)
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, packed(paths), PATHS)
    os.pwrite(fd, len(paths).to_bytes(4, "little"), _KNOWN)
    return fd


def identity(pid: int) -> tuple[int, int]:
    """Return pid and start time of a process, (0, 0) if there is none."""
    try:
        return pid, int(files.read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19])
    except OSError:
        return 0, 0
