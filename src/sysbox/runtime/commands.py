"""Commands that tell: state, list, ps, update, events, spec, features, help, version."""

from __future__ import annotations

import posix
import time

from sysbox.errors import Failure
from sysbox.linux.jsons import dumps
from sysbox.runtime import cgroup, lifecycle, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def say(text: str) -> None:
    """Write a text to standard output, all of it. Raises OSError."""
    data = (text + "\n").encode("utf-8", "surrogateescape")
    while data:
        data = data[posix.write(1, data) :]


def about(command: str, root: str, options: dict[str, Any], rest: list[str]) -> int:
    """Run a command about containers. Raises Failure."""
    if command == "state":
        say(_pretty(lifecycle.describe(root, rest[0])))
        return 0
    if command == "list":
        return _list(root, options)
    if command == "ps":
        return _ps(root, rest[0], rest[1:], options)
    if command == "update":
        return _update(root, rest)
    return _events(root, rest[0], options)


def _pretty(told: dict[str, Any]) -> str:
    """Write a flat object a line an entry."""
    return "{\n" + ",\n".join(f"  {dumps(name)}: {dumps(value)}" for name, value in told.items()) + "\n}"


def _list(root: str, options: dict[str, Any]) -> int:
    form = options.get("format", "table")
    if form not in ("table", "json"):
        raise Failure(1001, f"--format {form!r} is unknown", "--format table or json")
    found = []
    for name in state.names(root):
        try:
            found.append(lifecycle.describe(root, name))
        except (Failure, ValueError):
            continue  # being made, or deleted just now
    if options.get("quiet"):
        for one in found:
            say(one["id"])
    elif form == "json":
        say(dumps(found or None))
    else:
        rows = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
        rows += [(one["id"], str(one["pid"]), one["status"], one["bundle"], one["created"], "root") for one in found]
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        for row in rows:
            say("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _ps(root: str, name: str, words: list[str], options: dict[str, Any]) -> int:
    import subprocess

    pids = cgroup.pids(state.load(root, name)["cgroup"])
    form = options.get("format", "table")
    if form == "json":
        say(dumps(pids))
        return 0
    if form != "table":
        raise Failure(1001, f"--format {form!r} is unknown", "--format table or json")
    done = subprocess.run(["ps", *(words or ["-ef"])], capture_output=True, text=True)
    if done.returncode:
        raise Failure(1026, f"ps failed: {done.stderr.strip() or done.returncode}", "options that ps(1) knows")
    lines = done.stdout.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise Failure(1026, "ps printed no column PID", "options that keep it, such as -o pid,args")
    column = titles.index("PID")
    say(lines[0])
    for line in lines[1:]:
        if line.split()[column : column + 1] and int(line.split()[column]) in pids:
            say(line)
    return 0


def _update(root: str, rest: list[str]) -> int:
    from sysbox.oci import update

    name, resources = update.parse(rest)
    directory = state.lock(root, name)
    try:
        now = state.load(root, name)
        if not state.alive(now):
            raise lifecycle.not_running(name)
        if now.get("scope"):
            from sysbox.runtime import scope

            scope.update(now["scope"], resources)
        cgroup.limit(now["cgroup"], resources, fresh=False)
    finally:
        posix.close(directory)
    return 0


def _events(root: str, name: str, options: dict[str, Any]) -> int:
    from sysbox.oci import stats

    now = state.load(root, name)
    if not state.alive(now):
        raise lifecycle.not_running(name)
    groups = now["cgroup"]
    by_name = {one: path for names, path in groups["v1"].items() for one in names.split(",")}

    def tell(kind: str, data: Any) -> None:
        say(dumps({"type": kind, "id": name, "data": data} if data is not None else {"type": kind, "id": name}))

    if options.get("stats"):
        tell("stats", stats.stats(by_name, groups["v2"] or None))
        return 0
    seconds = _seconds(options.get("interval", "5s"))
    import threading

    def ooms() -> None:
        for _ in stats.oom_watch(by_name, groups["v2"] or None):
            tell("oom", None)

    threading.Thread(target=ooms, daemon=True).start()
    while state.alive(now):
        tell("stats", stats.stats(by_name, groups["v2"] or None))
        end = time.monotonic() + seconds
        while state.alive(now) and time.monotonic() < end:
            time.sleep(min(0.2, seconds))
    return 0


def _seconds(text: str) -> float:
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    for unit, factor in units.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit() and float(number) > 0:
            return float(number) * factor
    raise Failure(1001, f"--interval {text!r} is no duration", "--interval 5s")


def plain(command: str, options: dict[str, Any], rest: list[str], *, wants_help: bool) -> int:
    """Run a command that needs no container and no root. Raises Failure."""
    if wants_help or command == "help":
        from sysbox.runtime import usage

        say(usage.text(command if command != "help" else "".join(rest[:1])))
    elif command == "version":
        from sysbox.version import VERSION

        say(f"sysbox-runc version {VERSION}\nspec: 1.3.0")
    elif command == "features":
        from sysbox.oci import features

        say(features.text())
    else:
        from sysbox.oci import spec

        spec.write(options.get("bundle") or ".", options.get("id-map", ""))
    return 0
