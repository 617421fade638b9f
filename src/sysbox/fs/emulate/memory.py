"""/proc/sys/vm: how memory is given out."""

from __future__ import annotations

from sysbox.fs.emulate.row import Row, local, number, own, table

ROWS = table(
    Row("/proc/sys/vm/overcommit_memory", 0o644, own, local(number(0, 2))),
    Row("/proc/sys/vm/mmap_min_addr", 0o644, own, local(number(0, 2**63 - 1))),
)
