"""A dockerd of our own and its command line."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import struct
import subprocess
import termios
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TOP = Path(__file__).resolve().parents[2]
BUSYBOX = "sysbox/busybox"
DOCKER = "sysbox/docker"
CLI = os.environ.get("DOCKER_CLI", "docker")
RUNTIME = os.environ.get("DOCKER_RUNTIME", "sysbox-runc")
RUNTIME_PATH = os.environ.get("DOCKER_RUNTIME_PATH", str(TOP / "build/root/sbin/sysbox-runc"))
SYSBOX = RUNTIME == "sysbox-runc"


def script(*argv: str, **env: str) -> str:
    """Run a script of scr/ and return what it printed."""
    done = subprocess.run([TOP / "scr" / argv[0], *argv[1:]], capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def eventually(check: Callable[[], object], seconds: float = 15, what: str = "") -> None:
    """Wait until ``check`` returns something true; fail with what it said last."""
    end = time.monotonic() + seconds
    while not (last := check()):
        assert time.monotonic() < end, f"{what or check}: still {last!r} after {seconds} s"
        time.sleep(0.1)


def free_port() -> int:
    """Return a port of the host that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Engine:
    """A dockerd with a directory of its own."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.flags = flags
        self.cgroup = f"sysbox-test-{directory.parent.name}-{directory.name}"  # what an interrupted run has left is none of ours
        self.env = {**os.environ, "DOCKER_HOST": f"unix://{directory}/docker.sock", "SYSBOX_RUNC": RUNTIME_PATH}
        self.env.pop("DOCKER_CONTEXT", None)

    def start(self) -> None:
        flags = [f"--cgroup-parent=/{self.cgroup}", f"--default-runtime={RUNTIME}", *self.flags]
        script("docker-engine", "start", str(self.directory), *flags, SYSBOX_RUNC=RUNTIME_PATH)

    def stop(self) -> None:
        script("docker-engine", "stop", str(self.directory), SYSBOX_RUNC=RUNTIME_PATH)

    def load(self, image: str) -> None:
        script("image", image, DOCKER_HOST=self.env["DOCKER_HOST"])

    # Commands ---------------------------------------------------------------------------------------------------------------------

    def tried(self, *argv: str, text: str = "", cli: str = CLI, seconds: float = 90, **env: str) -> subprocess.CompletedProcess[str]:
        """Run docker; whatever its status."""
        return subprocess.run(
            [cli, *argv], input=text, capture_output=True, text=True, env={**self.env, **env}, timeout=seconds, errors="replace"
        )

    def __call__(self, *argv: str, text: str = "", cli: str = CLI, seconds: float = 90, **env: str) -> str:
        """Run docker, which must succeed; what it printed."""
        done = self.tried(*argv, text=text, cli=cli, seconds=seconds, **env)
        assert done.returncode == 0, f"docker {' '.join(argv)}: status {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def run(self, *argv: str) -> str:
        """``docker run --rm`` to its end; what it printed."""
        return self("run", "--rm", f"--runtime={RUNTIME}", *argv)

    def sh(self, *argv: str) -> str:
        """Run the shell script that is the last argument in a new busybox container, with the options before it."""
        return self.run(*argv[:-1], BUSYBOX, "sh", "-c", argv[-1])

    def fails(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """``docker run --rm`` that must fail; how it ended."""
        done = self.tried("run", "--rm", f"--runtime={RUNTIME}", *argv)
        assert done.returncode != 0, f"docker run {' '.join(argv)} should have failed; it printed: {done.stdout}{done.stderr}"
        return done

    def up(self, *argv: str) -> str:
        """``docker run -d`` of busybox with these options; sleeps until it is killed, unless a command follows ``--``."""
        options, command = list(argv), ["sleep", "1000"]
        if "--" in options:
            at = options.index("--")
            options, command = options[:at], options[at + 1 :]
        return self("run", "-d", f"--runtime={RUNTIME}", *options, BUSYBOX, *command)

    def exec(self, name: str, command: str, *options: str) -> str:
        """Run a shell script in a container; what it printed."""
        return self("exec", *options, name, "sh", "-c", command)

    def get(self, name: str, field: str) -> str:
        """``docker inspect``: ``.State.Status`` for example."""
        return self("inspect", "-f", f"{{{{{field}}}}}", name)

    def limit(self, name: str, v1: str, v2: str) -> str:
        """What the cgroup of a container says: ``memory/memory.limit_in_bytes``, or ``memory.max`` with cgroup v2 alone."""
        below = f"{self.cgroup}/{self.get(name, '.Id')}"
        controller, _, file = v1.partition("/")
        if Path("/sys/fs/cgroup/cgroup.controllers").exists():
            return Path(f"/sys/fs/cgroup/{below}/{v2}").read_text().strip()
        return Path(f"/sys/fs/cgroup/{controller}/{below}/{file}").read_text().strip()

    def terminal(self, *argv: str, text: str, seconds: float = 30) -> tuple[int, str]:
        """Run docker on a terminal of 33 lines and 111 columns, type ``text``; its status and what was seen."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
        process = subprocess.Popen([CLI, *argv], stdin=theirs, stdout=theirs, stderr=theirs, env=self.env, start_new_session=True)
        os.close(theirs)
        os.write(ours, text.encode())
        seen = b""
        end = time.monotonic() + seconds
        with suppress(OSError):  # EIO: the other side is closed
            while select.select([ours], [], [], max(0, end - time.monotonic()))[0]:
                seen += os.read(ours, 4096)
        if process.poll() is None and time.monotonic() >= end:
            process.kill()
        os.close(ours)
        return process.wait(10), seen.decode(errors="replace").replace("\r\n", "\n")

    # What is left -----------------------------------------------------------------------------------------------------------------

    def clean(self, *keep: str) -> None:
        """Remove all containers, but those with these names."""
        lines = [line.split() for line in self("ps", "-a", "--format", "{{.ID}} {{.Names}}").splitlines()]
        if doomed := [line[0] for line in lines if line[1] not in keep]:
            self("rm", "-f", "-v", *doomed)

    def report(self) -> str:
        """What may explain a failure."""
        text = ""
        for name in self.tried("ps", "-a", "--format", "{{.Names}}").stdout.split()[:4]:
            logs = self.tried("logs", "--tail", "15", name)
            text += f"--- container {name}\n{logs.stdout}{logs.stderr}"
        with suppress(OSError):
            lines = (self.directory / "dockerd.log").read_text(errors="replace").splitlines()
            text += (
                "--- dockerd.log\n"
                + "\n".join(line for line in lines if "level=info" not in line and "after shim disc" not in line)[-3000:]
            )
        return text

    def leftovers(self) -> list[str]:
        """What is still there of containers after ``stop``, outside of the directory; empty cgroups of ours are removed."""
        found = []
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            found += [line.split()[4] for line in file if f" {self.directory}/" in line]
        for top in Path("/sys/fs/cgroup").glob(f"**/{self.cgroup}"):
            with suppress(OSError):
                (top / "buildkit").rmdir()  # BuildKit does not
            found += [str(path) for path in top.iterdir() if path.is_dir()]
            with suppress(OSError):
                top.rmdir()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if f"{self.directory}/".encode() in path.read_bytes() and str(os.getpid()) != path.parent.name:
                    found.append(f"process {path.parent.name}: {path.read_bytes()!r}")
        database = Path("/var/lib/sysbox/sysbox-mgr.db")
        if database.exists():
            import sqlite3

            with sqlite3.connect(database) as connection:
                rows = connection.execute("SELECT id FROM containers WHERE root LIKE ?", (f"{self.directory}/%",))
                found += [f"sysbox-mgr's record of {row[0]}" for row in rows]
        return found
