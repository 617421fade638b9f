"""``sysbox-runc spec``: a config.json to start from. Off the hot path."""

from __future__ import annotations

import json
import os
from typing import Any

from sysbox.errors import Failure, reason
from sysbox.oci.capabilities import CAPABILITIES
from sysbox.oci.config import IDS

VERSION = "1.2.0"


def example() -> dict[str, Any]:
    """Return a config.json: a shell in a system container, whose root filesystem is in ``rootfs``."""
    names = [f"CAP_{name}" for name in CAPABILITIES]
    safe = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names),
            "noNewPrivileges": False,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "syscont",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*safe, "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": safe},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": safe},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*safe, "relatime"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": [
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"],
        },
    }


def write(directory: str, id_map: str) -> None:
    """Write ``directory/config.json``; ``id_map`` is "uid gid size" or "". Raises Failure 1027."""
    config = example()
    if id_map:
        words = id_map.split()
        if len(words) != 3 or not all(word.isdigit() for word in words):
            raise Failure(1027, f"--id-map {id_map!r} is not three numbers", '--id-map "165536 165536 65536"')
        uid, gid, size = map(int, words)
        if size < IDS or max(uid, gid) + size > 1 << 32:
            raise Failure(
                1027, f"--id-map {id_map!r}: a system container needs at least {IDS} ids below 2^32", '--id-map "165536 165536 65536"'
            )
        config["linux"]["namespaces"].append({"type": "user"})
        for name, first in (("uidMappings", uid), ("gidMappings", gid)):
            config["linux"][name] = [{"containerID": 0, "hostID": first, "size": size}]
    path = os.path.join(directory, "config.json")
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(config, file, indent=2)
            file.write("\n")
    except FileExistsError:
        raise Failure(1027, f"{path} exists already", "remove it first") from None
    except OSError as error:
        raise Failure(1027, f"cannot write {path}: {reason(error)}", "--bundle DIRECTORY that exists") from error
