"""What the hot commands import, name by name: a module more is a decision, not an accident."""

import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
PYTHON = "/usr/bin/python3"  # the interpreter of the installed programs

# beyond those of a bare `python3 -ISE`
BUILTIN = {
    "__future__",
    "_json",
    "_signal",
    "_socket",
    "_stat",
    "errno",
    "fcntl",
    "posix",
    "select",
    "time",
    "math",
    "_blake2",
    "binascii",
    "_struct",
}
BASE = {"sysbox", "sysbox.errors", "sysbox.runtime", "sysbox.runtime.log", "sysbox.runtime.main", "sysbox.runtime.options"}
BASE |= {"sysbox.linux", "sysbox.linux.files", "sysbox.linux.jsons"}
STATE = {
    "sysbox.linux._kernel",
    "sysbox.linux.mountinfo",
    "sysbox.runtime.cgroup",
    "sysbox.runtime.lifecycle",
    "sysbox.runtime.state",
}
WIRE = {"sysbox.wire", "sysbox.wire.message"}
MANAGER = WIRE | {"sysbox.runtime.manager"}
FS = MANAGER | {"sysbox.runtime.emulation"}
TRAPS = {"sysbox.wire.traps"}
PROCESS = {
    "sysbox.oci",
    "sysbox.oci.capabilities",
    "sysbox.oci.config",
    "sysbox.oci.schema",
    "sysbox.runtime.apparmor",
    "sysbox.runtime.process",
    "sysbox.runtime.steps",
}
CREATE = {
    "sysbox.runtime.birth",
    "sysbox.runtime.hooks",
    "sysbox.runtime.init",
    "sysbox.runtime.mounts",
    "sysbox.oci.mountoptions",
    "sysbox.oci.seccomp",
    "sysbox.runtime.create",
    "sysbox.runtime.dev",
    "sysbox.runtime.plan",
    "sysbox.runtime.prepare",
    "sysbox.runtime.rootfs",
    "sysbox.runtime.run",
    "sysbox.runtime.seal",
    "sysbox.runtime.shift",
    "sysbox.runtime.special",
}

LIMITS = {"sysbox.oci.resources", "sysbox.oci.devices", "sysbox.oci.fields"}

COMMANDS = {
    "create": ("sysbox.runtime.run, sysbox.oci.resources", BASE | STATE | FS | TRAPS | PROCESS | CREATE | LIMITS),
    "start": ("sysbox.runtime.lifecycle, sysbox.runtime.emulation", BASE | STATE | FS),
    "kill": ("sysbox.runtime.lifecycle", BASE | STATE | WIRE),
    "state": ("sysbox.runtime.commands", BASE | STATE | WIRE | {"sysbox.runtime.commands"}),
    "delete": (
        "sysbox.runtime.lifecycle, sysbox.runtime.manager, sysbox.runtime.rootfs, sysbox.runtime.special",
        BASE | STATE | MANAGER | {"sysbox.runtime.rootfs", "sysbox.runtime.special", "sysbox.runtime.shift"},
    ),
    "exec": (
        "sysbox.runtime.execute, sysbox.runtime.supervise",
        BASE | STATE | FS | TRAPS | PROCESS | {"sysbox.runtime.execute", "sysbox.runtime.supervise"},
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_hot_command_imports_only_what_is_listed(command: str) -> None:
    modules, allowed = COMMANDS[command]
    script = (
        f"import sys; sys.path.insert(0, {str(SRC)!r}); before = set(sys.modules)\n"
        f"import sysbox.runtime.main, {modules}\n"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([PYTHON, "-ISE", "-B", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    surplus = set(done.stdout.split()) - allowed - BUILTIN
    assert not surplus, f"{command} imports {sorted(surplus)}"


# each is shared by all workers of a host as long as they do not write to it, which counting references is
ZYGOTE = BUILTIN | {"os", "posixpath", "genericpath", "stat", "abc", "_abc", "_collections_abc", "os.path", "io", "struct", "mmap", "gc"}
OURS = ("sysbox.fs.emulate.", "sysbox.fs.fuse.", "sysbox.fs.trap.", "sysbox.wire.", "sysbox.linux.")
ZYGOTE |= {f"sysbox.fs.{name}" for name in ("start", "zygote", "worker", "watched", "memory", "pages", "room", "tree", "say")}
ZYGOTE |= {"sysbox.fs.emulate", "sysbox.fs.fuse", "sysbox.fs.trap"}
ZYGOTE |= {"sysbox", "sysbox.fs", "sysbox.wire", "sysbox.linux", "sysbox.oci", "sysbox.oci.mountoptions", "sysbox.version"}


def test_workers_have_only_what_is_listed() -> None:
    script = f"import sys; sys.path.insert(0, {str(SRC)!r}); before = set(sys.modules)\n"
    script += "import sysbox.fs.start, sysbox.fs.zygote\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([PYTHON, "-IS", "-B", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    surplus = {name for name in done.stdout.split() if not name.startswith(OURS)} - ZYGOTE
    assert not surplus


def test_the_list_would_notice_an_import() -> None:
    script = f"import sys; sys.path.insert(0, {str(SRC)!r}); before = set(sys.modules)\n"
    script += "import sysbox.runtime.main, json\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([PYTHON, "-ISE", "-B", "-c", script], capture_output=True, text=True)
    assert set(done.stdout.split()) - BASE - BUILTIN


def test_help_names_every_option() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from sysbox.runtime import usage, options\n[usage.text(name) for name in (*options.COMMANDS, '')]"],
        env={"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
