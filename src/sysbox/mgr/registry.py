"""Who owns which ids and volumes: the operations of sysbox-mgr, without its sockets. One thread uses it."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, TypeVar

from sysbox.errors import Failure
from sysbox.mgr.store import Record
from sysbox.mgr.subid import CHUNK

if TYPE_CHECKING:
    from sysbox.mgr.store import Store
    from sysbox.mgr.subid import SubIds
    from sysbox.mgr.userns import Namespaces
    from sysbox.mgr.watch import Watch

T = TypeVar("T")
log = logging.getLogger("sysbox-mgr")


def need(message: dict[str, Any], name: str, kind: type[T]) -> T:
    """Return ``message[name]``, which must be exactly of that type (so true is no int). Raises Failure 3002."""
    value = message.get(name)
    if type(value) is not kind:
        raise Failure(3002, f"the message's {name!r} is not of type {kind.__name__}", "install runtime and manager of one version")
    return value


def pair(message: dict[str, Any], name: str) -> tuple[int, int] | None:
    """Return ``message[name]``, null or two integers. Raises Failure 3002."""
    value = message.get(name)
    if value is None:
        return None
    if type(value) is not list or [type(part) for part in value] != [int, int]:
        raise Failure(3002, f"the message's {name!r} is not a pair of integers", "install runtime and manager of one version")
    return value[0], value[1]


class Registry:
    """Records of all containers, and what is given to them."""

    def __init__(self, store: Store, subids: SubIds, namespaces: Namespaces, watch: Watch | None) -> None:
        """Load the records and take up where the last manager stopped. Raises Failure 3020."""
        self.store = store
        self.subids = subids
        self.namespaces = namespaces
        self.watch = watch
        self.records = {record.key: record for record in store.load()}
        self.cold = True  # the namespace of the next container may have to be made
        self.collect()
        for record in self.records.values():
            if watch and record.alive():
                watch.resume(record)

    def __len__(self) -> int:
        """Count the containers, those being created included."""
        return len(self.records)

    def collect(self) -> None:
        """Forget containers of which nothing is left. Raises Failure 3020."""
        for record in [record for record in self.records.values() if record.stale()]:
            log.info("container %s is gone: its ids %d and volumes are free", record.id, record.uid)
            self._forget(record)

    def _forget(self, record: Record) -> None:
        if record.pid:
            self.store.remove(record.key)
            if self.watch:
                self.watch.remove(record.key)
        del self.records[record.key]
        self.cold = True

    def create(self, message: dict[str, Any]) -> tuple[dict[str, Any], int, Record]:
        """Give ids and volumes to a new container: the reply, a descriptor of a user namespace (still ours), the record.

        The record counts at once; ``commit`` makes it last, ``rollback`` takes everything back. Raises Failure.
        """
        record = Record(need(message, "root", str), need(message, "id", str), 0, 0, 0)
        record.exclusive = _exclusive(message)
        netns = pair(message, "netns")
        known = self.records.get(record.key)
        if known:
            if known.alive():
                raise Failure(3003, "container ID already exists", f"use another ID, or remove container {known.id} first")
            self._forget(known)
        self._check_exclusive(record)
        userns = None
        owner = next((one for one in self.records.values() if netns and one.netns == netns and one.alive()), None)
        if owner:
            # a network namespace belongs to the user namespace it was made in: who shares the one shares the other
            record.uid, record.gid, record.size = owner.uid, owner.gid, owner.size
            userns = f"/proc/{owner.pid}/ns/user"
        elif message.get("ids") is not None:
            ids = need(message, "ids", dict)
            record.uid, record.gid, record.size = (need(ids, name, int) for name in ("uid", "gid", "size"))
        else:
            record.uid = record.gid = self._allocate()
            record.size = CHUNK
        fd = self.namespaces.get(record.uid, record.gid, record.size)
        self.records[record.key] = record
        self.cold = True
        reply = {"ok": True, "uid": record.uid, "gid": record.gid, "size": record.size, "userns": userns}
        return reply, fd, record

    def _used(self) -> list[tuple[int, int]]:
        return [ids for one in self.records.values() for ids in {(one.uid, one.size), (one.gid, one.size)}]

    def _allocate(self) -> int:
        try:
            return self.subids.allocate(self._used())
        except Failure as failure:
            if failure.code != 3011:
                raise
        self.collect()
        return self.subids.allocate(self._used())

    def _check_exclusive(self, record: Record) -> None:
        for mount in record.exclusive:
            for other in list(self.records.values()):
                if not any((held["dev"], held["ino"]) == (mount["dev"], mount["ino"]) for held in other.exclusive):
                    continue
                if other.alive():
                    cause = f"mount source {mount['source']} for {mount['dest']} is already in use by container {other.id}"
                    raise Failure(3004, cause, f"give each container its own volume, or remove {other.id} first")
                if other.stale():
                    self._forget(other)

    def commit(self, record: Record, message: dict[str, Any], fds: list[int]) -> None:
        """Make a created record last; takes descriptors of ``fds`` (container's root, Docker's merged) that it keeps.

        Raises Failure; then the record is still to be rolled back.
        """
        pid, started, netns = need(message, "pid", int), need(message, "starttime", int), pair(message, "netns")
        rootfs = None if message.get("rootfs") is None else need(message, "rootfs", str)
        if pid <= 0 or self.records.get(record.key) is not record:
            raise Failure(3006, f"container {record.id} was deleted while it was created", "create it again")
        device = os.fstat(fds[0]).st_dev if fds else 0
        lasting = Record(record.root, record.id, record.uid, record.gid, record.size, pid, started, netns, rootfs, device, record.exclusive)
        self.store.put(lasting)
        self.records[record.key] = lasting
        if self.watch and fds:
            self.watch.add(lasting, fds)
        log.info("container %s: pid %d, ids %d:%d:%d", record.id, pid, record.uid, record.gid, record.size)

    def rollback(self, record: Record) -> None:
        """Take back what ``create`` gave, unless it was committed."""
        if self.records.get(record.key) is record:
            log.info("container %s was not created: its ids %d and volumes are free", record.id, record.uid)
            self._forget(record)

    def delete(self, message: dict[str, Any]) -> None:
        """Forget a container; fine if it is not known. Raises Failure."""
        record = self.records.get((need(message, "root", str), need(message, "id", str)))
        if record:
            self._forget(record)
            log.info("container %s is deleted", record.id)

    def list(self) -> list[dict[str, Any]]:
        """Describe all containers, as the operation ``list`` replies."""
        names = ("id", "root", "uid", "gid", "size", "pid", "exclusive")
        return [{name: getattr(one, name) for name in names} | {"alive": one.alive()} for one in self.records.values()]

    def warm(self) -> None:
        """Make the user namespace that the next container will get, so that it need not wait."""
        self.cold = False
        try:
            start = self.subids.allocate(self._used())
            self.namespaces.get(start, start, CHUNK)
        except Failure as failure:
            log.debug("no namespace made in advance: %s", failure)


def _exclusive(message: dict[str, Any]) -> list[dict[str, Any]]:
    wanted: list[dict[str, Any]] = []
    for mount in need(message, "exclusive", list) if message.get("exclusive") is not None else []:
        if type(mount) is not dict:
            raise Failure(3002, "the message's 'exclusive' is not a list of objects", "install runtime and manager of one version")
        kinds: dict[str, type] = {"dest": str, "source": str, "dev": int, "ino": int}
        wanted.append({name: need(mount, name, kind) for name, kind in kinds.items()})
    return wanted
