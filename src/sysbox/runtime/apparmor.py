"""Linux security modules: the AppArmor profile that a container's processes run under; SELinux must not enforce."""

from __future__ import annotations

import posix
from errno import ENOENT

from sysbox.errors import Failure, reason
from sysbox.linux import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OURS = "sysbox-container"  # host/apparmor; containers are unconfined where it is not loaded
# what engines ask for when their user has not: these would keep software inside from mounting
DEFAULTS = ("docker-default", "cri-containerd.apparmor.d", "containers-default", "crio-default", "nerdctl-default")
ENABLED = "/sys/module/apparmor/parameters/enabled"
SELINUX = "/sys/fs/selinux/enforce"


def wanted(process: dict[str, Any], *, regular: bool) -> str:
    """Choose the profile for a process: the one that its user names, or ours in place of an engine's default. "": none.

    A ``regular`` container gets what it asks for. Raises Failure 1009 for a profile on a host without AppArmor.
    """
    asked: str = process.get("apparmorProfile") or ""
    default = asked.startswith(DEFAULTS)
    profile = OURS if not regular and (default or not asked) else asked
    if profile in ("", "unconfined"):
        return ""
    if _starts(ENABLED, b"Y"):
        return profile
    if profile != OURS and not default:
        raise Failure(1009, f"AppArmor profile {asked} is asked for, but this host has no AppArmor", "leave --security-opt apparmor out")
    return ""


def check_selinux() -> None:
    """Raise Failure 1036 where SELinux enforces: its policy knows nothing of what we do."""
    if _starts(SELINUX, b"1"):
        raise Failure(
            1036, "SELinux is enforcing on this host, and its policy keeps containers from what they need", "setenforce 0 (permissive)"
        )


def door() -> int:
    """Open where the profile of the next execve(2) is written; to be done before the container's own /proc is all that there is."""
    try:
        return posix.open("/proc/self/attr/apparmor/exec", posix.O_WRONLY | posix.O_CLOEXEC)
    except FileNotFoundError:  # before Linux 5.8
        return posix.open("/proc/self/attr/exec", posix.O_WRONLY | posix.O_CLOEXEC)


def enter(door: int, profile: str) -> None:
    """Have the next execve(2) change to a profile (aa_change_onexec(2)). Raises Failure 1037."""
    try:
        posix.write(door, f"exec {profile}".encode())
    except OSError as error:
        if error.errno == ENOENT and profile == OURS:
            return
        cause = "it is not loaded" if error.errno == ENOENT else reason(error)
        raise Failure(1037, f"cannot enter AppArmor profile {profile}: {cause}", "apparmor_parser -r FILE, or leave it out") from error


def _starts(path: str, value: bytes) -> bool:
    try:
        return files.read(path).startswith(value)
    except OSError:
        return False
