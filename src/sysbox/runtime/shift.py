"""Id-mapped clones: host files that show their owners 0-65535 as 0-65535 of the container; mount_setattr(2)."""

from __future__ import annotations

import posix
from errno import EINVAL, ENOSYS, EOPNOTSUPP, EPERM

from sysbox.linux import _kernel as k
from sysbox.linux import mountinfo

CANNOT = (EINVAL, EPERM, EOPNOTSUPP, ENOSYS)  # the file system, the mount or the kernel cannot be id-mapped


class Ids:
    """The ids of a container on the host, and a user namespace that maps them."""

    def __init__(self, uid: int, gid: int, size: int, userns: int) -> None:
        """Keep the first uid and gid, how many of each, and the descriptor of a user namespace."""
        self.uid = uid
        self.gid = gid
        self.size = size
        self.userns = userns

    def own(self, stat: posix.stat_result) -> bool:
        """Say whether a file already belongs to somebody in the container."""
        return 0 <= stat.st_uid - self.uid < self.size and 0 <= stat.st_gid - self.gid < self.size


def clone(path: str, *, recursive: bool, dfd: int = k.AT_FDCWD) -> int:
    """Clone the mount that shows ``path``, from there on: a descriptor of a detached mount. Raises OSError."""
    flags = k.OPEN_TREE_CLONE | k.OPEN_TREE_CLOEXEC | (k.AT_RECURSIVE if recursive else 0)
    return k.open_tree(dfd, path, flags | (0 if path else k.AT_EMPTY_PATH))


def tree(path: str, ids: Ids, lines: list[str], *, recursive: bool) -> tuple[list[tuple[str, int]], list[str]]:
    """Clone ``path`` with owners shifted: [("", descriptor)], and what could not be id-mapped. Raises OSError.

    What belongs to the container already (its manager chowned it, as with userns-remap) stays as it is. Where mounts below differ in what
    they need or can, each is a clone of its own, to be attached at (path below, descriptor) in this order.
    """
    inner = mountinfo.below(lines, path) if recursive else []
    fd = clone(path, recursive=bool(inner))
    try:
        if not inner:
            return [("", fd)], [] if mapped(fd, ids) else [path]
        points = sorted(mountinfo.point(line) for line in inner)
        owned = {ids.own(posix.stat(each)) for each in (path, *points)}
        if owned == {True} or (owned == {False} and mapped(fd, ids, k.AT_RECURSIVE)):
            return [("", fd)], []
    except BaseException:
        posix.close(fd)
        raise
    posix.close(fd)
    found: list[tuple[str, int]] = []
    cannot = []
    try:
        for each in (path, *points):
            found.append((each[len(path.rstrip("/")) :] if found else "", clone(each, recursive=False)))
            if not mapped(found[-1][1], ids):
                cannot.append(each)
    except BaseException:
        for _, one in found:
            posix.close(one)
        raise
    return found, cannot


def mapped(fd: int, ids: Ids, deep: int = 0) -> bool:
    """Id-map a detached clone unless it is the container's already; False if it cannot be."""
    if not deep and ids.own(posix.fstat(fd)):
        return True
    try:
        k.mount_setattr(fd, "", k.AT_EMPTY_PATH | deep, k.MOUNT_ATTR_IDMAP, 0, 0, ids.userns)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
        return False
    return True
