"""Subordinate ids: what /etc/subuid and /etc/subgid give to our user, cut into one chunk per container."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from sysbox.errors import Failure, reason

if TYPE_CHECKING:
    from collections.abc import Iterable

CHUNK = 65536  # ids of one container: all that 16-bit ids can name, as in the Go original
MOST = (1 << 32) - 1  # the last 32-bit id, (uid_t)-1, means "no id"
FIELDS = 3

Range = tuple[int, int]  # first id, number of ids


def parse(text: str, path: str, names: Iterable[str]) -> list[Range]:
    """Read the lines ``name:first:count`` of ``names`` in subuid(5) text; ``path`` is for the error text only.

    Returns disjoint (first, count) in ascending order. Lines of other users are none of our business, even broken ones.
    Raises Failure 3012.
    """
    wanted = set(names)
    found: list[Range] = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = [field.strip() for field in line.split(":")]
        if fields[0] not in wanted:
            continue
        numbers = [int(field) for field in fields[1:] if field.isascii() and field.isdigit() and len(field) <= len(str(MOST))]
        if len(fields) != FIELDS or len(numbers) != FIELDS - 1:
            raise Failure(3012, f"{path} line {number}: {line!r} is not name:first:count", f"correct line {number} of {path}")
        if numbers[0] + numbers[1] > MOST:
            raise Failure(3012, f"{path} line {number}: ids end at {MOST - 1}", f"lower the count in line {number} of {path}")
        found.append((numbers[0], numbers[1]))
    return _disjoint(found)


def _disjoint(ranges: list[Range]) -> list[Range]:
    """Join ranges that overlap: cut into chunks one by one they would give the same id to two containers."""
    joined: list[Range] = []
    for first, count in sorted(ranges):
        if joined and first < joined[-1][0] + joined[-1][1]:
            start = joined[-1][0]
            joined[-1] = (start, max(joined[-1][1], first + count - start))
        elif count:
            joined.append((first, count))
    return joined


def intersect(uids: list[Range], gids: list[Range]) -> list[Range]:
    """Keep the chunks that both lists have with the same first id, as (first id, number of chunks) in ascending order."""
    common: list[Range] = []
    for first, count in uids:
        for other, others in gids:
            start = max(first, other)
            chunks = min((first + count - start) // CHUNK, (other + others - start) // CHUNK)
            if chunks > 0 and (first - other) % CHUNK == 0:
                common.append((start, chunks))
    return common


def lowest(chunks: list[Range], used: Iterable[Range]) -> int | None:
    """Find the first id of the lowest chunk that touches nothing in ``used`` (first, count); None when all are taken."""
    taken = list(used)
    for start, count in chunks:
        blocked: set[int] = set()
        for first, size in taken:
            low, high = (first - start) // CHUNK, (first + size - 1 - start) // CHUNK
            blocked.update(range(max(low, 0), min(high + 1, count)))
        if len(blocked) < count:
            at = 0
            while at in blocked:
                at += 1
            return start + at * CHUNK
    return None


class SubIds:
    """The chunks of one user; the two files are read again when they change."""

    def __init__(self, user: str = "sysbox", subuid: str = "/etc/subuid", subgid: str = "/etc/subgid") -> None:
        """Remember where to look; reads nothing yet."""
        self.user = user
        self.paths = (subuid, subgid)
        self._seen: object = None
        self._chunks: list[Range] = []

    def chunks(self) -> list[Range]:
        """Return (first id, number of chunks) in ascending order. Raises Failure 3010, 3012."""
        seen = [_stamp(path) for path in self.paths]
        if seen != self._seen:
            self._chunks = self._read()
            self._seen = seen
        return self._chunks

    def allocate(self, used: Iterable[Range]) -> int:
        """Return the first id of the lowest chunk free of ``used``. Raises Failure 3010, 3011, 3012."""
        chunks = self.chunks()
        start = lowest(chunks, used)
        if start is None:
            total = sum(count for _, count in chunks)
            cause = f"all {total} ranges of user {self.user} in {self.paths[0]} are in use"
            raise Failure(3011, cause, f"remove containers, or widen the ranges of {self.user} in {self.paths[0]} and {self.paths[1]}")
        return start

    def _read(self) -> list[Range]:
        names = [self.user]
        try:
            names.append(str(pwd.getpwnam(self.user).pw_uid))
        except KeyError:
            pass  # the files may name a user that has no account
        ranges = []
        for path in self.paths:
            found = parse(_text(path), path, names)
            if not found:
                raise Failure(3010, f"no range for user {self.user} in {path}", f"echo {self.user}:165536:268435456 >> {path}")
            ranges.append(found)
        chunks = intersect(ranges[0], ranges[1])
        if not chunks:
            cause = f"no range of {CHUNK} ids for user {self.user} that {self.paths[0]} and {self.paths[1]} both have"
            raise Failure(3010, cause, f"echo {self.user}:165536:268435456 | tee -a {self.paths[0]} {self.paths[1]}")
        return chunks


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""  # as good as empty
    except OSError as error:
        raise Failure(3012, f"cannot read {path}: {reason(error)}", f"check {path}") from error


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
