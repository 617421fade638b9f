"""The process that serves one container: its emulated files and its trapped system calls.

All that it needs to go on lives in descriptors which the supervisor holds too: the memory, /dev/fuse, its room, init's pidfd, the
listeners. So it may be killed at any moment. It ends when the container's init has.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket, socketpair
from errno import ENOSYS, ESRCH

from sysbox.fs import memory as memories
from sysbox.fs import room, tree
from sysbox.fs.emulate.nodes import NODES, Container
from sysbox.fs.fuse.server import Server
from sysbox.fs.say import log
from sysbox.fs.start import spawn
from sysbox.fs.trap import slots
from sysbox.fs.trap.caller import NOTIF, Call
from sysbox.fs.trap.newapi import MOST, Contexts
from sysbox.fs.trap.policy import HANDLERS, PLANTING, QUICK
from sysbox.fs.watched import Watched
from sysbox.linux import _kernel as k
from sysbox.linux.ignoring import ignoring
from sysbox.linux.jsons import dumps
from sysbox.version import VERSION
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from sysbox.fs.pages import Pages

PATIENCE = 0.05  # seconds between attempts to find a supervisor
# A read is a few requests, each of which takes less than to be woken: more are looked for a little, 30 microseconds. After a trapped call
# that would be for nothing, and umount2(2) waits for processors that are at work (synchronize_rcu_expedited()).
LOOKS = 40 if len(os.sched_getaffinity(0)) > 1 else 0
REST = 1000  # milliseconds without anything to do after which memory is given back
DAEMON_AFTER = 2.0  # seconds that a keeper that we have started has to listen


class Worker:
    """One container's service, or a spare that waits for its container."""

    def __init__(self, supervisor: socket, held: dict[str, int], settings: dict[str, Any]) -> None:
        """Begin with what a predecessor held ("memory", "fuse", "room", "init", "listener-N"), a spare with "memory". Raises OSError."""
        self.supervisor = supervisor
        self.settings = settings
        self.held = held
        if "fuse" not in held:
            held["fuse"], held["room"] = room.make()
        else:
            room.enter(held["room"])
            self._charge()
        self.memory = memories.Memory(held["memory"])
        fcntl.lockf(held["memory"], fcntl.LOCK_EX)  # until we end: a predecessor that lives after all is waited for
        self.memory.owner = memories.identity(os.getpid())
        self.container = Container(self.memory, settings["host_sysctl"])
        self.fuse = Server(held["fuse"], self.memory.fuse, self.container.node, self.container.forget)
        self.fuse.settled = bool(self.name)
        self.contexts = Contexts()
        self.inner, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        self.inner.settimeout(0)
        self.remembering = theirs
        self.slots = slots.Slots(self.memory, self._remember)
        self.watched = Watched()
        self.children: dict[int, tuple[slots.Slot, int]] = {}
        self.listeners = {int(name.partition("-")[2]): fd for name, fd in held.items() if name.startswith("listener-")}
        self.contexts.planted = self.container.has_flag("planted")
        self._summarize()
        self.looks = 0
        self.alone = False  # the supervisor is gone
        self.ended = False

    @property
    def name(self) -> str:
        """The container's id, "" for a spare."""
        return str(self.container.container.get("id", ""))

    def _summarize(self) -> None:
        """Know of the container's parts what each trapped call needs."""
        self.container.container |= tree.summary(self.container.container.get("parts", {"proc": [], "sysfs": []}))
        self.contexts.above = tuple(self.container.container["above"])
        self.contexts.uid = int(self.container.container.get("uid") or 0)

    def serve(self, pages: Pages) -> None:
        """Answer until the container has ended; at rest, give memory back."""
        self.watched.add(self.inner.fileno(), self._take_contexts)
        self.watched.add(self.held["fuse"], self._fuse, near=True)
        self.watched.add(self.supervisor.fileno(), self._told)
        if "init" in self.held:
            self.watched.add(self.held["init"], self._end)
        for number, fd in self.listeners.items():
            self._serve_listener(number, fd)
        self.fuse.resume(map(self.container.nodeid, NODES) if self.name else ())
        if not self.name:
            self.warm(tree.look_up)  # now, that the kernel need not when a container waits
        elif not self.container.container["device"]:  # our predecessor was killed before it knew
            for fd in self._grow():
                os.close(fd)
        for slot in self.slots.taken():
            self._go_on(slot)
        rest: float | None = REST
        while not self.ended:
            looks, self.looks = self.looks, 0
            if self.watched.act(looks, rest):
                rest = REST
            else:
                rest = None
                pages.give_back()
            if self.alone:  # not before: what is to be done now must not be done there, and then be waited for here
                self._find_supervisor()

    def _end(self) -> None:
        self.ended = True
        with ignoring(OSError):
            wire.send(self.supervisor, {"op": "bye"})

    def _fuse(self) -> None:
        self.looks = LOOKS
        if not self.fuse.serve():
            self.ended = True

    # --- what the supervisor says

    def hello(self) -> None:
        """Tell the supervisor who we are, and give it everything to hold."""
        wire.send(self.supervisor, {"op": "hello", "id": self.name, "pid": os.getpid(), "version": VERSION})
        for name, fd in self.held.items():
            self._hold(name, fd)

    def _hold(self, name: str, fd: int) -> None:
        with ignoring(OSError):  # a supervisor that is gone: the next one is told everything
            wire.send(self.supervisor, {"op": "hold", "name": name}, [fd])

    def _told(self) -> None:
        try:
            message, fds = wire.receive(self.supervisor)
        except (OSError, ValueError):
            message, fds = {}, []
        if not message:
            self.watched.drop(self.supervisor.fileno())
            self.supervisor.close()
            self.alone = True
            return
        client = socket(fileno=fds[0]) if fds else None
        reply: dict[str, Any] = {"ok": True, "allowed": self.settings["allowed"]}
        out: list[int] = []
        try:
            if message["op"] == "create":
                out = self._create(message, fds[1:])
            elif message["op"] == "listener":
                self._listen(fds[1])
            elif message["op"] == "retire":
                os._exit(0)
            elif message["op"] == "orphan":
                self.settings["command"] = []
        except OSError as error:
            log.warning("container %s: %s: %s", self.name, message["op"], error)
            cause = f"{error.strerror} {error.filename or ''}".strip()
            reply = {"ok": False, "code": 4004, "cause": f"cannot {message['op']}: {cause}", "hint": "see the log of sysbox-fs"}
        if client:
            with ignoring(OSError):
                wire.send(client, reply, out)
            client.close()
        for fd in out:
            os.close(fd)

    def _create(self, message: dict[str, Any], fds: list[int]) -> list[int]:
        """Become this container's worker and grow its /proc and /sys: detached trees. Raises OSError."""
        container = message["container"]
        if not self.name:
            self.held["init"] = fds[0]
            self.fuse.settled = True
            self.container.describe({**container, "device": 0, "parts": {"proc": [], "sysfs": []}})
            self._summarize()
            self.watched.add(fds[0], self._end)
            for number, fd in enumerate(fds[1:]):
                self.held[f"charge-{number}"] = fd
            self._charge()
            for name in ("init", *(f"charge-{number}" for number in range(len(fds) - 1))):
                self._hold(name, self.held[name])
        return self._grow()

    def _grow(self) -> list[int]:
        """Have a child grow /proc and /sys; what is mounted there it tells us a little later. Raises OSError."""
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        pid, pidfd = k.clone3(0, -1) or (0, -1)
        if not pid:
            self._in_child(
                lambda: tree.grow(self.container.container, theirs),
                lambda error: wire.send(theirs, {"error": error.errno or 5, "text": str(error)}),
            )
        os.close(pidfd)
        theirs.close()
        self._until(ours.fileno())
        told, trees = wire.receive(ours)
        if "error" in told or not told:
            ours.close()
            raise OSError(told.get("error", ESRCH), f"grow /proc and /sys: {told.get('text', 'the child was killed')}")

        def hear() -> None:
            told, _ = wire.receive(ours)
            if "parts" in told:
                self.container.describe({**self.container.container, **told})
                self._summarize()
            self.watched.drop(ours.fileno())
            ours.close()

        self.watched.add(ours.fileno(), hear)
        return trees

    def warm(self, look: Callable[[], None]) -> None:
        """Serve a child of ours that looks at what we serve."""
        pid, pidfd = k.clone3(0, -1) or (0, -1)
        if not pid:
            self._in_child(look, lambda _: None)
        self._until(pidfd)
        os.close(pidfd)

    def _until(self, fd: int) -> None:
        """Serve /dev/fuse while a child of ours, which may look at it, does its work: until there is something to read."""
        poll = select.poll()
        for each in (fd, self.held["fuse"]):
            poll.register(each, select.POLLIN)
        while True:
            ready = [one for one, _ in poll.poll()]
            if self.held["fuse"] in ready:
                self.fuse.serve()
            if fd in ready:
                return

    def _charge(self) -> None:
        """Let the container pay for our processor time: enter the cgroups whose files "tasks" we were given."""
        for name, fd in self.held.items():
            if name.startswith("charge-"):
                with ignoring(OSError):  # it has just been removed: the container has ended
                    os.write(fd, b"0")

    def _listen(self, fd: int) -> None:
        number = max(self.listeners, default=0) + 1
        self.listeners[number] = fd
        self.held[f"listener-{number}"] = fd
        try:
            k.seccomp_set_flags(fd, k.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
        except OSError:
            pass  # before Linux 6.6
        self._serve_listener(number, fd)
        self._hold(f"listener-{number}", fd)

    def _serve_listener(self, number: int, fd: int) -> None:
        self.watched.add(fd, self._trapped(number, fd), ended=lambda: self._forget(number, fd))

    def _find_supervisor(self) -> None:
        """Serve on, and meanwhile look for a new supervisor; start one if there is none to be found."""
        self.alone = False
        if not self.name:
            os._exit(0)  # nobody needs a spare
        started = -DAEMON_AFTER
        while not self.ended:
            try:
                self.supervisor = wire.connect(f"/proc/self/fd/{self.settings['run']}/sysfs.sock")
                wire.send(self.supervisor, {"v": wire.VERSION, "op": "worker"})
                self.hello()
                log.channel = self.supervisor
                self.watched.add(self.supervisor.fileno(), self._told)
            except OSError:  # nobody listens: supervisor and keeper are both gone
                if time.monotonic() - started > DAEMON_AFTER and self.settings["command"]:
                    started = time.monotonic()
                    self._start_keeper()
            else:
                return
            end = time.monotonic() + PATIENCE
            while (left := end - time.monotonic()) > 0 and not self.ended:
                self.watched.act(0, left * 1000)

    def _start_keeper(self) -> None:
        """Start sysbox-fs anew and give it what we hold. Our room has no programs: a child goes back to the host's mounts."""
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        for name, fd in self.held.items():
            wire.send(ours, {"op": "hold", "id": self.name, "name": name}, [fd])
        pid, pidfd = k.clone3(0, -1) or (0, -1)
        if not pid:
            with ignoring(BaseException):
                k.setns(self.settings["home"], k.CLONE_NEWNS)
                for fd in self.settings["doors"]:
                    os.write(fd, b"0")  # it is not the container's to pay for
                settings = dumps({"channel": theirs.fileno(), "listener": -1})
                spawn([*self.settings["command"], "--keep", settings], theirs.fileno())
            os._exit(0)
        os.close(pidfd)
        ours.close()
        theirs.close()

    # --- trapped system calls

    def _remember(self, context: int, kind: str) -> None:
        """Pass a context on to the worker; called in its children."""
        wire.send(self.remembering, {"kind": kind}, [context])

    def _take_contexts(self) -> None:
        with ignoring(BlockingIOError):
            while True:
                message, fds = wire.receive(self.inner)
                self.contexts.kinds[fds[0]] = message["kind"]
                if len(self.contexts.kinds) > MOST:
                    self.contexts.forget(next(iter(self.contexts.kinds)))

    def _trapped(self, number: int, fd: int) -> Callable[[], None]:
        """Make the action for a listener. Every microsecond here is one of each trapped call's.

        What is answered at once stays in its slot: a successor finds that nobody waits for it any more.
        """
        slot = self.slots.get(0)
        receive, unpack, quick, answer = k.seccomp_recv, NOTIF.unpack_from, QUICK.get, k.seccomp_send

        def action() -> None:
            nonlocal slot
            if slot.busy:
                found = self.slots.idle()
                if found is None:
                    time.sleep(0.001)  # as many as we keep in hand are being worked on
                    return
                slot = found
            slot.expect(number)
            try:
                receive(fd, slot.view)
            except OSError:
                return  # it does not wait any more
            fields = unpack(slot.view)
            passes = quick((fields[4], fields[3]))
            try:
                if passes and passes(fields, self.contexts):
                    answer(fd, fields[0], 0, 0, k.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
                    return
            except OSError:
                pass  # it passes a bad address, or does not wait any more
            self._handle(slot, fd)

        return action

    def _forget(self, number: int, fd: int) -> None:
        """Close the listener of processes that have all ended."""
        self.watched.drop(fd)
        os.close(fd)
        del self.listeners[number], self.held[f"listener-{number}"]
        with ignoring(OSError):
            wire.send(self.supervisor, {"op": "drop", "name": f"listener-{number}"})

    def _go_on(self, slot: slots.Slot) -> None:
        """Take up a call that our predecessor, or a child that was killed, had in hand."""
        fd = self.listeners.get(slot.listener)
        if fd is None:
            slot.clear(slot.id)
            return
        call = Call(fd, slot.view)
        child = slot.child()
        try:
            if child:
                pidfd = os.pidfd_open(child)
                slot.take()
                self.children[pidfd] = (slot, call.id)
                self.watched.add(pidfd, lambda: self._child_ended(pidfd))
                return
        except ProcessLookupError:
            pass
        if not call.valid():
            slot.clear(call.id)
        elif slot.mounted(call.pid):
            call.answer(0)
            slot.clear(call.id)
        else:
            self._handle(slot, fd)

    def _handle(self, slot: slots.Slot, fd: int) -> None:
        call = Call(fd, slot.view)
        handler = HANDLERS.get(call.name)
        if call.name == "fsmount":
            self._take_contexts()  # it is about one
        try:
            if handler is None:
                call.answer(0, ENOSYS)
                work = None
            else:
                work = handler(call, self.container.container, self.contexts)
                if call.name in PLANTING:
                    self._planted()
        except OSError as error:
            call.answer(0, error.errno or ESRCH)
            work = None
        except Exception:
            log.exception("container %s: %s", self.name, call.name)
            call.answer(0, ENOSYS)
            work = None
        if work is None:
            slot.clear(call.id)
            return
        pid, pidfd = k.clone3(0, -1) or (0, -1)
        if not pid:
            slot.note_child(os.getpid())
            self._in_child(lambda: work(slot), lambda error: _refuse(call, error), lambda: slot.clear(call.id))
        slot.take()
        self.children[pidfd] = (slot, call.id)
        self.watched.add(pidfd, lambda: self._child_ended(pidfd))

    def _planted(self) -> None:
        self.contexts.pretended.forget()
        if not self.contexts.planted:
            self.contexts.planted = True
            self.container.keep_flag("planted")

    def _in_child(self, work: Callable[[], None], failed: Callable[[OSError], None], done: Callable[[], None] = lambda: None) -> NoReturn:
        try:
            os.close(self.held["fuse"])  # were it ours too, a wait for an answer would not end with the last one who could give it
            try:
                work()
            except OSError as error:
                failed(error)
            done()
        except BaseException:
            log.exception("container %s: in a child", self.name)
            failed(OSError(ENOSYS, "internal error"))
            done()
        os._exit(0)

    def _child_ended(self, pidfd: int) -> None:
        slot, id_ = self.children.pop(pidfd)
        self.contexts.done(id_)
        self.watched.drop(pidfd)
        os.close(pidfd)
        slot.busy = False
        if slot.id == id_:  # it was killed
            self._go_on(slot)


def _refuse(call: Call, error: OSError) -> None:
    log.debug("%s of %d refused: %s", call.name, call.pid, error)
    call.answer(0, error.errno or ESRCH)


def run(supervisor: socket, held: dict[str, int], settings: dict[str, Any], pages: Pages) -> NoReturn:
    """Be a worker, in a child of the zygote. Never returns."""
    log.channel = supervisor
    try:
        k.prctl(k.PR_SET_DUMPABLE, 0)
        worker = Worker(supervisor, held, settings)
        with ignoring(OSError):  # the supervisor was killed: we shall see
            worker.hello()
        worker.serve(pages)
    except BaseException:
        log.exception("worker")
        os._exit(1)
    os._exit(0)
