"""The zygote's memory as a file, so that its children can give back pages that are as they were.

To use an object of Python's is to count a reference to it, and the page that it is in becomes the worker's own, though the count goes down
again. The kernel does not look whether a page is as it was. So a worker does, when it has nothing else to do.
"""

from __future__ import annotations

import fcntl
import os
from mmap import PAGESIZE

from sysbox.linux import _kernel as k
from sysbox.linux import files
from sysbox.linux.ignoring import ignoring

LEAST = 1 << 16  # smaller areas, bytes, have little to give; larger gaps would take memory
PAGEMAP = "/proc/self/pagemap"  # eight bytes for a page: admin-guide/mm/pagemap.rst
TAIL = 1 << 30  # an area that malloc makes longer goes on in the file, and finds room there
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Pages:
    """The file, and which of this process's memory it has: nothing where the kernel cannot do it."""

    def __init__(self) -> None:
        """Move what is private and writable to the file; to this process, and its children, it stays private."""
        self.areas: list[tuple[int, int, int, int]] = []  # as mmap_copy() takes them
        with ignoring(OSError):
            areas = _areas()
            fd = os.memfd_create("sysbox-fs-zygote", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, sum(end - start for start, end in areas) + TAIL)
            at = 0
            for start, end in areas:
                k.mmap_copy(start, end, fd, at)
                self.areas.append((start, end, fd, at))
                at += end - start
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)

    def give_back(self) -> int:
        """Have what is as it was be the file's again: the number of pages."""
        given = 0
        with ignoring(OSError), open(PAGEMAP, "rb", 0) as pagemap:
            for area in self.areas:
                given += k.madvise_same(*area, pagemap.fileno())
        return given


def _areas() -> list[tuple[int, int]]:
    """Return where there is something to share. Only what malloc and Python's own allocator have is ever that large. Raises OSError."""
    lines = [line.split() for line in files.read("/proc/self/maps").decode("utf-8", "replace").splitlines()]
    bounds = [line[0].split("-") for line in lines if line[1] == "rw-p" and line[-1] != "[stack]"]
    with open(PAGEMAP, "rb", 0) as pagemap:
        found = [area for start, end in bounds for area in _in_memory(int(start, 16), int(end, 16), pagemap.fileno())]
    return [(start, end) for start, end in found if end - start >= LEAST]


def _in_memory(start: int, end: int, pagemap: int) -> list[tuple[int, int]]:
    """Return the parts of a mapping that are in memory, with the gaps between them that are small. Raises OSError."""
    entries = memoryview(os.pread(pagemap, (end - start) // PAGESIZE * 8, start // PAGESIZE * 8)).cast("Q")
    parts: list[tuple[int, int]] = []
    for at in [start + number * PAGESIZE for number, entry in enumerate(entries) if entry >> 63]:
        if parts and at - parts[-1][1] < LEAST:
            parts[-1] = parts[-1][0], at + PAGESIZE
        else:
            parts.append((at, at + PAGESIZE))
    return parts
