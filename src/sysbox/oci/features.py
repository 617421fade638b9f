"""``sysbox-runc features``: what this runtime can do, in the form of the OCI features document. Off the hot path."""

from __future__ import annotations

import json
import platform

from sysbox.oci.capabilities import CAPABILITIES
from sysbox.oci.config import KINDS
from sysbox.oci.mountoptions import EXTRA, FLAGS, PROPAGATION, RECURSIVE
from sysbox.version import VERSION

ACTIONS = ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "TRACE", "TRAP")
OPERATORS = ("EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE")
ARCHITECTURES = {"x86_64": ("X86_64", "X86", "X32"), "aarch64": ("AARCH64", "ARM")}


def text() -> str:
    """Return the document as JSON."""
    seccomp = {
        "enabled": True,
        "actions": [f"SCMP_ACT_{name}" for name in ACTIONS],
        "operators": [f"SCMP_CMP_{name}" for name in OPERATORS],
        "archs": [f"SCMP_ARCH_{name}" for name in ARCHITECTURES.get(platform.machine(), ())],
        "knownFlags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"],
        "supportedFlags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"],
    }
    document = {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": sorted((*FLAGS, *PROPAGATION, *RECURSIVE, EXTRA[0])),
        "linux": {
            "namespaces": sorted(KINDS),
            "capabilities": [f"CAP_{name}" for name in CAPABILITIES],
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": True},
            "seccomp": seccomp,
            "apparmor": {"enabled": True},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {"io.sysbox.version": VERSION, "org.opencontainers.runc.checkpoint.enabled": "false"},
        "potentiallyUnsafeConfigAnnotations": [],
    }
    return json.dumps(document, indent=4)
