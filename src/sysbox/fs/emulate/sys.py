"""/sys: directories in which software mounts or looks for what is the host's, and identifiers of the machine."""

from __future__ import annotations

from sysbox.fs.emulate.row import DIRECTORY, Row, number, own, pushed, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sysbox.fs.emulate.row import Box

PREFIX = 23  # characters of the host's UUID that stay: the first four groups
NODE = 12


def _uuid(box: Box) -> str:
    """Return the host's UUID, the last group of which is the container's id."""
    try:
        host = box.host().strip()
    except OSError:
        host = "00000000-0000-0000-0000-000000000000"
    name = str(box.container["id"])[:NODE].ljust(NODE, "0")
    return f"{host[:PREFIX]}-{name}\n"


_UUID = "/sys/devices/virtual/dmi/id/product_uuid"
_HASH = "/sys/module/nf_conntrack/parameters/hashsize"
ROWS = table(
    Row("/sys/kernel/config", DIRECTORY | 0o755, always=True),
    Row("/sys/kernel/debug", DIRECTORY | 0o700, always=True),
    Row("/sys/kernel/tracing", DIRECTORY | 0o700, always=True),
    Row("/sys/kernel/security", DIRECTORY | 0o755, always=True),
    Row(_UUID, 0o400, _uuid, always=True),
    Row(_HASH, 0o600, own, pushed(number(1, 2**31 - 1))),
)
