"""/proc itself: what tells about the time since boot and about swap. Files about memory, processors and load would be rows here."""

from __future__ import annotations

import time

from sysbox.fs.emulate.row import Row, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sysbox.fs.emulate.row import Box


def _uptime(box: Box) -> str:
    age = max(0.0, time.time() - float(str(box.container["created"])))
    return f"{age:.2f} {age:.2f}\n"


def _swaps(_: Box) -> str:
    return "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


ROWS = table(
    Row("/proc/uptime", 0o444, _uptime),
    Row("/proc/swaps", 0o444, _swaps),
)
