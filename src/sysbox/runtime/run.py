"""``create`` and ``run``: with or without a terminal, in the foreground or not."""

from __future__ import annotations

import posix

from sysbox.errors import Failure
from sysbox.linux import _kernel as k
from sysbox.runtime import create as creation
from sysbox.runtime import lifecycle, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def create(root: str, name: str, options: dict[str, Any]) -> int:
    """Create a container whose init waits for ``start``. Raises Failure."""
    console = _console(options)
    creation.create(root, name, {**options, "root": root}, console)
    return 0


def _console(options: dict[str, Any]) -> int:
    if not options.get("console-socket"):
        return -1
    from sysbox.runtime import console

    return console.connect(options["console-socket"])


def run(root: str, name: str, options: dict[str, Any]) -> int:
    """Create and start a container; in the foreground return its exit status and delete it. Raises Failure."""
    from sysbox.runtime import supervise

    if not options.get("detach") and not options.get("no-subreaper"):
        k.prctl(k.PR_SET_CHILD_SUBREAPER, 1)
    console = _console(options)
    if console >= 0 and not options.get("detach"):
        raise Failure(1023, "a console socket is of no use in the foreground", "--detach, or leave --console-socket out")
    sockets: list[Any] = []

    def terminal() -> int:
        from sysbox.runtime.console import pair

        sockets[:] = pair()
        return int(sockets[1])

    now = creation.create(root, name, {**options, "root": root}, console, None if options.get("detach") else terminal)
    if sockets:
        posix.close(sockets[1])
    directory = state.lock(root, name)
    if not options.get("detach"):
        supervise.hold()
    try:
        pidfd = lifecycle.init_pidfd(now)
        lifecycle.started(directory, now)
        lifecycle.from_hooks(root, now, "poststart")
    except BaseException:
        lifecycle.destroy(root, now, directory)
        posix.waitpid(now["pid"], 0)
        raise
    finally:
        posix.close(directory)
    if options.get("detach"):
        return 0
    relay = None
    if sockets:
        from sysbox.runtime.console import Relay, receive

        relay = Relay(receive(sockets[0]))
    status = supervise.foreground(now["pid"], pidfd, relay)
    if not options.get("keep"):
        lifecycle.delete(root, name, force=True)
    return status
