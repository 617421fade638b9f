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

FORMATS_SINCE = (6, 7)  # each user namespace has its own
KMOD = ("/bin/kmod", "/usr/bin/kmod", "/sbin/kmod")
SOURCES = "/usr/src"


def adapt(wanted: dict[str, Any], release: str) -> None:
    """Add mounts to a plan: what this host has for its kernel, except where something is mounted anyway."""
    taken = {mount["dest"] for mount in wanted["mounts"]}
    if files.linux() >= FORMATS_SINCE and plan.FORMATS not in taken and posix.access(plan.FORMATS, posix.F_OK):
        first = next(index for index, mount in enumerate(wanted["mounts"]) if mount["dest"] == "/dev")
        wanted["mounts"].insert(first, plan.mount(plan.FORMATS, "binfmt_misc", "binfmt_misc", plan.SAFE))
    if wanted["systemd"] and not any(posix.access(wanted["root"] + path, posix.F_OK) for path in KMOD):
        return  # where there are modules its kmod-static-nodes.service wants that program, and fails without it
    wanted["mounts"] += [_bind(path) for path in _directories(release) if path not in taken]


def _directories(release: str) -> list[str]:
    """List what this host has: modules, headers of the kernel and those that its flavours share, and where their symlinks lead to."""
    headers = [f"{SOURCES}/kernels/{release}"]  # of Fedora and its kin
    try:
        version = release.partition("-")[0]
        headers += [f"{SOURCES}/{name}" for name in posix.listdir(SOURCES) if name.startswith(f"linux-headers-{version}")]
    except OSError:
        pass  # there is no such directory
    found = [f"{plan.MODULES}/{release}", *headers]
    for path in headers:
        for name in ("scripts", "tools"):
            try:
                target = posix.readlink(f"{path}/{name}")
            except OSError:
                continue
            whole = files.clean(target if target.startswith("/") else f"{path}/{target}").rpartition("/")[0]
            if whole not in found:
                found.append(whole)
    return [path for path in found if posix.access(path, posix.F_OK)]


def _bind(path: str) -> dict[str, Any]:
    flags = k.MS_BIND | k.MS_RDONLY | k.MS_NOSUID | k.MS_NODEV
    return {**plan.mount(path, "bind", path, flags), "kind": "bind", "host": True}
