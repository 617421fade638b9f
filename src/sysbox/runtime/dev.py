"""The container's /dev: a tmpfs made by the host's root, because root of a user namespace can make no device nodes."""

from __future__ import annotations

import posix
from errno import EEXIST

from sysbox.errors import Failure, reason
from sysbox.linux import _kernel as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sysbox.runtime.shift import Ids

CHR, BLK, FIFO = 0o020000, 0o060000, 0o010000
KINDS = {"c": CHR, "u": CHR, "b": BLK, "p": FIFO}
# name -> (major, minor): OCI config-linux.md "Default Devices", and what software of a host wants; kmsg is a null device:
# the kernel's messages are the host's
NODES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "kmsg": (1, 3),
    "fuse": (10, 229),
    "net/tun": (10, 200),
}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}


def make(mount: dict[str, Any], devices: list[dict[str, Any]], ids: Ids, *, console: bool) -> tuple[int, list[tuple[str, int]]]:
    """Make the tmpfs as a detached mount; also (path inside, detached mount) of devices elsewhere than in /dev. Raises Failure 1034."""
    outside: list[tuple[str, int]] = []
    fd = hidden = -1
    try:
        fd = _tmpfs(mount, ids)
        for name in ("pts", "shm", "mqueue", "net"):
            posix.mkdir(name, 0o755, dir_fd=fd)
            posix.chown(name, ids.uid, ids.gid, dir_fd=fd)
        for name, (major, minor) in NODES.items():
            _node(fd, name, CHR | 0o666, posix.makedev(major, minor), ids.uid, ids.gid)
        for name, target in LINKS.items():
            posix.symlink(target, name, dir_fd=fd)
            posix.chown(name, ids.uid, ids.gid, dir_fd=fd, follow_symlinks=False)
        if console:
            posix.close(posix.open("console", posix.O_CREAT | posix.O_CLOEXEC, 0o600, dir_fd=fd))
        for number, device in enumerate(devices):
            path = device["path"].rstrip("/")
            mode = KINDS[device["type"]] | (0o666 if device.get("fileMode") is None else device["fileMode"] & 0o7777)
            rdev = posix.makedev(device.get("major") or 0, device.get("minor") or 0)
            uid, gid = ids.uid + (device.get("uid") or 0), ids.gid + (device.get("gid") or 0)
            if path.startswith("/dev/") and ".." not in path.split("/"):
                _parents(fd, path[5:], ids)
                _node(fd, path[5:], mode, rdev, uid, gid)
            else:
                if hidden < 0:
                    hidden = _tmpfs(mount, ids)
                _node(hidden, str(number), mode, rdev, uid, gid)
                outside.append((path, k.open_tree(hidden, str(number), k.OPEN_TREE_CLONE | k.OPEN_TREE_CLOEXEC)))
    except OSError as error:
        for each in (fd, *(one for _, one in outside)):
            if each >= 0:
                posix.close(each)
        raise Failure(1034, f"cannot make /dev: {reason(error)}", "see $.linux.devices of config.json") from error
    finally:
        if hidden >= 0:
            posix.close(hidden)
    return fd, outside


def _tmpfs(mount: dict[str, Any], ids: Ids) -> int:
    context = k.fsopen("tmpfs", k.FSOPEN_CLOEXEC)
    try:
        for name, value in (("source", "tmpfs"), ("uid", str(ids.uid)), ("gid", str(ids.gid))):
            k.fsconfig(context, k.FSCONFIG_SET_STRING, name, value, 0)
        for word in mount["data"].split(","):
            name, _, value = word.partition("=")
            if name and name not in ("uid", "gid"):
                k.fsconfig(context, k.FSCONFIG_SET_STRING if value else k.FSCONFIG_SET_FLAG, name, value or None, 0)
        k.fsconfig(context, k.FSCONFIG_CMD_CREATE, None, None, 0)
        noexec = k.MOUNT_ATTR_NOEXEC if mount["flags"] & k.MS_NOEXEC else 0
        return k.fsmount(context, k.FSMOUNT_CLOEXEC, k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_STRICTATIME | noexec)
    finally:
        posix.close(context)


def _node(fd: int, name: str, mode: int, rdev: int, uid: int, gid: int) -> None:
    try:
        posix.mknod(name, mode, rdev, dir_fd=fd)
    except OSError as error:
        if error.errno != EEXIST:
            raise
        posix.unlink(name, dir_fd=fd)  # config.json names a default device: its numbers count
        posix.mknod(name, mode, rdev, dir_fd=fd)
    posix.chown(name, uid, gid, dir_fd=fd)


def _parents(fd: int, name: str, ids: Ids) -> None:
    parts = name.split("/")[:-1]
    for number in range(1, len(parts) + 1):
        path = "/".join(parts[:number])
        try:
            posix.mkdir(path, 0o755, dir_fd=fd)
            posix.chown(path, ids.uid, ids.gid, dir_fd=fd)
        except OSError as error:
            if error.errno != EEXIST:
                raise
