"""Bundles for the container tests: a busybox root filesystem, a config.json to change, and the runtime under test.

OCI_RUNTIME names the runtime. With another one than ours (runc, to prove the tests) config.json gets a user namespace and the root
filesystem belongs to its ids, which ours does by itself.
"""

import contextlib
import copy
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]
RUNTIME = os.environ.get("OCI_RUNTIME", str(TOP / "build/root/sbin/sysbox-runc"))
OURS = Path(RUNTIME).name.startswith("sysbox")
FOREIGN = 1_000_000  # first id for other runtimes
SAFE = ["nosuid", "noexec", "nodev"]

sysbox_only = pytest.mark.skipif(not OURS, reason="holds for system containers only")
CONFIG: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["true"],
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {kind: ["CAP_KILL", "CAP_CHOWN"] for kind in ("bounding", "effective", "permitted")},
    },
    "root": {"path": "rootfs"},
    "hostname": "test",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*SAFE, "mode=1777", "size=65536k"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*SAFE, "ro"]},
    ],
    "linux": {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        "maskedPaths": ["/proc/keys", "/sys/firmware"],
        "readonlyPaths": ["/proc/bus"],
    },
}


class Result:
    """What a command of the runtime did."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __repr__(self) -> str:
        return f"status {self.status}\n--- stdout\n{self.out}--- stderr\n{self.err}"


class Bundle:
    """One bundle and the state root for its containers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = copy.deepcopy(CONFIG)
        self.name = f"t{uuid.uuid4().hex[:12]}"
        self.root = directory / "state"
        self.log = directory / "log.json"
        rootfs = directory / "rootfs"
        for name in ("bin", "proc", "sys", "dev", "etc", "tmp", "mnt"):
            (rootfs / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", rootfs / "bin/busybox")
        for name in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
            if name != "busybox":
                (rootfs / "bin" / name).symlink_to("busybox")
        self.rootfs = rootfs

    def sh(self, script: str) -> "Bundle":
        self.config["process"]["args"] = ["sh", "-c", script]
        return self

    def mount(self, destination: str, source: str | Path, *options: str, kind: str = "bind") -> None:
        self.config["mounts"].append({"destination": destination, "type": kind, "source": str(source), "options": list(options)})

    def write(self) -> None:
        config = copy.deepcopy(self.config)
        if not OURS and "user" not in [one["type"] for one in config["linux"].get("namespaces", [])]:
            config["linux"]["namespaces"].append({"type": "user"})
            for name in ("uidMappings", "gidMappings"):
                config["linux"][name] = [{"containerID": 0, "hostID": FOREIGN, "size": 65536}]
            for path, names, files in os.walk(self.rootfs):
                for name in (".", *names, *files):
                    if os.lstat(f"{path}/{name}").st_uid == 0:
                        os.lchown(f"{path}/{name}", FOREIGN, FOREIGN)
        (self.directory / "config.json").write_text(json.dumps(config))

    def command(self, *words: str | Path, timeout: float = 30, **more: Any) -> Result:
        command = [RUNTIME, "--root", str(self.root), "--log", str(self.log), "--log-format", "json", *map(str, words)]
        more.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.directory, timeout=timeout, **more)
        return Result(done)

    def run(self, *flags: str, **more: Any) -> Result:
        self.write()
        return self.command("run", *flags, self.name, **more)

    def good(self, *flags: str, **more: Any) -> str:
        result = self.run(*flags, **more)
        assert result.status == 0, result
        return result.out

    def start(self, *flags: str) -> None:
        """Create and start; output goes to the file ``output``."""
        self.create(*flags)
        started = self.command("start", self.name)
        assert started.status == 0, started

    def create(self, *flags: str) -> None:
        self.write()
        with (self.directory / "output").open("w") as output:
            command = [RUNTIME, "--root", str(self.root), "--log", str(self.log), "--log-format", "json", "create", *flags, self.name]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.directory, timeout=30)
        assert done.returncode == 0, (self.directory / "output").read_text()

    @property
    def output(self) -> str:
        return (self.directory / "output").read_text()

    def state(self) -> dict[str, Any]:
        result = self.command("state", self.name)
        assert result.status == 0, result
        return dict(json.loads(result.out))

    def exec(self, *words: str, **more: Any) -> Result:
        return self.command("exec", *(self.name if word == "NAME" else word for word in words), **more)

    def inside(self, script: str) -> str:
        result = self.exec("NAME", "sh", "-c", script)
        assert result.status == 0, result
        return result.out

    def delete(self) -> None:
        result = self.command("delete", "--force", self.name)
        assert result.status == 0, result


def wait_for(what: Any, seconds: float = 10) -> None:
    """Wait until ``what()`` is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def leftovers(bundle: Bundle) -> list[str]:
    """List what a container left on the machine."""
    found = [str(path) for path in bundle.root.glob("*")] if bundle.root.exists() else []
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{bundle.name}*")]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(bundle.directory) in line]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "stat").read_text().rpartition(")")[2].split()[:2] == ["Z", "1"]:
                continue  # for the machine's init to collect
            if bundle.name in (process / "cmdline").read_text() or f"/{bundle.name}" in (process / "cgroup").read_text():
                found.append(f"process {process.name}: {(process / 'cmdline').read_text()!r}")
    return found


@contextlib.contextmanager
def made(directory: Path) -> Iterator[Bundle]:
    """Give a bundle; afterwards its container is deleted, and nothing may be left."""
    bundle = Bundle(directory)
    try:
        yield bundle
    finally:
        bundle.command("delete", "--force", bundle.name)
        end = time.monotonic() + 3
        while (found := leftovers(bundle)) and time.monotonic() < end:
            time.sleep(0.02)
        assert not found
