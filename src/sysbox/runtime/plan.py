"""From config.json to a plan: what will be made, mounted and set, as plain data that can print itself."""

from __future__ import annotations

from sysbox.errors import Failure
from sysbox.linux import _kernel as k
from sysbox.linux import files
from sysbox.oci import config as oci
from sysbox.oci.mountoptions import PROPAGATION, options
from sysbox.oci.schema import malformed
from sysbox.runtime import apparmor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SAFE = k.MS_NOSUID | k.MS_NODEV | k.MS_NOEXEC
# types that root of a user namespace may mount; others are mounted by us, id-mapped where that works
OURS_TO_MOUNT = ("proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay", "fuse", "binfmt_misc")
OPEN = ("/proc", "/proc/sys", "/proc/kcore", "/proc/kallsyms", "/proc/kmsg")  # never masked: software inside needs them
WRITABLE = ("/proc", "/proc/sys")  # never read-only
MODULES, FORMATS = "/lib/modules", "/proc/sys/fs/binfmt_misc"  # see hostdirs.py, which without either has nothing to do
PERSONALITIES = {"LINUX": 0, "LINUX32": 8}  # linux/personality.h
IPC_SYSCTLS = ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")


def make(config: dict[str, Any], name: str, bundle: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Plan a container from a checked config.json and the ``defaults`` of SYSBOX_* variables. Raises Failure 10xx."""
    linux = config["linux"]
    process = config.get("process")
    if not process:
        raise Failure(1011, "config.json is malformed: $.process is missing", "say which program to run")
    root = config["root"]["path"]
    readonly = bool(config["root"].get("readonly"))
    propagation = linux.get("rootfsPropagation") or ""
    if propagation and propagation not in PROPAGATION:
        raise malformed("$.linux.rootfsPropagation", f"one of {', '.join(PROPAGATION)}", propagation)
    personality = linux.get("personality")
    if personality and (personality.get("domain") not in PERSONALITIES or personality.get("flags")):
        raise malformed("$.linux.personality", f"a domain of {' or '.join(PERSONALITIES)}, and no flags", personality)
    if linux.get("intelRdt"):
        raise Failure(1009, "$.linux.intelRdt is set, but Intel RDT is not supported", "leave it out")
    knobs = {**defaults, **oci.knobs(process.get("env") or [])}
    regular = not knobs.get("SYSBOX_SYSCONT_MODE", True)
    oci.privileged(config, regular=regular)
    left_open, left_writable = ((), ()) if regular else (OPEN, WRITABLE)
    return {
        "id": name,
        "bundle": bundle,
        "version": config["ociVersion"],
        "root": root if root.startswith("/") else f"{bundle}/{root}",
        "readonly": readonly,
        "propagation": PROPAGATION.get(propagation, 0),
        "namespaces": oci.namespaces(config),
        "offsets": linux.get("timeOffsets") or {},
        "ids": oci.ids(config),
        "hostname": config.get("hostname") or "",
        "domainname": config.get("domainname") or "",
        "mounts": mounts(config, bundle, readonly=readonly, regular=regular),
        "devices": [one for one in linux.get("devices") or () if files.clean(one["path"]) != "/dev/kmsg"],
        "masked": [path for path in linux.get("maskedPaths") or () if files.clean(path) not in left_open],
        "readonly_paths": [path for path in linux.get("readonlyPaths") or () if files.clean(path) not in left_writable],
        "sysctl": sysctls(linux.get("sysctl") or {}),
        "cgroup": linux.get("cgroupsPath") or f"/{name}",
        "resources": linux.get("resources") or {},
        "seccomp": linux.get("seccomp"),
        "personality": PERSONALITIES[personality["domain"]] if personality else None,
        "process": process,
        "hooks": config.get("hooks") or {},
        "annotations": config.get("annotations") or {},
        "knobs": knobs,
        "regular": regular,
        "honor_caps": regular or bool(knobs.get("SYSBOX_HONOR_CAPS")),
        "apparmor": apparmor.wanted(process, regular=regular),
        "systemd": False,  # see systemd.py
        "scope": None,  # see scope.py
    }


def mount(dest: str, kind: str, source: str, flags: int, data: str = "") -> dict[str, Any]:
    """Plan a mount of a file system of our own."""
    return {
        "kind": "fs",
        "dest": dest,
        "type": kind,
        "source": source,
        "flags": flags,
        "data": data,
        "set": 0,
        "clear": 0,
        "propagation": [],
        "extra": [],
    }


def mounts(config: dict[str, Any], bundle: str, *, readonly: bool, regular: bool) -> list[dict[str, Any]]:
    """List the mounts in the order in which they are made: ours, then those of config.json, which may not replace ours.

    Of a ``regular`` container ours are read-only where config.json has them so.
    """
    ro = k.MS_RDONLY if readonly else 0
    dev = mount("/dev", "tmpfs", "tmpfs", k.MS_NOSUID | k.MS_STRICTATIME, "mode=755,size=65536k")
    dev["kind"] = "dev"
    groups = mount("/sys/fs/cgroup", "cgroup", "cgroup", SAFE | ro)
    groups["kind"] = "cgroup"
    plan = [mount("/proc", "proc", "proc", SAFE), mount("/sys", "sysfs", "sysfs", SAFE | ro), dev, groups]
    ours = {one["dest"]: one for one in plan}
    wanted = []
    for index, entry in enumerate(config.get("mounts") or ()):
        dest = files.clean(entry["destination"])
        if dest == "/":
            raise malformed(f"$.mounts[{index}].destination", "a place below /", entry["destination"])
        planned = {
            **options(entry.get("options") or []),
            "dest": dest,
            "type": entry.get("type") or "",
            "source": entry.get("source") or "",
        }
        if dest == "/dev" and planned["type"] == "tmpfs":
            dev["data"] = planned["data"] or dev["data"]
            dev["flags"] |= planned["flags"] & k.MS_NOEXEC
        if regular and dest in ours and dest != "/dev":
            ours[dest]["flags"] |= planned["flags"] & k.MS_RDONLY
        if dest in ("/proc", "/sys", "/dev", "/dev/kmsg", "/sys/fs/cgroup") or dest.startswith("/sys/fs/cgroup/"):
            continue
        if planned["flags"] & k.MS_BIND or planned["type"] == "bind":
            planned["kind"] = "bind"
            if not planned["source"]:
                raise malformed(f"$.mounts[{index}].source", "a path", entry.get("source"))
            if not planned["source"].startswith("/"):
                planned["source"] = f"{bundle}/{planned['source']}"
            if planned["data"]:
                raise malformed(f"$.mounts[{index}].options", "options that a bind mount knows", planned["data"])
        elif not planned["type"]:
            raise malformed(f"$.mounts[{index}].type", "a type of file system, or the option bind", entry.get("type"))
        else:
            planned["kind"] = "fs" if planned["type"] in OURS_TO_MOUNT else "host-fs"
        wanted.append(planned)
    if readonly:
        taken = {planned["dest"] for planned in wanted}
        plan += [mount(dest, "tmpfs", "tmpfs", SAFE, "mode=755,size=64m") for dest in ("/run", "/tmp") if dest not in taken]
    return plan + wanted


def sysctls(wanted: dict[str, str]) -> dict[str, str]:
    """Check sysctls: only what belongs to a namespace of the container. Returns path below /proc/sys -> value. Raises Failure 1017."""
    found = {}
    for name, value in wanted.items():
        # a / in a name stands for a dot, as in sysctl(8): net.ipv4.conf.eth0/1.forwarding
        path = name if "/" in name.partition(".")[0] else name.replace("/", "\0").replace(".", "/").replace("\0", ".")
        area, _, rest = path.partition("/")
        if path == "kernel/hostname":
            raise Failure(1017, "$.linux.sysctl: kernel.hostname conflicts with $.hostname", "set $.hostname")
        if ".." in path.split("/") or not (
            (area == "net" and rest)
            or path.startswith("fs/mqueue/")
            or path == "kernel/domainname"
            or (area == "kernel" and rest in IPC_SYSCTLS)
        ):
            raise Failure(
                1017, f"$.linux.sysctl: {name} belongs to the whole host, not to a container", "leave it out, or set it on the host"
            )
        found[path] = value
    return found


def describe(plan: dict[str, Any]) -> list[str]:
    """Say the plan in lines, for ``--debug``."""
    lines = [f"root {plan['root']}{' (read-only)' if plan['readonly'] else ''}", f"cgroup {plan['cgroup']}"]
    lines += [f"namespace {kind} {path or 'new'}" for kind, path in plan["namespaces"].items()]
    for mount in plan["mounts"]:
        lines.append(
            f"{mount['kind']} {mount['source']} -> {mount['dest']} {mount['type']} flags={mount['flags']:#x} {mount['data']}".rstrip()
        )
    lines += [f"device {one['path']} {one['type']} {one.get('major')}:{one.get('minor')}" for one in plan["devices"]]
    lines += [f"sysctl {path} = {value}" for path, value in plan["sysctl"].items()]
    lines += [f"masked {path}" for path in plan["masked"]] + [f"read-only {path}" for path in plan["readonly_paths"]]
    lines += [f"hook {kind} {one['path']}" for kind, hooks in plan["hooks"].items() for one in hooks or ()]
    lines += [f"AppArmor profile {plan['apparmor']}"] * bool(plan["apparmor"]) + ["a regular container"] * plan["regular"]
    lines.append(f"run {plan['process']['args']} as {plan['process'].get('user')} in {plan['process']['cwd']}")
    return lines
