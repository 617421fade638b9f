"""The process that workers are forked from. It is small and does nothing else, so what they do not write to stays shared.

A fork of the supervisor would share less: there is more between what a worker writes to, reference counts above all, and what the
supervisor writes to later it copies, which leaves the other copy to the worker alone.
"""

from __future__ import annotations

import gc
import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket, socketpair

from sysbox.fs import tree, worker
from sysbox.fs.emulate.nodes import NODES
from sysbox.fs.memory import fresh
from sysbox.fs.pages import Pages
from sysbox.fs.say import log
from sysbox.linux import _kernel as k
from sysbox.linux.ignoring import ignoring
from sysbox.linux.jsons import loads
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def run(text: str) -> NoReturn:
    """Be the zygote until the supervisor has ended. ``text``: the settings, JSON, "channel" and "level" of the log among them.

    Each request is messages {"hold": NAME} with a descriptor of a worker's, and {} with its end of a socket. The worker is a child of
    the supervisor's; the answer is {"pid": N} with its pidfd, or {"errno": N}.
    """
    settings = loads(text)
    channel = socket(fileno=settings["channel"])
    log.level = settings["level"]
    _rehearse(settings)
    gc.freeze()
    pages = Pages()
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
                worker.run(socket(fileno=fds[0]), held, settings, pages)
            wire.send(channel, {"pid": pid}, [pidfd])
            os.close(pidfd)
        except OSError as error:
            wire.send(channel, {"errno": error.errno})
        for fd in (*fds, *held.values()):
            os.close(fd)
        held = {}


def _rehearse(settings: dict[str, Any]) -> None:
    """Be a spare for a moment: what Python adapts in code that has run is then shared, and not changed by each worker for itself."""
    before = set(os.listdir("/proc/self/fd"))
    with ignoring(OSError):  # a worker will say what it cannot do
        _, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        worker.Worker(theirs, {"memory": fresh(NODES)}, settings).warm(tree.look_over)
    k.setns(settings["home"], k.CLONE_NEWNS)
    gc.collect()
    for name in set(os.listdir("/proc/self/fd")) - before:
        with ignoring(OSError):  # it was the list's
            os.close(int(name))
