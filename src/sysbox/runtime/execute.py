"""``exec``: one more process in a running container."""

from __future__ import annotations

import posix
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket, socketpair

from sysbox.errors import Failure
from sysbox.linux import _kernel as k
from sysbox.linux import files
from sysbox.oci import config as oci
from sysbox.runtime import apparmor, cgroup, emulation, lifecycle, log, process, state
from sysbox.runtime.steps import Step, report
from sysbox.wire import message as wire
from sysbox.wire import traps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

JOINED = k.CLONE_NEWUSER | k.CLONE_NEWNS | k.CLONE_NEWNET | k.CLONE_NEWIPC | k.CLONE_NEWUTS | k.CLONE_NEWCGROUP | k.CLONE_NEWTIME


def execute(root: str, name: str, args: list[str], options: dict[str, Any]) -> int:
    """Run a process; return its exit status, or 0 at once with ``detach``. Raises Failure."""
    from sysbox.runtime import supervise

    now = state.load(root, name)
    status = state.status(root, now)
    if status == "stopped":
        raise Failure(1008, f"cannot exec in container {name}: it is not running: it has stopped", "start a new one")
    if status == "creating" or (status == "paused" and not options.get("ignore-paused")):
        raise Failure(1008, f"cannot exec in container {name}: it is {status}", "resume it, or --ignore-paused")
    wanted = describe(now, args, options)
    process.check(wanted, "process")
    console, ours = _console(wanted, options)
    log.debug(f"plan: exec {wanted['args']} as {wanted.get('user')} in {wanted['cwd']}")
    regular = now.get("regular", False)  # one of a version before may run
    knobs = oci.knobs([entry for entry in wanted.get("env") or () if entry.startswith("SYSBOX_HONOR_CAPS=")])
    job = {
        "process": wanted,
        "console": console,
        "seccomp": _filter(root, name),
        "keyring": f"_ses.{name}",
        "preserve": int(options.get("preserve-fds") or 0),
        "honor_caps": regular or knobs.get("SYSBOX_HONOR_CAPS", now.get("honor_caps", False)),
        "apparmor": apparmor.wanted(wanted, regular=regular),
        "personality": now["personality"],
        "traps": None if now["traps"] is None else traps.program(**now["traps"]),
    }
    job["init"] = lifecycle.init_pidfd(now)
    if not options.get("detach"):
        supervise.hold()
    pid, pidfd = _birth(now, job, options)
    if console >= 0:
        posix.close(console)
    if options.get("pid-file"):
        state.write_pid(options["pid-file"], pid)
    if options.get("detach"):
        return 0
    relay = None
    if ours:
        from sysbox.runtime.console import Relay, receive

        relay = Relay(receive(ours))
    return supervise.foreground(pid, pidfd, relay)


def describe(now: dict[str, Any], args: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Put the process together: that of a file, or the container's own with what the command line changes. Raises Failure."""
    if options.get("process"):
        wanted = oci.parse(oci.slurp(options["process"], "--process FILE"), options["process"])
    else:
        if not args:
            raise Failure(1001, "exec needs a program to run", "sysbox-runc exec CONTAINER PROGRAM [ARGUMENT...]")
        wanted = {**now["process"], "args": args, "terminal": False}
        wanted.pop("consoleSize", None)
    if options.get("cwd"):
        wanted["cwd"] = options["cwd"]
    if options.get("tty"):
        wanted["terminal"] = True
    if options.get("apparmor"):
        wanted["apparmorProfile"] = options["apparmor"]
    if options.get("no-new-privs"):
        wanted["noNewPrivileges"] = True
    if options.get("env"):
        wanted["env"] = [*(wanted.get("env") or ()), *options["env"]]
    user = dict(wanted.get("user") or {})
    if options.get("user"):
        uid, colon, gid = options["user"].partition(":")
        if not uid.isdigit() or (colon and not gid.isdigit()):
            raise Failure(1001, f"--user {options['user']!r} is no UID[:GID]", "--user 1000:1000")
        user["uid"] = int(uid)
        if colon:
            user["gid"] = int(gid)
    if options.get("additional-gids"):
        if not all(one.isdigit() for one in options["additional-gids"]):
            raise Failure(1001, f"--additional-gids {options['additional-gids']} are no numbers", "--additional-gids 27")
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *map(int, options["additional-gids"])]
    wanted["user"] = user
    if options.get("cap"):
        have = dict(wanted.get("capabilities") or {})
        for kind in ("bounding", "effective", "permitted"):
            have[kind] = [*(have.get(kind) or ()), *options["cap"]]
        wanted["capabilities"] = have
    if wanted.get("env"):
        wanted["env"] = [entry for entry in wanted["env"] if not entry.startswith("SYSBOX_") or entry.startswith("SYSBOX_HONOR_CAPS=")]
    oci.process(wanted, "process", schema=True)
    return wanted


def _console(wanted: dict[str, Any], options: dict[str, Any]) -> tuple[int, socket | None]:
    """Return the descriptor that takes the terminal's master (-1: no terminal), and our end if we are to relay."""
    path = options.get("console-socket")
    if not wanted.get("terminal"):
        if path:
            raise Failure(1023, "there is a console socket, but no terminal is wanted", "--tty")
        return -1, None
    from sysbox.runtime import console

    if path:
        return console.connect(path), None
    if options.get("detach"):
        raise Failure(1023, "a terminal is wanted, but there is no console socket", "--console-socket PATH, or leave --detach out")
    ours, theirs = console.pair()
    return theirs, ours


def _filter(root: str, name: str) -> tuple[int, bytes] | None:
    """Read the seccomp filter that init has."""
    try:
        data = files.read(f"{root}/{name}/seccomp")
    except FileNotFoundError:
        return None
    return int.from_bytes(data[:8], "little"), data[8:]


def _birth(now: dict[str, Any], job: dict[str, Any], options: dict[str, Any]) -> tuple[int, int]:
    """Clone the process into the container: (pid, pidfd) once it has become its program. Raises Failure."""
    groups = now["cgroup"]
    if options.get("cgroup"):
        groups = _below(groups, options["cgroup"])
    elif not groups["v1"]:
        groups = {"v1": {}, "v2": _of_init(now)}
    job["doors"], v2 = cgroup.doors(groups)
    ours, job["channel"] = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    k.setns(job["init"], k.CLONE_NEWPID)
    pid, pidfd = k.clone3(0, v2) or (0, -1)
    if not pid:
        _child(job)
    job["channel"].close()
    for fd in (*job["doors"], job["init"], *([v2] if v2 >= 0 else [])):
        posix.close(fd)
    try:
        process.from_outside(pid, job["process"])
        wire.send(ours, {"do": "exec"})
        told, fds = wire.receive(ours)
        if told.get("listener"):
            emulation.listen(now["id"], fds[0])
            wire.send(ours, {"do": "go"})
            told, _ = wire.receive(ours)
        if told:
            raise Failure(told["error"]["code"], told["error"]["cause"], told["error"]["hint"])
    except BaseException:
        try:
            k.pidfd_send_signal(pidfd, 9)
        except OSError:
            pass  # it has ended by itself
        posix.waitpid(pid, 0)
        raise
    finally:
        ours.close()
    return pid, pidfd


def _below(groups: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    """Choose cgroups below the container's: PATH, or CONTROLLER[,CONTROLLER...]:PATH."""
    out = {"v1": dict(groups["v1"]), "v2": groups["v2"]}
    for one in wanted:
        names, colon, path = one.partition(":")
        path = (path if colon else names).strip("/")
        if ".." in path.split("/"):
            raise Failure(1001, f"--cgroup {one!r} leads out of the container's cgroup", "--cgroup PATH below it")
        for key, base in groups["v1"].items():
            if not colon or key in names.split(",") or set(key.split(",")) & set(names.split(",")):
                out["v1"][key] = f"{base}/{path}"
        if not colon and not groups["v1"]:
            out["v2"] = f"{groups['v2']}/{path}"
    return out


def _of_init(now: dict[str, Any]) -> str:
    """Find the v2 cgroup in which the container's init is now: its own top may have become an inner node."""
    with_path = [line for line in oci.slurp(f"/proc/{now['pid']}/cgroup").split("\n") if line.startswith("0::")]
    path = with_path[0][3:] if with_path else ""
    top = now["cgroup"]["v2"]
    where = "/sys/fs/cgroup" + path
    return where if where.startswith(top) else top


def _child(job: dict[str, Any]) -> NoReturn:
    channel = job["channel"]
    wanted = job["process"]
    numbers = [channel.fileno(), job["init"], job["console"], *job["doors"], *range(3, 3 + job["preserve"])]
    process.keep_only([fd for fd in numbers if fd >= 0])
    try:
        door = apparmor.door() if job["apparmor"] else -1
        k.prctl(k.PR_SET_DUMPABLE, 0)  # we are not the container's to look into
        said, _ = wire.receive(channel)
        if said.get("do") != "exec":
            posix._exit(1)
        Step.name = "enter the cgroups"
        for fd in job["doors"]:
            posix.write(fd, b"0")
        Step.name = "join the container's namespaces"
        k.setns(job["init"], JOINED)
        posix.setgroups([])
        posix.setresgid(0, 0, 0)
        posix.setresuid(0, 0, 0)
        posix.setsid()
        posix.umask(0)
        if job["console"] >= 0:
            Step.name = "open a terminal"
            process.terminal(wanted, job["console"])
        Step.name = f"enter working directory {wanted['cwd']}"
        process.enter(wanted["cwd"])
        Step.name = "find the program"
        env = process.environment(wanted)
        path = process.find(wanted["args"][0], env)
        Step.name = f"exec {path}"
        process.become(
            wanted,
            path,
            env,
            job["seccomp"],
            keyring=job["keyring"],
            preserve=job["preserve"],
            honor_caps=job["honor_caps"],
            apparmor=(door, job["apparmor"]),
            personality=job["personality"],
            traps=job["traps"],
            channel=channel,
        )
    except BaseException as error:  # noqa: BLE001 - everything is told
        report(channel, error)
    posix._exit(255)
