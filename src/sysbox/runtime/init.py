"""The container's first process, from its birth to the exec: the namespaces' inside half of the plan.

Everything that it needs is imported before it is born: inside its user namespace it may not read our files. It tells its parent
over a socket where it is, and each failure with step, system call, path and errno.
"""

from __future__ import annotations

import _signal
import posix
from _socket import AF_INET, SOCK_CLOEXEC, SOCK_DGRAM, socket
from fcntl import ioctl

from sysbox.linux import _kernel as k
from sysbox.runtime import apparmor, hooks, mounts, process, seal
from sysbox.runtime.steps import Step, report
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914


def main(job: dict[str, Any]) -> NoReturn:
    """Be the init of ``job``: the plan, its steps and descriptors (see create.py). Never returns."""
    channel = job["channel"]
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    numbers = [channel.fileno(), job["listener"].fileno(), job["rootfs"], *job["doors"], *(fd for _, _, fd, _, _ in job["steps"])]
    process.keep_only([fd for fd in (*numbers, job["leaf"], job["console"], *range(3, 3 + job["preserve"])) if fd >= 0])
    try:
        job["door"] = apparmor.door() if job["plan"]["apparmor"] else -1
        _setup(job, channel)
        connection = _wait_for_start(job["listener"])
    except BaseException as error:  # noqa: BLE001 - everything is told
        report(channel, error)
        posix._exit(1)
    try:
        _start(job, connection)
    except BaseException as error:  # noqa: BLE001 - everything is told
        report(connection, error)
    posix._exit(255)


def _expect(channel: socket, word: str) -> tuple[dict[str, Any], list[int]]:
    """Wait until the parent says ``word``, and return all that came with it; when it is gone there will be no container."""
    said, fds = wire.receive(channel)
    if said.get("do") != word:
        posix._exit(1)
    return said, fds


def _setup(job: dict[str, Any], channel: socket) -> None:
    plan = job["plan"]
    k.prctl(k.PR_SET_DUMPABLE, 0)  # we are not the container's to look into
    said, fds = _expect(channel, "set up")
    job["trees"] = dict(zip(("proc", "sysfs"), fds, strict=False))
    Step.name = "become root of the user namespace"
    posix.setgroups([])
    posix.setresgid(0, 0, 0)
    posix.setresuid(0, 0, 0)
    posix.setsid()
    Step.name = "enter the cgroups"
    for fd in job["doors"]:
        posix.write(fd, b"0")
        posix.close(fd)
    if not plan["namespaces"]["cgroup"]:
        k.unshare(k.CLONE_NEWCGROUP)
    if job["leaf"] >= 0:
        posix.write(job["leaf"], b"0")
        posix.close(job["leaf"])
    Step.name = "name the host"
    if plan["hostname"]:
        k.sethostname(plan["hostname"])
    if plan["domainname"]:
        k.setdomainname(plan["domainname"])
    posix.umask(0)
    root = mounts.make(job)
    wire.send(channel, {"at": "mounted"})
    _expect(channel, "pivot")
    if plan["hooks"].get("createContainer"):
        Step.name = "run createContainer hooks"
        hooks.run("createContainer", plan["hooks"]["createContainer"], {**job["state"], "pid": posix.getpid()})
    Step.name = "pivot_root"
    posix.fchdir(root)
    k.pivot_root(".", ".")
    k.umount2(".", k.MNT_DETACH)
    posix.chdir("/")
    posix.close(root)
    _finish(job)
    Step.name = f"enter working directory {plan['process']['cwd']}"
    process.enter(plan["process"]["cwd"])
    Step.name = "find the program"
    job["env"] = process.environment(plan["process"])
    job["path"] = process.find(plan["process"]["args"][0], job["env"])
    _seal(plan, said["allowed"], channel)
    Step.name = "wait for the parent"
    _expect(channel, "wait")
    channel.close()


def _seal(plan: dict[str, Any], allowed: dict[str, bool], channel: socket) -> None:
    """Say that we are ready, and have the parent make the mounts immutable that are to be so."""
    Step.name = "list read-only mounts"
    paths, whole = seal.wanted(plan, allowed)
    for path in seal.late(plan) if whole or not paths else ():
        k.mount_setattr(k.AT_FDCWD, path, 0, k.MOUNT_ATTR_RDONLY, 0, 0, 0)
    wire.send(channel, {"at": "ready", "seal": [paths, whole]})
    for path in paths:
        _, fds = _expect(channel, "seal")
        seal.put(path, fds[0], whole=whole)
    if paths:
        process.enter(plan["process"]["cwd"])
        wire.send(channel, {"at": "sealed"})
    if plan["propagation"]:
        Step.name = "set the root's propagation"
        k.mount(None, "/", None, plan["propagation"], None)


def _finish(job: dict[str, Any]) -> None:
    """Do what comes after pivot_root: terminal, masks, read-only parts, loopback."""
    plan = job["plan"]
    if job["console"] >= 0:
        Step.name = "open a terminal"
        slave = process.terminal(plan["process"], job["console"])
        Step.name = "mount the terminal at /dev/console"
        k.mount(posix.readlink(f"/proc/self/fd/{slave}"), "/dev/console", None, k.MS_BIND, None)
        posix.close(slave)
    mounts.mask(plan["masked"])
    mounts.lock(plan["readonly_paths"])
    if not plan["namespaces"]["network"]:
        Step.name = "bring up lo"
        with_socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC)
        request = bytearray(ioctl(with_socket.fileno(), SIOCGIFFLAGS, b"lo" + bytes(38)))
        request[16] |= 1  # IFF_UP: netdevice(7)
        ioctl(with_socket.fileno(), SIOCSIFFLAGS, bytes(request))
        with_socket.close()


def _wait_for_start(listener: socket) -> socket:
    """Wait for ``start``; what connects gets the errors of the last steps."""
    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT):
        _signal.signal(number, lambda number, _: posix._exit(128 + number))
    Step.name = "wait for start"
    fd, _ = listener._accept()  # type: ignore[attr-defined] # what socket.accept is made of
    listener.close()
    return socket(fileno=fd)


def _start(job: dict[str, Any], connection: socket) -> NoReturn:
    plan = job["plan"]
    if plan["hooks"].get("startContainer"):
        Step.name = "run startContainer hooks"
        hooks.run("startContainer", plan["hooks"]["startContainer"], {**job["state"], "status": "created", "pid": posix.getpid()})
    Step.name = f"exec {job['path']}"
    if job["listen_fds"]:
        job["env"].update(LISTEN_FDS=str(job["listen_fds"]), LISTEN_PID=str(posix.getpid()))
    process.become(
        plan["process"],
        job["path"],
        job["env"],
        job["seccomp"],
        keyring=job["keyring"],
        preserve=job["preserve"],
        honor_caps=plan["honor_caps"],
        apparmor=(job["door"], plan["apparmor"]),
        personality=plan["personality"],
        traps=job["traps"],
        channel=connection,
    )
