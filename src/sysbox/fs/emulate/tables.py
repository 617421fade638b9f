"""All rows, and the directories that are rebuilt for the sake of rows that the kernel does not show."""

from __future__ import annotations

from sysbox.fs.emulate import files, kernel, memory, net, proc, sys

ROWS = {**proc.ROWS, **kernel.ROWS, **files.ROWS, **memory.ROWS, **net.ROWS, **sys.ROWS}

# The directory that shows what the asking process's network namespace has, and rows that it has not. It is the highest one: the
# kernel has different directories below it for each network namespace, so a mount on one is not there for a process that has made
# itself another, and a program that goes through its list of mounts (bubblewrap) fails.
MIRRORS = ("/proc/sys/net",)
_ADDED = [path for path, row in net.ROWS.items() if row.always]
# directories below them that may be missing there
ADDED = tuple(sorted({path.rpartition("/")[0] for path in _ADDED} - set(MIRRORS)))
# names in a directory of a mirror that are there whatever the kernel has
BELOW: dict[str, frozenset[str]] = {}
for _path in (*ADDED, *_ADDED):
    _directory, _, _name = _path.rpartition("/")
    BELOW[_directory] = BELOW.get(_directory, frozenset()) | {_name}


def mirror_of(path: str) -> str:
    """Return the mirror that a path is below, "" if there is none."""
    return next((mirror for mirror in MIRRORS if path.startswith(mirror + "/")), "")
