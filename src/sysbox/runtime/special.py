"""Directories in which inner container engines stack overlays: these need a real file system, so they are bound from the upper layer.

An overlay cannot be the upper layer of another one; the directory on disk that holds the container's upper layer can.
"""

from __future__ import annotations

import posix
from errno import EEXIST, ELOOP, ENOENT, ENOTDIR

from sysbox.errors import Failure, reason
from sysbox.linux import _kernel as k
from sysbox.runtime import shift

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# path -> mode to make it with, None: only if the image has it
DIRECTORIES = {
    "/var/lib/docker": 0o710,
    "/var/lib/containerd": None,
    "/var/lib/buildkit": None,
    "/var/lib/kubelet": None,
    "/var/lib/rancher": None,
    "/var/lib/k0s": None,
}
# where running programs and their libraries are, and where people copy things to
BUSY = (
    "/etc",
    "/home",
    "/opt",
    "/root",
    "/srv",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/local",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/lib",
)
O_DIR = posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC


def exclusive(mounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """List sources that one container at a time may have: what the user mounts at a special directory. Raises Failure 1031."""
    found = []
    for mount in mounts:
        if mount["kind"] == "bind" and mount["dest"] in DIRECTORIES:
            try:
                stat = posix.stat(mount["source"])
            except OSError as error:
                raise Failure(1033, f"cannot mount {mount['source']}: {reason(error)}", "name a source that exists") from error
            found.append({"source": mount["source"], "dest": mount["dest"], "dev": stat.st_dev, "ino": stat.st_ino})
    return found


def prepare(notes: dict[str, Any], mounts: list[dict[str, Any]], ids: shift.Ids) -> list[tuple[str, int]]:
    """Return (path inside, detached id-mapped mount) for special directories that nobody else provides. Raises Failure 1033.

    Works on the first overlay (``notes["merged"]``), before the container's own is mounted.
    """
    if not notes.get("upper"):
        return []
    taken = {mount["dest"] for mount in mounts}
    merged = posix.open(notes["merged"], O_DIR)
    upper = posix.open(notes["upper"], O_DIR)
    found: list[tuple[str, int]] = []
    try:
        for path, mode in DIRECTORIES.items():
            if path in taken or any(path.startswith(dest.rstrip("/") + "/") for dest in taken):
                continue
            try:
                fd = _one(merged, upper, notes, path, mode, (0, 0) if notes["how"] == "overlay" else (ids.uid, ids.gid))
            except OSError as error:
                raise Failure(1033, f"cannot prepare {path}: {reason(error)}", f"mount a volume at {path}") from error
            if fd >= 0:
                found.append((path, fd))
        for path in (mount["dest"] for mount in mounts if "host" in mount):
            _make(merged, notes, path, 0o755, (0, 0) if notes["how"] == "overlay" else (ids.uid, ids.gid))
        for path, fd in found:
            if not shift.mapped(fd, ids):
                raise Failure(1033, f"cannot prepare {path}: its file system cannot be id-mapped", f"mount a volume at {path}")
    except BaseException:
        for _, fd in found:
            posix.close(fd)
        raise
    finally:
        posix.close(merged)
        posix.close(upper)
    return found


def _one(merged: int, upper: int, notes: dict[str, Any], path: str, mode: int | None, owner: tuple[int, int]) -> int:
    """Clone one directory of the upper layer, made or copied up if need be; -1 if there is none."""
    real = _make(merged, notes, path, mode, owner)
    if real is None:
        return -1
    try:
        inner = k.openat2(upper, real, O_DIR, 0, k.RESOLVE_BENEATH | k.RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno != ENOENT:
            raise
        if posix.listdir(f"{notes['merged']}/{real}"):
            from sysbox.runtime import copyup

            copyup.directory(notes["merged"], notes["upper"], real)
        else:
            _copy_up(merged, "/" + real)
        inner = k.openat2(upper, real, O_DIR, 0, k.RESOLVE_BENEATH | k.RESOLVE_NO_SYMLINKS)
    try:
        return shift.clone("", recursive=False, dfd=inner)
    finally:
        posix.close(inner)


def _make(merged: int, notes: dict[str, Any], path: str, mode: int | None, owner: tuple[int, int]) -> str | None:
    """Make a directory in the container's root as it sees it; return its real path from there, None if it is not wanted or no directory."""
    made = []
    parts = path.strip("/").split("/")
    for number in range(len(parts) if mode is not None else 0):
        try:
            parent = k.openat2(merged, "/" + "/".join(parts[:number]), O_DIR, 0, k.RESOLVE_IN_ROOT)
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR, ELOOP):
                return None  # a symlink into nowhere, a file: the image wants something else there
            raise
        try:
            posix.mkdir(parts[number], mode if number == len(parts) - 1 and mode else 0o755, dir_fd=parent)
            posix.chown(parts[number], *owner, dir_fd=parent, follow_symlinks=False)
            made.append("/" + "/".join(parts[: number + 1]))
        except OSError as error:
            if error.errno != EEXIST:
                raise
        finally:
            posix.close(parent)
    try:
        real = _real(merged, path)
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR, ELOOP) and not made:
            return None
        raise
    for one in made:
        notes.setdefault("made", []).append(_real(merged, one))
    return real or None


def _real(top: int, path: str) -> str:
    """Return the path from a directory of what ``path`` is as it sees it, free of symlinks. Raises OSError."""
    fd = k.openat2(top, path, O_DIR, 0, k.RESOLVE_IN_ROOT)
    try:
        root, real = (posix.readlink(f"/proc/self/fd/{one}") for one in (top, fd))
    finally:
        posix.close(fd)
    return real[len(root.rstrip("/")) + 1 :]


def settle(notes: dict[str, Any], mounts: list[dict[str, Any]], cwd: str) -> None:
    """Copy directories that will be in use for long to the upper layer, before the container's own overlay looks at them.

    An overlay remembers of a directory in use that it has no upper half. If the manager's overlay then made one (``docker cp``), new
    files there would stay unseen inside, and the container could not write there any more (ENOTEMPTY). Raises OSError.
    """
    if notes.get("how") != "overlay" or not notes.get("upper"):
        return
    wanted = set(BUSY)
    for path in (f"{cwd.rstrip('/')}/.", *(mount["dest"] for mount in mounts)):
        parts = path.split("/")[1:-1]
        wanted.update("/" + "/".join(parts[:number]) for number in range(1, len(parts) + 1))
    covered = tuple(mount["dest"] + "/" for mount in mounts)
    merged = posix.open(notes["merged"], O_DIR)
    upper = posix.open(notes["upper"], O_DIR)
    try:
        for path in sorted(wanted):
            if (path + "/").startswith(covered):
                continue
            try:
                posix.stat(path[1:], dir_fd=upper, follow_symlinks=False)
            except OSError:
                _copy_up(merged, path)
    finally:
        posix.close(merged)
        posix.close(upper)


def _copy_up(merged: int, path: str) -> None:
    """Give a directory of the overlay an upper half, if it is there: any change of its attributes does, even to what they are."""
    try:
        fd = k.openat2(merged, path, O_DIR, 0, k.RESOLVE_IN_ROOT | k.RESOLVE_NO_MAGICLINKS)
    except OSError:
        return
    try:
        posix.chmod(f"/proc/self/fd/{fd}", posix.fstat(fd).st_mode & 0o7777)
    finally:
        posix.close(fd)


def tidy(notes: dict[str, Any]) -> None:
    """Remove what was made for nothing, so that ``docker diff`` and ``commit`` do not show it."""
    for path in reversed(notes.get("made") or ()):
        # by the first overlay if it is still there: it would go on believing in what is removed behind its back
        for top in (notes["merged"], notes["upper"]):
            try:
                above = posix.open(top, O_DIR)
            except OSError:
                continue
            try:
                head, _, tail = path.rpartition("/")
                parent = k.openat2(above, head or ".", O_DIR, 0, k.RESOLVE_BENEATH | k.RESOLVE_NO_SYMLINKS)
                try:
                    posix.rmdir(tail, dir_fd=parent)
                finally:
                    posix.close(parent)
            except OSError:
                continue  # it has content, or is gone
            finally:
                posix.close(above)
