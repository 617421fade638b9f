"""Terminals outside the container: the console socket, and the relay between our own terminal and the container's."""

from __future__ import annotations

import _signal
import posix
from _socket import AF_UNIX, CMSG_LEN, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socket, socketpair
from fcntl import ioctl
from select import POLLIN, poll

from sysbox.errors import Failure, reason

TIOCGWINSZ, TIOCSWINSZ = 0x5413, 0x5414
CHUNK = 1 << 16


def connect(path: str) -> int:
    """Connect to a console socket: a descriptor. Raises Failure 1023."""
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise Failure(1023, f"cannot connect to the console socket {path}: {reason(error)}", "listen there before") from error
    return sock.detach()


def pair() -> tuple[socket, int]:
    """Make a console socket of our own: (our end, the descriptor for the container's side)."""
    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    return ours, theirs.detach()


def receive(ours: socket) -> int:
    """Receive the terminal's master. Raises Failure 1023."""
    _, control, _, _ = ours.recvmsg(CHUNK, CMSG_LEN(4), MSG_CMSG_CLOEXEC)
    ours.close()
    for level, kind, data in control:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            return int.from_bytes(data[:4], "little")
    raise Failure(1023, "no terminal came out of the container", "see the log")


class Relay:
    """Moves bytes between our standard input and output and a terminal's master."""

    def __init__(self, master: int) -> None:
        """Take the master; make our own terminal raw."""
        import termios

        self.termios = termios
        self.master = master
        self.saved = None
        try:
            self.saved = termios.tcgetattr(0)
            raw = termios.tcgetattr(0)
            raw[0] &= ~(
                termios.IGNBRK
                | termios.BRKINT
                | termios.PARMRK
                | termios.ISTRIP
                | termios.INLCR
                | termios.IGNCR
                | termios.ICRNL
                | termios.IXON
            )
            raw[1] &= ~termios.OPOST
            raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
            termios.tcsetattr(0, termios.TCSADRAIN, raw)
        except termios.error:
            self.saved = None  # standard input is no terminal
        self.resize()
        _signal.signal(_signal.SIGWINCH, lambda *_: self.resize())

    def resize(self) -> None:
        """Make the container's terminal as large as ours."""
        try:
            ioctl(self.master, TIOCSWINSZ, ioctl(0, TIOCGWINSZ, bytes(8)))
        except OSError:
            return

    def run(self, pidfd: int) -> None:
        """Relay until the process of ``pidfd`` has ended and all that it wrote is out."""
        poller = poll()
        for fd in (0, self.master, pidfd):
            poller.register(fd, POLLIN)
        ended = False
        while True:
            ready = dict(poller.poll(0 if ended else None))
            if self.master in ready and not self._move(self.master, 1):
                return
            if 0 in ready and not self._move(0, self.master):
                poller.unregister(0)
            if ended and self.master not in ready:
                return
            ended = ended or pidfd in ready

    def _move(self, source: int, target: int) -> bool:
        try:
            data = posix.read(source, CHUNK)
            while data:
                data = data[posix.write(target, data) :]
                if not data:
                    return True
        except OSError:
            return False  # EIO: the other side of a terminal is closed
        return False

    def close(self) -> None:
        """Give our terminal back its old manners."""
        if self.saved is not None:
            self.termios.tcsetattr(0, self.termios.TCSADRAIN, self.saved)
        posix.close(self.master)
