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


def shift(fd: int, path: str, ids: Ids, lines: list[str], *, recursive: bool) -> list[str]:
    """Id-map a detached clone of ``path``, each mount in it as far as it needs and can; return the paths of those that cannot.

    What belongs to the container already (its manager chowned it, as with userns-remap) stays as it is.
    """
    inner = mountinfo.below(lines, path) if recursive else []
    cannot = []
    for each in ("", *(mountinfo.point(line)[len(path.rstrip("/")) + 1 :] for line in inner)):
        try:
            stat = posix.fstat(fd) if not each else posix.stat(each, dir_fd=fd)
            if not ids.own(stat):
                k.mount_setattr(fd, each, k.AT_EMPTY_PATH if not each else k.AT_SYMLINK_NOFOLLOW, k.MOUNT_ATTR_IDMAP, 0, 0, ids.userns)
        except OSError as error:
            if error.errno not in CANNOT and not each:
                raise
            cannot.append(f"{path}/{each}" if each else path)
    return cannot
