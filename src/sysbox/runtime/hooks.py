"""OCI hooks: programs run at points of a container's life, with its state on standard input (config.md, "POSIX-platform Hooks")."""

from __future__ import annotations

import posix
from select import POLLIN, poll

from sysbox.errors import Failure, reason
from sysbox.linux.jsons import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SAID = 4096  # bytes of a failed hook's output that are kept


def run(kind: str, hooks: list[dict[str, Any]] | None, state: dict[str, Any], tolerate: Callable[[Failure], None] | None = None) -> None:
    """Run hooks of one kind in order. The first failure is raised as Failure 1022, unless ``tolerate`` takes it."""
    for hook in hooks or ():
        try:
            _one(kind, hook, dumps(state).encode())
        except Failure as failure:
            if tolerate is None:
                raise
            tolerate(failure)


def _one(kind: str, hook: dict[str, Any], state: bytes) -> None:
    path = hook["path"]
    hint = "see what the hook needs"
    env = dict(entry.split("=", 1) for entry in hook.get("env") or () if "=" in entry)
    give_r, give_w = posix.pipe2(posix.O_CLOEXEC)
    said_r, said_w = posix.pipe2(posix.O_CLOEXEC)
    actions = [(posix.POSIX_SPAWN_DUP2, give_r, 0), (posix.POSIX_SPAWN_DUP2, said_w, 1), (posix.POSIX_SPAWN_DUP2, said_w, 2)]
    pid = 0
    pidfd = -1
    try:
        try:
            pid = posix.posix_spawn(path, hook.get("args") or [path], env, file_actions=actions, setsigmask=(), setsigdef=(2, 13, 25))
        except OSError as error:
            raise Failure(1022, f"{kind} hook {path} cannot be run: {reason(error)}", hint) from error
        pidfd = posix.pidfd_open(pid)
        posix.close(said_w)
        said_w = -1
        try:
            posix.write(give_w, state)
        except BrokenPipeError:
            pass  # it does not want to know
        posix.close(give_w)
        give_w = -1
        output = _wait(kind, path, pidfd, said_r, hook.get("timeout"))
        status = posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])
        pid = 0
        if status:
            ended = f"exit status {status}" if status > 0 else f"signal {-status}"
            said = output.decode("utf-8", "replace").strip()
            raise Failure(1022, f"{kind} hook {path} failed: {ended}{f': {said}' if said else ''}", hint)
    finally:
        if pid:  # its time is over, or ours
            posix.kill(pid, 9)
            posix.waitpid(pid, 0)
        for fd in (give_r, give_w, said_r, said_w, pidfd):
            if fd >= 0:
                posix.close(fd)


def _wait(kind: str, path: str, pidfd: int, said: int, timeout: int | None) -> bytes:
    """Wait for a hook's end, or kill it after ``timeout`` seconds; return the end of what it said. Raises Failure 1022."""
    import time

    end = time.monotonic() + timeout if timeout else None
    poller = poll()
    poller.register(pidfd, POLLIN)
    poller.register(said, POLLIN)
    output = b""
    while True:
        ready = {fd for fd, _ in poller.poll(None if end is None else max(0, (end - time.monotonic()) * 1000))}
        if said in ready:
            part = posix.read(said, SAID)
            output = (output + part)[-SAID:]
            if not part:
                poller.unregister(said)
        elif pidfd in ready:
            return output
        if not ready and end is not None and time.monotonic() >= end:
            raise Failure(1022, f"{kind} hook {path} did not end within its timeout of {timeout} s", "raise its timeout")
