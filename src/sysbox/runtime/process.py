"""The last steps of every process of a container, its init and those of ``exec``: identity, limits on itself, exec."""

from __future__ import annotations

import _signal
import posix
from _stat import S_ISDIR, S_ISREG
from errno import EACCES, EINVAL, ENOENT, ENOTDIR
from fcntl import ioctl

from sysbox.errors import Failure, reason
from sysbox.linux import _kernel as k
from sysbox.linux import files
from sysbox.oci.capabilities import CAPABILITIES
from sysbox.runtime import apparmor as lsm
from sysbox.wire import message as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any, NoReturn

RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}  # asm-generic/resource.h
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6}
SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 1,
    "SCHED_FLAG_RECLAIM": 2,
    "SCHED_FLAG_DL_OVERRUN": 4,
    "SCHED_FLAG_KEEP_POLICY": 8,
    "SCHED_FLAG_KEEP_PARAMS": 16,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 32,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
}
LOWEST_OOM = -999  # -1000 is for the host's own
TIOCSCTTY, TIOCGPTN, TIOCSPTLCK, TIOCSWINSZ = 0x540E, 0x80045430, 0x40045431, 0x5414


def check(process: dict[str, Any], path: str) -> None:
    """Refuse values that no table here knows. Raises Failure 1011."""
    from sysbox.oci.schema import malformed

    for index, limit in enumerate(process.get("rlimits") or ()):
        if limit["type"] not in RLIMITS:
            raise malformed(f"{path}.rlimits[{index}].type", f"one of {', '.join(RLIMITS)}", limit["type"])
        if limit["soft"] > limit["hard"]:
            raise malformed(f"{path}.rlimits[{index}].soft", "at most the hard limit", limit["soft"])
    for kind, names in (process.get("capabilities") or {}).items():
        for index, name in enumerate(names or ()):
            if not name.startswith("CAP_"):  # one that we do not know may be of a newer kernel: it is passed over
                raise malformed(f"{path}.capabilities.{kind}[{index}]", "a capability such as CAP_SYS_ADMIN", name)
    for name, key, table in (("ioPriority", "class", IO_CLASSES), ("scheduler", "policy", POLICIES)):
        value = process.get(name)
        if value and value[key] not in table:
            raise malformed(f"{path}.{name}.{key}", f"one of {', '.join(table)}", value[key])
    for flag in (process.get("scheduler") or {}).get("flags") or ():
        if flag not in SCHED_FLAGS:
            raise malformed(f"{path}.scheduler.flags", f"some of {', '.join(SCHED_FLAGS)}", flag)


def from_outside(pid: int, process: dict[str, Any]) -> None:
    """Set what only root of the host may: rlimits and the OOM score of a process about to exec. Raises Failure 1024."""
    for limit in process.get("rlimits") or ():
        try:
            k.prlimit(pid, RLIMITS[limit["type"]], limit["soft"], limit["hard"])
        except OSError as error:
            cause = f"cannot set {limit['type']} to {limit['soft']}:{limit['hard']}: {reason(error)}"
            raise Failure(1024, cause, "a limit not above that of the calling process") from error
    wanted = process.get("oomScoreAdj")
    path = f"/proc/{pid}/oom_score_adj"
    fd = posix.open(path, posix.O_RDWR | posix.O_CLOEXEC)
    try:
        now = int(posix.read(fd, 16))
        aim = max(now if wanted is None else wanted, LOWEST_OOM)
        if _allow_lowest(fd):
            now = LOWEST_OOM
        if now != aim:
            _unprivileged(lambda: posix.write(fd, str(aim).encode()))
    except OSError as error:
        cause = f"cannot set oomScoreAdj to {wanted}: {reason(OSError(error.errno, f'write: {error.strerror}', path))}"
        raise Failure(1024, cause, "CAP_SYS_RESOURCE to lower it") from error
    finally:
        posix.close(fd)


def _allow_lowest(fd: int) -> bool:
    """Let a process choose any score from -999 on: the last that CAP_SYS_RESOURCE wrote is its lowest (fs/proc/base.c: __set_oom_adj)."""
    try:
        posix.write(fd, str(LOWEST_OOM).encode())
    except OSError:
        return False  # we have not got it ourselves
    return True


def _unprivileged(action: Callable[[], object]) -> None:
    """Act without CAP_SYS_RESOURCE."""
    lines = dict(line.split(b":\t") for line in files.read("/proc/self/status").split(b"\n") if line.startswith(b"Cap"))
    effective, permitted, inheritable = (int(lines[name], 16) for name in (b"CapEff", b"CapPrm", b"CapInh"))
    k.capset(effective & ~(1 << CAPABILITIES.index("SYS_RESOURCE")), permitted, inheritable)
    try:
        action()
    finally:
        k.capset(effective, permitted, inheritable)


def keep_only(fds: list[int]) -> None:
    """Close every descriptor but 0-2 and these: a lock or the other end of a socket in a child would outlive its owner."""
    first = 3
    for fd in sorted(fds):
        if fd > first:
            k.close_range(first, fd - 1, 0)
        first = max(first, fd + 1)
    k.close_range(first, 0xFFFFFFFF, 0)


def default_signals() -> None:
    """Take back what the interpreter did to signals: an ignored one stays ignored across exec."""
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGINT):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def environment(process: dict[str, Any]) -> dict[str, str]:
    """Return the environment; HOME is that of the user in the container's /etc/passwd, else "/"."""
    env = {}
    for entry in process.get("env") or ():
        name, _, value = entry.partition("=")
        env[name] = value
    if not env.get("HOME"):
        env["HOME"] = home((process.get("user") or {}).get("uid") or 0)
    return env


def home(uid: int) -> str:
    """Look up a home directory in /etc/passwd."""
    try:
        fd = posix.open("/etc/passwd", posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
        try:
            text = posix.read(fd, 1 << 20).decode("utf-8", "surrogateescape")
        finally:
            posix.close(fd)
    except OSError:
        return "/"
    for line in text.split("\n"):
        fields = line.split(":")
        if len(fields) >= 6 and fields[2] == str(uid):
            return fields[5] or "/"
    return "/"


def enter(path: str) -> None:
    """Change to the working directory, made if it is missing. Raises OSError."""
    try:
        posix.chdir(path)
    except OSError as error:
        if error.errno != ENOENT:
            raise OSError(error.errno, f"chdir: {error.strerror}", path) from None
        parts = path.split("/")
        for number in range(2, len(parts) + 1):
            try:
                posix.mkdir("/".join(parts[:number]) or "/", 0o755)
            except FileExistsError:
                continue
            except OSError as inner:
                raise OSError(inner.errno, f"mkdir: {inner.strerror}", path) from None
        posix.chdir(path)


def find(name: str, env: dict[str, str]) -> str:
    """Find the program to run. Raises Failure 1021 in words that Docker makes exit codes 126 and 127 of."""
    if "/" in name:
        candidates = [name]
    else:
        candidates = [
            f"{part or '.'}/{name}" for part in env.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").split(":")
        ]
    denied = False
    for path in candidates:
        try:
            mode = posix.stat(path).st_mode
        except OSError as error:
            denied = denied or error.errno not in (ENOENT, ENOTDIR)
            continue
        if S_ISREG(mode) and mode & 0o111:
            return path
        denied = denied or "/" in name
        if "/" in name and S_ISDIR(mode):
            raise Failure(1021, f'exec: "{name}": is a directory: permission denied', "name a program")
    if denied:
        raise Failure(1021, f'exec: "{name}": permission denied', "chmod +x the program, or name another")
    if "/" in name:
        raise Failure(1021, f'exec: "{name}": stat {name}: no such file or directory', "name a program that the image has")
    raise Failure(1021, f'exec: "{name}": executable file not found in $PATH', "name a program that the image has")


def terminal(process: dict[str, Any], console: int) -> int:
    """Open a new terminal of the container's devpts, make it ours, send its master over ``console``; return the slave. Raises OSError."""
    from _socket import SCM_RIGHTS, SOL_SOCKET, socket

    master = _open("/dev/pts/ptmx")
    ioctl(master, TIOCSPTLCK, b"\0\0\0\0")
    number = int.from_bytes(ioctl(master, TIOCGPTN, b"\0\0\0\0"), "little")
    path = f"/dev/pts/{number}"
    slave = _open(path)
    size = process.get("consoleSize") or {}
    if size.get("height") or size.get("width"):
        rows, columns = (min(size.get(name) or 0, 0xFFFF).to_bytes(2, "little") for name in ("height", "width"))
        ioctl(master, TIOCSWINSZ, rows + columns + b"\0\0\0\0")
    user = process.get("user") or {}
    posix.fchown(slave, user.get("uid") or 0, -1)
    with_name = socket(fileno=console)
    with_name.sendmsg([b"/dev/ptmx"], [(SOL_SOCKET, SCM_RIGHTS, master.to_bytes(4, "little"))])
    with_name.close()
    posix.close(master)
    ioctl(slave, TIOCSCTTY, 0)
    for fd in range(3):
        posix.dup2(slave, fd)
    return slave


def _open(path: str) -> int:
    return posix.open(path, posix.O_RDWR | posix.O_NOCTTY | posix.O_CLOEXEC)


def _schedule(process: dict[str, Any]) -> None:
    value = process.get("ioPriority")
    if value:
        k.ioprio_set(1, 0, IO_CLASSES[value["class"]] << 13 | (value.get("priority") or 0))
    value = process.get("scheduler")
    if value:
        flags = sum(SCHED_FLAGS[flag] for flag in value.get("flags") or ())
        head = b"".join(number.to_bytes(4, "little", signed=number < 0) for number in (48, POLICIES[value["policy"]]))
        tail = flags.to_bytes(8, "little") + (value.get("nice") or 0).to_bytes(4, "little", signed=True)
        tail += (value.get("priority") or 0).to_bytes(4, "little", signed=True)
        times = b"".join((value.get(name) or 0).to_bytes(8, "little") for name in ("runtime", "deadline", "period"))
        k.sched_setattr(0, head + tail + times)


def _mask(names: list[str] | None) -> int:
    return sum(1 << number for number, name in enumerate(CAPABILITIES) if f"CAP_{name}" in (names or ()))


def _honor(capabilities: dict[str, list[str]]) -> None:
    """Before the change of user: the bounding set as asked, and the other capabilities kept across setuid(2)."""
    bounding = _mask(capabilities.get("bounding"))
    for number in range(len(CAPABILITIES)):
        if not bounding >> number & 1:
            k.prctl(k.PR_CAPBSET_DROP, number)
    k.prctl(k.PR_SET_KEEPCAPS, 1)


def _hand_over(traps: bytes, channel: socket) -> None:
    """Load the filter of traps and wait until somebody listens. Raises OSError."""
    flags = k.SECCOMP_FILTER_FLAG_NEW_LISTENER
    try:
        listener = k.seccomp(k.SECCOMP_SET_MODE_FILTER, flags | k.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, traps)
    except OSError as error:
        if error.errno != EINVAL:  # before Linux 5.19 there is no such flag: a signal may repeat a call
            raise
        listener = k.seccomp(k.SECCOMP_SET_MODE_FILTER, flags, traps)
    wire.send(channel, {"listener": True}, [listener])
    posix.close(listener)
    said, _ = wire.receive(channel)
    if said.get("do") != "go":
        posix._exit(255)  # the failure was told where it happened


def become(
    process: dict[str, Any],
    path: str,
    env: dict[str, str],
    program: tuple[int, bytes] | None,
    *,
    keyring: str,
    preserve: int,
    honor_caps: bool,
    apparmor: tuple[int, str],
    personality: int | None,
    traps: bytes | None,
    channel: socket,
) -> NoReturn:
    """Turn into the program: ``program`` is the seccomp filter, ``preserve`` how many descriptors from 3 on stay. Raises OSError.

    ``apparmor``: what apparmor.door() has opened, and the profile, "" for none.
    ``traps``: the filter of system calls that sysbox-fs is asked about, if any; its listener goes out over ``channel``.
    uid 0 has every capability of its user namespace; another user has none, as on a host.
    """
    user = process.get("user") or {}
    quiet = bool(process.get("noNewPrivileges"))
    if keyring:
        k.keyctl(k.KEYCTL_JOIN_SESSION_KEYRING, keyring)
    if personality is not None:
        k.personality(personality)
    _schedule(process)
    if quiet:
        k.prctl(k.PR_SET_NO_NEW_PRIVS, 1)
    k.close_range(3 + preserve, 0xFFFFFFFF, k.CLOSE_RANGE_CLOEXEC)
    for fd in range(3, 3 + preserve):
        posix.set_inheritable(fd, True)  # noqa: FBT003 - positional only
    if traps:
        _hand_over(traps, channel)
    if program and not quiet:
        k.seccomp(k.SECCOMP_SET_MODE_FILTER, *program)
    capabilities = process.get("capabilities") or {}
    if honor_caps:
        _honor(capabilities)
    posix.setgroups(user.get("additionalGids") or [])
    posix.setresgid(*[user.get("gid") or 0] * 3)
    posix.setresuid(*[user.get("uid") or 0] * 3)
    posix.umask(0o022 if user.get("umask") is None else user["umask"])
    if honor_caps:
        wanted = [_mask(capabilities.get(kind)) for kind in ("effective", "permitted", "inheritable")]
        k.capset(*wanted)
        for number in range(len(CAPABILITIES)):
            if _mask(capabilities.get("ambient")) >> number & 1:
                k.prctl(k.PR_CAP_AMBIENT, k.PR_CAP_AMBIENT_RAISE, number)
    if program and quiet:
        k.seccomp(k.SECCOMP_SET_MODE_FILTER, *program)
    default_signals()
    if apparmor[1]:
        lsm.enter(*apparmor)
    try:
        posix.execve(path, process["args"], env)
    except OSError as error:
        text = "permission denied" if error.errno == EACCES else str(error.strerror).lower()
        raise OSError(error.errno, f"execve: {text}", path) from None
