"""/proc/sys/fs: how many files, and whose links are followed."""

from __future__ import annotations

from sysbox.fs.emulate.row import Row, highest, local, number, own, table

ROWS = table(
    Row("/proc/sys/fs/file-max", 0o644, own, highest(number(0, 2**63 - 1))),
    Row("/proc/sys/fs/nr_open", 0o644, own, highest(number(8, 2**31 - 64))),
    Row("/proc/sys/fs/protected_hardlinks", 0o600, own, local(number(0, 1))),
    Row("/proc/sys/fs/protected_symlinks", 0o600, own, local(number(0, 1))),
)
