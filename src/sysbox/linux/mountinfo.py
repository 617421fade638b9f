"""/proc/self/mountinfo: proc_pid_mountinfo(5)."""

from __future__ import annotations

from sysbox.linux import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def read(path: str = "/proc/self/mountinfo") -> list[str]:
    """Read the lines. Raises OSError."""
    return files.read(path).decode("utf-8", "surrogateescape").split("\n")[:-1]


def plain(text: str) -> str:
    r"""Undo the escapes of space, tab, line feed, backslash (``\040``)."""
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    out = [head]
    for part in rest:
        code = part[:3]
        if len(code) == 3 and all(digit in "01234567" for digit in code):
            out.append(chr(int(code, 8)) + part[3:])
        else:
            out.append("\\" + part)
    return "".join(out)


def point(line: str) -> str:
    """Return where the mount is."""
    return plain(line.split(" ", 5)[4])


def at(lines: list[str], path: str) -> str | None:
    """Return the line of the topmost mount at exactly this path."""
    found = None
    for line in lines:
        if (f" {path} " in line or "\\" in line) and point(line) == path:
            found = line
    return found


def holding(lines: list[str], path: str) -> str:
    """Return the line of the mount that holds a path (absolute, without symlinks)."""
    best, found = -1, ""
    for line in lines:
        where = line.split(" ", 5)[4]
        if len(where) >= best and (path == where or path.startswith(where if where == "/" else where + "/")):
            best, found = len(where), line
    return found


def below(lines: list[str], path: str) -> list[str]:
    """Return the lines of mounts strictly below a path."""
    start = path.rstrip("/") + "/"
    return [line for line in lines if start in line and point(line).startswith(start)]


def kind(line: str) -> tuple[str, str, str]:
    """Return (type, source, options of the superblock)."""
    fields = line.partition(" - ")[2].split(" ")
    return fields[0], plain(fields[1]), fields[2]


def of_type(lines: list[str], start: str) -> Iterator[str]:
    """Yield lines of mounts whose type starts so."""
    wanted = f" - {start}"
    for line in lines:
        if wanted in line:
            yield line
