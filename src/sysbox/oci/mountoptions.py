"""Options of a mount: words of mount(8) and of the OCI spec (config.md, "Mounts") as flags of mount(2) and mount_setattr(2)."""

from __future__ import annotations

from sysbox.linux import _kernel as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# word -> flags of mount(2) to set, to clear
FLAGS = {
    "ro": (k.MS_RDONLY, 0),
    "rw": (0, k.MS_RDONLY),
    "nosuid": (k.MS_NOSUID, 0),
    "suid": (0, k.MS_NOSUID),
    "nodev": (k.MS_NODEV, 0),
    "dev": (0, k.MS_NODEV),
    "noexec": (k.MS_NOEXEC, 0),
    "exec": (0, k.MS_NOEXEC),
    "sync": (k.MS_SYNCHRONOUS, 0),
    "async": (0, k.MS_SYNCHRONOUS),
    "dirsync": (k.MS_DIRSYNC, 0),
    "mand": (k.MS_MANDLOCK, 0),
    "nomand": (0, k.MS_MANDLOCK),
    "atime": (0, k.MS_NOATIME),
    "noatime": (k.MS_NOATIME, k.MS_RELATIME | k.MS_STRICTATIME),
    "diratime": (0, k.MS_NODIRATIME),
    "nodiratime": (k.MS_NODIRATIME, 0),
    "relatime": (k.MS_RELATIME, k.MS_NOATIME | k.MS_STRICTATIME),
    "norelatime": (0, k.MS_RELATIME),
    "strictatime": (k.MS_STRICTATIME, k.MS_NOATIME | k.MS_RELATIME),
    "nostrictatime": (0, k.MS_STRICTATIME),
    "lazytime": (k.MS_LAZYTIME, 0),
    "nolazytime": (0, k.MS_LAZYTIME),
    "nosymfollow": (k.MS_NOSYMFOLLOW, 0),
    "symfollow": (0, k.MS_NOSYMFOLLOW),
    "silent": (k.MS_SILENT, 0),
    "loud": (0, k.MS_SILENT),
    "remount": (k.MS_REMOUNT, 0),
    "defaults": (0, 0),
    "bind": (k.MS_BIND, 0),
    "rbind": (k.MS_BIND | k.MS_REC, 0),
}

PROPAGATION = {
    "private": k.MS_PRIVATE,
    "rprivate": k.MS_PRIVATE | k.MS_REC,
    "slave": k.MS_SLAVE,
    "rslave": k.MS_SLAVE | k.MS_REC,
    "shared": k.MS_SHARED,
    "rshared": k.MS_SHARED | k.MS_REC,
    "unbindable": k.MS_UNBINDABLE,
    "runbindable": k.MS_UNBINDABLE | k.MS_REC,
}

# word -> attributes of mount_setattr(2) to set, to clear, in the mount and all below it
RECURSIVE = {
    "rro": (k.MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, k.MOUNT_ATTR_RDONLY),
    "rnosuid": (k.MOUNT_ATTR_NOSUID, 0),
    "rsuid": (0, k.MOUNT_ATTR_NOSUID),
    "rnodev": (k.MOUNT_ATTR_NODEV, 0),
    "rdev": (0, k.MOUNT_ATTR_NODEV),
    "rnoexec": (k.MOUNT_ATTR_NOEXEC, 0),
    "rexec": (0, k.MOUNT_ATTR_NOEXEC),
    "rnodiratime": (k.MOUNT_ATTR_NODIRATIME, 0),
    "rdiratime": (0, k.MOUNT_ATTR_NODIRATIME),
    "rnoatime": (k.MOUNT_ATTR_NOATIME, k.MOUNT_ATTR__ATIME),
    "ratime": (k.MOUNT_ATTR_RELATIME, k.MOUNT_ATTR__ATIME),
    "rrelatime": (k.MOUNT_ATTR_RELATIME, k.MOUNT_ATTR__ATIME),
    "rnorelatime": (k.MOUNT_ATTR_STRICTATIME, k.MOUNT_ATTR__ATIME),
    "rstrictatime": (k.MOUNT_ATTR_STRICTATIME, k.MOUNT_ATTR__ATIME),
    "rnostrictatime": (k.MOUNT_ATTR_RELATIME, k.MOUNT_ATTR__ATIME),
    "rnosymfollow": (k.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rsymfollow": (0, k.MOUNT_ATTR_NOSYMFOLLOW),
}

EXTRA = ("tmpcopyup", "idmap", "ridmap")  # what only container runtimes know
SAME = k.MS_RDONLY | k.MS_NOSUID | k.MS_NODEV | k.MS_NOEXEC  # these bits are MOUNT_ATTR_* too: linux/mount.h


def options(words: list[str]) -> dict[str, Any]:
    """Sort options: ``flags`` of mount(2), ``set`` and ``clear`` for recursive attributes, ``propagation`` calls, ``extra``, ``data``."""
    flags = set_ = clear = 0
    propagation, extra, data = [], [], []
    for word in words:
        if word in FLAGS:
            on, off = FLAGS[word]
            flags = flags & ~off | on
        elif word in PROPAGATION:
            propagation.append(PROPAGATION[word])
        elif word in RECURSIVE:
            on, off = RECURSIVE[word]
            set_, clear = set_ & ~off | on, clear & ~on | off
        elif word in EXTRA:
            extra.append(word)
        elif word:
            data.append(word)
    return {"flags": flags, "set": set_, "clear": clear, "propagation": propagation, "extra": extra, "data": ",".join(data)}


def attributes(flags: int) -> tuple[int, int]:
    """Translate flags of mount(2) to (set, clear) of mount_setattr(2) for a bind mount; those of the file system have no say there."""
    on = flags & SAME
    off = 0
    if flags & k.MS_NODIRATIME:
        on |= k.MOUNT_ATTR_NODIRATIME
    if flags & k.MS_NOSYMFOLLOW:
        on |= k.MOUNT_ATTR_NOSYMFOLLOW
    if flags & (k.MS_NOATIME | k.MS_RELATIME | k.MS_STRICTATIME):
        off = k.MOUNT_ATTR__ATIME
        on |= k.MOUNT_ATTR_NOATIME if flags & k.MS_NOATIME else k.MOUNT_ATTR_STRICTATIME if flags & k.MS_STRICTATIME else 0
    return on, off
