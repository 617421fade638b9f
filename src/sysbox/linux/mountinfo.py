"""/proc/self/mountinfo: proc_pid_mountinfo(5); and what it and /proc/self/cgroup say of cgroups: cgroups(7)."""

from __future__ import annotations

from sysbox.linux import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# options of any cgroup file system
GENERIC = ("rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods", "nsdelegate")


def read(path: str = "/proc/self/mountinfo") -> list[str]:
    """Read the lines. Raises OSError."""
    return files.read(path).decode("utf-8", "surrogateescape").split("\n")[:-1]


def plain(text: str) -> str:
    r"""Undo the escapes of space, tab, line feed, backslash (``\040``)."""
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    out = [head]
    for part in rest:
        code = part[:3]
        if len(code) == 3 and all(digit in "01234567" for digit in code):
            out.append(chr(int(code, 8)) + part[3:])
        else:
            out.append("\\" + part)
    return "".join(out)


def point(line: str) -> str:
    """Return where the mount is."""
    return plain(line.split(" ", 5)[4])


def at(lines: list[str], path: str) -> str | None:
    """Return the line of the topmost mount at exactly this path."""
    found = None
    for line in lines:
        if (f" {path} " in line or "\\" in line) and point(line) == path:
            found = line
    return found


def holding(lines: list[str], path: str) -> str:
    """Return the line of the mount that holds a path (absolute, without symlinks)."""
    best, found = -1, ""
    for line in lines:
        where = line.split(" ", 5)[4]
        if len(where) >= best and (path == where or path.startswith(where if where == "/" else where + "/")):
            best, found = len(where), line
    return found


def below(lines: list[str], path: str) -> list[str]:
    """Return the lines of mounts strictly below a path."""
    start = path.rstrip("/") + "/"
    return [line for line in lines if start in line and point(line).startswith(start)]


def kind(line: str) -> tuple[str, str, str]:
    """Return (type, source, options of the superblock)."""
    fields = line.partition(" - ")[2].split(" ")
    return fields[0], plain(fields[1]), fields[2]


def of_type(lines: list[str], start: str) -> Iterator[str]:
    """Yield lines of mounts whose type starts so."""
    wanted = f" - {start}"
    for line in lines:
        if wanted in line:
            yield line


def hierarchies(lines: list[str]) -> tuple[dict[str, str], str]:
    """Find the host's hierarchies: controllers of v1 ("cpu,cpuacct", "name=systemd") -> mount point; the mount point of v2 or ""."""
    v1: dict[str, str] = {}
    v2 = ""
    for line in of_type(lines, "cgroup"):
        type_, _, options = kind(line)
        where = point(line)
        if not where.startswith("/sys/fs/cgroup"):
            continue  # somebody's second view of the same
        if type_ == "cgroup2":
            v2 = v2 or where
        else:
            names = ",".join(word for word in options.split(",") if word not in GENERIC and not word.startswith("release_agent="))
            v1.setdefault(names, where)
    return v1, v2


def own_cgroups() -> dict[str, str]:
    """Return our own cgroups: controllers ("" for v2) -> path within the hierarchy. Raises OSError."""
    lines = (line.split(":", 2) for line in files.read("/proc/self/cgroup").decode().split("\n") if line)
    return {names: path for _, names, path in lines}


def of_processor_time(v1: dict[str, str]) -> list[str]:
    """Of directories by their controllers, return those that have to do with processor time and nothing else."""
    return [path for names, path in v1.items() if {"cpu", "cpuacct"}.issuperset(names.split(","))]
