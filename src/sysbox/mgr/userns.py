"""User namespaces made ready: for MOUNT_ATTR_IDMAP only their id map matters, so one may serve any number of mounts."""

from __future__ import annotations

import os
from collections import OrderedDict

from sysbox.errors import Failure, reason
from sysbox.linux._kernel import CLONE_NEWUSER, clone3

MOST = 64  # namespaces kept open; one costs about a kilobyte of kernel memory and a descriptor here


def make(uid: int, gid: int, size: int) -> int:
    """Make a user namespace that maps 0..size-1 to the host's uid.. and gid..; return a descriptor of it. Raises OSError.

    The child does nothing but exit: until it is reaped a zombie still has its credentials, and so its user namespace
    (kernel/user_namespace.c: userns_get and proc_id_map_open look at the credentials alone).
    """
    pid, pidfd = clone3(CLONE_NEWUSER, -1) or (0, -1)
    if pid == 0:
        os._exit(0)
    try:
        for name, first in (("uid_map", uid), ("gid_map", gid)):
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, f"0 {first} {size}\n".encode())
            finally:
                os.close(fd)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(pidfd)
        os.waitpid(pid, 0)


class Namespaces:
    """The namespaces last asked for, open."""

    def __init__(self) -> None:
        """Start empty."""
        self._open: OrderedDict[tuple[int, int, int], int] = OrderedDict()

    def get(self, uid: int, gid: int, size: int) -> int:
        """Return a descriptor that stays ours and is good until the next call. Raises Failure 3013."""
        key = (uid, gid, size)
        fd = self._open.get(key)
        if fd is None:
            try:
                fd = make(uid, gid, size)
            except OSError as error:
                cause = f"no user namespace for ids {uid}:{gid}:{size}: {reason(error)}"
                raise Failure(3013, cause, "look at sysctl user.max_user_namespaces and the ids") from error
            self._open[key] = fd
            if len(self._open) > MOST:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(key)
        return fd

    def close(self) -> None:
        """Close all."""
        while self._open:
            os.close(self._open.popitem()[1])
