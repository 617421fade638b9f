"""The commands of the user guide, to be run, and what it says that they print."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GUIDE = Path(__file__).resolve().parents[1] / "docs/user-guide/README.md"
BLOCK = re.compile(r"^(?P<indent> *)```(?P<info>.*)\n(?P<text>(?:.*\n)*?)(?P=indent)```$", re.MULTILINE)
PROMPT = re.compile(r"(?:\$|root@\S+#) ")
PROMPTED = re.compile(r"^(?:\S*[#$] )+")  # what a shell prints before what a command prints that was typed ahead
FAILS = re.compile(r"Error|denied|Read-only")  # what is printed where a command is to fail


class Step(NamedTuple):
    """A command, what is typed into it, and the lines that it prints; ``...`` stands for anything."""

    command: str
    typed: list[str]
    printed: list[str]


def sections(kind: str) -> dict[str, list[Step]]:
    """Return the steps of each section's blocks of one kind: "console", or "console systemd" for a host with systemd."""
    found = {}
    for section in GUIDE.read_text().split("\n## ")[1:]:
        blocks = [match for match in BLOCK.finditer(section) if match["info"] == kind]
        if blocks:
            found[section.partition("\n")[0]] = [step for match in blocks for step in _steps(textwrap.dedent(match["text"]))]
    return found


def _steps(text: str) -> Iterator[Step]:
    step: Step | None = None
    for line in text.splitlines():
        prompt = PROMPT.match(line)
        if line.startswith("$ "):
            if step:
                yield step
            step = Step(line[2:], [], [])
        else:
            assert step, f"no command before {line!r}"
            (step.typed if prompt else step.printed).append(line[prompt.end() :] if prompt else line)
    if step:
        yield step


def check(steps: list[Step], run: Callable[[str], tuple[int, str, str]]) -> None:
    """Run steps one after the other; each must print what the guide says, in that order, and succeed unless that is an error.

    ``run`` returns a command's status and what it wrote to stdout and to stderr. Docker hands these on each by itself, so of two lines the
    one that was written first may come second if one is an error: there is an order only within each of them.
    """
    for step in steps:
        command = step.command
        if step.typed:  # on a terminal, as people do
            keys = " ".join(shlex.quote(line) for line in [*step.typed, "exit"])
            command = f"printf '%s\\n' {keys} | script -qec {shlex.quote(command)} /dev/null"
        status, *streams = run(command)
        whole = "".join(streams)
        assert not status or FAILS.search("\n".join(step.printed)), f"$ {command}: status {status}\n{whole}"
        left = [[" ".join((PROMPTED.sub("", line) if step.typed else line).split()) for line in one.splitlines()] for one in streams]
        for line in step.printed:
            wanted = re.compile(".*".join(map(re.escape, " ".join(line.split()).split("..."))))
            assert _passed(wanted, left), f"$ {command}\nshould print {line!r}, not\n{whole}"


def _passed(wanted: re.Pattern[str], streams: list[list[str]]) -> bool:
    """Look for a line, and take it out of its stream with all before it."""
    for lines in streams:
        for at, line in enumerate(lines):
            if wanted.fullmatch(line):
                del lines[: at + 1]
                return True
    return False
