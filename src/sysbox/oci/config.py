"""What config.json must hold for a system container: read it, refuse what cannot work, say what to do."""

from __future__ import annotations

import posix

from sysbox.errors import Failure, reason
from sysbox.linux import files
from sysbox.linux.jsons import loads
from sysbox.oci.schema import CONFIG, PROCESS, check, malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IDS = 65536  # the fewest ids that a container can have
KINDS = ("user", "mount", "pid", "network", "ipc", "uts", "cgroup", "time")
WANTED = ("pid", "ipc", "uts", "mount", "network")
ADVICE = {"pid": "--pid=host", "ipc": "--ipc=host", "uts": "--uts=host", "network": "--net=host", "mount": "a shared mount namespace"}
FLAGS = {"SYSBOX_IGNORE_SYSFS_CHOWN", "SYSBOX_ALLOW_TRUSTED_XATTR", "SYSBOX_HONOR_CAPS", "SYSBOX_SYSCONT_MODE"}
SKIP = "SYSBOX_SKIP_UID_SHIFT"


def read(path: str) -> dict[str, Any]:
    """Read and check a config.json. Raises Failure 1010, 1011, 1012, 1013, 1015."""
    config = parse(slurp(path, "sysbox-runc spec, or --bundle DIR"), path)
    check(config, CONFIG, "$")
    version = config["ociVersion"].partition("-")[0].split(".")
    if len(version) != 3 or not all(part.isdigit() for part in version):
        raise malformed("$.ociVersion", "a version such as 1.2.0", config["ociVersion"])
    if version[0] != "1":
        raise malformed("$.ociVersion", "a version 1.x of the specification", config["ociVersion"])
    if config.get("process"):
        process(config["process"], "$.process")
    for index, mount in enumerate(config.get("mounts") or ()):
        if "\n" in mount["destination"]:
            raise malformed(f"$.mounts[{index}].destination", "a path without line breaks", mount["destination"])
    for index, device in enumerate(config["linux"].get("devices") or ()):
        if device["type"] not in ("c", "b", "u", "p"):
            raise malformed(f"$.linux.devices[{index}].type", "one of c, b, u, p", device["type"])
    for name, hooks in (config.get("hooks") or {}).items():
        for index, hook in enumerate(hooks or ()):
            if not hook["path"].startswith("/"):
                raise malformed(f"$.hooks.{name}[{index}].path", "an absolute path", hook["path"])
    return config


def slurp(path: str, hint: str = "") -> str:
    """Read a text file whole. Raises Failure 1010."""
    try:
        return files.read(path).decode()
    except OSError as error:
        raise Failure(1010, f"cannot read {path}: {reason(error)}", hint) from error
    except ValueError as error:
        raise Failure(1010, f"cannot read {path}: it is not UTF-8: {error}", "write it as UTF-8") from error


def parse(text: str, path: str) -> dict[str, Any]:
    """Decode a JSON object. Raises Failure 1011 with line and column."""
    try:
        value = loads(text)
    except (ValueError, RecursionError) as error:
        raise Failure(1011, f"{path} is not valid JSON: {error}", "correct the file") from error
    if value.__class__ is not dict:
        raise malformed("$", "an object", value)
    return value  # type: ignore[no-any-return]


def process(value: dict[str, Any], path: str, *, schema: bool = False) -> None:
    """Check a process object (of config.json, or that of ``exec``). Raises Failure 1011, 1015."""
    if schema:
        check(value, PROCESS, path)
    if not value["args"]:
        raise malformed(f"{path}.args", "at least one argument", value["args"])
    if not value["cwd"].startswith("/"):
        raise malformed(f"{path}.cwd", "an absolute path", value["cwd"])
    for index, entry in enumerate(value.get("env") or ()):
        if entry.startswith("SYSBOX_"):
            knob(entry)
        elif "=" not in entry[1:]:
            raise malformed(f"{path}.env[{index}]", "NAME=VALUE", entry)


def knob(entry: str) -> tuple[str, Any]:
    """Read one ``SYSBOX_NAME=VALUE``: the name and True, False or a list of paths. Raises Failure 1015."""
    parts = entry.split("=")
    name, value = parts[0], parts[-1]
    if name not in FLAGS and name != SKIP:
        raise Failure(1015, f"environment variable {name} is unknown", f"one of {', '.join(sorted(FLAGS | {SKIP}))}")
    if len(parts) != 2:
        what = "more than one =" if parts[2:] else "no value"
        raise Failure(1015, f"environment variable {name} has {what}", f"{name}=VALUE")
    if name in FLAGS:
        if value not in ("TRUE", "FALSE"):
            raise Failure(1015, f"environment variable {name} has the value {value!r}", f"{name}=TRUE or {name}=FALSE")
        return name, value == "TRUE"
    hint = f"{name}=/path,/other/path without spaces"
    if not value or " " in value:
        raise Failure(1015, f"environment variable {name} has {'a value with a space' if value else 'no value'}", hint)
    paths = value.split(",")
    for path in paths:
        if not path.startswith("/"):
            raise Failure(1015, f"path {path!r} of {name} is not absolute", hint)
    return name, paths


def knobs(env: list[str]) -> dict[str, Any]:
    """Read all SYSBOX_* variables of a process. Raises Failure 1015."""
    return dict(knob(entry) for entry in env if entry.startswith("SYSBOX_"))


def privileged(config: dict[str, Any], *, regular: bool) -> None:
    """Raise Failure 1013 for what ``docker run --privileged`` writes: every device, nothing masked, no seccomp.

    A ``regular`` container may be so, within its user namespace: the devices of the host are taken out of ``config``.
    """
    linux = config["linux"]
    rules = (linux.get("resources") or {}).get("devices") or ()
    everything = any(
        rule.get("allow") and rule.get("type") in (None, "", "a") and rule.get("major") in (None, -1) and rule.get("access") == "rwm"
        for rule in rules
        if rule.__class__ is dict
    )
    if not everything or linux.get("maskedPaths") or linux.get("seccomp"):
        return
    if regular:
        linux["devices"] = []
        linux["resources"]["devices"] = []
    else:
        raise Failure(
            1013,
            "a system container cannot be privileged: that would open all devices of the host to it",
            "leave --privileged out: root in a system container can do what root on a host can",
        )


def namespaces(config: dict[str, Any]) -> dict[str, str]:
    """Return kind -> path ("" for a new one), user, cgroup and time added. Raises Failure 1011, 1012."""
    found: dict[str, str] = {}
    for index, entry in enumerate(config["linux"].get("namespaces") or ()):
        kind, path = entry["type"], entry.get("path") or ""
        where = f"$.linux.namespaces[{index}]"
        if kind not in KINDS:
            raise malformed(f"{where}.type", f"one of {', '.join(KINDS)}", kind)
        if kind in found:
            raise malformed(f"{where}.type", "each namespace once", kind)
        if path and not path.startswith("/"):
            raise malformed(f"{where}.path", "an absolute path", path)
        found[kind] = path
    for kind in WANTED:
        if kind not in found or (found[kind] and _is_ours(kind, found[kind])):
            raise Failure(
                1012,
                f"a system container cannot share the host's {kind} namespace, because it has a user namespace of its own",
                f"leave {ADVICE[kind]} out",
            )
    if found["mount"]:
        raise Failure(1012, "a system container cannot join a mount namespace", "leave the path of the mount namespace out")
    for kind in ("user", "cgroup", "time"):
        if found.get(kind) and _is_ours(kind, found[kind]):
            found[kind] = ""
        found.setdefault(kind, "")
    offsets = config["linux"].get("timeOffsets") or {}
    for name in offsets:
        if name not in ("monotonic", "boottime"):
            raise malformed("$.linux.timeOffsets", "monotonic or boottime", name)
    if offsets and found["time"]:
        raise malformed("$.linux.timeOffsets", "no offsets when a time namespace is joined", offsets)
    return found


def _is_ours(kind: str, path: str) -> bool:
    own = posix.stat(f"/proc/self/ns/{'mnt' if kind == 'mount' else 'net' if kind == 'network' else kind}")
    try:
        other = posix.stat(path)
    except OSError as error:
        raise Failure(1012, f"cannot join the {kind} namespace: {reason(error)}", "name one that exists") from error
    return (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)


def ids(config: dict[str, Any]) -> tuple[int, int, int] | None:
    """Return (uid, gid, size) of the host that config.json maps 0 to, None when it maps nothing. Raises Failure 1014."""
    linux = config["linux"]
    maps = {name: linux.get(name) or [] for name in ("uidMappings", "gidMappings")}
    if not any(maps.values()):
        return None
    first: dict[str, int] = {}
    size = 0
    for name, entries in maps.items():
        if not entries:
            raise Failure(1014, f"$.linux.{name} is missing: ids of users and groups must be mapped together", "map both, or neither")
        entries.sort(key=lambda entry: entry["containerID"])
        start, size = entries[0]["hostID"], 0
        for entry in entries:
            if entry["containerID"] != size or entry["hostID"] != start + size:
                raise Failure(1014, f"$.linux.{name} is not one unbroken range from container id 0 on", "map 0-65535 to one range")
            size += entry["size"]
        if size < IDS:
            raise Failure(1014, f"$.linux.{name} has only {size} ids", f"map at least {IDS}")
        if start == 0:
            raise Failure(1014, f"$.linux.{name} maps root of the container to root of the host", "map it to another range")
        first[name] = start
    if first["uidMappings"] != first["gidMappings"]:
        raise Failure(1014, "$.linux.uidMappings and gidMappings start at different ids of the host", "map both to the same range")
    return first["uidMappings"], first["gidMappings"], size
