"""The worker's room: a mount namespace with nothing in it but the host's /proc, /sys and /dev/null, and the FUSE file system.

It keeps no other mount of the host busy, and lasts as long as a descriptor of it: a worker that succeeds another enters the same one.
"""

from __future__ import annotations

import os

from sysbox.linux import _kernel as k

TOP = "/proc/driver"  # any directory that every host has and nobody needs while we pivot


def make() -> tuple[int, int]:
    """Move into a new room: descriptors of /dev/fuse, which must be served before /fuse is used, and of the namespace. Raises OSError."""
    k.unshare(k.CLONE_NEWNS)
    k.mount(None, "/", None, k.MS_REC | k.MS_PRIVATE, None)
    trees = {
        name: k.open_tree(k.AT_FDCWD, source, k.OPEN_TREE_CLONE | k.OPEN_TREE_CLOEXEC)
        for name, source in (("proc", "/proc"), ("sys", "/sys"), ("null", "/dev/null"))
    }
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    k.mount("tmpfs", TOP, "tmpfs", 0, "mode=755")
    os.chdir(TOP)
    for name in ("proc", "sys", "fuse", "tree", "empty"):
        os.mkdir(name, 0o755)
    os.close(os.open("null", os.O_CREAT | os.O_CLOEXEC, 0o666))
    for name, fd in trees.items():
        k.move_mount(fd, "", k.AT_FDCWD, name, k.MOVE_MOUNT_F_EMPTY_PATH)
        os.close(fd)
    k.mount("tmpfs", "empty", "tmpfs", k.MS_RDONLY | k.MS_NOSUID | k.MS_NODEV | k.MS_NOEXEC, "mode=755,size=4k")
    context = k.fsopen("fuse", k.FSOPEN_CLOEXEC)
    for name, value in (("source", "sysbox-fs"), ("fd", str(fuse)), ("rootmode", "40755"), ("user_id", "0"), ("group_id", "0")):
        k.fsconfig(context, k.FSCONFIG_SET_STRING, name, value, 0)
    for name in ("allow_other", "default_permissions"):
        k.fsconfig(context, k.FSCONFIG_SET_FLAG, name, None, 0)
    k.fsconfig(context, k.FSCONFIG_CMD_CREATE, None, None, 0)
    fd = k.fsmount(context, k.FSMOUNT_CLOEXEC, k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC)
    k.move_mount(fd, "", k.AT_FDCWD, "fuse", k.MOVE_MOUNT_F_EMPTY_PATH)
    os.close(fd)
    os.close(context)
    k.pivot_root(".", ".")
    k.umount2(".", k.MNT_DETACH)
    os.chdir("/")
    return fuse, os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace: int) -> None:
    """Move into the room of a predecessor. Raises OSError."""
    k.setns(namespace, k.CLONE_NEWNS)
    os.chdir("/")
