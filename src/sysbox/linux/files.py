"""Small files whole, paths as text, the kernel's version: what os, pathlib and platform would take milliseconds to import for."""

from __future__ import annotations

import posix


def read(path: str) -> bytes:
    """Read a file. Raises OSError with the call and the path."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    parts = []
    try:
        while part := posix.read(fd, 1 << 16):
            parts.append(part)
    except OSError as error:
        raise OSError(error.errno, f"read: {error.strerror}", path) from None
    finally:
        posix.close(fd)
    return b"".join(parts)


def write(path: str, value: str) -> None:
    """Write one value to a file of the kernel. Raises OSError with the call and the path."""
    fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        posix.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, f"write: {error.strerror}", path) from None
    finally:
        posix.close(fd)


def clean(path: str) -> str:
    """Make a path absolute and free of ``.``, ``..`` and doubled slashes, as text."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def linux(release: str = "") -> tuple[int, int]:
    """Return the version of the kernel, or of ``release``; one that cannot be told is taken to be new."""
    numbers = (release or posix.uname().release).split("-")[0].split(".")
    try:
        return int(numbers[0]), int(numbers[1])
    except (ValueError, IndexError):
        return 999, 0
