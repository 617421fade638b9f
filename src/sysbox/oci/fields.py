"""Take checked values out of ``linux.resources``; every refusal names the place in config.json. Codes: see ``resources``."""

from __future__ import annotations

from sysbox.errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROOT = "$.linux.resources"
U32, U64, I64 = 2**32 - 1, 2**64 - 1, 2**63 - 1


def typed(box: dict[str, Any], key: str, where: str, kind: type, name: str) -> Any:
    """Return ``box[key]`` when it is exactly a ``kind``, None when it is absent or null. Raises Failure 2001."""
    value = box.get(key)
    if value is not None and type(value) is not kind:  # exactly: a bool is an int to isinstance
        shown = f'"{value}"' if type(value) is str else repr(value)
        raise Failure(2001, f"{where}.{key}: expected {name}, got {shown}", f"make it {name}, or leave it out")
    return value


def number(box: dict[str, Any], key: str, where: str, low: int, high: int, *, zero: bool = True) -> int | None:
    """Return the integer ``box[key]``, None when absent. ``zero``: 0 stands for "not set" and passes. Raises Failure 2001, 2002."""
    value: int | None = typed(box, key, where, int, "an integer")
    if value is not None and not low <= value <= high and not (zero and value == 0):
        raise Failure(2002, f"{where}.{key}: {value} is not between {low} and {high}", f"choose a value from {low} to {high}")
    return value


def section(box: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """Return the object ``box[key]``, an empty one when absent. Raises Failure 2001."""
    return typed(box, key, where, dict, "an object") or {}


def objects(box: dict[str, Any], key: str, where: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects of the array ``box[key]``, each with its place in the document. Raises Failure 2001."""
    found: list[tuple[str, dict[str, Any]]] = []
    for index, item in enumerate(typed(box, key, where, list, "an array") or ()):
        place = f"{where}.{key}[{index}]"
        if type(item) is not dict:
            raise Failure(2001, f"{place}: expected an object, got {item!r}", "make it an object, or leave it out")
        found.append((place, item))
    return found
