"""The process that made a trapped system call: what it passed, who it is, and how to act in its place.

Its memory may change while we look: everything is read once, and what was read is acted on.
"""

from __future__ import annotations

import os
from errno import EFAULT, ENAMETOOLONG
from fcntl import ioctl
from struct import Struct

from sysbox.fs.emulate.nodes import NS_GET_USERNS
from sysbox.linux import _kernel as k
from sysbox.wire import traps

NOTIF = Struct("<QIIiIQ6Q")  # id, pid, flags, then struct seccomp_data: nr, arch, instruction pointer, six arguments
BEFORE = 112  # in a slot, see slots.py: what was mounted at the target when work began
PATH_MAX = 4096
NS_GET_PARENT = 0xB702  # ioctl_ns(2)
CAP_SYS_ADMIN, CAP_SYS_BOOT, CAP_SYS_TIME = 21, 22, 25
NAMESPACES = (("net", k.CLONE_NEWNET), ("ipc", k.CLONE_NEWIPC), ("uts", k.CLONE_NEWUTS), ("mnt", k.CLONE_NEWNS))
OWN = ("/proc/self/", "/proc/thread-self/")
O_PATH = os.O_PATH | os.O_CLOEXEC


def magic(path: str) -> tuple[str, str] | None:
    """Split a path by a link of the caller's own /proc, which leads elsewhere than ours: what to open below the caller's, the rest.

    So /proc/self/fd/N, root, cwd and ns/KIND, and the same of a thread.
    """
    if not path.startswith(OWN):
        return None
    top = next(top for top in OWN if path.startswith(top))
    rest = path[len(top) :]
    if top == "/proc/self/" and rest.startswith("task/"):
        thread, _, rest = rest[len("task/") :].partition("/")
        if not thread.isdecimal():
            return None
    first, _, rest = rest.partition("/")
    if first in ("root", "cwd"):
        return first, rest
    second, _, rest = rest.partition("/")
    # no other characters: what is opened is in the host's /proc
    if (first == "fd" and second.isdecimal()) or (first == "ns" and second.replace("_", "").isalnum()):
        return f"{first}/{second}", rest
    return None


class Call:
    """One trapped system call. ``listener``: the descriptor to answer on; ``again``: somebody who was killed had begun with it."""

    __slots__ = ("again", "arch", "args", "id", "listener", "name", "pid")

    def __init__(self, listener: int, slot: memoryview) -> None:
        """Take apart what lies in a slot."""
        self.listener = listener
        self.id, self.pid, _, number, self.arch, _, *args = NOTIF.unpack_from(slot)
        self.args: list[int] = [one & 0xFFFFFFFF for one in args] if self.arch == traps.I386 else args
        self.name = traps.NAMES.get(self.arch, {}).get(number, "")
        self.again = any(slot[BEFORE : BEFORE + 8])

    def text(self, index: int, size: int = PATH_MAX) -> str:
        """Read the string that an argument points to; NULL is "". Raises OSError EFAULT, ENAMETOOLONG."""
        address = self.args[index]
        if not address:
            return ""
        data = self.memory(address, size)
        end = data.find(b"\0")
        if end < 0:
            raise OSError(ENAMETOOLONG if len(data) == size else EFAULT, "no string")
        return data[:end].decode("utf-8", "surrogateescape")

    def memory(self, address: int, size: int) -> bytes:
        """Read memory of the caller, less where it ends. Raises OSError EFAULT."""
        try:
            return k.process_vm_readv(self.pid, address, size)
        except OSError as error:
            raise OSError(EFAULT, error.strerror) from None

    def valid(self) -> bool:
        """Say whether the caller still waits: only then is its pid still its own."""
        return k.seccomp_id_valid(self.listener, self.id)

    def status(self) -> dict[str, str]:
        """Read /proc/PID/status. Raises OSError."""
        with open(f"/proc/{self.pid}/status", encoding="utf-8", errors="replace") as file:
            return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)

    def able(self, capability: int) -> bool:
        """Say whether the caller has a capability of its user namespace."""
        try:
            return bool(int(self.status()["CapEff"], 16) >> capability & 1)
        except OSError:
            return False

    def answer(self, value: int, errno: int = 0, *, go_on: bool = False) -> None:
        """Let the caller return; ``go_on``: the kernel does what it asked for. Nothing happens if it does not wait any more."""
        try:
            k.seccomp_send(self.listener, self.id, value, errno, k.SECCOMP_USER_NOTIF_FLAG_CONTINUE if go_on else 0)
        except OSError:
            return

    def give_tree(self, fd: int, *, cloexec: bool) -> None:
        """Let the caller return with a descriptor of a detached mount, which somebody must keep open until it is in its place.

        SECCOMP_IOCTL_NOTIF_ADDFD takes none with O_PATH, as those of open_tree(2) and fsmount(2) are. Raises OSError.
        """
        self.give(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd), cloexec=cloexec)

    def give(self, fd: int, *, cloexec: bool) -> None:
        """Let the caller return with a descriptor of ours. Raises OSError (EMFILE, say)."""
        k.seccomp_addfd(self.listener, self.id, k.SECCOMP_ADDFD_FLAG_SEND, fd, os.O_CLOEXEC if cloexec else 0)


class Place:
    """The caller's namespaces, root, working directory and identity, opened from outside; ``join`` makes them ours."""

    def __init__(self, call: Call) -> None:
        """Open them. Raises OSError: ESRCH if the caller is gone."""
        self.call = call
        self.became = False
        top = f"/proc/{call.pid}"
        self.spaces = [(os.open(f"{top}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC), flag) for kind, flag in NAMESPACES]
        self.user = os.open(f"{top}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        self.pidns = os.open(f"{top}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.root, self.cwd, self.own = (os.open(f"{top}/{name}", O_PATH | os.O_DIRECTORY) for name in ("root", "cwd", ""))
        self.proc = os.open("/proc", O_PATH | os.O_DIRECTORY)
        status = call.status()
        self.capabilities = int(status["CapEff"], 16)
        self.ids = [[int(one) for one in status[name].split()[:3]] for name in ("Uid", "Gid")]
        self.fs = [int(status[name].split()[3]) for name in ("Uid", "Gid")]
        self.groups = [int(one) for one in status["Groups"].split()]
        self.user_number = os.fstat(self.user).st_ino
        self.same_user = self.user_number == os.stat("/proc/self/ns/user").st_ino
        self.permitted = int(_own_status()["CapPrm"], 16)
        if not call.valid():
            raise ProcessLookupError(3, "the caller is gone")

    def owns(self, namespace: int) -> bool:
        """Say whether a namespace belongs to the caller's user namespace, or one below it: ioctl_ns(2)."""
        fd = ioctl(namespace, NS_GET_USERNS)
        try:
            while os.fstat(fd).st_ino != self.user_number:
                above = ioctl(fd, NS_GET_PARENT)
                os.close(fd)
                fd = above
        except OSError:
            return False  # the one above is none that we may see: we have come to the top
        finally:
            os.close(fd)
        return True

    def others(self) -> None:
        """Join all namespaces but those of mounts and users. Raises OSError."""
        for fd, flag in self.spaces[:-1]:
            k.setns(fd, flag)

    def able(self, capability: int) -> bool:
        """Say whether the caller has a capability."""
        return bool(self.capabilities >> capability & 1)

    def join(self, *paths: str, privileged: bool = False) -> list[tuple[int, str]]:
        """Become the caller in all but its pid; return each path as (descriptor or AT_FDCWD, path from there). Raises OSError.

        ``privileged``: keep the host's user namespace and capabilities.
        """
        found = []
        for path in paths:
            link = magic(path)
            found.append((os.open(link[0], O_PATH, dir_fd=self.own), link[1]) if link else (k.AT_FDCWD, path))
        for fd, flag in self.spaces[-1:] if self.became else self.spaces:
            k.setns(fd, flag)
        if not privileged:
            self.become()
        os.fchdir(self.root)
        os.chroot(".")
        os.fchdir(self.cwd)
        if not privileged:
            k.capset(self.capabilities, self.capabilities, 0)
        return found

    def become(self) -> None:
        """Take the caller's ids, and every capability of its user namespace; its mount namespace may come later. Raises OSError."""
        if self.became:
            return
        self.became = True
        k.prctl(k.PR_SET_KEEPCAPS, 1)
        os.setgroups(self.groups)
        os.setresgid(*self.ids[1])
        os.setresuid(*self.ids[0])
        if not self.same_user:
            k.capset(self.permitted, self.permitted, 0)
            k.setns(self.user, k.CLONE_NEWUSER)


def _own_status() -> dict[str, str]:
    with open("/proc/self/status", encoding="utf-8") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
