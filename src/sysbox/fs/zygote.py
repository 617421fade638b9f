"""The process that workers are forked from. It is small and does nothing else, so what they do not write to stays shared.

A fork of the supervisor would share less: there is more between what a worker writes to, reference counts above all, and what the
supervisor writes to later it copies, which leaves the other copy to the worker alone.
"""

from __future__ import annotations

import gc
import os
from _socket import socket

from sysbox.fs import worker
from sysbox.fs.say import log
from sysbox.linux import _kernel as k
from sysbox.linux.jsons import loads
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def run(text: str) -> NoReturn:
    """Be the zygote until the supervisor has ended. ``text``: the settings, JSON, "channel" and "level" of the log among them.

    Each request is messages {"hold": NAME} with a descriptor of a worker's, and {} with its end of a socket. The worker is a child of
    the supervisor's; the answer is {"pid": N} with its pidfd, or {"errno": N}.
    """
    settings = loads(text)
    channel = socket(fileno=settings["channel"])
    log.level = settings["level"]
    gc.freeze()
    held: dict[str, int] = {}
    while True:
        try:
            message, fds = wire.receive(channel)
        except (OSError, ValueError):
            os._exit(1)
        if not fds:
            os._exit(0)
        if "hold" in message:
            held[message["hold"]] = fds[0]
            continue
        try:
            pid, pidfd = k.clone3(k.CLONE_PARENT, -1) or (0, -1)
            if not pid:
                channel.close()
                worker.run(socket(fileno=fds[0]), held, settings)
            wire.send(channel, {"pid": pid}, [pidfd])
            os.close(pidfd)
        except OSError as error:
            wire.send(channel, {"errno": error.errno})
        for fd in (*fds, *held.values()):
            os.close(fd)
        held = {}
