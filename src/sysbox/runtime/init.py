"""The container's first process, from its birth to the exec: the namespaces' inside half of the plan.

Everything that it needs is imported before it is born: inside its user namespace it may not read our files. It tells its parent
over a socket where it is, and each failure with step, system call, path and errno.
"""

from __future__ import annotations

import _signal
import posix
from _socket import AF_INET, SOCK_CLOEXEC, SOCK_DGRAM, socket
from errno import EACCES, EEXIST, EINVAL, ELOOP, ENOENT, ENOTDIR
from fcntl import ioctl

from sysbox.errors import Failure, reason
from sysbox.linux import _kernel as k
from sysbox.runtime import hooks, process
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

EMPTY = k.MOVE_MOUNT_F_EMPTY_PATH | k.MOVE_MOUNT_T_EMPTY_PATH
IN_ROOT = k.RESOLVE_IN_ROOT | k.RESOLVE_NO_MAGICLINKS
O_PATH = posix.O_PATH | posix.O_CLOEXEC
LINKS = 40  # symlinks followed in one path, as in path_resolution(7)
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914


class Step:
    """Where init is, for the report of a failure."""

    name = "start"


def report(channel: socket, error: BaseException) -> None:
    """Tell the parent why init ends."""
    if isinstance(error, Failure):
        told = {"code": error.code, "cause": error.cause, "hint": error.hint}
    elif isinstance(error, OSError):
        told = {"code": 1020, "cause": f"{Step.name}: {reason(error)}", "hint": ""}
    else:
        told = {"code": 1099, "cause": f"{Step.name}: {type(error).__name__}: {error}", "hint": "please report this as a bug"}
    try:
        wire.send(channel, {"error": told})
    except OSError:
        return  # nobody is left to be told


def main(job: dict[str, Any]) -> NoReturn:
    """Be the init of ``job``: the plan, its steps and descriptors (see create.py). Never returns."""
    channel = job["channel"]
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    numbers = [channel.fileno(), job["listener"].fileno(), job["rootfs"], *job["doors"], *(fd for _, _, fd, _, _ in job["steps"])]
    process.keep_only([fd for fd in (*numbers, job["leaf"], job["console"], *range(3, 3 + job["preserve"])) if fd >= 0])
    try:
        _setup(job, channel)
        connection = _wait_for_start(job["listener"])
    except BaseException as error:  # noqa: BLE001 - everything is told
        report(channel, error)
        posix._exit(1)
    try:
        _start(job)
    except BaseException as error:  # noqa: BLE001 - everything is told
        report(connection, error)
    posix._exit(255)


def _expect(channel: socket, word: str) -> None:
    """Wait until the parent says ``word``; when it is gone there will be no container."""
    said, _ = wire.receive(channel)
    if said.get("do") != word:
        posix._exit(1)


def _setup(job: dict[str, Any], channel: socket) -> None:
    plan = job["plan"]
    k.prctl(k.PR_SET_DUMPABLE, 0)  # we are not the container's to look into
    _expect(channel, "set up")
    Step.name = "become root of the user namespace"
    posix.setgroups([])
    posix.setresgid(0, 0, 0)
    posix.setresuid(0, 0, 0)
    posix.setsid()
    Step.name = "enter the cgroups"
    for fd in job["doors"]:
        posix.write(fd, b"0")
        posix.close(fd)
    if not plan["namespaces"]["cgroup"]:
        k.unshare(k.CLONE_NEWCGROUP)
    if job["leaf"] >= 0:
        posix.write(job["leaf"], b"0")
        posix.close(job["leaf"])
    Step.name = "name the host"
    if plan["hostname"]:
        k.sethostname(plan["hostname"])
    if plan["domainname"]:
        k.setdomainname(plan["domainname"])
    posix.umask(0)
    root = _mounts(job)
    wire.send(channel, {"at": "mounted"})
    _expect(channel, "pivot")
    if plan["hooks"].get("createContainer"):
        Step.name = "run createContainer hooks"
        hooks.run("createContainer", plan["hooks"]["createContainer"], {**job["state"], "pid": posix.getpid()})
    Step.name = "pivot_root"
    posix.fchdir(root)
    k.pivot_root(".", ".")
    k.umount2(".", k.MNT_DETACH)
    posix.chdir("/")
    posix.close(root)
    _finish(job)
    Step.name = f"enter working directory {plan['process']['cwd']}"
    process.enter(plan["process"]["cwd"])
    Step.name = "find the program"
    job["env"] = process.environment(plan["process"])
    job["path"] = process.find(plan["process"]["args"][0], job["env"])
    Step.name = "wait for the parent"
    wire.send(channel, {"at": "ready"})
    _expect(channel, "wait")
    channel.close()


def _mounts(job: dict[str, Any]) -> int:
    """Mount the root over the host's and all else into it; return a descriptor of the root."""
    Step.name = "cut mounts off from the host"
    k.mount(None, "/", None, k.MS_REC | k.MS_SLAVE, None)
    Step.name = "mount the root filesystem"
    root: int = job["rootfs"]
    k.move_mount(root, "", k.AT_FDCWD, "/", k.MOVE_MOUNT_F_EMPTY_PATH)
    for kind, dest, given, directory, mount in job["steps"]:
        fd = given
        Step.name = f"mount {mount.get('source') or mount.get('type') or 'clone'} at {dest}"
        if kind == "locked":
            fd = k.open_tree(k.AT_FDCWD, mount["locked"], k.OPEN_TREE_CLONE | k.OPEN_TREE_CLOEXEC | k.AT_RECURSIVE)
        if kind in ("attach", "locked"):
            target = place(root, dest, directory=directory)
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
    try:
        k.mount(mount["source"] or mount["type"], f"/proc/self/fd/{target}", mount["type"], mount["flags"], mount["data"] or None)
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
    from sysbox.oci.mountoptions import attributes

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


def _finish(job: dict[str, Any]) -> None:
    """Do what comes after pivot_root: terminal, masks, read-only parts, loopback."""
    plan = job["plan"]
    if plan["propagation"]:
        Step.name = "set the root's propagation"
        k.mount(None, "/", None, plan["propagation"], None)
    if job["console"] >= 0:
        Step.name = "open a terminal"
        slave = process.terminal(plan["process"], job["console"])
        Step.name = "mount the terminal at /dev/console"
        k.mount(posix.readlink(f"/proc/self/fd/{slave}"), "/dev/console", None, k.MS_BIND, None)
        posix.close(slave)
    _mask(plan["masked"])
    for path in plan["readonly_paths"]:
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
    if not plan["namespaces"]["network"]:
        Step.name = "bring up lo"
        with_socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC)
        request = bytearray(ioctl(with_socket.fileno(), SIOCGIFFLAGS, b"lo" + bytes(38)))
        request[16] |= 1  # IFF_UP: netdevice(7)
        ioctl(with_socket.fileno(), SIOCSIFFLAGS, bytes(request))
        with_socket.close()
    if plan["readonly"]:
        Step.name = "make the root read-only"
        k.mount_setattr(k.AT_FDCWD, "/", 0, k.MOUNT_ATTR_RDONLY, 0, 0, 0)


def _mask(paths: list[str]) -> None:
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


def _wait_for_start(listener: socket) -> socket:
    """Wait for ``start``; what connects gets the errors of the last steps."""
    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT):
        _signal.signal(number, lambda number, _: posix._exit(128 + number))
    Step.name = "wait for start"
    fd, _ = listener._accept()  # type: ignore[attr-defined] # what socket.accept is made of
    listener.close()
    return socket(fileno=fd)


def _start(job: dict[str, Any]) -> NoReturn:
    plan = job["plan"]
    if plan["hooks"].get("startContainer"):
        Step.name = "run startContainer hooks"
        hooks.run("startContainer", plan["hooks"]["startContainer"], {**job["state"], "status": "created", "pid": posix.getpid()})
    Step.name = f"exec {job['path']}"
    if job["listen_fds"]:
        job["env"].update(LISTEN_FDS=str(job["listen_fds"]), LISTEN_PID=str(posix.getpid()))
    process.become(
        plan["process"],
        job["path"],
        job["env"],
        job["seccomp"],
        keyring=job["keyring"],
        preserve=job["preserve"],
        honor_caps=bool(plan["knobs"].get("SYSBOX_HONOR_CAPS")),
        personality=plan["personality"],
    )
