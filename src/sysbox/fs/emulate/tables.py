"""All rows, and the directories that are rebuilt for the sake of rows that the kernel does not show."""

from __future__ import annotations

from sysbox.fs.emulate import files, kernel, memory, net, proc, sys

ROWS = {**proc.ROWS, **kernel.ROWS, **files.ROWS, **memory.ROWS, **net.ROWS, **sys.ROWS}

# flat directories of /proc/sys/net that show what the asking process's network namespace has, and rows that it has not
MIRRORS = tuple(sorted({path.rpartition("/")[0] for path, row in net.ROWS.items() if row.always}))
