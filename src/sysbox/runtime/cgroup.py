"""The container's cgroups: where they are, their making, limits, freezing and end; v1, v2 and both at once (cgroups(7)).

A container's cgroups are plain data, kept in state.json: ``{"v1": {"cpu,cpuacct": directory, ...}, "v2": directory or ""}``.
"""

from __future__ import annotations

import posix
import time
from errno import EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, ENOTDIR, ENOTEMPTY, EOPNOTSUPP, ESRCH

from sysbox.errors import Failure, reason
from sysbox.linux import _kernel as k
from sysbox.linux import files, mountinfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

V1_OWN = ("", "/cgroup.procs", "/tasks")
V2_OWN = ("", "/cgroup.procs", "/cgroup.threads", "/cgroup.subtree_control")
LEAF = "init.scope"  # where init lives on v2, so that the container's root cgroup may hand controllers on


def hierarchies(lines: list[str]) -> tuple[dict[str, str], str]:
    """Find the host's, as mountinfo.hierarchies() does. Raises Failure 1030: there is none."""
    v1, v2 = mountinfo.hierarchies(lines)
    if not v1 and not v2:
        raise Failure(1030, "no cgroup file system is mounted below /sys/fs/cgroup", "mount -t cgroup2 none /sys/fs/cgroup")
    return v1, v2


def place(lines: list[str], path: str) -> dict[str, Any]:
    """Say where the cgroups of ``linux.cgroupsPath`` are; a relative path is below our own. Raises Failure 1030."""
    v1, v2 = hierarchies(lines)
    path = "/".join(part for part in path.split("/") if part not in ("", ".", "..")) if not path.startswith("/") else files.clean(path)
    if not path.strip("/"):
        raise Failure(1030, "$.linux.cgroupsPath is the root of all cgroups", "name a directory of its own")
    if path.startswith("/"):
        return {"v1": {names: where + path for names, where in v1.items()}, "v2": v2 + path if v2 else ""}
    mine = mountinfo.own_cgroups()
    below = {names: f"{where}{mine.get(names, '/').rstrip('/')}/{path}" for names, where in v1.items()}
    return {"v1": below, "v2": f"{v2}{mine.get('', '/').rstrip('/')}/{path}" if v2 else ""}


def directories(groups: dict[str, Any]) -> list[str]:
    """List the directories of a container's cgroups."""
    return [*groups["v1"].values(), *([groups["v2"]] if groups["v2"] else [])]


def make(groups: dict[str, Any]) -> list[str]:
    """Make the directories; return those that were made, for ``remove`` after a failure. Raises Failure 1030."""
    made: list[str] = []
    try:
        for names, path in groups["v1"].items():
            new = _mkdir(path, made)
            if new and "cpuset" in names.split(","):
                for each in new:
                    _inherit_cpuset(each)
        if groups["v2"]:
            _mkdir(groups["v2"], made)
            if not groups["v1"]:
                for each in _above(groups["v2"]):  # those that systemd has made too: it hands on neither hugetlb nor rdma
                    _delegate(each)
                _mkdir(f"{groups['v2']}/{LEAF}", made)
    except OSError as error:
        for path in reversed(made):
            _rmdir(path)
        raise Failure(1030, f"cannot make the cgroup: {reason(error)}", "see whether the hierarchy is writable and not full") from error
    return made


def settle(groups: dict[str, Any]) -> None:
    """Move whoever is in a cgroup of v2 into its leaf: only leaves may have processes. Raises OSError."""
    for pid in _text(f"{groups['v2']}/cgroup.procs").split():
        files.write(f"{groups['v2']}/{LEAF}/cgroup.procs", pid)


def _mkdir(path: str, made: list[str]) -> list[str]:
    """Make a directory and its parents; return the new ones, outermost first."""
    try:
        posix.mkdir(path, 0o755)
    except OSError as error:
        if error.errno == EEXIST:
            return []
        if error.errno != ENOENT:
            raise
        new = _mkdir(path[: path.rindex("/")], made)
        return new + _mkdir(path, made)
    made.append(path)
    return [path]


def _inherit_cpuset(path: str) -> None:
    """Give a new v1 cpuset what its parent has: without that no process may enter."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not _text(f"{path}/{name}").strip():
            files.write(f"{path}/{name}", _text(f"{path[: path.rindex('/')]}/{name}").strip())


def _above(path: str) -> list[str]:
    """List the v2 cgroups above one, from the top."""
    found: list[str] = []
    above = path[: path.rindex("/")]
    while posix.access(f"{above}/cgroup.controllers", posix.F_OK):
        found.insert(0, above)
        above = above[: above.rindex("/")]
    return found


def _delegate(parent: str) -> None:
    """Hand every controller that a v2 cgroup has on to its children."""
    have = _text(f"{parent}/cgroup.subtree_control").split()
    for name in _text(f"{parent}/cgroup.controllers").split():
        if name not in have:
            try:
                files.write(f"{parent}/cgroup.subtree_control", f"+{name}")
            except OSError as error:
                if error.errno not in (EBUSY, EINVAL, EOPNOTSUPP, ENOENT):
                    raise


def give(groups: dict[str, Any], uid: int, gid: int) -> None:
    """Let container root manage what is below: the directory and who is in it, not the limits. Raises OSError."""
    for path in groups["v1"].values():
        for name in V1_OWN:
            posix.chown(path + name, uid, gid)
    if groups["v2"]:
        leaf = f"{groups['v2']}/{LEAF}"
        for name in V2_OWN:
            posix.chown(groups["v2"] + name, uid, gid)
            if not groups["v1"]:
                posix.chown(leaf + name, uid, gid)


def limit(groups: dict[str, Any], resources: dict[str, Any], *, fresh: bool = True) -> None:
    """Write limits of the OCI spec's linux.resources; ``fresh``: a new cgroup, devices are limited in any case. Raises Failure 20xx."""
    from sysbox.oci import resources as oci

    devices = resources.get("devices") or []
    if groups["v1"]:
        where = {name: path for names, path in groups["v1"].items() for name in names.split(",")}
        writes = oci.v1(resources, update=not fresh)
        if devices or (fresh and "devices" in where):
            writes += oci.devices_v1(oci.effective(devices))
        for index, (controller, file, value) in enumerate(writes):
            path = where.get(controller)
            if path is None:
                raise Failure(2030, f"cannot set {file}: this host has no cgroup controller {controller}", "leave that limit out")
            again = any(later == file for _, later, _ in writes[index + 1 :])
            _set(path, file, value, again=again)
        return
    if not fresh and (resources.get("memory") or {}).get("checkBeforeUpdate"):
        oci.check_usage(resources, int(_text(f"{groups['v2']}/memory.current")))
    for file, value in oci.v2(resources):
        _set(groups["v2"], file, value)
    if devices or fresh:
        fd = posix.open(groups["v2"], posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
        try:
            k.bpf_cgroup_device(fd, oci.device_program(oci.effective(devices)), k.BPF_F_ALLOW_MULTI)
        except OSError as error:
            raise Failure(2031, f"cannot limit devices of {groups['v2']}: {reason(error)}", "a kernel with CONFIG_CGROUP_BPF") from error
        finally:
            posix.close(fd)


def _set(path: str, file: str, value: str, *, again: bool = False) -> None:
    """Write a limit; ``again``: it is tried once more later, when what it depends on is set."""
    try:
        files.write(f"{path}/{file}", value)
    except OSError as error:
        if again and error.errno == EINVAL:
            return
        from sysbox.oci.resources import missing

        other = missing(file, value) if error.errno == ENOENT else None
        if other is None:
            raise Failure(2032, f"cannot set {file} to {value.strip()!r}: {reason(error)}", "a value that this kernel takes") from error
        if other[0]:
            _set(path, *other)


def _text(path: str) -> str:
    return files.read(path).decode()


def doors(groups: dict[str, Any]) -> tuple[list[int], int]:
    """Open the ways in: descriptors into which a process writes "0" to enter v1 cgroups, and one of v2 for clone3 (or -1).

    ``tasks`` moves the one thread that a new process has and spares the kernel a lock over all processes that
    ``cgroup.procs`` takes. The kernel checks the rights of who opened it. Raises OSError.
    """
    fds: list[int] = []
    v2 = -1
    try:
        for path in groups["v1"].values():
            fds.append(posix.open(path + "/tasks", posix.O_WRONLY | posix.O_CLOEXEC))
        if groups["v2"]:
            v2 = posix.open(groups["v2"], posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError:
        for fd in fds:
            posix.close(fd)
        raise
    return fds, v2


def pids(groups: dict[str, Any]) -> list[int]:
    """List all processes in the container's cgroups, those in cgroups below included."""
    where = next((path for names, path in groups["v1"].items() if names == "pids"), None) or (directories(groups) or [""])[0]
    found: list[int] = []
    for path in _tree(where):
        try:
            found += [int(pid) for pid in _text(f"{path}/cgroup.procs").split()]
        except OSError as error:
            if error.errno not in (ENOENT, ENODEV, EOPNOTSUPP):
                raise
    return found


def _tree(path: str) -> Iterator[str]:
    """Yield a directory's descendants, deepest first, then itself."""
    try:
        with posix.scandir(path) as entries:
            inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in (ENOENT, ENODEV):
            return
        raise
    for each in inner:
        yield from _tree(each)
    yield path


def freeze(groups: dict[str, Any], *, frozen: bool) -> None:
    """Stop or continue all processes; returns when that is so. Raises Failure 1031, OSError."""
    path = next((path for names, path in groups["v1"].items() if "freezer" in names.split(",")), None)
    if path:
        file, value = f"{path}/freezer.state", "FROZEN" if frozen else "THAWED"
        files.write(file, value)
    elif groups["v2"]:
        files.write(f"{groups['v2']}/cgroup.freeze", "1" if frozen else "0")
        file, value = f"{groups['v2']}/cgroup.events", f"frozen {int(frozen)}"
    else:
        raise Failure(1031, "this host has no freezer cgroup", "mount the freezer hierarchy, or cgroup v2")
    for _ in range(2000):
        if value in _text(file):
            return
        time.sleep(0.001)
        if path:
            files.write(file, value)  # a process forked meanwhile is caught by a second try: freezer-subsystem.rst
    if frozen:
        freeze(groups, frozen=False)
    raise Failure(1031, f"the processes did not become {value} within two seconds", "try again")


def is_frozen(groups: dict[str, Any]) -> bool:
    """Say whether the container is paused."""
    try:
        for names, path in groups["v1"].items():
            if "freezer" in names.split(","):
                return _text(f"{path}/freezer.state").strip() != "THAWED"
        return bool(groups["v2"]) and _text(f"{groups['v2']}/cgroup.freeze").strip() == "1"
    except OSError:
        return False


def kill(groups: dict[str, Any]) -> None:
    """Kill whatever is left in the container's cgroups; returns at once. Raises OSError."""
    if groups["v2"]:
        try:
            files.write(f"{groups['v2']}/cgroup.kill", "1")
        except OSError as error:
            if error.errno not in (ENOENT, ENODEV):
                raise
    for pid in pids(groups):
        try:
            posix.kill(pid, 9)
        except OSError as error:
            if error.errno != ESRCH:
                raise


def remove(paths: list[str]) -> None:
    """Remove cgroups with all below them; waits up to two seconds for processes that are ending. Raises Failure 1030."""
    pause = 0.0005
    for _ in range(60):
        paths = [path for path in paths if not _rmdir(path)]
        if not paths:
            return
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    raise Failure(1030, f"cannot remove the cgroup {paths[0]}: processes are still in it", "see cgroup.procs there")


def _rmdir(path: str) -> bool:
    try:
        posix.rmdir(path)
    except OSError as error:
        if error.errno in (ENOENT, ENODEV, ENOTDIR):
            return True
        if error.errno not in (EBUSY, ENOTEMPTY):
            raise
        for each in _tree(path):
            if each != path:
                try:
                    posix.rmdir(each)
                except OSError:
                    return False
        return False
    return True
