"""Where a process on its way into a container is, and how it tells the parent why it ends."""

from __future__ import annotations

from sysbox.errors import Failure, reason
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket


class Step:
    """Where init is, for the report of a failure."""

    name = "start"


def report(channel: socket, error: BaseException) -> None:
    """Tell the parent why init ends."""
    if isinstance(error, Failure):
        told = {"code": error.code, "cause": error.cause, "hint": error.hint}
    elif isinstance(error, OSError):
        told = {"code": 1020, "cause": f"{Step.name}: {reason(error)}", "hint": ""}
    else:
        told = {"code": 1099, "cause": f"{Step.name}: {type(error).__name__}: {error}", "hint": "please report this as a bug"}
    try:
        wire.send(channel, {"error": told})
    except OSError:
        return  # nobody is left to be told
