"""What a row of the tables is, and the ways to read, check and keep a value that rows are made of."""

from __future__ import annotations

from errno import EINVAL, ENOENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any, Protocol

    Read = Callable[["Box"], str]
    Write = Callable[["Box", str], None]
    Check = Callable[[str], str]  # text as written -> text to keep; raises OSError EINVAL

    class Box(Protocol):
        """What a row works with: one container, and the process that asks."""

        path: str  # of the row
        pid: int  # thread that asks, as the host counts
        values: dict[str, str]  # what the container has written, by path
        container: dict[str, object]  # id, uid, gid, size (subids), created (seconds since 1970)

        def keep(self, value: str) -> None:
            """Remember ``value`` as the container's own; it outlives this process."""

        def host(self, path: str = "") -> str:
            """Read the host's value of the row, or of another path. Raises OSError."""

        def host_write(self, value: str) -> None:
            """Set the host's value of the row, whatever it was. Raises OSError."""

        def may_raise(self) -> bool:
            """Say whether the operator lets containers raise the host's limits."""

        def inside(self, kind: str, action: Callable[[], str]) -> str:
            """Act in the asking process's namespace "uts" or "net"."""

        def native(self, value: str | None = None) -> str:
            """Read, or write, the row's file in the asking process's network namespace. Raises OSError."""

        def namespace(self, kind: str) -> str:
            """Name the asking process's namespace."""

        def root(self) -> tuple[int, int, int]:
            """Return who of the host is root where the asking process's network namespace belongs to: uid, gid, number of groups."""


DIRECTORY = 0o040000
SPACE = " \t\n\v\f\r\0"


class Row:
    """One emulated file or directory.

    ``native``: what the kernel has is good enough where somebody in the container owns it and may write it.
    ``lent``: a network namespace of a user namespace below the container's own has the file from its own root.
    ``namespaced``: the Linux from which on every pid namespace has a file of its own there, where no other one can look for it.
    ``always``: it is there even if the kernel does not show it in the container's namespaces.
    """

    def __init__(
        self,
        path: str,
        mode: int,
        read: Read | None = None,
        write: Write | None = None,
        *,
        native: bool = False,
        always: bool = False,
        lent: bool = False,
        namespaced: tuple[int, int] = (99, 0),
    ) -> None:
        """Say it."""
        self.path, self.mode, self.read, self.write = path, mode, read, write
        self.native, self.always, self.lent, self.namespaced = native, always, lent, namespaced

    def suffices(self, stat: os.stat_result, container: dict[str, Any]) -> bool:
        """Say whether a file of the kernel may stand for itself."""
        ours = container["uid"] <= stat.st_uid < container["uid"] + container["size"]
        return self.native and ours and stat.st_mode & self.mode & 0o222 == self.mode & 0o222


def table(*rows: Row) -> dict[str, Row]:
    """Index rows by path."""
    return {row.path: row for row in rows}


def refuse(text: str) -> OSError:
    """Make the error for a value out of range."""
    return OSError(EINVAL, f"invalid value {text!r}")


def parse(text: str, count: int) -> list[int]:
    """Read at most ``count`` integers as the kernel does (proc_get_long: any base, spaces between). Raises OSError EINVAL."""
    numbers = []
    for word in text.strip(SPACE).split(maxsplit=count)[:count]:
        sign, digits = (-1, word[1:]) if word[:1] == "-" else (1, word)
        try:
            base = 16 if digits[:2].lower() == "0x" else 8 if digits[:1] == "0" and digits != "0" else 10
            if digits[:1] in "+_" or "_" in digits:
                raise ValueError(digits)
            numbers.append(sign * int(digits, base))
        except ValueError:
            raise refuse(text) from None
    if not numbers:
        raise refuse(text)
    return numbers


def number(lowest: int, highest: int) -> Check:
    """Accept one integer within bounds."""

    def check(text: str) -> str:
        value = parse(text, 1)[0]
        if not lowest <= value <= highest:
            raise refuse(text)
        return f"{value}\n"

    return check


def numbers(count: int) -> Check:
    """Accept up to ``count`` integers."""
    return lambda text: "\t".join(map(str, parse(text, count))) + "\n"


def one_of(*words: str) -> Check:
    """Accept one of these words."""

    def check(text: str) -> str:
        word = text.strip(SPACE)
        if word not in words:
            raise refuse(text)
        return f"{word}\n"

    return check


def own(box: Box) -> str:
    """Read the container's own value, the host's until it has one."""
    value = box.values.get(box.path)
    return box.host() if value is None else value


def of_host(box: Box) -> str:
    """Read the host's value, now."""
    return box.host()


def otherwise(text: str) -> Read:
    """Read the container's own value, the host's until it has one, ``text`` where the host has none."""

    def read(box: Box) -> str:
        try:
            return own(box)
        except OSError as error:
            if error.errno != ENOENT:
                raise
            return text

    return read


def local(check: Check) -> Write:
    """Keep what is written for the container alone."""
    return lambda box, text: box.keep(check(text))


def highest(check: Check) -> Write:
    """Keep what is written; the host's value is raised to it, never lowered, if the operator allows that."""

    def write(box: Box, text: str) -> None:
        value = check(text)
        if box.may_raise():
            try:
                if int(value) > parse(box.host(), 1)[0]:
                    box.host_write(value)
            except OSError as error:
                if error.errno != ENOENT:
                    raise
        box.keep(value)

    return write


def pushed(check: Check) -> Write:
    """Keep what is written; the host gets it too, if the operator allows containers to change it."""

    def write(box: Box, text: str) -> None:
        value = check(text)
        if box.may_raise():
            box.host_write(value)
        box.keep(value)

    return write
