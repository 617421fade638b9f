"""A virtual machine under QEMU without KVM: some 14 times slower than the machine that it is on, and a systemd host."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
KERNEL = os.environ.get("SYSBOX_GUEST_KERNEL", "13")  # of Debian 12 (6.1), 13 (6.12) or 14 (testing's), or "ubuntu" (6.8)
ROOT = ("virtio-blk-pci", "/dev/vda") if KERNEL == "ubuntu" else ("nvme", "/dev/nvme0n1")  # what the kernel can mount by itself
BOOT = 180  # seconds; usually 15 to 60
TRIES = 3  # under load a machine may stop in its boot


def script(*argv: str) -> str:
    """Run scr/guest and return the path that it printed last."""
    done = subprocess.run([TOP / "scr/guest", *argv], capture_output=True, text=True)
    assert done.returncode == 0, f"guest {argv}: {done.stdout}{done.stderr}"
    return done.stdout.splitlines()[-1]


class Machine:
    """One boot of a copy of the disk; nothing of it is kept."""

    def __init__(self, more: str = "") -> None:
        """Prepare it; ``more``: words for the kernel's command line."""
        self.more = more
        self.disk = Path(script("disk", KERNEL))
        self.directory = Path(tempfile.mkdtemp(prefix="guest-", dir="/var/tmp"))
        self.project = Path(script("project"))
        self.console = self.directory / "console"
        self.qemu: subprocess.Popen[bytes] | None = None
        self.port: socket.socket | None = None

    def start(self) -> None:
        for _ in range(TRIES):
            self._boot()
            if self._answer(BOOT).get("ready"):
                return
            self._kill()
        raise AssertionError(f"the guest did not boot: {self.tail()}")

    def _boot(self) -> None:
        path = self.directory / "port"
        path.unlink(missing_ok=True)
        drives = [
            ("root", ROOT[0], f"file={self.disk}/root.img,format=raw,snapshot=on"),
            ("project", "virtio-blk-pci", f"file={self.project},format=raw,readonly=on"),
        ]
        command = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,tb-size=1024", "-cpu", "Nehalem-v1"]
        # One processor: with two, a kernel that patched itself for the other one has panicked in the middle of the patch.
        command += ["-smp", "1", "-m", "3072", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        command += ["-serial", f"file:{self.console}", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
        command += ["-chardev", f"socket,id=agent,path={path},server=on,wait=off", "-device", "virtserialport,chardev=agent,name=guest"]
        for name, device, drive in drives:
            command += ["-drive", f"if=none,id={name},{drive}", "-device", f"{device},drive={name},serial={name}"]
        kernel = f"root={ROOT[1]} rw console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off systemd.show_status=0"
        command += ["-kernel", f"{self.disk}/vmlinuz", "-append", f"{kernel} {self.more}"]
        self.qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(self.directory)})
        self.port = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + 30
        while True:
            try:
                self.port.connect(str(path))
            except OSError:
                assert self.qemu.poll() is None, "qemu ended"
                assert time.monotonic() < end, "qemu has no socket"
                time.sleep(0.05)
            else:
                return

    def _answer(self, seconds: float) -> dict[str, Any]:
        """Wait for a line of JSON; {} if none comes."""
        assert self.port
        assert self.qemu
        end = time.monotonic() + seconds
        line = b""
        while (left := end - time.monotonic()) > 0 and self.qemu.poll() is None:
            if select.select([self.port], [], [], min(left, 1))[0]:
                data = self.port.recv(1 << 16)
                line += data
                if not data:
                    break
                if line.endswith(b"\n"):
                    return dict(json.loads(line.splitlines()[-1]))
        return {}

    def tried(self, text: str, seconds: float = 120) -> tuple[int, str]:
        """Run a script in the guest; its status (124: it took longer than ``seconds``) and what it printed."""
        assert self.port
        self.port.sendall(json.dumps({"script": text, "seconds": seconds}).encode() + b"\n")
        answer = self._answer(seconds + 60)
        assert answer, f"the guest is silent. Its console ends: {self.tail()}"
        return answer["status"], answer["output"].strip()

    def __call__(self, text: str, seconds: float = 120) -> str:
        """Run a script in the guest, which must succeed; what it printed."""
        status, output = self.tried(f"set -e\n{text}", seconds)
        assert status == 0, f"status {status}\n{output}"
        return output

    def eventually(self, text: str, seconds: float = 120) -> str:
        """Run a script in the guest until it succeeds; what it printed then."""
        return self(f'until out=$({text}); do sleep 1; done 2>/dev/null; echo "$out"', seconds)

    def tail(self) -> str:
        return self.console.read_text(errors="replace")[-3000:] if self.console.exists() else ""

    def _kill(self) -> None:
        if self.port:
            self.port.close()
        if self.qemu:
            self.qemu.kill()
            self.qemu.wait()

    def stop(self, *, keep: Path | None = None) -> None:
        """End it; ``keep``: where its console is to go."""
        self._kill()
        if keep and self.console.exists():
            keep.write_bytes(self.console.read_bytes())
        self.project.unlink(missing_ok=True)
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()
