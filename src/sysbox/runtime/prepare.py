"""Parent's half of the mounts: open, clone and id-map as root of the host what init then puts into place."""

from __future__ import annotations

import posix
from errno import ENOENT

from sysbox.errors import Failure, reason
from sysbox.linux import _kernel as k
from sysbox.oci.mountoptions import attributes
from sysbox.runtime import cgroup, dev, shift

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# one step of init: (what, path inside, descriptor or -1, is a directory, the mount of the plan)
DIRECTORY = 0o040000
TREES = ("/proc", "/sys")  # grown by sysbox-fs when init is there


def steps(
    plan: dict[str, Any], special: list[tuple[str, int]], ids: shift.Ids, lines: list[str]
) -> list[tuple[str, str, int, bool, dict[str, Any]]]:
    """Turn the plan's mounts into steps for init, descriptors opened. Raises Failure 1033, 1034."""
    out: list[tuple[str, str, int, bool, dict[str, Any]]] = []
    skip = plan["knobs"].get("SYSBOX_SKIP_UID_SHIFT", [])
    placed = False
    try:
        for mount in plan["mounts"]:
            kind, dest = mount["kind"], mount["dest"]
            if kind in ("bind", "host-fs") and not placed:
                placed = True
                out += _special(plan, special)
            if kind == "bind":
                clones, directory, cannot = bind(mount, ids, lines, shifting=dest not in skip and "host" not in mount)
                out += [("attach", dest + below, fd, directory, mount) for below, fd in clones]
                plan.setdefault("unshifted", []).extend(cannot)
            elif kind == "dev":
                fd, outside = dev.make(mount, plan["devices"], ids, console=bool(plan["process"].get("terminal")))
                out.append(("attach", dest, fd, True, {}))
                out += [("attach", path, each, False, {}) for path, each in outside]
            elif kind == "host-fs":
                out.append(("attach", dest, _file_system(mount, ids), True, mount))
            elif dest in TREES and plan["emulated"]:
                out.append(("tree", dest, -1, True, mount))
            elif mount["type"] == "sysfs" and plan["namespaces"]["network"]:
                out.append(("attach", dest, _sysfs(mount, plan["namespaces"]["network"]), True, {}))
            elif kind == "cgroup":
                v1, v2 = cgroup.hierarchies(lines)
                out.append(("cgroup", dest, -1, True, {**mount, "v1": v1, "v2": v2}))
            else:
                out.append(("mount", dest, -1, True, mount))
        if not placed:
            out += _special(plan, special)
    except BaseException:
        for _, _, fd, _, _ in out:
            if fd >= 0:
                posix.close(fd)
        raise
    return out


def _special(plan: dict[str, Any], special: list[tuple[str, int]]) -> list[tuple[str, str, int, bool, dict[str, Any]]]:
    if plan["readonly"]:
        for _, fd in special:
            k.mount_setattr(fd, "", k.AT_EMPTY_PATH, k.MOUNT_ATTR_RDONLY, 0, 0, 0)
    return [("attach", path, fd, True, {}) for path, fd in special]


def bind(mount: dict[str, Any], ids: shift.Ids, lines: list[str], *, shifting: bool) -> tuple[list[tuple[str, int]], bool, list[str]]:
    """Clone a bind mount's source with its options: (clones as of ``shift.tree``, is a directory, what could not be id-mapped).

    Raises Failure 1033.
    """
    source = mount["source"]
    recursive = bool(mount["flags"] & k.MS_REC)
    clones: list[tuple[str, int]] = []
    cannot: list[str] = []
    try:
        if shifting:
            clones, cannot = shift.tree(_real(source) if recursive else source, ids, lines, recursive=recursive)
        else:
            clones = [("", shift.clone(source, recursive=recursive))]
        directory = posix.fstat(clones[0][1]).st_mode & 0o170000 == DIRECTORY
        deep = k.AT_RECURSIVE if recursive else 0
        private = any(one & ~k.MS_REC == k.MS_PRIVATE for one in mount["propagation"])
        on, off = attributes(mount["flags"])
        for below, fd in clones:
            k.mount_setattr(fd, "", k.AT_EMPTY_PATH | deep, 0, 0, k.MS_PRIVATE if private else k.MS_SLAVE, 0)
            if (on or off) and not below:
                k.mount_setattr(fd, "", k.AT_EMPTY_PATH, on, off, 0, 0)
            if mount["set"] or mount["clear"]:
                k.mount_setattr(fd, "", k.AT_EMPTY_PATH | k.AT_RECURSIVE, mount["set"], mount["clear"], 0, 0)
    except OSError as error:
        for _, fd in clones:
            posix.close(fd)
        hint = "name a source that exists" if error.errno == ENOENT else "see whether its file system can be mounted again"
        raise Failure(1033, f"cannot mount {source} at {mount['dest']}: {reason(error)}", hint) from error
    return clones, directory, cannot


def _sysfs(mount: dict[str, Any], netns: str) -> int:
    """Mount the sysfs of a joined network namespace: the container's user namespace may have no say over it. Raises Failure 1033."""
    home = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
    there = context = -1
    try:
        there = posix.open(netns, posix.O_RDONLY | posix.O_CLOEXEC)
        k.setns(there, k.CLONE_NEWNET)
        context = k.fsopen("sysfs", k.FSOPEN_CLOEXEC)
        k.fsconfig(context, k.FSCONFIG_SET_STRING, "source", "sysfs", 0)
        k.fsconfig(context, k.FSCONFIG_CMD_CREATE, None, None, 0)
        return k.fsmount(context, k.FSMOUNT_CLOEXEC, attributes(mount["flags"])[0])
    except OSError as error:
        raise Failure(1033, f"cannot mount the sysfs of {netns}: {reason(error)}", "name a network namespace") from error
    finally:
        k.setns(home, k.CLONE_NEWNET)
        for fd in (home, there, context):
            if fd >= 0:
                posix.close(fd)


def _real(source: str) -> str:
    """Resolve symlinks as open_tree(2) does, so that mounts below can be found by path."""
    fd = posix.open(source, posix.O_PATH | posix.O_CLOEXEC)
    try:
        return posix.readlink(f"/proc/self/fd/{fd}")
    finally:
        posix.close(fd)


def _file_system(mount: dict[str, Any], ids: shift.Ids) -> int:
    """Mount a file system that root of a user namespace may not mount, id-mapped if it can be. Raises Failure 1033."""
    context = fd = -1
    try:
        context = k.fsopen(mount["type"], k.FSOPEN_CLOEXEC)
        if mount["source"]:
            k.fsconfig(context, k.FSCONFIG_SET_STRING, "source", mount["source"], 0)
        if mount["flags"] & k.MS_RDONLY:
            k.fsconfig(context, k.FSCONFIG_SET_FLAG, "ro", None, 0)
        for word in mount["data"].split(","):
            name, _, value = word.partition("=")
            if name:
                k.fsconfig(context, k.FSCONFIG_SET_STRING if value else k.FSCONFIG_SET_FLAG, name, value or None, 0)
        k.fsconfig(context, k.FSCONFIG_CMD_CREATE, None, None, 0)
        fd = k.fsmount(context, k.FSMOUNT_CLOEXEC, attributes(mount["flags"])[0])
        try:
            k.mount_setattr(fd, "", k.AT_EMPTY_PATH, k.MOUNT_ATTR_IDMAP, 0, 0, ids.userns)
        except OSError as error:
            if error.errno not in shift.CANNOT:
                raise
    except OSError as error:
        if fd >= 0:
            posix.close(fd)
        cause = f"cannot mount {mount['type']} {mount['source']} at {mount['dest']}: {reason(error)}"
        raise Failure(1033, cause, "see whether the host knows that type and source") from error
    else:
        return fd
    finally:
        if context >= 0:
            posix.close(context)
