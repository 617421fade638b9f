"""Requests of /dev/fuse, answered one after the other out of one buffer: the nodes say what a name is, what it holds, what may be written.

Nothing here waits: an answer is given before the next request is read. So an INTERRUPT finds nothing to interrupt, and a request
that was in the buffer when its server died is answered by the next one, which finds it there.
"""

from __future__ import annotations

import os
from errno import EACCES, EAGAIN, EINTR, EINVAL, EIO, EISDIR, ENODEV, ENOENT, ENOSYS, ENOTDIR, EPERM, ESTALE

from sysbox.fs.fuse import protocol as p
from sysbox.fs.say import log
from sysbox.linux.ignoring import ignoring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    class Node(Protocol):
        """What the server asks of a file or directory."""

        mode: int  # of stat(2), type included
        steady: bool  # the owner is the same for everybody who asks

        def owner(self, pid: int) -> tuple[int, int]:
            """Return uid and gid as the host sees them."""

        def find(self, name: str, pid: int, *, listed: bool = False) -> int:
            """Return the nodeid of an entry; ``listed``: it is one that has just been listed. Raises OSError ENOENT."""

        def names(self, pid: int) -> list[tuple[str, int, int]]:
            """List a directory: name, nodeid, mode."""

        def read(self, pid: int) -> bytes:
            """Return the whole content, a link's target. Raises OSError."""

        def write(self, data: bytes, pid: int) -> None:
            """Take a value. Raises OSError."""


S_IFREG, S_IFDIR, S_IFMT = 0o100000, 0o040000, 0o170000
MOST = 64  # processes of which we remember that they come again
GONE = (ENOENT, EINTR, EAGAIN)  # of a read: the request was taken back, or nothing is there


class _Listing:
    """The names that the kernel keeps of a directory, hashed, and how many have it open."""

    def __init__(self, names: int) -> None:
        self.names = names
        self.readers = 0


def _length(node: Node, pid: int) -> int:
    try:
        return len(node.read(pid))
    except OSError:
        return 0


class Server:
    """One /dev/fuse and the nodes behind it, by nodeid."""

    def __init__(
        self, fd: int, buffer: memoryview, node: Callable[[int], Node], forget: Callable[[int, int], None] = lambda _, __: None
    ) -> None:
        """Serve the open and mounted ``fd``; requests land in ``buffer``, the first byte of which must be 0 or those of a request."""
        self.fd = fd
        self.buffer = buffer
        self.node = node
        self.forget = forget
        self.lengths: dict[int, int] = {}  # of files as the kernel has them, by nodeid; -1: another one
        self.sent_back: set[tuple[int, int]] = set()  # nodeid and pid of who was told to open it again
        self.seen = (0, 0, -1)  # the last read: nodeid, pid, where it ended
        self.settled = True  # owners will not change any more
        self.listings: dict[int, _Listing] = {}
        self.handlers = {number: getattr(self, f"_{name.lower()}") for name, number in p.OPCODES.items()}

    def resume(self, nodeids: Iterable[int] = ()) -> None:
        """Answer the request that a server before us left in the buffer; have the kernel ask for these files' attributes anew."""
        for nodeid in nodeids:
            self._ask_anew(nodeid)
        if int.from_bytes(self.buffer[:4], "little"):
            self._answer()

    def serve(self) -> bool:
        """Read one request and answer it; False when the file system is mounted nowhere any more."""
        try:
            os.readv(self.fd, [self.buffer])
        except OSError as error:
            if error.errno in GONE:
                return True
            if error.errno == ENODEV:
                return False
            raise
        self._answer()
        return True

    def _answer(self) -> None:
        length, opcode, unique, nodeid, _, _, pid, _, _ = p.IN_HEADER.unpack_from(self.buffer)
        body = self.buffer[p.IN_HEADER.size : length]
        handler = self.handlers.get(opcode)
        error, answer = 0, b""
        try:
            if handler is None:
                error = ENOSYS
            else:
                result = handler(nodeid, body, pid)
                if result is None:  # a request that gets no answer
                    self.buffer[:4] = b"\0\0\0\0"
                    return
                answer = result
        except OSError as failure:
            error = failure.errno or EIO
        except Exception:  # a bug here must not end the service of a whole container
            log.exception("FUSE request %d of node %d", opcode, nodeid)
            error = EIO
        header = p.OUT_HEADER.pack(p.OUT_HEADER.size + (0 if error else len(answer)), -error, unique)
        try:
            os.write(self.fd, header if error else header + answer)
        except OSError as failure:
            if failure.errno not in (ENOENT, ENODEV):  # who asked is gone, or got its answer before our predecessor died
                raise
        finally:
            self.buffer[:4] = b"\0\0\0\0"

    def _attr(self, nodeid: int, node: Node, pid: int) -> bytes:
        uid, gid = node.owner(pid)
        kind = node.mode & S_IFMT
        size = self._tell(nodeid, node, pid) if kind == S_IFREG else len(node.read(pid))
        return p.ATTR.pack(nodeid, size, 0, 0, 0, 0, 0, 0, 0, node.mode, 1 + (kind == S_IFDIR), uid, gid, 0, 4096, 0)

    def _tell(self, nodeid: int, node: Node, pid: int) -> int:
        """Return the length of a file for the kernel to keep: sendfile(2) and splice(2), busybox's cat, read just so much."""
        if self.settled:
            self.lengths[nodeid] = _length(node, pid)
        return self.lengths.get(nodeid, 0)

    def _check_length(self, nodeid: int, node: Node, pid: int) -> None:
        """Have who opens a file that is no longer as long as we have told come again, after the kernel has asked.

        The kernel does that by itself, once, for ESTALE (do_filp_open() in fs/namei.c). Raises OSError ESTALE.
        """
        who = nodeid, pid
        if who in self.sent_back:
            self.sent_back.discard(who)
        elif nodeid in self.lengths and _length(node, pid) != self.lengths[nodeid]:
            if len(self.sent_back) > MOST:
                self.sent_back.clear()
            self.sent_back.add(who)
            self._ask_anew(nodeid)
            raise OSError(ESTALE, "its length has changed")

    def _ask_anew(self, nodeid: int) -> None:
        """Have the kernel forget attributes."""
        length = p.OUT_HEADER.size + p.INVAL_INODE_OUT.size
        with ignoring(OSError):  # it has forgotten them
            os.write(self.fd, p.OUT_HEADER.pack(length, p.FUSE_NOTIFY_INVAL_INODE, 0) + p.INVAL_INODE_OUT.pack(nodeid, -1, 0))

    def _init(self, nodeid: int, body: memoryview, pid: int) -> bytes:
        major, minor, readahead, offered = p.INIT_IN.unpack_from(body)
        if (major, minor) < p.KERNEL:
            raise OSError(EINVAL, "the kernel's FUSE is too old")
        flags = offered & (
            p.FUSE_DO_READDIRPLUS | p.FUSE_CACHE_SYMLINKS
        )  # and not AUTO, which gives it for the first page of a directory only
        return p.INIT_OUT.pack(p.KERNEL[0], min(minor, p.MINOR), readahead, flags, 16, 12, p.MAX_WRITE, 1, 1, 0, 0)

    def _lookup(self, nodeid: int, body: memoryview, pid: int) -> bytes:
        return self._entry(self.node(nodeid), bytes(body).rstrip(b"\0").decode("utf-8", "surrogateescape"), pid)

    def _entry(self, parent: Node, name: str, pid: int, *, listed: bool = False) -> bytes:
        found = parent.find(name, pid, listed=listed)
        node = self.node(found)
        try:
            attr = self._attr(found, node, pid)
        except OSError:
            self.forget(found, 1)
            raise
        return p.ENTRY_OUT.pack(found, 0, p.LONG, self._valid(node), 0, 0) + attr

    def _valid(self, node: Node) -> int:
        return p.LONG if node.steady and self.settled else 0

    def _readlink(self, nodeid: int, body: memoryview, pid: int) -> bytes:
        return self.node(nodeid).read(pid)

    def _forget(self, nodeid: int, body: memoryview, pid: int) -> None:
        self.forget(nodeid, int.from_bytes(body[:8], "little"))

    def _batch_forget(self, nodeid: int, body: memoryview, pid: int) -> None:
        for index in range(p.BATCH.unpack_from(body)[0]):
            self.forget(*p.FORGET_ONE.unpack_from(body, p.BATCH.size + index * p.FORGET_ONE.size))

    def _interrupt(self, nodeid: int, body: memoryview, pid: int) -> None:
        return None

    def _getattr(self, nodeid: int, body: memoryview, pid: int) -> bytes:
        node = self.node(nodeid)
        return p.ATTR_OUT.pack(self._valid(node), 0, 0) + self._attr(nodeid, node, pid)

    def _setattr(self, nodeid: int, body: memoryview, pid: int) -> bytes:
        if p.SETATTR_IN.unpack_from(body)[0] & p.FATTR_OTHER:
            raise OSError(EPERM, "only the size, which is nothing, can be set")
        return self._getattr(nodeid, body, pid)

    def _open(self, nodeid: int, body: memoryview, pid: int) -> bytes:
        node = self.node(nodeid)
        wants = p.OPEN_IN.unpack_from(body)[0] & os.O_ACCMODE
        if wants != os.O_RDONLY and not node.mode & 0o222:
            raise OSError(EACCES, "read only, for those too who may write everywhere")
        if wants != os.O_WRONLY and not node.mode & 0o444:
            raise OSError(EACCES, "write only")
        self._check_length(nodeid, node, pid)
        return p.OPEN_OUT.pack(0, p.FOPEN_DIRECT_IO, 0)

    def _read(self, nodeid: int, body: memoryview, pid: int) -> bytes:
        _, offset, size, *_ = p.READ_IN.unpack_from(body)
        node = self.node(nodeid)
        if node.mode & S_IFMT == S_IFDIR:
            raise OSError(EISDIR, "a directory")
        if offset and self.seen == (nodeid, pid, offset):
            return b""  # who has got all that there was looks whether there is more
        data = node.read(pid)
        if len(data) < self.lengths.get(nodeid, 0):
            self.lengths[nodeid] = -1  # if it was for the page cache, the kernel takes the file for as long as that now
        self.seen = (nodeid, pid, len(data) if offset + size >= len(data) else -1)
        return data[offset : offset + size]

    def _write(self, nodeid: int, body: memoryview, pid: int) -> bytes:
        _, offset, size, _, _, flags, _ = p.WRITE_IN.unpack_from(body)
        self.lengths[nodeid] = -1  # the kernel takes the file for as long as what is written, or longer
        if offset == 0 or flags & os.O_APPEND:  # what comes after the first write is taken for nothing, as sysctl_writes_strict has it
            self.node(nodeid).write(bytes(body[p.WRITE_IN.size : p.WRITE_IN.size + size]), pid)
        return int(size).to_bytes(4, "little") + bytes(4)

    def _statfs(self, *_: object) -> bytes:
        return p.STATFS_OUT.pack(0, 0, 0, 0, 0, 4096, 255, 4096, 0)

    def _release(self, *_: object) -> bytes:
        return b""

    _destroy = _release

    def _opendir(self, nodeid: int, body: memoryview, pid: int) -> bytes:
        """Let the kernel keep a listing while the names are the same; two who see different ones at once get their own."""
        node = self.node(nodeid)
        if node.mode & S_IFMT != S_IFDIR:
            raise OSError(ENOTDIR, "no directory")
        names = hash(tuple(name for name, *_ in node.names(pid)))
        listing = self.listings.get(nodeid)
        flags = p.FOPEN_CACHE_DIR
        if listing is None or listing.names != names:
            if listing and listing.readers:
                return p.OPEN_OUT.pack(0, 0, 0)
            listing = self.listings[nodeid] = _Listing(names)
        else:
            flags |= p.FOPEN_KEEP_CACHE
        listing.readers += 1
        return p.OPEN_OUT.pack(1, flags, 0)

    def _releasedir(self, nodeid: int, body: memoryview, pid: int) -> bytes:
        listing = self.listings.get(nodeid)
        if listing and body[0]:  # fh: it was counted, by a predecessor perhaps
            listing.readers = max(listing.readers - 1, 0)
        return b""

    def _readdirplus(self, nodeid: int, body: memoryview, pid: int) -> bytes:
        return self._readdir(nodeid, body, pid, plus=True)

    def _readdir(self, nodeid: int, body: memoryview, pid: int, *, plus: bool = False) -> bytes:
        """List a directory; ``plus``: with all that LOOKUP would say of each entry."""
        _, offset, size, *_ = p.READ_IN.unpack_from(body)
        node = self.node(nodeid)
        entries = [(".", nodeid, S_IFDIR), ("..", p.ROOT, S_IFDIR), *node.names(pid)]
        extra = p.ENTRY_OUT.size + p.ATTR.size if plus else 0
        out = b""
        for index, (name, ino, mode) in enumerate(entries[offset:], offset + 1):
            text = name.encode("utf-8", "surrogateescape")
            entry = p.DIRENT.pack(ino, index, len(text), (mode & S_IFMT) >> 12) + text
            entry += bytes(-len(entry) % 8)
            if len(out) + extra + len(entry) > size:
                break
            if plus:
                try:
                    out += bytes(extra) if index <= 2 else self._entry(node, name, pid, listed=True)
                except OSError:
                    out += bytes(extra)  # it is listed, and not there: whoever wants it asks
            out += entry
        return out
