"""The log of one command: lines to ``--log`` in the form that containerd and Docker read, warnings also to standard error."""

from __future__ import annotations

import posix
import time

from sysbox.linux.jsons import dumps

_FORM = {"path": "", "format": "text", "debug": ""}


def configure(path: str, form: str, *, debugging: bool) -> None:
    """Remember where and how to log."""
    _FORM.update(path=path, format=form, debug="1" if debugging else "")


def debugging() -> bool:
    """Say whether ``--debug`` was given."""
    return bool(_FORM["debug"])


def debug(text: str) -> None:
    """Log what helps when something goes wrong, if asked for."""
    if _FORM["debug"]:
        _write("debug", text)


def warning(text: str) -> None:
    """Log what the user should know although it went well."""
    _write("warning", text)


def error(text: str) -> None:
    """Log why the command failed, and say so on standard error."""
    if _FORM["path"]:
        _write("error", text)
    _stderr(text)


def _write(level: str, text: str) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if _FORM["format"] == "json":
        line = dumps({"level": level, "msg": text, "time": now})
    else:
        line = f"time={dumps(now)} level={level} msg={dumps(text)}"
    if not _FORM["path"]:
        _stderr(line)
        return
    try:
        fd = posix.open(_FORM["path"], posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC, 0o644)
        posix.write(fd, (line + "\n").encode("utf-8", "surrogateescape"))
        posix.close(fd)
    except OSError as failed:
        _stderr(f"cannot log to {_FORM['path']}: {failed.strerror}")


def _stderr(text: str) -> None:
    try:
        posix.write(2, (text + "\n").encode("utf-8", "surrogateescape"))
    except OSError:
        return  # it is closed
