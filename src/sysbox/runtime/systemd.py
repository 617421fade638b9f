"""systemd as a container's init: what it expects of its surroundings (systemd.io/CONTAINER_INTERFACE)."""

from __future__ import annotations

import posix

from sysbox.linux import _kernel as k
from sysbox.linux import files
from sysbox.runtime import plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAMES = ("init", "systemd")
PLACES = ("/sbin", "/usr/sbin", "/lib/systemd", "/usr/lib/systemd", "/bin", "/usr/bin")  # of a name without a path
FIRST = 8  # words of a command among which a wrapper's program is looked for
OPEN = ("/run", "/run/lock", "/tmp", "/sys/kernel")  # neither masked nor read-only: systemd mounts on them and writes there
VARIABLE = "container=private-users"
MEANT = {15: 34 + 3}  # SIGTERM has systemd start itself anew; SIGRTMIN+3 ends it, and all with it: systemd(1), "Signals"


def adapt(wanted: dict[str, Any]) -> None:
    """Change a plan for systemd, if that is what its program is or a wrapper's argument names. Raises OSError."""
    root = posix.open(wanted["root"], posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        found = any(_is_systemd(root, word) for word in wanted["process"]["args"][:FIRST])
    finally:
        posix.close(root)
    if not found:
        return
    wanted["systemd"] = True
    process = wanted["process"]
    process["env"] = [entry for entry in process.get("env") or () if not entry.startswith("container=")] + [VARIABLE]
    for kind in ("masked", "readonly_paths"):
        wanted[kind] = [path for path in wanted[kind] if files.clean(path) not in OPEN]
    run = (("/run", k.MS_NOSUID | k.MS_NODEV, "mode=755,size=64m"), ("/run/lock", plan.SAFE, "mode=1777,size=4m"))
    taken = {mount["dest"] for mount in wanted["mounts"] if mount["type"] == "tmpfs"}
    wanted["mounts"] = [mount for mount in wanted["mounts"] if mount["dest"] not in ("/run", "/run/lock") or mount["type"] == "tmpfs"]
    first = next((index for index, mount in enumerate(wanted["mounts"]) if mount["dest"].startswith("/run/")), len(wanted["mounts"]))
    wanted["mounts"][first:first] = [
        plan.mount(dest, "tmpfs", "tmpfs", flags | k.MS_STRICTATIME, data) for dest, flags, data in run if dest not in taken
    ]


def _is_systemd(root: int, word: str) -> bool:
    directory, _, name = word.rpartition("/")
    if name not in NAMES:
        return False
    for path in (word,) if directory else (f"{place}/{name}" for place in PLACES):
        try:
            fd = k.openat2(root, path, posix.O_PATH | posix.O_CLOEXEC, 0, k.RESOLVE_IN_ROOT | k.RESOLVE_NO_MAGICLINKS)
        except OSError:
            continue
        try:
            return posix.readlink(f"/proc/self/fd/{fd}").endswith("/systemd/systemd")
        finally:
            posix.close(fd)
    return False
