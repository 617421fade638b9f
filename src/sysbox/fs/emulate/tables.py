"""All rows, and the directories that are rebuilt for the sake of rows that the kernel does not show."""

from __future__ import annotations

from sysbox.fs.emulate import files, kernel, memory, net, proc, sys

ROWS = {**proc.ROWS, **kernel.ROWS, **files.ROWS, **memory.ROWS, **net.ROWS, **sys.ROWS}

# A directory of which we show the rows, what of it leads to them, and for the rest links to the kernel's own, which is bound at KERNEL
# in it: so all but the rows is as fast as the kernel, and of the network namespace of whoever looks. It is the highest one: the kernel
# has different directories below it for each network namespace, so a mount on one is not there for a process that has made itself
# another, and a program that goes through its list of mounts (bubblewrap) fails.
MIRRORS = ("/proc/sys/net",)
KERNEL = ".kernel"


def mirror_of(path: str) -> str:
    """Return the mirror that a path is below, "" if there is none."""
    return next((mirror for mirror in MIRRORS if path.startswith(mirror + "/")), "")


BRANCHES = {path.rpartition("/")[0] for path in ROWS if mirror_of(path)}  # directories of mirrors in which there are rows
BRANCHES |= {branch[:end] for branch in BRANCHES for end, char in enumerate(branch) if char == "/" and mirror_of(branch[:end])}
BRANCHES -= set(MIRRORS)
_ADDED = [path for path, row in ROWS.items() if row.always and mirror_of(path)]
_ADDED += {path.rpartition("/")[0] for path in _ADDED} - set(MIRRORS)
# names in a directory of a mirror that are there whatever the kernel has
BELOW: dict[str, frozenset[str]] = {}
for _path in _ADDED:
    _directory, _, _name = _path.rpartition("/")
    BELOW[_directory] = BELOW.get(_directory, frozenset()) | {_name}
