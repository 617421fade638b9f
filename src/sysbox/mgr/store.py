"""Records of containers, in memory and on disk: a SQLite file that survives kill -9 between any two instructions.

Only committed records are written: what was half created when the manager died needs no collecting, it is not there.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass, field
from typing import Any

from sysbox.errors import Failure
from sysbox.linux.jsons import dumps, loads

FILE = "sysbox-mgr.db"
SCHEMA = 1
COLUMNS = "root, id, uid, gid, size, pid, starttime, netns, rootfs, device, exclusive"
CREATE = """
CREATE TABLE IF NOT EXISTS containers (
    root TEXT NOT NULL, id TEXT NOT NULL,
    uid INTEGER NOT NULL, gid INTEGER NOT NULL, size INTEGER NOT NULL,
    pid INTEGER NOT NULL, starttime INTEGER NOT NULL,
    netns TEXT, rootfs TEXT, device INTEGER NOT NULL, exclusive TEXT NOT NULL,
    PRIMARY KEY (root, id)
) WITHOUT ROWID
"""


@dataclass(slots=True)
class Record:
    """What the manager knows about one container. ``pid`` 0: it is being created."""

    root: str  # state directory of the runtime, without the id
    id: str
    uid: int  # first host id
    gid: int
    size: int
    pid: int = 0
    starttime: int = 0  # clock ticks after boot: tells the process from a later one with the same number
    netns: tuple[int, int] | None = None  # device and inode of its network namespace
    rootfs: str | None = None  # Docker's merged directory
    device: int = 0  # st_dev of the container's own overlay, 0: none
    exclusive: list[dict[str, Any]] = field(default_factory=list)  # dest, source, dev, ino of volumes nobody else may have

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others."""
        return self.root, self.id

    def alive(self) -> bool:
        """Whether it runs or is being created."""
        return not self.pid or starttime(self.pid) == self.starttime

    def stale(self) -> bool:
        """Whether neither its process nor its state file is left: the runtime will never ask to delete it."""
        return not self.alive() and not os.path.exists(f"{self.root}/{self.id}/state.json")


def starttime(pid: int) -> int | None:
    """Return field 22 of /proc/PID/stat, see proc(5); None if there is no such process or only its zombie is left."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may hold blanks and brackets
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


class Store:
    """The file on disk. One thread uses it."""

    def __init__(self, directory: str) -> None:
        """Open or make ``directory``/sysbox-mgr.db. Raises Failure 3020."""
        self.path = os.path.join(directory, FILE)
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._open()
        except (sqlite3.Error, OSError) as error:
            raise self._failure(error) from error

    def _open(self) -> None:
        run = self._db.execute
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=NORMAL")  # what a power cut takes away belongs to containers that it took away too
        run("PRAGMA wal_autocheckpoint=0")  # a checkpoint waits for the disk: tidy() does it when nobody waits for us
        run("PRAGMA cache_size=-256")
        version = run("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise Failure(3020, f"{self.path} was written by a newer sysbox-mgr (schema {version})", "run that version")
        run(CREATE)
        run(f"PRAGMA user_version={SCHEMA}")
        self.dirty = True  # what a killed manager left in the log

    def _failure(self, error: Exception) -> Failure:
        return Failure(3020, f"cannot use {self.path}: {error}", f"check the disk, or move {self.path}* away when no container runs")

    def load(self) -> list[Record]:
        """Read all records. Raises Failure 3020."""
        try:
            rows = self._db.execute(f"SELECT {COLUMNS} FROM containers ORDER BY root, id").fetchall()  # noqa: S608 - a constant
            records = [Record(*row) for row in rows]
            for record in records:
                record.netns = tuple(loads(record.netns)) if isinstance(record.netns, str) else None
                record.exclusive = loads(str(record.exclusive))
        except (sqlite3.Error, ValueError) as error:
            raise self._failure(error) from error
        return records

    def put(self, record: Record) -> None:
        """Write one record, in place of an older one of that container. Raises Failure 3020."""
        netns = dumps(list(record.netns)) if record.netns else None
        numbers = (record.uid, record.gid, record.size, record.pid, record.starttime)
        row = (record.root, record.id, *numbers, netns, record.rootfs, record.device, dumps(record.exclusive))
        self._write(f"INSERT OR REPLACE INTO containers ({COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - constants

    def remove(self, key: tuple[str, str]) -> None:
        """Forget one record; fine if there is none. Raises Failure 3020."""
        self._write("DELETE FROM containers WHERE root = ? AND id = ?", key)

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise self._failure(error) from error
        self.dirty = True

    def tidy(self) -> None:
        """Move the write-ahead log into the file; call it when idle. A failure is left for the next time."""
        self.dirty = False
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass

    def close(self) -> None:
        """Close the file; its log is moved into it."""
        self._db.close()
