"""A container's directory below the state root: its lock, its state.json, whether it runs.

<root>/<id>/state.json   written atomically; {"id", "pid", "starttime", "bundle", "cgroup", "rootfs", ...}, see create.py
<root>/<id>/start.sock   there until ``start``: that is the difference between created and running
<root>/<id>/seccomp      the filter that ``exec`` loads too: flags (8 bytes) and program
"""

from __future__ import annotations

import posix
from _stat import S_ISDIR
from errno import EEXIST, ENOENT, ENOTDIR
from fcntl import LOCK_EX, flock

from sysbox.errors import Failure, reason
from sysbox.linux import files
from sysbox.linux.jsons import dumps, loads
from sysbox.runtime import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
LONGEST = 1024


def check_id(name: str) -> None:
    """Raise Failure 1006 for what is no container ID."""
    if not name or name in (".", "..") or len(name) > LONGEST or not LETTERS.issuperset(name):
        raise Failure(1006, f"{name!r} is no container ID", "letters, digits and _ + - . make one")


def makedirs(path: str, mode: int) -> None:
    """Make a directory and its parents. Raises OSError."""
    try:
        posix.mkdir(path, mode)
    except OSError as error:
        if error.errno == EEXIST:
            return
        if error.errno != ENOENT:
            raise
        makedirs(path.rpartition("/")[0], 0o711)
        makedirs(path, mode)


def make(root: str, name: str) -> int:
    """Make a new container's directory: its descriptor, locked. Raises Failure 1005, 1007."""
    check_id(name)
    try:
        makedirs(root, 0o711)
        posix.mkdir(f"{root}/{name}", 0o711)
    except FileExistsError:
        raise Failure(1005, f"container ID {name} already exists", "use another ID, or delete that container first") from None
    except OSError as error:
        raise Failure(1007, f"cannot make the state directory: {reason(error)}", "see whether --root is writable") from error
    return lock(root, name)


def lock(root: str, name: str) -> int:
    """Open a container's directory and wait until no other command is changing it. Raises Failure 1004, 1006."""
    check_id(name)
    while True:
        try:
            fd = posix.open(f"{root}/{name}", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR):
                raise Failure(1004, f"container {name} does not exist", f"see sysbox-runc --root {root} list") from None
            raise
        flock(fd, LOCK_EX)
        if posix.fstat(fd).st_nlink:
            return fd
        posix.close(fd)  # deleted while we waited, and perhaps made anew


def save(directory: int, state: dict[str, Any]) -> None:
    """Write state.json atomically. Raises OSError."""
    write(directory, "state.json", dumps(state).encode())


def write(directory: int, name: str, data: bytes) -> None:
    """Write a file of a container's directory atomically. Raises OSError."""
    fresh = f".{name}"
    fd = posix.open(fresh, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        while data:
            data = data[posix.write(fd, data) :]
    finally:
        posix.close(fd)
    posix.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)


def load(root: str, name: str) -> dict[str, Any]:
    """Read state.json. Raises Failure 1004, 1006, 1008 (being created right now, or what is left of that)."""
    check_id(name)
    try:
        data = files.read(f"{root}/{name}/state.json")
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR):
            raise Failure(1004, f"container {name} does not exist", f"see sysbox-runc --root {root} list") from None
        raise
    state = loads(data.decode())
    if state.__class__ is not dict:
        raise Failure(1008, f"{root}/{name}/state.json is damaged", f"sysbox-runc delete --force {name}")
    return state  # type: ignore[no-any-return]


def starttime(pid: int) -> int:
    """Return when a process started, in ticks since boot, 0 if it is gone or a zombie: proc_pid_stat(5)."""
    try:
        fields = files.read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in b"ZX" else int(fields[19])


def alive(state: dict[str, Any]) -> bool:
    """Say whether the container's init lives."""
    pid = state.get("pid") or 0
    return pid > 0 and starttime(pid) == state["starttime"]


def status(root: str, state: dict[str, Any]) -> str:
    """Return creating, created, running, paused or stopped: runtime.md "State"."""
    if not state.get("pid"):
        return "creating"
    if not alive(state):
        return "stopped"
    try:
        posix.stat(f"{root}/{state['id']}/start.sock")
    except OSError:
        return "paused" if cgroup.is_frozen(state["cgroup"]) else "running"
    return "created"


def oci(root: str, state: dict[str, Any], now: str = "") -> dict[str, Any]:
    """Return the state object of runtime.md, as hooks get it too."""
    now = now or status(root, state)
    told = {"ociVersion": state["version"], "id": state["id"], "status": now, "pid": state.get("pid") or 0, "bundle": state["bundle"]}
    if now == "stopped":
        told["pid"] = 0
    if state["annotations"]:
        told["annotations"] = state["annotations"]
    return told


def names(root: str) -> list[str]:
    """List the containers below a state root."""
    try:
        return sorted(name for name in posix.listdir(root) if S_ISDIR(posix.stat(f"{root}/{name}").st_mode))
    except FileNotFoundError:
        return []


def discard(root: str, name: str, directory: int) -> None:
    """Remove a container's directory. Raises OSError."""
    for entry in posix.listdir(directory):
        posix.unlink(entry, dir_fd=directory)
    posix.rmdir(f"{root}/{name}")


def write_pid(path: str, pid: int) -> None:
    """Write a pid file atomically. Raises Failure 1025."""
    head, _, tail = path.rpartition("/")
    fresh = f"{head}/.{tail}" if head else f".{tail}"
    try:
        fd = posix.open(fresh, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o666)
        posix.write(fd, str(pid).encode())
        posix.close(fd)
        posix.rename(fresh, path)
    except OSError as error:
        raise Failure(1025, f"cannot write the pid file: {reason(error)}", "--pid-file in a directory that exists") from error
