"""Making a container, up to an init that waits for ``start``: parse, plan, execute; after a failure nothing is left."""

from __future__ import annotations

import _signal
import posix
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket, socketpair

from sysbox.errors import Failure, reason
from sysbox.linux import _kernel as k
from sysbox.linux import files, mountinfo
from sysbox.oci import config as oci
from sysbox.oci import seccomp
from sysbox.runtime import (
    apparmor,
    birth,
    cgroup,
    emulation,
    hooks,
    log,
    manager,
    plan,
    prepare,
    process,
    rootfs,
    seal,
    shift,
    special,
    state,
)
from sysbox.wire import message as wire
from sysbox.wire import traps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Undo = list[Callable[[], None]]

KNOBS = "/run/sysbox/knobs"
CACHE = "/run/sysbox-runc-seccomp"
NEEDS = (5, 12)  # the first kernel with mount_setattr(2) and id-mapped mounts
NS = {"mount": "mnt", "network": "net"}  # the others are named in /proc/self/ns as in the OCI spec


def create(root: str, name: str, options: dict[str, Any], console: int = -1, terminal: Callable[[], int] | None = None) -> dict[str, Any]:
    """Create a container; returns its state, of which ``pid`` is the init that waits. Raises Failure, OSError.

    ``console``: a connected socket that takes the terminal's master, -1 when there is none; ``terminal`` makes one if one is needed.
    """
    for number in (_signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, _interrupt)  # as SIGINT does: what was made is unmade
    posix.umask(0)  # modes here are meant as they are written
    bundle = options.get("bundle") or posix.getcwd()
    bundle = files.clean(bundle if bundle.startswith("/") else f"{posix.getcwd()}/{bundle}")
    config = oci.read(f"{bundle}/config.json")
    apparmor.check_selinux()
    wanted = plan.make(config, name, bundle, defaults())
    process.check(wanted["process"], "$.process")
    if not wanted["regular"] and any(word.endswith(("init", "systemd")) for word in wanted["process"]["args"]):
        from sysbox.runtime import systemd

        systemd.adapt(wanted)
    if options.get("systemd-cgroup"):
        from sysbox.runtime import scope

        wanted["scope"] = scope.parse(config["linux"].get("cgroupsPath") or "", name)
        wanted["cgroup"] = wanted["scope"]["path"]
    release = posix.uname().release
    if not wanted["regular"] and any(posix.access(path, posix.F_OK) for path in (f"{plan.MODULES}/{release}", plan.FORMATS)):
        from sysbox.runtime import hostdirs

        hostdirs.adapt(wanted, release)
    for line in plan.describe(wanted) if log.debugging() else ():
        log.debug(f"plan: {line}")
    if not options.get("no-kernel-check"):
        check_kernel(release)
    if terminal and wanted["process"].get("terminal"):
        console = terminal()
    if wanted["process"].get("terminal") and console < 0:
        raise Failure(1023, "$.process.terminal is true, but there is no console socket", "--console-socket PATH, or terminal: false")
    if console >= 0 and not wanted["process"].get("terminal"):
        raise Failure(1023, "there is a console socket, but $.process.terminal is false", "leave --console-socket out")
    program = seccomp.load(wanted["seccomp"], CACHE, regular=wanted["regular"])
    directory = state.make(root, name)
    undo: Undo = [lambda: state.discard(root, name, directory)]
    try:
        return _execute(wanted, options, directory, undo, program, console)
    except BaseException:
        for step in reversed(undo):
            try:
                step()
            except (OSError, Failure) as error:
                log.warning(f"after a failure: {reason(error) if isinstance(error, OSError) else error}")
        raise
    finally:
        posix.close(directory)


def defaults() -> dict[str, Any]:
    """Return what sysbox-mgr's command line says of SYSBOX_* variables that a container does not set itself. Raises Failure 1015."""
    try:
        lines = files.read(KNOBS).decode().split()
    except FileNotFoundError:
        return {}
    return {"alias-dns": "alias-dns=FALSE" not in lines, **oci.knobs(lines)}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def check_kernel(release: str) -> None:
    """Raise Failure 1016 for a kernel that cannot do this."""
    if files.linux(release) < NEEDS:
        raise Failure(1016, f"kernel {release} is too old", f"Linux {NEEDS[0]}.{NEEDS[1]} or newer")
    for path, cause in (
        ("/proc/sys/user/max_user_namespaces", "user namespaces are switched off"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "user namespaces are switched off for containers"),
    ):
        try:
            fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError:
            continue
        value = posix.read(fd, 16).strip()
        posix.close(fd)
        if value == b"0":
            raise Failure(1016, f"{cause} ({path} is 0)", f"echo {'65536' if 'max' in path else '1'} > {path}")


def _execute(
    wanted: dict[str, Any], options: dict[str, Any], directory: int, undo: Undo, program: tuple[int, bytes] | None, console: int
) -> dict[str, Any]:
    lines = mountinfo.read()
    groups = cgroup.place(lines, wanted["cgroup"])
    wanted["emulated"] = not options.get("no-sysbox-fs")
    request = {
        "op": "create",
        "id": wanted["id"],
        "root": options["root"],
        "ids": None if wanted["ids"] is None else dict(zip(("uid", "gid", "size"), wanted["ids"], strict=True)),
        "netns": _netns(wanted["namespaces"]["network"]),
        "exclusive": [] if wanted["regular"] else special.exclusive(wanted["mounts"]),
    }
    connection = manager.ask(request)
    undo.append(connection.close)
    now = _record(wanted, groups)
    state.save(directory, now)  # so that delete finds everything even if we are killed from here on
    keeper = _scope(wanted, undo) if wanted["scope"] else None
    made = cgroup.make(groups)
    undo.append(lambda: cgroup.remove(made))
    if keeper:
        undo.append(keeper)  # once more: it must be gone before the cgroups that it is in are removed
        if not groups["v1"]:
            cgroup.settle(groups)
    cgroup.limit(groups, wanted["resources"])
    reply, fds = manager.answer(connection)
    ids = shift.Ids(reply["uid"], reply["gid"], reply["size"], fds[0])
    if reply.get("userns") and not wanted["namespaces"]["user"]:
        wanted["namespaces"]["user"] = reply["userns"]
    notes = rootfs.examine(files.clean(wanted["root"]), lines, ids, mapped=wanted["ids"] is not None)
    undo += [lambda: special.tidy(notes), lambda: rootfs.restore(notes)]
    now.update(ids=[ids.uid, ids.gid, ids.size], rootfs=notes, traps=_traps(wanted))
    wanted["container"] = emulation.describe(wanted, ids, now["created"]) if wanted["emulated"] else None
    state.save(directory, now)
    if program:
        state.write(directory, "seccomp", program[0].to_bytes(8, "little") + program[1])
    extra = [] if wanted["regular"] else special.prepare(notes, wanted["mounts"], ids)
    special.settle(notes, wanted["mounts"], files.clean(wanted["process"]["cwd"]))
    (_, mount), *below = rootfs.prepare(notes, lines, ids)
    if notes["how"] == "chown":
        state.save(directory, now)
        log.warning(f"the root filesystem was chowned, because {notes['cause']}")
    job: dict[str, Any] = {
        "plan": wanted,
        "rootfs": mount,
        "steps": [*(("attach", path, fd, True, {}) for path, fd in below), *prepare.steps(wanted, extra, ids, lines)],
        "console": console,
        "seccomp": program,
        "traps": None if now["traps"] is None else traps.program(**now["traps"]),
        "keyring": "" if options.get("no-new-keyring") else f"_ses.{wanted['id']}",
        "listen_fds": _listen_fds(),
        "state": state.oci(options["root"], now, "creating"),
    }
    for path in wanted.get("unshifted", ()):
        log.debug(f"cannot be id-mapped, its owners show as nobody: {path}")
    job["preserve"] = int(options.get("preserve-fds") or 0) + job["listen_fds"]
    job["leaf"] = -1
    cgroup.give(groups, ids.uid, ids.gid)
    job["doors"], v2 = cgroup.doors(groups)
    if not groups["v1"]:
        job["leaf"] = posix.open(f"{groups['v2']}/{cgroup.LEAF}/cgroup.procs", posix.O_WRONLY | posix.O_CLOEXEC)
    job["listener"] = _listen(directory)
    channel, job["channel"] = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    pid, pidfd = birth.clone(wanted, job, v2)
    undo.append(lambda: birth.end(pid, pidfd))
    job["channel"].close()
    job["listener"].close()
    for fd in (*job["doors"], *(fd for fd in (v2, job["leaf"]) if fd >= 0), *(fd for _, _, fd, _, _ in job["steps"] if fd >= 0)):
        posix.close(fd)
    try:
        _accompany(wanted, now, job["state"], channel, (pid, pidfd), ids)
        if keeper:
            keeper()
        _commit(connection, now, notes, mount)
        if options.get("pid-file"):
            state.write_pid(options["pid-file"], pid)
        state.save(directory, now)
        wire.send(channel, {"do": "wait"})
    except OSError as error:
        raise birth.lost(pid, pidfd, "while it was set up") or error from error
    for fd in (mount, ids.userns, pidfd):
        posix.close(fd)
    channel.close()
    connection.close()
    return now


def _scope(wanted: dict[str, Any], undo: Undo) -> Callable[[], None]:
    from sysbox.runtime import scope

    keeper = scope.start(wanted["scope"], wanted["resources"])
    undo.append(keeper)
    return keeper


def _accompany(
    wanted: dict[str, Any], now: dict[str, Any], told: dict[str, Any], channel: socket, init: tuple[int, int], ids: shift.Ids
) -> None:
    """Do for init (pid, pidfd) what only root of the host may, in step with it, until it waits for ``start``. Raises Failure, OSError."""
    pid, pidfd = init
    if not wanted["namespaces"]["user"]:
        for file, first in (("uid_map", ids.uid), ("gid_map", ids.gid)):
            files.write(f"/proc/{pid}/{file}", f"0 {first} {ids.size}")
    _stdio(wanted["process"], ids)
    try:
        trees, allowed = emulation.trees(wanted["container"], pid, pidfd, now["cgroup"]) if wanted["emulated"] else ([], emulation.ALLOWED)
    except Failure as failure:
        raise birth.lost(pid, pidfd, "while its /proc and /sys were made") or failure from failure
    wire.send(channel, {"do": "set up", "allowed": allowed}, trees)
    for fd in trees:
        posix.close(fd)
    birth.hear(channel, "mounted", pid, pidfd)
    now["pid"] = pid
    told = {**told, "pid": pid}
    for kind in ("prestart", "createRuntime"):
        hooks.run(kind, wanted["hooks"].get(kind), told)
    _resolve(wanted, pidfd)
    _sysctls(wanted["sysctl"], pidfd, ids.uid)
    wire.send(channel, {"do": "pivot"})
    sealing = birth.hear(channel, "ready", pid, pidfd)["seal"]
    if sealing[0]:
        for fd in seal.clones(pid, sealing[0], whole=sealing[1]):
            wire.send(channel, {"do": "seal"}, [fd])
            posix.close(fd)
        birth.hear(channel, "sealed", pid, pidfd)
    process.from_outside(pid, wanted["process"])
    if not wanted["emulated"]:
        posix.chown(f"/proc/{pid}/root/proc", ids.uid, ids.gid, follow_symlinks=False)  # the kernel gives it to root of the host
    now["starttime"] = state.starttime(pid)


def _traps(wanted: dict[str, Any]) -> dict[str, bool] | None:
    """Say which system calls sysbox-fs is to be asked about besides those that it always is; None: about none."""
    knobs = {} if wanted["regular"] else wanted["knobs"]
    if not wanted["emulated"]:
        return None
    return {"chown": bool(knobs.get("SYSBOX_IGNORE_SYSFS_CHOWN")), "xattr": bool(knobs.get("SYSBOX_ALLOW_TRUSTED_XATTR"))}


def _record(wanted: dict[str, Any], groups: dict[str, Any]) -> dict[str, Any]:
    """Return what state.json keeps of a plan."""
    return {
        "version": wanted["version"],
        "id": wanted["id"],
        "pid": 0,
        "starttime": 0,
        "bundle": wanted["bundle"],
        "created": time.time(),
        "annotations": wanted["annotations"],
        "ids": [],
        "cgroup": groups,
        "rootfs": {},
        "traps": None,
        "hooks": {kind: wanted["hooks"].get(kind) or [] for kind in ("poststart", "poststop")},
        "process": wanted["process"],
        "personality": wanted["personality"],
        "regular": wanted["regular"],
        "honor_caps": wanted["honor_caps"],
        "systemd": wanted["systemd"],
        "scope": wanted["scope"] and wanted["scope"]["unit"],
    }


def _netns(path: str) -> list[int] | None:
    if not path:
        return None
    stat = posix.stat(path)
    return [stat.st_dev, stat.st_ino]


def _listen_fds() -> int:
    """Count the descriptors that a service manager handed us: sd_listen_fds(3)."""
    count = posix.environ.get(b"LISTEN_FDS", b"")
    return int(count) if count.isdigit() else 0


def _listen(directory: int) -> socket:
    """Listen where ``start`` will connect. The path by /proc keeps within the 107 bytes of unix(7)."""
    listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    listener.bind(f"/proc/self/fd/{directory}/start.sock")
    listener.listen(1)
    return listener


def _stdio(process_: dict[str, Any], ids: shift.Ids) -> None:
    """Give pipes and sockets that the container inherits to its user, who may open them anew as /dev/stdout."""
    if process_.get("terminal"):
        return
    uid = ids.uid + ((process_.get("user") or {}).get("uid") or 0)
    for fd in range(3):
        try:
            if posix.fstat(fd).st_mode & 0o170000 in (0o010000, 0o140000):
                posix.fchown(fd, uid, -1)
        except OSError:
            continue  # closed, or a file system without owners


def _resolve(wanted: dict[str, Any], pidfd: int) -> None:
    """Make Docker's resolver known to inner containers, if it is what the container is to ask."""
    path = next((mount["source"] for mount in wanted["mounts"] if mount["dest"] == "/etc/resolv.conf" and mount["kind"] == "bind"), "")
    try:
        if not path or wanted["regular"] or b"127.0.0.11" not in files.read(path):
            return
    except OSError:
        return
    if wanted["knobs"].get("alias-dns", True):
        from sysbox.runtime import dns

        dns.alias(path, pidfd)


def _sysctls(wanted: dict[str, str], pidfd: int, uid: int) -> None:
    """Write sysctls of the container's network, IPC and UTS namespaces, as root of the host: some take ids that only it has."""
    if not wanted:
        return
    kinds = (("net", k.CLONE_NEWNET), ("ipc", k.CLONE_NEWIPC), ("uts", k.CLONE_NEWUTS))
    home = [(posix.open(f"/proc/self/ns/{kind}", posix.O_RDONLY | posix.O_CLOEXEC), flag) for kind, flag in kinds]
    try:
        k.setns(pidfd, k.CLONE_NEWNET | k.CLONE_NEWIPC | k.CLONE_NEWUTS)
        for path, value in wanted.items():
            try:
                try:
                    files.write(f"/proc/sys/{path}", value)
                except PermissionError:  # those of IPC are their owner's alone from 6.9 on, whatever capabilities we have
                    posix.seteuid(uid)
                    try:
                        files.write(f"/proc/sys/{path}", value)
                    finally:
                        posix.seteuid(0)
            except OSError as error:
                name = path.replace("/", ".")
                raise Failure(
                    1017, f"cannot set sysctl {name} to {value!r}: {reason(error)}", "a name and value that sysctl(8) takes"
                ) from error
    finally:
        for fd, flag in home:
            k.setns(fd, flag)
            posix.close(fd)


def _commit(connection: socket, now: dict[str, Any], notes: dict[str, Any], mount: int) -> None:
    """Tell the manager that the container lives."""
    netns = posix.stat(f"/proc/{now['pid']}/ns/net")
    merged = notes["merged"] if notes["how"] == "overlay" else None
    message = {
        "op": "commit",
        "pid": now["pid"],
        "starttime": now["starttime"],
        "netns": [netns.st_dev, netns.st_ino],
        "rootfs": merged,
    }
    fds = []
    if merged:
        fds = [mount, posix.open(merged, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)]
    manager.tell(connection, message, fds)
    for fd in fds[1:]:
        posix.close(fd)
    manager.answer(connection)
