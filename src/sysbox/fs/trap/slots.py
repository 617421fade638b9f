"""Trapped system calls in hand: each lies in a slot of the shared memory from its arrival to its answer."""

from __future__ import annotations

from sysbox.fs.memory import SLOT_COUNT, identity
from sysbox.fs.trap.caller import BEFORE
from sysbox.fs.trap.mount import mount_id, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sysbox.fs.memory import Memory

# offsets behind struct seccomp_notif: the listener's number, the mount that the call makes, the child that acts; then BEFORE
_LISTENER, _MOUNT, _CHILD, _STARTED = 80, 88, 96, 104


class Slot:
    """One place."""

    def __init__(self, view: memoryview, remember: Callable[[int, str], None]) -> None:
        """Look at a slot; ``remember`` takes a file system context and its type for the worker."""
        self.view = view
        self.remember = remember
        self.busy = False  # as far as this process knows
        self.ready_for = 0

    def _get(self, at: int) -> int:
        return int.from_bytes(self.view[at : at + 8], "little")

    def _set(self, at: int, value: int) -> None:
        self.view[at : at + 8] = value.to_bytes(8, "little")

    @property
    def listener(self) -> int:
        """The number of the listener from which the call came."""
        return self._get(_LISTENER)

    def expect(self, listener: int) -> None:
        """Prepare for a call from a listener."""
        if self.ready_for != listener:
            self.view[_LISTENER:] = bytes(len(self.view) - _LISTENER)
            self._set(_LISTENER, listener)
            self.ready_for = listener

    def take(self) -> None:
        """Begin with work on the call that will be written down here."""
        self.busy, self.ready_for = True, 0

    @property
    def id(self) -> int:
        """The call's id, 0 if there is none."""
        return self._get(0)

    def clear(self, id_: int) -> None:
        """Take the call out: it has been answered. A slot in which there is another by now is left alone."""
        if self._get(0) == id_:
            self._set(0, 0)

    def note_child(self, pid: int) -> None:
        """Write down which process acts."""
        pid, started = identity(pid)
        self._set(_STARTED, started)
        self._set(_CHILD, pid)

    def child(self) -> int:
        """Return the pid of the process that acts, 0 if there is none alive."""
        pid = self._get(_CHILD)
        return pid if pid and identity(pid) == (pid, self._get(_STARTED)) else 0

    def note_mount(self, fd: int, proc: int | None = None) -> None:
        """Write down the mount that is about to be put into its place; ``proc``: a descriptor of the host's /proc."""
        self._set(_MOUNT, mount_id(fd, proc))

    def done(self, number: int) -> bool:
        """Say whether a predecessor that was killed has mounted or unmounted already: there was another mount at the target before.

        ``number``: of the mount that is there now.
        """
        before = self._get(BEFORE)
        self._set(BEFORE, number)
        return before not in (0, number)

    def mounted(self, pid: int) -> bool:
        """Say whether that mount has got into the caller's mount namespace."""
        number = self._get(_MOUNT)
        return bool(number) and number in mounts(pid)


class Slots:
    """All slots of a memory; most are never needed, so they are looked at when they are."""

    def __init__(self, memory: Memory, remember: Callable[[int, str], None]) -> None:
        """See ``Slot``."""
        self.memory = memory
        self.remember = remember
        self.known: dict[int, Slot] = {}

    def get(self, number: int) -> Slot:
        """Return one."""
        if number not in self.known:
            self.known[number] = Slot(self.memory.slot(number), self.remember)
        return self.known[number]

    def idle(self) -> Slot | None:
        """Return one in which there is no work."""
        return next((slot for slot in map(self.get, range(SLOT_COUNT)) if not slot.busy), None)

    def taken(self) -> list[Slot]:
        """List those in which a predecessor has left a call."""
        return [self.get(number) for number in range(SLOT_COUNT) if any(self.memory.slot(number)[:8])]
