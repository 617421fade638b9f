"""The root filesystem as a detached mount whose owners are the container's, without a chown on disk.

An overlay (Docker's, containerd's) is mounted a second time over an id-mapped clone of its layers, the upper one included; a plain
directory is an id-mapped clone; what cannot be id-mapped is chowned and given back at delete.
"""

from __future__ import annotations

import posix
from _stat import S_ISDIR
from errno import ENOENT, ENOTDIR

from sysbox.errors import Failure, reason
from sysbox.linux import _kernel as k
from sysbox.linux import files, mountinfo
from sysbox.runtime import shift

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEPT = ("volatile", "metacopy", "redirect_dir", "xino", "userxattr")  # options of the overlay that must be the second one's too
ATTRIBUTES = {"ro": k.MOUNT_ATTR_RDONLY, "nosuid": k.MOUNT_ATTR_NOSUID, "nodev": k.MOUNT_ATTR_NODEV, "noexec": k.MOUNT_ATTR_NOEXEC}
WORK = "work-sysbox"
DETACHED_SINCE = (6, 15)  # Linux that takes detached mounts for layers
REMAPPED = 65536  # ids from here on are those of a user namespace


def examine(path: str, lines: list[str], ids: shift.Ids, *, mapped: bool) -> dict[str, Any]:
    """Decide how a root filesystem becomes the container's: notes for ``prepare`` and ``restore``. Raises Failure 1031, 1032.

    ``mapped``: config.json chose the ids, so the tree may be theirs already.
    """
    try:
        stat = posix.stat(path)
        if not S_ISDIR(posix.stat(path, follow_symlinks=False).st_mode):
            raise Failure(1031, f"the root filesystem {path} is not a directory", "correct $.root.path")
    except OSError as error:
        raise Failure(1031, f"the root filesystem {path} cannot be used: {reason(error)}", "correct $.root.path") from error
    line = mountinfo.at(lines, path)
    overlaid = {"merged": path, "upper": parse(line)["upper"]} if line and mountinfo.kind(line)[0] == "overlay" else {}
    if ids.own(stat):
        return {"path": path, "how": "as it is", **overlaid}
    if stat.st_uid >= REMAPPED and not mapped:
        raise Failure(
            1032,
            f"the root filesystem {path} belongs to user {stat.st_uid} of the host, and config.json maps no ids",
            "leave --userns=host out (Docker's userns-remap is on), or chown the root filesystem to root",
        )
    return {"path": path, "how": "overlay" if overlaid else "id-mapped", **overlaid}


def prepare(notes: dict[str, Any], lines: list[str], ids: shift.Ids) -> list[tuple[str, int]]:
    """Return detached mounts of the root filesystem and what is mounted below it, as ``shift.tree`` does; the first is the root.

    Adds to ``notes`` what ``restore`` needs. Raises Failure 1031, OSError.
    """
    path = notes["path"]
    try:
        if notes["how"] == "as it is":
            return _slaves([("", shift.clone(path, recursive=True))])
        if notes["how"] == "overlay":
            return [("", overlay(mountinfo.at(lines, path) or "", lines, ids, notes))]
        clones, cannot = shift.tree(path, ids, lines, recursive=True)
        if path not in cannot:
            return _slaves(clones)
        for _, fd in clones:
            posix.close(fd)
        cause = "its file system cannot be id-mapped"
    except OSError as error:
        if error.errno not in shift.CANNOT or notes["how"] == "as it is":
            raise Failure(1031, f"cannot prepare the root filesystem {path}: {reason(error)}", "see dmesg") from error
        cause = reason(error)
    from sysbox.runtime import chown

    notes["how"], notes["cause"] = "chown", cause
    notes["shifted"] = [ids.uid, ids.gid, ids.size]
    chown.shift(path, ids.uid, ids.gid, ids.size)
    return _slaves([("", shift.clone(path, recursive=True))])


def _slaves(clones: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """pivot_root(2) refuses a root that passes mounts on to the host's: a slave does not."""
    for _, fd in clones:
        k.mount_setattr(fd, "", k.AT_EMPTY_PATH | k.AT_RECURSIVE, 0, 0, k.MS_SLAVE, 0)
    return clones


def parse(line: str) -> dict[str, Any]:
    """Read ``lower`` (a list), ``upper``, ``work`` ("" if none), ``options``, ``attributes`` of an overlay from its line of mountinfo."""
    lower: list[str] = []
    found: dict[str, Any] = {"lower": lower, "upper": "", "work": "", "options": []}
    for word in mountinfo.kind(line)[2].split(","):
        name, _, value = word.partition("=")
        if name == "lowerdir":
            lower += _layers(mountinfo.plain(value))
        elif name == "lowerdir+":
            lower.append(mountinfo.plain(value))
        elif name in ("upperdir", "workdir"):
            found[name[:-3]] = mountinfo.plain(value)
        elif name in KEPT:
            found["options"].append((name, value))
    flags = line.split(" ", 6)[5].split(",")
    found["attributes"] = sum(bit for word, bit in ATTRIBUTES.items() if word in flags)
    # Docker gives paths from two directories above on, all of them if there are many layers: mount(2) takes a page of options
    base = (found["upper"] if found["upper"].startswith("/") else mountinfo.point(line)).rpartition("/")[0].rpartition("/")[0]
    found["lower"] = [one if one.startswith("/") else f"{base}/{one}" for one in lower]
    for name in ("upper", "work"):
        if found[name] and not found[name].startswith("/"):
            found[name] = f"{base}/{found[name]}"
    return found


def _layers(text: str) -> list[str]:
    r"""Split at colons, except escaped ones (``\:``): overlayfs.rst."""
    parts = [""]
    escaped = False
    for letter in text:
        if escaped or letter not in ":\\":
            parts[-1] += letter
            escaped = False
        elif letter == "\\":
            escaped = True
        else:
            parts.append("")
    return parts


def overlay(line: str, lines: list[str], ids: shift.Ids, notes: dict[str, Any], *, attached: bool = False) -> int:
    """Mount a second overlay over id-mapped clones of the layers of the first: a detached mount. Raises OSError.

    ``attached``: the way for kernels before 6.15, which want the layers in a mount namespace.
    """
    found = parse(line)
    if found["upper"]:
        work = f"{found['upper'].rpartition('/')[0]}/{WORK}"
        rmtree(work)
        posix.mkdir(work, 0o700)
        notes["work"] = work
    layers = [*found["lower"], *([found["upper"], work] if found["upper"] else [])]
    fds: list[int] = []
    try:
        named = _clones(layers, lines, ids, fds)
        if attached or files.linux() < DETACHED_SINCE:  # trying would leave a line in the kernel's log, for each container
            return _mount_attached(named, found, fds, ids)
        try:
            return _mount(named, found, fds, ids)
        except OSError as error:
            if error.errno not in shift.CANNOT:
                raise
        return _mount_attached(named, found, fds, ids)
    finally:
        for fd in fds:
            posix.close(fd)


def _clones(layers: list[str], lines: list[str], ids: shift.Ids, fds: list[int]) -> list[tuple[int, str]]:
    """Name each layer as (place in ``fds``, path below it): one id-mapped clone of what they have in common, if that is on one mount."""
    base = layers[0].rpartition("/")[0]
    for layer in layers:
        while not (layer + "/").startswith(base + "/"):
            base = base.rpartition("/")[0]
    one = len({mountinfo.holding(lines, layer) for layer in (base, *layers)}) == 1 and base
    if one:
        fds.append(_mapped(base, ids))
        return [(0, layer[len(base) + 1 :]) for layer in layers]
    named = []
    for number, layer in enumerate(layers):
        if layer.endswith("/" + WORK):
            named.append((number - 1, WORK))  # upper and work must be on one mount
            continue
        parent, _, name = layer.rpartition("/")
        whole = number + 1 < len(layers) and layers[number + 1].endswith("/" + WORK)
        fds.append(_mapped(parent if whole else layer, ids))
        named.append((number, name if whole else "."))
    return named


def _mapped(path: str, ids: shift.Ids) -> int:
    fd = shift.clone(path, recursive=False)
    try:
        # private: what is mounted on a member of a peer group, as clones are, is mounted on all of them, those of the host too
        k.mount_setattr(fd, "", k.AT_EMPTY_PATH, k.MOUNT_ATTR_IDMAP, 0, k.MS_PRIVATE, ids.userns)
    except OSError:
        posix.close(fd)
        raise
    return fd


class _As:
    """File system calls as container root of the host's ids, capabilities kept: its overlay works under these (credentials(7))."""

    def __init__(self, ids: shift.Ids) -> None:
        self.ids = ids
        self.bits = 0

    def __enter__(self) -> None:
        self.bits = k.prctl(k.PR_GET_SECUREBITS)
        k.prctl(k.PR_SET_SECUREBITS, self.bits | k.SECBIT_NO_SETUID_FIXUP)
        k.setfsid(self.ids.uid, self.ids.gid)

    def __exit__(self, *_: object) -> None:
        k.setfsid(0, 0)
        k.prctl(k.PR_SET_SECUREBITS, self.bits)


def _mount(named: list[tuple[int, str]], found: dict[str, Any], fds: list[int], ids: shift.Ids) -> int:
    """Mount by fsopen(2), from detached clones."""
    paths = [f"/proc/self/fd/{fds[number]}/{below}" for number, below in named]
    with _As(ids):
        fd = k.fsopen("overlay", k.FSOPEN_CLOEXEC)
        try:
            k.fsconfig(fd, k.FSCONFIG_SET_STRING, "source", "overlay", 0)
            if found["upper"]:
                k.fsconfig(fd, k.FSCONFIG_SET_STRING, "workdir", paths.pop(), 0)
                k.fsconfig(fd, k.FSCONFIG_SET_STRING, "upperdir", paths.pop(), 0)
            for path in paths:
                k.fsconfig(fd, k.FSCONFIG_SET_STRING, "lowerdir+", path, 0)
            for name, value in (*found["options"], ("index", "off")):
                k.fsconfig(fd, k.FSCONFIG_SET_STRING if value else k.FSCONFIG_SET_FLAG, name, value or None, 0)
            k.fsconfig(fd, k.FSCONFIG_CMD_CREATE, None, None, 0)
            return k.fsmount(fd, k.FSMOUNT_CLOEXEC, found["attributes"])
        finally:
            posix.close(fd)


def _mount_attached(named: list[tuple[int, str]], found: dict[str, Any], fds: list[int], ids: shift.Ids) -> int:
    """Mount by mount(2) in a mount namespace of its own, into which the clones are put."""
    here = posix.open(".", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    home = posix.open("/proc/self/ns/mnt", posix.O_RDONLY | posix.O_CLOEXEC)
    common = len(fds) == 1  # then paths may be relative: all options must fit into one page
    layers = [below if common else f"/proc/self/fd/{fds[number]}/{below}" for number, below in named]
    words = [*(f"{name}={value}" if value else name for name, value in found["options"]), "index=off"]
    if found["upper"]:
        work, upper = layers.pop(), layers.pop()
        words += [f"upperdir={_escaped(upper)}", f"workdir={_escaped(work)}"]
    words.append("lowerdir=" + ":".join(_escaped(layer).replace(":", "\\:") for layer in layers))
    k.unshare(k.CLONE_NEWNS)
    try:
        k.mount(None, "/", None, k.MS_REC | k.MS_SLAVE, None)
        for fd in fds:
            k.move_mount(fd, "", k.AT_FDCWD, "/sys", k.MOVE_MOUNT_F_EMPTY_PATH)
        if common:
            posix.fchdir(fds[0])
        with _As(ids):
            k.mount("overlay", "/sys", "overlay", 0, ",".join(words))
        fd = shift.clone("/sys", recursive=False)
        if found["attributes"]:
            k.mount_setattr(fd, "", k.AT_EMPTY_PATH, found["attributes"], 0, 0, 0)
        return fd
    finally:
        k.setns(home, k.CLONE_NEWNS)
        posix.fchdir(here)
        posix.close(home)
        posix.close(here)


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(",", "\\,")


def rmtree(path: str) -> None:
    """Remove a directory of the host with all in it, symlinks not followed; fine if it is not there. Raises OSError."""
    try:
        with posix.scandir(path) as entries:
            inner = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR):
            return
        raise
    for each, directory in inner:
        if directory:
            rmtree(each)
        else:
            posix.unlink(each)
    posix.rmdir(path)


def restore(notes: dict[str, Any]) -> None:
    """Undo what ``prepare`` did on disk; the container's mounts are gone. Raises OSError."""
    if notes.get("how") == "chown" and notes.get("shifted"):
        from sysbox.runtime import chown

        try:
            chown.unshift(notes["path"], *notes["shifted"])
        except FileNotFoundError:
            return  # whoever made it has removed it meanwhile
    if notes.get("work"):
        rmtree(notes["work"])
