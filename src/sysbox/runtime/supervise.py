"""Staying beside a process in the foreground: signals go on to it, its end becomes our exit status."""

from __future__ import annotations

import _signal
import posix

from sysbox.linux import _kernel as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sysbox.runtime.console import Relay

OWN = (
    _signal.SIGCHLD,
    _signal.SIGKILL,
    _signal.SIGSTOP,
    _signal.SIGWINCH,
    _signal.SIGURG,
    _signal.SIGSEGV,
    _signal.SIGBUS,
    _signal.SIGFPE,
    _signal.SIGILL,
)


PASSED_ON = tuple(number for number in range(1, 32) if number not in OWN)


def hold() -> None:
    """Keep signals back until ``foreground`` can pass them on: the process is about to run, and must not be left alone."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, PASSED_ON)


def foreground(pid: int, pidfd: int, relay: Relay | None) -> int:
    """Wait for a child; return its exit status, 128 + n after signal n."""

    def pass_on(number: int, _: object) -> None:
        try:
            k.pidfd_send_signal(pidfd, number)
        except OSError:
            return  # it has ended just now

    for number in PASSED_ON:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, pass_on)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, PASSED_ON)
    try:
        if relay:
            relay.run(pidfd)
        status = posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])
    finally:
        if relay:
            relay.close()
        posix.close(pidfd)
    return status if status >= 0 else 128 - status
