"""init's half of the mounts: what its parent opened is put into place, what belongs to its namespaces is mounted."""

from __future__ import annotations

import posix
from errno import EACCES, EEXIST, EINVAL, ELOOP, ENOENT, ENOTDIR

from sysbox.linux import _kernel as k
from sysbox.oci.mountoptions import attributes
from sysbox.runtime.steps import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EMPTY = k.MOVE_MOUNT_F_EMPTY_PATH | k.MOVE_MOUNT_T_EMPTY_PATH
IN_ROOT = k.RESOLVE_IN_ROOT | k.RESOLVE_NO_MAGICLINKS
O_PATH = posix.O_PATH | posix.O_CLOEXEC
LINKS = 40  # symlinks followed in one path, as in path_resolution(7)


def make(job: dict[str, Any]) -> int:
    """Mount the root over the host's and all else into it; return a descriptor of the root."""
    Step.name = "cut mounts off from the host"
    k.mount(None, "/", None, k.MS_REC | k.MS_SLAVE, None)
    Step.name = "mount the root filesystem"
    root: int = job["rootfs"]
    k.move_mount(root, "", k.AT_FDCWD, "/", k.MOVE_MOUNT_F_EMPTY_PATH)
    for kind, dest, given, directory, mount in job["steps"]:
        fd = given
        Step.name = f"mount {mount.get('source') or mount.get('type') or 'clone'} at {dest}"
        if kind == "tree":
            fd = job["trees"][mount["type"]]
        if kind in ("attach", "tree"):
            try:
                target = place(root, dest, directory=directory, ordinary=kind == "tree")
            except OSError:
                if "host" not in mount:
                    raise
                posix.close(fd)  # nobody has asked for it, and a root that cannot be written to has no place for it
                continue
            k.move_mount(fd, "", target, "", EMPTY)
            for propagation in mount.get("propagation", ()):
                if propagation & ~k.MS_REC not in (k.MS_PRIVATE, k.MS_SLAVE):
                    deep = k.AT_RECURSIVE if propagation & k.MS_REC else 0
                    k.mount_setattr(fd, "", k.AT_EMPTY_PATH | deep, 0, 0, propagation & ~k.MS_REC, 0)
            posix.close(fd)
        elif kind == "cgroup":
            target = place(root, dest, directory=True)
            _cgroups(root, target, mount)
        else:
            target = place(root, dest, directory=True, ordinary=mount["type"] in ("proc", "sysfs"))
            if "tmpcopyup" in mount["extra"]:
                _copy_up(target, mount)
            else:
                _mount(target, mount)
            for propagation in mount["propagation"]:
                there = place(root, dest, directory=True)
                k.mount(None, f"/proc/self/fd/{there}", None, propagation, None)
                posix.close(there)
        posix.close(target)
    return root


def _mount(target: int, mount: dict[str, Any]) -> None:
    flags = mount["flags"] & ~k.MS_RDONLY if mount["type"] == "tmpfs" else mount["flags"]  # that comes later: see seal.py
    try:
        k.mount(mount["source"] or mount["type"], f"/proc/self/fd/{target}", mount["type"], flags, mount["data"] or None)
    except OSError as error:
        raise OSError(error.errno, error.strerror, mount["dest"]) from None


def _cgroups(root: int, target: int, mount: dict[str, Any]) -> None:
    """Mount every hierarchy of the host inside our cgroup namespace, under the names that they have there."""
    v1, v2, flags = mount["v1"], mount["v2"], mount["flags"]
    if not v1:
        k.mount("cgroup", f"/proc/self/fd/{target}", "cgroup2", flags, None)
        return
    k.mount("tmpfs", f"/proc/self/fd/{target}", "tmpfs", flags & ~k.MS_RDONLY, "mode=755,size=64k")
    top = k.openat2(root, mount["dest"], O_PATH | posix.O_DIRECTORY, 0, IN_ROOT)
    for names, where in v1.items():
        name = where.rpartition("/")[2]
        posix.mkdir(name, 0o755, dir_fd=top)
        data = f"none,{names}" if names.startswith("name=") else names
        k.mount("cgroup", f"/proc/self/fd/{top}/{name}", "cgroup", flags & ~k.MS_RDONLY, data)
        if "," in name:
            for alias in name.split(","):
                posix.symlink(name, alias, dir_fd=top)
    if v2:
        posix.mkdir("unified", 0o755, dir_fd=top)
        k.mount("cgroup", f"/proc/self/fd/{top}/unified", "cgroup2", flags & ~k.MS_RDONLY, None)
    if flags & k.MS_RDONLY:
        k.mount_setattr(top, "", k.AT_EMPTY_PATH | k.AT_RECURSIVE, k.MOUNT_ATTR_RDONLY, 0, 0, 0)
    posix.close(top)


def _copy_up(target: int, mount: dict[str, Any]) -> None:
    """Mount a tmpfs that starts with what it hides."""
    context = k.fsopen("tmpfs", k.FSOPEN_CLOEXEC)
    for word in mount["data"].split(","):
        name, _, value = word.partition("=")
        if name:
            k.fsconfig(context, k.FSCONFIG_SET_STRING if value else k.FSCONFIG_SET_FLAG, name, value or None, 0)
    k.fsconfig(context, k.FSCONFIG_CMD_CREATE, None, None, 0)
    fd = k.fsmount(context, k.FSMOUNT_CLOEXEC, 0)
    posix.close(context)
    source = posix.open(f"/proc/self/fd/{target}", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    if "mode=" not in mount["data"]:
        posix.chmod(f"/proc/self/fd/{fd}", posix.fstat(source).st_mode & 0o7777)
    _copy(source, fd)
    posix.close(source)
    k.move_mount(fd, "", target, "", EMPTY)
    k.mount_setattr(fd, "", k.AT_EMPTY_PATH, *attributes(mount["flags"]), 0, 0)
    posix.close(fd)


def _copy(source: int, target: int) -> None:
    for name in posix.listdir(source):
        stat = posix.stat(name, dir_fd=source, follow_symlinks=False)
        kind, mode = stat.st_mode & 0o170000, stat.st_mode & 0o7777
        if kind == 0o120000:
            posix.symlink(posix.readlink(name, dir_fd=source), name, dir_fd=target)
        elif kind == 0o040000:
            posix.mkdir(name, mode, dir_fd=target)
            inner = [posix.open(name, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=fd) for fd in (source, target)]
            _copy(inner[0], inner[1])
            for fd in inner:
                posix.close(fd)
        elif kind == 0o100000:
            left = posix.open(name, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=source)
            right = posix.open(name, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, mode, dir_fd=target)
            while part := posix.read(left, 1 << 18):
                posix.write(right, part)
            posix.close(left)
            posix.close(right)
        else:
            continue  # sockets and devices of an image mean nothing in a new tmpfs
        posix.chown(name, stat.st_uid, stat.st_gid, dir_fd=target, follow_symlinks=False)


def place(root: int, path: str, *, directory: bool, ordinary: bool = False) -> int:
    """Open the place for a mount within ``root``, made if it is missing: no symlink leads out. Raises OSError.

    ``ordinary``: it must not be reached by a symlink as its last part.
    """
    try:
        return k.openat2(root, path, O_PATH | (posix.O_DIRECTORY if directory else 0) | (posix.O_NOFOLLOW if ordinary else 0), 0, IN_ROOT)
    except OSError as error:
        if error.errno != ENOENT:
            raise
    done = ""  # a path within the root that exists and has no symlinks
    todo = path.strip("/").split("/")
    links = 0
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        parent = k.openat2(root, done or "/", O_PATH | posix.O_DIRECTORY, 0, IN_ROOT | k.RESOLVE_NO_SYMLINKS)
        try:
            try:
                target = posix.readlink(part, dir_fd=parent)
            except OSError as error:
                if error.errno == ENOENT:
                    if todo or directory:
                        posix.mkdir(part, 0o755, dir_fd=parent)
                    else:
                        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
                        posix.close(posix.open(part, flags, 0o644, dir_fd=parent))
                elif error.errno != EINVAL:
                    raise
                done += f"/{part}"
                continue
        except OSError as error:
            if error.errno == EEXIST:
                todo.insert(0, part)
                continue
            raise OSError(error.errno, f"cannot make the mount point: {error.strerror}", path) from None
        finally:
            posix.close(parent)
        links += 1
        if links > LINKS or ordinary:
            raise OSError(ELOOP, "the mount point is a symlink", path)
        if target.startswith("/"):
            done = ""
        todo = target.split("/") + todo
    return k.openat2(root, done or "/", O_PATH | (posix.O_DIRECTORY if directory else 0), 0, IN_ROOT | k.RESOLVE_NO_SYMLINKS)


def lock(paths: list[str]) -> None:
    """Make paths read-only, with what is mounted below them. Raises OSError."""
    for path in paths:
        Step.name = f"make {path} read-only"
        try:
            fd = k.open_tree(k.AT_FDCWD, path, k.OPEN_TREE_CLONE | k.OPEN_TREE_CLOEXEC | k.AT_RECURSIVE)
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR):
                continue
            raise
        k.mount_setattr(fd, "", k.AT_EMPTY_PATH, k.MOUNT_ATTR_RDONLY, 0, 0, 0)
        k.move_mount(fd, "", k.AT_FDCWD, path, k.MOVE_MOUNT_F_EMPTY_PATH)
        posix.close(fd)


def mask(paths: list[str]) -> None:
    """Cover files by the null device and directories by one empty read-only tmpfs."""
    empty = -1
    for path in paths:
        Step.name = f"mask {path}"
        try:
            target = posix.open(path, O_PATH)
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR, EACCES):
                continue
            raise
        if posix.fstat(target).st_mode & 0o170000 == 0o040000:
            if empty < 0:
                context = k.fsopen("tmpfs", k.FSOPEN_CLOEXEC)
                k.fsconfig(context, k.FSCONFIG_SET_STRING, "source", "tmpfs", 0)
                k.fsconfig(context, k.FSCONFIG_SET_FLAG, "ro", None, 0)
                k.fsconfig(context, k.FSCONFIG_CMD_CREATE, None, None, 0)
                empty = k.fsmount(context, k.FSMOUNT_CLOEXEC, k.MOUNT_ATTR_RDONLY)
                posix.close(context)
                k.move_mount(empty, "", target, "", EMPTY)
                posix.close(target)
                continue
            cover = k.open_tree(empty, "", k.OPEN_TREE_CLONE | k.OPEN_TREE_CLOEXEC | k.AT_EMPTY_PATH)
        else:
            cover = k.open_tree(k.AT_FDCWD, "/dev/null", k.OPEN_TREE_CLONE | k.OPEN_TREE_CLOEXEC)
        k.move_mount(cover, "", target, "", EMPTY)
        posix.close(cover)
        posix.close(target)
    if empty >= 0:
        posix.close(empty)
