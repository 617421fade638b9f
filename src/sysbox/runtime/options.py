"""The command line as a table, and its parser: argparse alone takes longer to import than a container to start."""

from __future__ import annotations

from sysbox.errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# words: name[,short][=]; = takes a value, =* one more value each time; "*" alone: the command parses its own
GLOBAL = "root= log= log-format= debug systemd-cgroup no-sysbox-fs rootless= criu= help,h version,v"
_PROCESS = "console-socket= pid-file= preserve-fds= detach,d"
_CREATE = "bundle,b= console-socket= pid-file= no-pivot no-new-keyring preserve-fds= no-kernel-check"

# command -> (arguments, options)
COMMANDS = {
    "create": ("CONTAINER", _CREATE),
    "run": ("CONTAINER", f"{_CREATE} detach,d keep no-subreaper"),
    "start": ("CONTAINER", ""),
    "exec": (
        "CONTAINER [PROGRAM [ARGUMENT...]]",
        f"{_PROCESS} cwd= env,e=* tty,t user,u= additional-gids,g=* process,p= process-label= apparmor= no-new-privs cap,c=* "
        "cgroup=* ignore-paused no-subreaper",
    ),
    "state": ("CONTAINER", ""),
    "kill": ("CONTAINER [SIGNAL]", "all,a"),
    "delete": ("CONTAINER", "force,f"),
    "list": ("", "format,f= quiet,q"),
    "ps": ("CONTAINER [PS OPTION...]", "format,f="),
    "pause": ("CONTAINER", ""),
    "resume": ("CONTAINER", ""),
    "update": ("[--memory 512m] [--cpu-quota 50000] [-r FILE] ... CONTAINER", "*"),  # oci/update.py has its flags
    "events": ("CONTAINER", "stats interval="),
    "spec": ("", "bundle,b= id-map,m= rootless"),
    "features": ("", ""),
    "checkpoint": ("CONTAINER", "*"),
    "restore": ("CONTAINER", "*"),
    "help": ("[COMMAND]", ""),
    "version": ("", ""),
}
ORDERED = ("exec", "ps")  # what follows the container's name belongs to another program


def table(words: str) -> dict[str, tuple[str, str]]:
    """Return spelling -> (name, kind: "", "=" or "=*")."""
    known = {}
    for word in words.split():
        names, equals, kind = word.partition("=")
        name = names.split(",")[0]
        for spelling in names.split(","):
            known[spelling] = (name, equals + kind)
    return known


def parse(argv: list[str], words: str, *, ordered: bool, where: str) -> tuple[dict[str, Any], list[str]]:
    """Split arguments into options and the rest; ``ordered``: the rest begins with the first word that is none. Raises Failure 1001."""
    if words == "*":
        return {"help": True} if {"-h", "--help"} & set(argv) else {}, argv
    known = {**table(words), "help": ("help", ""), "h": ("help", "")}
    options: dict[str, Any] = {}
    rest: list[str] = []
    index = 0
    while index < len(argv):
        word = argv[index]
        index += 1
        if word == "--":
            rest += argv[index:]
            break
        if not word.startswith("-") or word == "-":
            if ordered:
                rest += argv[index - 1 :]
                break
            rest.append(word)
            continue
        spelling, equals, value = word.lstrip("-").partition("=")
        if spelling not in known:
            raise Failure(
                1001,
                f"{where} has no option {word.partition('=')[0]}",
                f"sysbox-runc {where} --help".replace("sysbox-runc sysbox-runc", "sysbox-runc"),
            )
        name, kind = known[spelling]
        if not kind:
            if equals and value not in ("true", "false"):
                raise Failure(1001, f"option --{name} takes no value", f"--{name}")
            options[name] = value != "false"
            continue
        if not equals:
            if index >= len(argv):
                raise Failure(1001, f"option --{name} needs a value", f"--{name} VALUE")
            value = argv[index]
            index += 1
        if kind == "=*":
            options.setdefault(name, []).append(value)
        else:
            options[name] = value
    return options, rest
