"""The command line of ``update``: new limits as flags or as JSON. Cold: not on the way of a container's start."""

from __future__ import annotations

import sys
from typing import Any

from sysbox.errors import Failure, reason
from sysbox.linux import jsons

USAGE = "sysbox-runc update [--memory 512m] [--cpu-quota 50000] [--pids-limit 100] ... CONTAINER, or -r FILE"
# flag -> kind of value, section and key of linux.resources
FLAGS: dict[str, tuple[str, str, str]] = {
    "resources": ("file", "", ""),
    "blkio-weight": ("unsigned", "blockIO", "weight"),
    "cpu-period": ("unsigned", "cpu", "period"),
    "cpu-quota": ("integer", "cpu", "quota"),
    "cpu-share": ("unsigned", "cpu", "shares"),
    "cpu-burst": ("unsigned", "cpu", "burst"),
    "cpu-rt-period": ("unsigned", "cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("integer", "cpu", "realtimeRuntime"),
    "cpu-idle": ("integer", "cpu", "idle"),
    "cpuset-cpus": ("text", "cpu", "cpus"),
    "cpuset-mems": ("text", "cpu", "mems"),
    "kernel-memory": ("size", "memory", "kernel"),
    "kernel-memory-tcp": ("size", "memory", "kernelTCP"),
    "memory": ("size", "memory", "limit"),
    "memory-reservation": ("size", "memory", "reservation"),
    "memory-swap": ("size", "memory", "swap"),
    "pids-limit": ("integer", "pids", "limit"),
    "l3-cache-schema": ("text", "intelRdt", "l3CacheSchema"),
    "mem-bw-schema": ("text", "intelRdt", "memBwSchema"),
}
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def parse(argv: list[str]) -> tuple[str, dict[str, Any]]:
    """Return (container ID, resources) for the arguments after ``update``.

    The resources have the shape of ``linux.resources``, plus ``intelRdt`` (as in ``linux.intelRdt``) when its schemas are given. A file
    (``-r FILE``, ``-`` for standard input) stands alone: other flags are then checked and ignored, as runc does. Sizes are bytes or have
    a suffix k, m, g, t, p (1024 each); -1 is no limit. Raises Failure 2010..2014.
    """
    names: list[str] = []
    resources: dict[str, Any] = {}
    path = ""
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            names += words
            break
        if not word.startswith("-") or word == "-":
            names.append(word)
            continue
        flag, given, value = word.lstrip("-").partition("=")
        flag = {"r": "resources"}.get(flag, flag)
        if flag not in FLAGS:
            raise Failure(2010, f"update: there is no flag {word.split('=')[0]}", f"--{', --'.join(FLAGS)}")
        if not given:
            if not words:
                raise Failure(2011, f"update: {word} needs a value", USAGE)
            value = words.pop(0)
        kind, section, key = FLAGS[flag]
        if kind == "file":
            path = value
        elif value:
            resources.setdefault(section, {})[key] = _value(flag, kind, value)
    if len(names) != 1 or not names[0]:
        raise Failure(2012, f"update: expected one container ID, got {len(names)}", USAGE)
    return names[0], _load(path) if path else resources


def _value(flag: str, kind: str, value: str) -> int | str:
    if kind == "text":
        return value
    if kind == "size":
        return size(value, f"update: --{flag}")
    digits = value[1:] if kind == "integer" and value[:1] in ("-", "+") else value
    if not (digits.isascii() and digits.isdigit()):
        raise Failure(2011, f'update: --{flag}: expected {"an" if kind == "integer" else "an unsigned"} integer, got "{value}"', USAGE)
    return int(value)


def size(text: str, where: str) -> int:
    """Return bytes for ``text`` like ``1073741824``, ``512m``, ``1.5GiB`` or ``-1`` (no limit). Raises Failure 2011."""
    if text == "-1":
        return -1
    lower = text.strip().lower()
    digits = lower.rstrip("bkmgtpi ")
    unit = lower[len(digits) :].strip()
    unit = unit[0] if unit in ("b", *(f"{one}{rest}" for one in "kmgtp" for rest in ("", "b", "ib"))) else unit
    whole, point, part = digits.partition(".")
    good = digits.isascii() and whole.isdigit() and (part.isdigit() if point else True)
    if unit not in UNITS or not good:
        raise Failure(2011, f'{where}: "{text}" is not a size', "write bytes, or a number with k, m or g, or -1 for no limit")
    return int(whole) * UNITS[unit] + (int(part) * UNITS[unit] // 10 ** len(part) if point else 0)


def _load(path: str) -> dict[str, Any]:
    """Read resources from a file, or from standard input for ``-``. Raises Failure 2013, 2014."""
    try:
        if path == "-":
            text = sys.stdin.read()
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read()
    except OSError as error:
        raise Failure(2013, f"update: cannot read {path}: {reason(error)}", "name a readable file, or - for standard input") from error
    except UnicodeDecodeError as error:
        raise Failure(2014, f"update: {path} is not UTF-8: {error}", 'write an object like {"memory": {"limit": 67108864}}') from error
    try:
        value = jsons.loads(text)
    except ValueError as error:
        raise Failure(2014, f"update: {path} is not JSON: {error}", 'write an object like {"memory": {"limit": 67108864}}') from error
    if type(value) is not dict:
        raise Failure(2014, f"update: {path} is not a JSON object", 'write one like {"memory": {"limit": 67108864}}')
    return value
