"""The descriptors that a worker waits for, and what is done when one has something."""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Action = Callable[[], None]

NEAR = 4  # listeners, those that were heard of last


class Watched:
    """Two sets, a small one for poll(2) and one for epoll(7), whose descriptor is in the first.

    Whom a listener wakes by poll(2) runs on the processor of who waits for the answer (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP), which saves 40
    microseconds when the other ones sleep; by epoll it does not. But poll(2) costs something for each descriptor, each time, and each
    process that was started by exec has a listener.
    """

    def __init__(self) -> None:
        """Watch nothing."""
        self.near, self.far = select.poll(), select.epoll()
        self.near.register(self.far, select.POLLIN)
        self.actions: dict[int, Action] = {self.far.fileno(): self._look_far}
        self.ends: dict[int, Action] = {}
        self.recent: list[int] = []  # listeners that are near

    def add(self, fd: int, action: Action, *, near: bool = False, ended: Action | None = None) -> None:
        """Watch a descriptor. ``near``: it has something often; ``ended``: for a listener, when all its processes have."""
        self.actions[fd] = action
        if ended:
            self.ends[fd] = ended
        if near:
            self.near.register(fd, select.POLLIN)
        else:
            self.far.register(fd, select.EPOLLIN)

    def drop(self, fd: int) -> None:
        """Watch it no more; before it is closed, and not one that is always near."""
        del self.actions[fd]
        self.ends.pop(fd, None)
        if fd in self.recent:
            self.recent.remove(fd)
            self.near.unregister(fd)
        else:
            self.far.unregister(fd)

    def act(self, looks: int = 0, milliseconds: float | None = None) -> bool:
        """Wait, and do what is to be done, False: nothing came. At first it looks so many times without going to sleep."""
        for _ in range(looks):
            if ready := self.near.poll(0):
                break
        else:
            ready = self.near.poll(milliseconds)
        for fd, events in ready:
            self._act(fd, events)
        return bool(ready)

    def _act(self, fd: int, events: int) -> None:
        """Do it. To receive from a listener whose processes have all ended blocks for ever before 6.11."""
        if events == select.EPOLLHUP and fd in self.ends:
            self.ends[fd]()
        elif action := self.actions.get(fd):
            action()

    def _look_far(self) -> None:
        for fd, events in self.far.poll(0, len(self.actions)):
            if fd in self.ends:
                self._bring_near(fd)
            self._act(fd, events)

    def _bring_near(self, fd: int) -> None:
        self.far.unregister(fd)
        self.near.register(fd, select.POLLIN)
        self.recent.append(fd)
        if len(self.recent) > NEAR:
            oldest = self.recent.pop(0)
            self.near.unregister(oldest)
            self.far.register(oldest, select.EPOLLIN)
