"""What a worker has to say for the log, whose file the supervisor has: logging would be a megabyte of memory, much of it written to."""

from __future__ import annotations

import sys

from sysbox.linux.ignoring import ignoring
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40  # as logging has them
LONG = 4096  # characters of a message that are sent


class Log:
    """Messages for whoever is at the other end of ``channel``, from ``level`` on."""

    channel: socket | None = None
    level = INFO

    def say(self, level: int, text: str, *args: object) -> None:
        """Send a message; it is lost if nobody listens."""
        if self.channel and level >= self.level:
            with ignoring(OSError):
                wire.send(self.channel, {"op": "log", "level": level, "text": (text % args)[:LONG]})

    def debug(self, text: str, *args: object) -> None:
        """Tell what only who looks for a fault wants to know."""
        self.say(DEBUG, text, *args)

    def warning(self, text: str, *args: object) -> None:
        """Tell what should not be, and is no fault of ours."""
        self.say(WARNING, text, *args)

    def exception(self, text: str, *args: object) -> None:
        """Tell of the exception at hand, and where it was raised."""
        _, error, place = sys.exc_info()
        while place and place.tb_next:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
        self.say(ERROR, f"{text}: %r at %s", *args, error, where)


log = Log()
