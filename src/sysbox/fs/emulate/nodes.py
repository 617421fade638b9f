"""The rows as nodes of a FUSE file system, for one container.

Its root is flat: each row is an entry under the name that ``entry`` gives, to be bound over the file that it stands for. Nodeids belong
to paths and are kept with the values, so that a successor, of a newer version even, means the same by them. Those of rows last for
ever, those of the kernel's files in mirrors until the kernel forgets them.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENOENT
from fcntl import ioctl

from sysbox.fs.emulate.tables import BELOW, BRANCHES, KERNEL, MIRRORS, ROWS, mirror_of
from sysbox.fs.memory import packed
from sysbox.linux import _kernel as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sysbox.fs.emulate.row import Row
    from sysbox.fs.memory import Memory

S_IFREG, S_IFDIR, S_IFLNK = 0o100000, 0o040000, 0o120000
FIRST = 2  # nodeid of the first path
UNKNOWN = 0xFFFFFFFF  # inode number in a listing of what has not been looked up: FUSE_UNKNOWN_INO
FLAGS = {"net": k.CLONE_NEWNET, "uts": k.CLONE_NEWUTS}
NS_GET_USERNS = 0xB701  # ioctl_ns(2)
READ = os.O_RDONLY | os.O_CLOEXEC
MOST = 1 << 16  # bytes of a value


NODES = [*ROWS, *MIRRORS]
IDS = {path: FIRST + index for index, path in enumerate(NODES)}  # with PACKED here, so that workers share them
PACKED = packed(NODES)


def entry(path: str) -> str:
    """Name the entry of the root that is the row or mirror of ``path``."""
    return path[1:].replace("/", "%")


def read(path: str) -> str:
    """Read a small file of the kernel. Raises OSError."""
    fd = os.open(path, READ)
    try:
        return os.read(fd, MOST).decode("utf-8", "replace")
    finally:
        os.close(fd)


def write(path: str, value: str) -> None:
    """Write a small file of the kernel. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


class Container:
    """One container's values, and what the rows do with the host for it. It is the ``Box`` of each row in turn."""

    def __init__(self, memory: Memory, policy: str) -> None:
        """Take up what ``memory`` has; ``policy``: "max" if the container may raise the host's limits, else "never"."""
        self.memory = memory
        self.policy = policy
        self.container = memory.description
        self.kept = memory.values
        self.values: dict[str, str] = self.kept.setdefault("values", {})
        self.nodes: dict[int, _Node] = {}  # those that last
        self.lookups: dict[int, int] = {}  # of nodeids that we have given out: others are from a predecessor, and stay
        self.opened: dict[str, int] = {}  # files of the host
        self.home = {kind: os.open(f"/proc/self/ns/{kind}", READ) for kind in FLAGS}
        self.here = {kind: os.fstat(fd).st_ino for kind, fd in self.home.items()}
        self.here["user"] = os.stat("/proc/self/ns/user").st_ino
        self.path, self.pid = "", 0
        self.ids, first = (IDS, len(NODES)) if memory.begins_with(PACKED) else ({}, 0)  # 0: of a predecessor of another version
        self.more = {memory.path(index): FIRST + index for index in range(first, memory.count)}
        self.free = [index for index in range(first, memory.count) if not memory.path(index)]
        self.more.pop("", None)
        for path in NODES:
            if not first and path not in self.more:
                self.more[path] = FIRST + memory.count
                memory.name(memory.count, path)

    def describe(self, container: dict[str, Any]) -> None:
        """Become this container's."""
        self.memory.description = container
        self.container = container

    def keep(self, value: str) -> None:
        """Remember the row's value."""
        self.values[self.path] = value
        self.memory.values = self.kept

    def keep_flag(self, name: str) -> None:
        """Remember that something is so from now on."""
        self.kept[name] = True
        self.memory.values = self.kept

    def has_flag(self, name: str) -> bool:
        """Say whether that was remembered."""
        return bool(self.kept.get(name))

    def host(self, path: str = "") -> str:
        """Read a file of the host; it stays open, for the kernel makes the value anew whenever it is read from its beginning."""
        path = path or self.path
        try:
            value = os.pread(self.opened[path], MOST, 0)
        except (KeyError, OSError):  # it is the first time, or a module was unloaded and may have come back
            if path in self.opened:
                os.close(self.opened.pop(path))
            if path.startswith(MIRRORS):
                self._enter("net", self.home["net"])
            fd = self.opened[path] = os.open(path, READ)
            value = os.pread(fd, MOST, 0)
        return value.decode("utf-8", "replace")

    def host_write(self, value: str) -> None:
        """Write the row's file of the host."""
        if self.path.startswith(MIRRORS):
            self._enter("net", self.home["net"])
        write(self.path, value)

    def may_raise(self) -> bool:
        """Say whether limits of the host may be raised."""
        return self.policy == "max"

    def _open(self, kind: str) -> int:
        try:
            return os.open(f"/proc/{self.pid}/ns/{kind}", READ)
        except OSError:  # it is of a pid namespace that we do not see, or gone: then the container's own is meant
            return os.open(f"/proc/{self.container['pid']}/ns/{kind}", READ)

    def _enter(self, kind: str, fd: int) -> None:
        """Go to a namespace, unless we are there: we do not come back until another one is asked for."""
        number = os.fstat(fd).st_ino
        if number != self.here[kind]:
            k.setns(fd, FLAGS[kind])
            self.here[kind] = number

    def inside(self, kind: str, action: Callable[[], str]) -> str:
        """Act in a namespace of the process that asks."""
        try:
            there = os.stat(f"/proc/{self.pid}/ns/{kind}").st_ino == self.here[kind]
        except OSError:
            there = False
        if not there:
            fd = self._open(kind)
            try:
                self._enter(kind, fd)
            finally:
                os.close(fd)
        return action()

    def native(self, value: str | None = None) -> str:
        """Read or write the row's file in the network namespace of the process that asks."""

        def act() -> str:
            if value is None:
                return read(self.path)
            write(self.path, value)
            return ""

        return self.inside("net", act)

    def _suffices(self, path: str, row: Row) -> bool:
        """Say whether the container's own network namespace has a file of the kernel that root inside may write as the row says."""
        self.pid = int(self.container.get("pid") or os.getpid())

        def look() -> str:
            return "yes" if row.suffices(os.stat(path), self.container) else ""

        try:
            return bool(self.inside("net", look))
        except OSError:
            return False

    def namespace(self, kind: str) -> str:
        """Name a namespace of the process that asks."""
        fd = self._open(kind)
        try:
            return str(os.fstat(fd).st_ino)
        finally:
            os.close(fd)

    def nodeid(self, path: str) -> int:
        """Return the nodeid of a path, 0 if it has none."""
        return self.ids.get(path) or self.more.get(path, 0)

    def identify(self, path: str) -> int:
        """Return the nodeid of a path below a mirror for one more lookup, a new one if need be."""
        nodeid = self.nodeid(path)
        if not nodeid:
            if not self.free:
                self.free.append(self.memory.count)
            index = self.free[-1]
            self.memory.name(index, path)  # if there is no room, the place stays free
            self.free.pop()
            nodeid = self.more[path] = FIRST + index
            self.lookups[nodeid] = 0
        if nodeid in self.lookups:
            self.lookups[nodeid] += 1
        return nodeid

    def forget(self, nodeid: int, count: int) -> None:
        """Take back lookups; a nodeid without any may come to stand for another path."""
        if nodeid in self.lookups:
            self.lookups[nodeid] -= count
            if self.lookups[nodeid] <= 0:
                self.nodes.pop(nodeid, None)
                index = nodeid - FIRST
                del self.lookups[nodeid], self.more[self.memory.path(index)]
                self.memory.name(index, "")
                self.free.append(index)

    def node(self, nodeid: int) -> _Node:
        """Return what a nodeid stands for. Raises OSError ENOENT."""
        node = self.nodes.get(nodeid)
        if not node:
            node = self._node(nodeid)
            if not isinstance(node, _Link):  # of which there are hundreds, that the kernel asks for once
                self.nodes[nodeid] = node
        return node

    def _node(self, nodeid: int) -> _Node:
        if nodeid == FIRST - 1:
            return _Top(self, "/", S_IFDIR | 0o755)
        path = self.memory.path(nodeid - FIRST) if nodeid >= FIRST else ""
        row = ROWS.get(path)
        if row and not (row.native and mirror_of(path) and self._suffices(path, row)):
            return _Emulated(self, path, row.mode if row.mode & S_IFDIR else S_IFREG | row.mode, row)
        if path in MIRRORS or path in BRANCHES:
            return _Mirror(self, path, S_IFDIR | 0o555)
        mirror = mirror_of(path)
        if not mirror:
            raise OSError(ENOENT, "no such node")
        below = path[len(mirror) + 1 :]
        if below == KERNEL:
            return _Node(self, path, S_IFDIR | 0o555)
        return _Link(self, "../" * below.count("/") + f"{KERNEL}/{below}")

    def root(self) -> tuple[int, int, int]:
        """Find who is root where the network namespace of the process that asks belongs to: uid, gid, how many groups."""
        try:
            if self._is_lent():
                return (*_first(f"/proc/{self.pid}/uid_map")[:1], *_first(f"/proc/{self.pid}/gid_map"))
        except OSError:
            pass  # it is gone, or of a pid namespace that we do not see
        return tuple(int(self.container.get(name) or 0) for name in ("uid", "gid", "size"))  # type: ignore[return-value] # there are three

    def _is_lent(self) -> bool:
        """Say whether the network of the process that asks belongs to its user namespace, below the container's own. Raises OSError."""
        space = os.open(f"/proc/{self.pid}/ns/net", READ)
        try:
            owner = ioctl(space, NS_GET_USERNS)
        finally:
            os.close(space)
        number = os.fstat(owner).st_ino
        os.close(owner)
        asking, first = (os.stat(f"/proc/{pid}/ns/user").st_ino for pid in (self.pid, self.container["pid"]))
        return number == asking and number not in (first, self.here["user"])


def _first(path: str) -> tuple[int, int]:
    """Read of a uid_map or gid_map what 0 is, and how many ids follow: user_namespaces(7). Raises OSError EINVAL if 0 is none."""
    for line in read(path).splitlines():
        inside, outside, size = map(int, line.split())
        if inside == 0:
            return outside, size
    raise OSError(EINVAL, "0 is not mapped", path)


class _Node:
    """A node at a path; by itself an empty directory of the container's root."""

    __slots__ = ("mode", "of", "path", "steady")

    def __init__(self, container: Container, path: str, mode: int) -> None:
        self.of, self.path, self.mode = container, path, mode
        self.steady = True

    def owner(self, pid: int) -> tuple[int, int]:
        """Belong to the container's root."""
        return int(self.of.container.get("uid") or 0), int(self.of.container.get("gid") or 0)

    def find(self, name: str, pid: int, *, listed: bool = False) -> int:
        """Have nothing."""
        raise OSError(ENOENT, "an empty directory", name)

    def names(self, pid: int) -> list[tuple[str, int, int]]:
        """List nothing."""
        return []

    def read(self, pid: int) -> bytes:
        """Hold nothing."""
        return b""

    def write(self, data: bytes, pid: int) -> None:
        """Take anything."""


class _Top(_Node):
    """The root: an entry for each row and mirror."""

    __slots__ = ()

    def find(self, name: str, pid: int, *, listed: bool = False) -> int:
        path = "/" + name.replace("%", "/")
        if path not in ROWS and path not in MIRRORS:
            raise OSError(ENOENT, "no such row", name)
        return self.of.nodeid(path)

    def names(self, pid: int) -> list[tuple[str, int, int]]:
        """List what is usually bound: a spare worker is asked for it before it knows its container."""
        paths = [path for path in NODES if not mirror_of(path)]
        return [(entry(path), self.of.nodeid(path), self.of.node(self.of.nodeid(path)).mode) for path in paths]


class _Emulated(_Node):
    """A row."""

    __slots__ = ("row",)

    def __init__(self, container: Container, path: str, mode: int, row: Row) -> None:
        super().__init__(container, path, mode)
        self.row = row
        self.steady = not row.lent

    def owner(self, pid: int) -> tuple[int, int]:
        if not self.row.lent:
            return super().owner(pid)
        self.of.pid = pid
        return self.of.root()[:2]

    def read(self, pid: int) -> bytes:
        self.of.path, self.of.pid = self.path, pid
        return self.row.read(self.of).encode() if self.row.read else b""

    def write(self, data: bytes, pid: int) -> None:
        self.of.path, self.of.pid = self.path, pid
        if self.row.write:
            self.row.write(self.of, data.decode("utf-8", "replace"))


class _Link(_Node):
    """What is no row: a link to where the kernel's own is bound."""

    __slots__ = ("target",)

    def __init__(self, container: Container, target: str) -> None:
        super().__init__(container, target, S_IFLNK | 0o777)
        self.target = target.encode("utf-8", "surrogateescape")

    def read(self, pid: int) -> bytes:
        return self.target


class _Mirror(_Node):
    """A directory with the names that the kernel has in the network namespace of the process that asks, and those of rows besides."""

    __slots__ = ("added",)

    def __init__(self, container: Container, path: str, mode: int) -> None:
        super().__init__(container, path, mode)
        self.added = BELOW.get(path, frozenset())
        if path in MIRRORS:
            self.added |= {KERNEL}

    def _native(self, pid: int) -> list[str]:
        self.of.pid = pid
        try:
            return self.of.inside("net", lambda: "\n".join(os.listdir(self.path))).split("\n")
        except OSError:
            return []

    def find(self, name: str, pid: int, *, listed: bool = False) -> int:
        path = f"{self.path}/{name}"
        if not listed and name not in self.added:
            self.of.pid = pid
            self.of.inside("net", lambda: os.lstat(path) and "")
        return self.of.identify(path)

    def names(self, pid: int) -> list[tuple[str, int, int]]:
        return [(name, UNKNOWN, 0) for name in sorted({*self._native(pid), *self.added} - {"", KERNEL})]
