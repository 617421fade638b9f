"""Shifting the owners of a tree on disk, for file systems that cannot be id-mapped. Off the hot path."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CAPABILITY = "security.capability"  # chown(2) drops it


def shift(path: str, uid: int, gid: int, size: int) -> None:
    """Add (uid, gid) to the owners below ``size``, from ``path`` down, not into other file systems. Raises OSError.

    What is shifted already (a run that was broken off) stays.
    """
    _walk(path, uid, gid, size, 1)


def unshift(path: str, uid: int, gid: int, size: int) -> None:
    """Take (uid, gid) off the owners again. Raises OSError."""
    _walk(path, uid, gid, size, -1)


def _walk(path: str, uid: int, gid: int, size: int, sign: int) -> None:
    seen: set[int] = set()  # inodes with more than one name are changed once
    low_uid, low_gid = (0, 0) if sign > 0 else (uid, gid)
    for name, dfd in _entries(path):
        try:
            now = os.stat(name, dir_fd=dfd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if now.st_nlink > 1 and not stat.S_ISDIR(now.st_mode):
            if now.st_ino in seen:
                continue
            seen.add(now.st_ino)
        inside_uid, inside_gid = 0 <= now.st_uid - low_uid < size, 0 <= now.st_gid - low_gid < size
        if not (inside_uid or inside_gid):
            continue
        full = f"/proc/self/fd/{dfd}/{name}"
        capability = None
        if stat.S_ISREG(now.st_mode):
            with suppress(OSError):
                capability = os.getxattr(full, CAPABILITY, follow_symlinks=False)
        os.chown(
            name,
            now.st_uid + sign * uid if inside_uid else -1,
            now.st_gid + sign * gid if inside_gid else -1,
            dir_fd=dfd,
            follow_symlinks=False,
        )
        if stat.S_ISREG(now.st_mode) and now.st_mode & (stat.S_ISUID | stat.S_ISGID):
            os.chmod(name, stat.S_IMODE(now.st_mode), dir_fd=dfd)
        if capability:
            os.setxattr(full, CAPABILITY, capability, follow_symlinks=False)


def _entries(path: str) -> Iterator[tuple[str, int]]:
    """Yield (name, directory descriptor) of the tree; the descriptor is good until the next one."""
    top = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device = os.stat(path).st_dev
        yield ".", top
        for _, directories, files, dfd in os.fwalk(".", dir_fd=top, follow_symlinks=False):
            for name in (*directories, *files):
                yield name, dfd
            directories[:] = [one for one in directories if os.stat(one, dir_fd=dfd, follow_symlinks=False).st_dev == device]
    finally:
        os.close(top)
