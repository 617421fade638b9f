"""What a system container has of the host's kernel: its modules and headers, read-only, and formats of binaries of its own.

Modules and headers are not id-mapped: nobody inside owns them, so that even a remount would let nobody write there.
"""

from __future__ import annotations

import posix

from sysbox.linux import _kernel as k
from sysbox.linux import files
from sysbox.runtime import plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMATS = "/proc/sys/fs/binfmt_misc"
FORMATS_SINCE = (6, 7)  # each user namespace has its own
MODULES = "/lib/modules"
KMOD = ("/bin/kmod", "/usr/bin/kmod", "/sbin/kmod")
HEADERS = ("/usr/src/linux-headers-{}", "/usr/src/kernels/{}", "/lib/modules/{}/build")  # Debian and Ubuntu; Fedora and its kin; Arch


def adapt(wanted: dict[str, Any], release: str) -> None:
    """Add mounts to a plan: what this host has for its kernel, except where something is mounted anyway."""
    taken = {mount["dest"] for mount in wanted["mounts"]}
    if files.linux() >= FORMATS_SINCE and FORMATS not in taken and posix.access(FORMATS, posix.F_OK):
        first = next(index for index, mount in enumerate(wanted["mounts"]) if mount["dest"] == "/dev")
        wanted["mounts"].insert(first, plan.mount(FORMATS, "binfmt_misc", "binfmt_misc", plan.SAFE))
    if wanted["systemd"] and not any(posix.access(wanted["root"] + path, posix.F_OK) for path in KMOD):
        return  # where there are modules its kmod-static-nodes.service wants that program, and fails without it
    wanted["mounts"] += [_bind(path) for path in _directories(release) if path not in taken]


def _directories(release: str) -> list[str]:
    wanted = [f"{MODULES}/{release}"] + [path.format(release) for path in HEADERS]
    found: list[str] = []
    for path in wanted:
        found += [one for one in (path, *_led_to(path)) if not any(f"{one}/".startswith(f"{other}/") for other in found)]
    return [path for path in found if posix.access(path, posix.F_OK)]


def _led_to(path: str) -> list[str]:
    """List directories that symlinks in a directory of headers lead to: those for all flavours of a kernel, its build tools."""
    try:
        names = posix.listdir(path) if path.startswith("/usr/src/") else []
    except OSError:
        return []
    found = [f"{path.rpartition('-')[0]}-common"] if "linux-headers" in path else []
    version = "-".join(path.rpartition("/")[2].removeprefix("linux-headers-").split("-")[:-1])
    found.append(f"/usr/src/linux-headers-{version}-common")
    for name in names:
        try:
            target = posix.readlink(f"{path}/{name}")
        except OSError:
            continue
        whole = files.clean(target if target.startswith("/") else f"{path}/{target}")
        found.append(whole.rpartition("/")[0])
    return found


def _bind(path: str) -> dict[str, Any]:
    return {
        "kind": "bind",
        "dest": path,
        "type": "bind",
        "source": path,
        "flags": k.MS_BIND | k.MS_RDONLY | k.MS_NOSUID | k.MS_NODEV,
        "data": "",
        "set": 0,
        "clear": 0,
        "propagation": [],
        "extra": [],
        "host": True,
    }
