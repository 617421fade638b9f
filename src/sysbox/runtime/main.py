"""sysbox-runc: its command line. Each command imports only what it needs."""

from __future__ import annotations

import posix
import sys

from sysbox.errors import Failure, reason
from sysbox.runtime import log
from sysbox.runtime.options import COMMANDS, GLOBAL, ORDERED, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

ROOT = "/run/sysbox-runc"
ARGUMENTS = {"create": 1, "run": 1, "start": 1, "state": 1, "delete": 1, "pause": 1, "resume": 1, "events": 1}  # exactly


def main() -> NoReturn:
    """Run the command of ``sys.argv`` and end the process with its status."""
    where = ""
    try:
        options, rest = parse(sys.argv[1:], GLOBAL, ordered=True, where="sysbox-runc")
        command = rest[0] if rest else "help"
        if options.get("version"):
            command, rest = "version", ["version"]
        where = " ".join(rest[:1] + [word for word in rest[1:] if not word.startswith("-")][-1:]) if command != "exec" else "exec"
        form = options.get("log-format", "text")
        if form not in ("text", "json"):
            raise Failure(1001, f"--log-format {form!r} is unknown", "--log-format text or json")
        log.configure(options.get("log", ""), form, debugging=bool(options.get("debug")))
        status = _dispatch(command, options, rest[1:])
    except Failure as failure:
        log.error(_line(where, str(failure)))
        status = 1
    except OSError as error:
        log.error(_line(where, f"{reason(error)} [SBX-1098]"))
        status = 1
    except KeyboardInterrupt:
        status = 130
    except Exception as error:  # noqa: BLE001 - a bug of ours is told like everything else
        if log.debugging():
            import traceback

            log.debug(traceback.format_exc())
        text = f"internal error: {type(error).__name__}: {error}. Try: the same with --debug, and report it as a bug [SBX-1099]"
        log.error(_line(where, text))
        status = 1
    _exit(status)


def _line(where: str, text: str) -> str:
    return f"sysbox-runc: {where}: {text}" if where else f"sysbox-runc: {text}"


def _exit(status: int) -> NoReturn:
    """End without the interpreter's own tidying up, which takes a millisecond."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        status = status or 1  # nobody reads any more
    posix._exit(status)


def _dispatch(command: str, options: dict[str, Any], argv: list[str]) -> int:
    if command not in COMMANDS:
        raise Failure(1001, f"{command!r} is no command", "sysbox-runc help")
    chosen, rest = parse(argv, COMMANDS[command][1], ordered=command in ORDERED, where=command)
    if options.get("help") or chosen.get("help") or command in ("help", "version", "features", "spec"):
        from sysbox.runtime import commands

        return commands.plain(command, chosen, rest, wants_help=bool(options.get("help") or chosen.get("help")))
    if command in ("checkpoint", "restore"):
        raise Failure(1009, f"{command} is not supported: a system container cannot be frozen to disk", "docker commit, or docker pause")
    if posix.geteuid():
        raise Failure(1002, "only root can run system containers", f"sudo sysbox-runc {command} ...")
    if (command in ARGUMENTS and len(rest) != ARGUMENTS[command]) or (not rest and command != "list"):
        raise Failure(1001, f"{command} takes {COMMANDS[command][0]}", f"sysbox-runc {command} --help")
    root = options.get("root") or ROOT
    if not root.startswith("/"):
        root = f"{posix.getcwd()}/{root}"
    for flag in ("no-sysbox-fs", "systemd-cgroup"):
        chosen[flag] = bool(options.get(flag))
    return _run(command, root.rstrip("/"), chosen, rest)


def _run(command: str, root: str, options: dict[str, Any], rest: list[str]) -> int:
    if command in ("create", "run", "exec"):
        _check_preserved(options)
    if command in ("create", "run"):
        from sysbox.runtime import run

        return (run.create if command == "create" else run.run)(root, rest[0], options)
    if command == "exec":
        from sysbox.runtime import execute

        return execute.execute(root, rest[0], rest[1:], options)
    if command in ("list", "ps", "update", "events", "state"):
        from sysbox.runtime import commands

        return commands.about(command, root, options, rest)
    from sysbox.runtime import lifecycle

    if command == "start":
        lifecycle.start(root, rest[0])
    elif command == "kill":
        lifecycle.kill(root, rest[0], lifecycle.signal_number(rest[1] if len(rest) > 1 else "TERM"), everyone=bool(options.get("all")))
    elif command == "delete":
        lifecycle.delete(root, rest[0], force=bool(options.get("force")))
    else:
        lifecycle.pause(root, rest[0], frozen=command == "pause")
    return 0


def _check_preserved(options: dict[str, Any]) -> None:
    """Make sure that descriptors to preserve are the caller's, none that we open later. Raises Failure 1001."""
    count = options.get("preserve-fds", "0")
    if not count.isdigit():
        raise Failure(1001, f"--preserve-fds {count!r} is no number", "--preserve-fds 1")
    listening = posix.environ.get(b"LISTEN_FDS", b"0")
    for fd in range(3, 3 + int(count) + (int(listening) if listening.isdigit() else 0)):
        try:
            posix.fstat(fd)
        except OSError:
            raise Failure(1001, f"descriptor {fd} is to be preserved, but is not open", "a smaller --preserve-fds or LISTEN_FDS") from None
