"""The shape of config.json as a table, and the check that names the JSON path and what was expected there."""

from __future__ import annotations

from sysbox.errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# a name: a type, a table in turn, [what each entry is], {"*": what each value is}; a trailing ! means that it must be there
_STRINGS = ["string"]
_ID_MAP = [{"containerID!": "unsigned", "hostID!": "unsigned", "size!": "unsigned"}]
_HOOKS = [{"path!": "string", "args": _STRINGS, "env": _STRINGS, "timeout": "integer"}]
_USER = {"uid": "unsigned", "gid": "unsigned", "umask": "unsigned", "additionalGids": ["unsigned"], "username": "string"}
_CAPABILITIES = dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), _STRINGS)

PROCESS: dict[str, Any] = {
    "terminal": "boolean",
    "consoleSize": {"height": "unsigned", "width": "unsigned"},
    "user": _USER,
    "args!": _STRINGS,
    "env": _STRINGS,
    "cwd!": "string",
    "capabilities": _CAPABILITIES,
    "rlimits": [{"type!": "string", "hard!": "unsigned", "soft!": "unsigned"}],
    "noNewPrivileges": "boolean",
    "apparmorProfile": "string",
    "selinuxLabel": "string",
    "oomScoreAdj": "integer",
    "ioPriority": {"class!": "string", "priority": "integer"},
    "scheduler": {
        "policy!": "string",
        "nice": "integer",
        "priority": "integer",
        "flags": _STRINGS,
        "runtime": "unsigned",
        "deadline": "unsigned",
        "period": "unsigned",
    },
}

CONFIG: dict[str, Any] = {
    "ociVersion!": "string",
    "root!": {"path!": "string", "readonly": "boolean"},
    "process": PROCESS,
    "hostname": "string",
    "domainname": "string",
    "mounts": [
        {
            "destination!": "string",
            "type": "string",
            "source": "string",
            "options": _STRINGS,
            "uidMappings": _ID_MAP,
            "gidMappings": _ID_MAP,
        }
    ],
    "hooks": dict.fromkeys(("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _HOOKS),
    "annotations": {"*": "string"},
    "linux!": {
        "namespaces": [{"type!": "string", "path": "string"}],
        "uidMappings": _ID_MAP,
        "gidMappings": _ID_MAP,
        "timeOffsets": {"*": {"secs": "integer", "nanosecs": "unsigned"}},
        "devices": [
            {
                "type!": "string",
                "path!": "string",
                "major": "integer",
                "minor": "integer",
                "fileMode": "unsigned",
                "uid": "unsigned",
                "gid": "unsigned",
            }
        ],
        "cgroupsPath": "string",
        "resources": {"devices": [{"*": "any"}]},  # oci/resources.py checks what it reads
        "rootfsPropagation": "string",
        "sysctl": {"*": "string"},
        "seccomp": {"*": "any"},  # oci/seccomp.py
        "maskedPaths": _STRINGS,
        "readonlyPaths": _STRINGS,
        "mountLabel": "string",
        "personality": {"domain": "string", "flags": _STRINGS},
        "intelRdt": {"*": "any"},
    },
}

_ARTICLES = {"string": "a string", "integer": "an integer", "unsigned": "an integer from 0 on", "boolean": "true or false"}


def malformed(path: str, expected: str, value: object) -> Failure:
    """Say what is wrong at a JSON path of config.json."""
    from sysbox.linux.jsons import dumps

    got = dumps(value)
    got = got if len(got) <= 60 else got[:57] + "..."
    return Failure(1011, f"config.json is malformed at {path}: expected {expected}, got {got}", "correct config.json")


def check(value: Any, schema: Any, path: str) -> None:
    """Compare a JSON value with a schema of this module; null counts as absent. Raises Failure 1011 with the path."""
    if schema.__class__ is str:
        kind = value.__class__
        if (
            (schema == "string" and kind is str and "\0" not in value)
            or (schema == "unsigned" and kind is int and value >= 0)
            or (schema == "integer" and kind is int)
            or (schema == "boolean" and kind is bool)
            or schema == "any"
        ):
            return
        raise malformed(path, _ARTICLES[schema] + (" without NUL" if schema == "string" and kind is str else ""), value)
    if schema.__class__ is list:
        if value.__class__ is not list:
            raise malformed(path, "an array", value)
        for index, entry in enumerate(value):
            check(entry, schema[0], f"{path}[{index}]")
        return
    if value.__class__ is not dict:
        raise malformed(path, "an object", value)
    if "*" in schema:
        for name, entry in value.items():
            check(entry, schema["*"], f"{path}.{name}")
        return
    for name, inner in schema.items():
        plain = name.removesuffix("!")
        entry = value.get(plain)
        if entry is not None:
            check(entry, inner, f"{path}.{plain}")
        elif plain != name:
            raise Failure(1011, f"config.json is malformed: {path}.{plain} is missing", "correct config.json")
