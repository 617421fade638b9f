"""The help texts of sysbox-runc. Off the hot path."""

from __future__ import annotations

from sysbox.errors import Failure
from sysbox.runtime.options import COMMANDS, GLOBAL

SUMMARIES = {
    "create": "make a container that waits for start",
    "run": "create and start a container",
    "start": "start a created container",
    "exec": "run another program in a container",
    "state": "show a container as JSON",
    "kill": "send a signal to a container (default: SIGTERM)",
    "delete": "remove a stopped container",
    "list": "list the containers below --root",
    "ps": "list the processes of a container",
    "pause": "stop all processes of a container",
    "resume": "continue all processes of a paused container",
    "update": "change the limits of a container",
    "events": "show statistics and out-of-memory events",
    "spec": "write a config.json to start from",
    "features": "show what this runtime can do as JSON",
    "checkpoint": "not supported",
    "restore": "not supported",
    "help": "show this help, or that of a command",
    "version": "show the version",
}
OPTIONS = {
    "root": "DIR where the state of containers is (default: /run/sysbox-runc)",
    "log": "FILE to which errors and --debug lines are appended",
    "log-format": "text or json (default: text)",
    "no-sysbox-fs": "create: leave /proc and /sys to the kernel alone, and trap no system call",
    "debug": "log the plan and what else helps",
    "systemd-cgroup": "have systemd make the cgroup: cgroupsPath is slice:prefix:name",
    "rootless": "accepted and ignored: containers always have a user namespace",
    "criu": "accepted and ignored",
    "help": "show help",
    "version": "show the version",
    "bundle": "DIR that holds config.json (default: the working directory)",
    "console-socket": "PATH of a unix socket that receives the terminal",
    "pid-file": "FILE to write the process ID to",
    "no-pivot": "accepted and ignored: pivot_root is always used",
    "no-new-keyring": "keep the session keyring of the caller",
    "preserve-fds": "N more descriptors after standard error for the process",
    "no-kernel-check": "do not look at the kernel's version",
    "detach": "return when the process runs",
    "keep": "do not delete the container when it ends",
    "no-subreaper": "do not adopt orphaned processes",
    "cwd": "DIR to run in",
    "env": "NAME=VALUE for the environment, may be repeated",
    "tty": "give the process a terminal",
    "user": "UID[:GID] to run as",
    "additional-gids": "GID to add, may be repeated",
    "process": "FILE with the process as JSON",
    "process-label": "accepted and ignored: there is no SELinux",
    "apparmor": "accepted and ignored",
    "no-new-privs": "set no_new_privs",
    "cap": "CAPABILITY to add where capabilities are honored, may be repeated",
    "cgroup": "PATH below the container's cgroup, or CONTROLLER:PATH",
    "ignore-paused": "wait in a paused container until it is resumed",
    "all": "send it to all processes",
    "force": "kill a container that still runs; fine if it does not exist",
    "format": "table or json (default: table)",
    "quiet": "show IDs only",
    "stats": "show statistics once",
    "interval": "DURATION between statistics (default: 5s)",
    "id-map": '"UID GID SIZE": map the container\'s ids from these on',
}


def text(command: str) -> str:
    """Return the help of one command, of all with "". Raises Failure 1001."""
    if not command or command == "sysbox-runc":
        lines = [
            "sysbox-runc: an OCI runtime for system containers",
            "",
            "usage: sysbox-runc [OPTION...] COMMAND [OPTION...] [ARGUMENT...]",
            "",
        ]
        lines += [f"  {name:<12} {SUMMARIES[name]}" for name in COMMANDS]
        return "\n".join([*lines, "", *_options(GLOBAL), "", "More: sysbox-runc COMMAND --help"])
    if command not in COMMANDS:
        raise Failure(1001, f"{command!r} is no command", "sysbox-runc help")
    arguments, words = COMMANDS[command]
    head = [f"sysbox-runc {command}: {SUMMARIES[command]}", "", f"usage: sysbox-runc {command} [OPTION...] {arguments}".rstrip()]
    if command == "update":
        from sysbox.oci.update import FLAGS

        return "\n".join([*head, "", *(f"  --{flag} VALUE" for flag in FLAGS)])
    return "\n".join([*head, "", *_options("" if words == "*" else words)])


def _options(words: str) -> list[str]:
    lines = []
    for word in words.split():
        names, equals, _ = word.partition("=")
        name, *short = names.split(",")
        spelled = ", ".join([*(f"-{one}" for one in short), f"--{name}"])
        lines.append(f"  {spelled:<28} {OPTIONS[name]}" if not equals else f"  {spelled + ' ...':<28} {OPTIONS[name]}")
    return lines
