"""Copying a special directory of an image's lower layers into the upper one. Off the hot path."""

from __future__ import annotations

import os
import subprocess

from sysbox.errors import Failure


def directory(merged: str, upper: str, path: str) -> None:
    """Copy ``merged/path`` to ``upper/path``, opaque: what is bound from there is then all that there is. Raises Failure 1033, OSError.

    An overlay has no copy-up for whole directories; the copy is made beside it and put in place by a rename.
    """
    source, target = f"{merged}/{path}", f"{upper}/{path}"
    parts = path.split("/")
    for depth in range(1, len(parts)):
        step = f"{upper}/{'/'.join(parts[:depth])}"
        if not os.path.isdir(step):
            seen = os.stat(f"{merged}/{'/'.join(parts[:depth])}")
            os.mkdir(step, seen.st_mode & 0o7777)
            os.chown(step, seen.st_uid, seen.st_gid)
    fresh = f"{upper}/../{os.path.basename(upper)}.copyup"
    subprocess.run(["rm", "-rf", fresh], check=True)
    try:
        done = subprocess.run(["cp", "-a", "--reflink=auto", source, fresh], capture_output=True, text=True)
        if done.returncode:
            raise Failure(1033, f"cannot copy {source} to the upper layer: {done.stderr.strip().rpartition('cp: ')[2]}", "free some space")
        os.setxattr(fresh, "trusted.overlay.opaque", b"y")
        os.rename(fresh, target)
    finally:
        subprocess.run(["rm", "-rf", fresh], check=True)
