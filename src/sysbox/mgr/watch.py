"""Keep Docker's view of a container's files and the container's own view coherent.

Both are overlays over one upper directory. Each caches names and attributes as if it were alone, so what Docker writes (``docker cp``)
may stay unseen inside, and what the container writes may stay unseen by Docker. fanotify tells when somebody is at work in Docker's
overlay; a reconfigure without any option then drops what a superblock has cached (fs/super.c: reconfigure_super).
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from collections import deque
from dataclasses import dataclass
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING

from sysbox.linux import _kernel as k

if TYPE_CHECKING:
    from sysbox.mgr.store import Record

log = logging.getLogger("sysbox-mgr")
PAUSE = 0.02  # seconds between two reconfigures of one superblock
# seconds after an event at which to reconfigure once more: without FAN_REPORT_FID names come and go without an event of their own,
# but whoever makes them has opened something shortly before
AGAIN = (PAUSE, 0.1, 0.5)
WRITES = k.FAN_CREATE | k.FAN_DELETE | k.FAN_MOVED_FROM | k.FAN_MOVED_TO | k.FAN_ATTRIB | k.FAN_MODIFY | k.FAN_CLOSE_WRITE
READS = k.FAN_OPEN
MASK = WRITES | READS | k.FAN_ONDIR
OLD_MASK = k.FAN_MODIFY | k.FAN_CLOSE_WRITE | k.FAN_OPEN | k.FAN_ONDIR  # what needs no FAN_REPORT_FID
EVENT = Struct("IBBHQii")  # struct fanotify_event_metadata: length, version, -, its own length, mask, descriptor, pid
INFO = Struct("BBHQ")  # struct fanotify_event_info_fid: type, -, length, fsid
BUFFER = 1 << 16


@dataclass(slots=True, eq=False)
class Watched:
    """One container. Its descriptors are closed by the thread alone, so that none is used after it was closed."""

    key: tuple[str, str]
    pidfd: int
    root: int  # O_PATH, root of the container's overlay: holds its superblock, so it must go when init dies
    merged: int  # O_PATH, Docker's merged directory; -1 when it is found again by its path
    path: str | None
    fsid: int  # of Docker's overlay
    device: int  # st_dev of Docker's merged directory
    due: float = 0.0  # time of the next reconfigure, 0: none
    last: float = 0.0  # time of the last one
    again: int = 0  # how many of AGAIN are done since the last event


def drop(dfd: int, path: str = "") -> None:
    """Drop all unused dentries and inodes of the superblock whose root this is; changes none of its flags. Raises OSError."""
    context = k.fspick(dfd, path, k.FSPICK_EMPTY_PATH | k.FSPICK_CLOEXEC | k.FSPICK_NO_AUTOMOUNT)
    try:
        k.fsconfig(context, k.FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    except OSError as error:
        if error.errno != errno.EROFS:  # an overlay without upper says so, after it has dropped them
            raise
    finally:
        os.close(context)


class Watch:
    """One thread, one or two fanotify groups, all containers."""

    def __init__(self) -> None:
        """Start the thread."""
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._groups: dict[bool, int] = {}  # with FAN_REPORT_FID or without: descriptor
        self._watched: dict[tuple[str, str], Watched] = {}  # of the thread alone
        self._todo: deque[Watched | tuple[str, str]] = deque()  # to add, or the key to remove
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def add(self, record: Record, fds: list[int]) -> None:
        """Watch a container; ``fds`` are its overlay's root and Docker's merged directory, both stay the caller's. Logs failures."""
        try:
            self._add(record, fds)
        except OSError as error:
            log.warning("container %s: what Docker writes into it may stay unseen: %s", record.id, error)

    def resume(self, record: Record) -> None:
        """Watch a container again after a restart of the manager: its overlay is the root of its init. Logs failures."""
        if not record.rootfs or not record.device:
            return
        fds: list[int] = []
        try:
            fds.append(os.open(f"/proc/{record.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            if os.fstat(fds[0]).st_dev == record.device:
                fds.append(os.open(record.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                self._add(record, fds)
        except OSError as error:
            log.warning("container %s: what Docker writes into it may stay unseen: %s", record.id, error)
        finally:
            for fd in fds:
                os.close(fd)

    def remove(self, key: tuple[str, str]) -> None:
        """Watch a container no longer; fine if it was not watched."""
        self._todo.append(key)
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """End the thread; marks go with the groups."""
        self._stop = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()

    def _add(self, record: Record, fds: list[int]) -> None:
        if len(fds) < 2 or not record.pid:
            return
        pidfd = os.pidfd_open(record.pid)
        root = merged = -1
        try:
            root = os.open(f"/proc/self/fd/{fds[0]}", os.O_PATH | os.O_CLOEXEC)
            stat = os.fstat(fds[1])
            if not record.rootfs or not _same(record.rootfs, stat):
                merged = os.open(f"/proc/self/fd/{fds[1]}", os.O_PATH | os.O_CLOEXEC)  # a mount that this mount namespace lacks
            self._mark(fds[1])
            one = Watched(record.key, pidfd, root, merged, record.rootfs, os.fstatvfs(fds[1]).f_fsid, stat.st_dev)
        except OSError:
            for fd in (pidfd, root, merged):
                if fd >= 0:
                    os.close(fd)
            raise
        self._todo.append(one)
        os.eventfd_write(self._wake, 1)

    def _mark(self, merged: int) -> None:
        """Ask for events of the superblock of ``merged``. Raises OSError."""
        try:
            k.fanotify_mark(self._group(fid=True), k.FAN_MARK_ADD | k.FAN_MARK_FILESYSTEM, MASK, merged, ".")
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP, errno.EXDEV):
                raise
            # overlayfs can say which file it was from 6.6 on, see Documentation/filesystems/overlayfs.rst
            k.fanotify_mark(self._group(fid=False), k.FAN_MARK_ADD | k.FAN_MARK_FILESYSTEM, OLD_MASK, merged, ".")

    def _group(self, *, fid: bool) -> int:
        if fid not in self._groups:
            flags = k.FAN_CLASS_NOTIF | k.FAN_NONBLOCK | k.FAN_CLOEXEC | (k.FAN_REPORT_FID if fid else 0)
            group = k.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC | os.O_LARGEFILE)
            self._groups[fid] = group
            self._poll.register(group, select.EPOLLIN)
        return self._groups[fid]

    def _run(self) -> None:
        while not self._stop:
            try:
                self._turn()
            except Exception:  # caches that live too long are better than a thread that does not
                log.exception("internal error")
        for one in list(self._watched.values()):
            self._forget(one)
        for fd in (*self._groups.values(), self._wake):
            os.close(fd)
        self._poll.close()

    def _turn(self) -> None:
        due = min((one.due for one in self._watched.values() if one.due), default=None)
        ready = {fd for fd, _ in self._poll.poll(None if due is None else max(due - monotonic(), 0))}
        if self._wake in ready:
            os.eventfd_read(self._wake)
        while self._todo:
            self._take(self._todo.popleft())
        for group in self._groups.values():
            if group in ready:
                self._events(group)
        now = monotonic()
        for one in list(self._watched.values()):
            if one.pidfd in ready:
                self._forget(one)
            elif one.due and one.due <= now:
                self._reconfigure(one)

    def _take(self, todo: Watched | tuple[str, str]) -> None:
        old = self._watched.get(todo.key if isinstance(todo, Watched) else todo)
        if old:
            self._forget(old)
        if isinstance(todo, Watched):
            self._watched[todo.key] = todo
            self._poll.register(todo.pidfd, select.EPOLLIN)
            todo.due = monotonic()

    def _forget(self, one: Watched) -> None:
        del self._watched[one.key]
        self._poll.unregister(one.pidfd)
        for fd in (one.pidfd, one.root, one.merged):
            if fd >= 0:
                os.close(fd)

    def _events(self, group: int) -> None:
        try:
            data = os.read(group, BUFFER)  # what does not fit comes with the next turn
        except OSError:
            return
        at = 0
        while at < len(data):
            length, _, _, own, _, fd, _ = EVENT.unpack_from(data, at)
            if fd >= 0:
                os.close(fd)
            fsid = INFO.unpack_from(data, at + own)[3] if length > own else None
            for one in self._watched.values():
                if one.fsid == fsid or fsid is None:
                    self._note(one)
            at += length

    def _note(self, one: Watched) -> None:
        one.again = 0
        if not one.due or one.due > monotonic() + PAUSE:
            one.due = max(monotonic(), one.last + PAUSE)  # at once, and again after the last event: nothing stays unseen

    def _reconfigure(self, one: Watched) -> None:
        one.due, one.last = 0.0, monotonic()
        if one.again < len(AGAIN):
            one.due = one.last + AGAIN[one.again]
            one.again += 1
        try:
            drop(one.root)
            if one.merged >= 0:
                drop(one.merged)
            elif one.path and os.stat(one.path).st_dev == one.device:
                drop(k.AT_FDCWD, one.path)
        except FileNotFoundError:
            log.debug("container %s: Docker has unmounted %s", one.key[1], one.path)
        except OSError as error:
            log.warning("container %s: what Docker writes into it may stay unseen: %s", one.key[1], error)


def _same(path: str, stat: os.stat_result) -> bool:
    """Whether ``path`` leads to the file of ``stat``."""
    try:
        return os.path.samestat(os.stat(path), stat)
    except OSError:
        return False
