"""The seccomp profile of config.json: widened for a virtual host, and its compiled filter out of a cache (config-linux.md, "Seccomp").

==== =====================================================================
2101 the profile is malformed: the JSON path and what was expected
2102 a rule that libseccomp refuses
2103 SCMP_ACT_NOTIFY: the listener would be the manager's
2110 libseccomp's Python module is missing
==== =====================================================================
"""

from __future__ import annotations

import posix
from _blake2 import blake2b

from sysbox.errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = b"2"  # of what is compiled from a profile: a new one makes new cache entries
WHERE = "$.linux.seccomp"
ALLOW = "SCMP_ACT_ALLOW"


def load(profile: dict[str, Any] | None, cache: str, *, regular: bool = False) -> tuple[int, bytes] | None:
    """Return (flags of seccomp(2), the filter as struct sock_filter[]) of a profile, None when there is none.

    That of a ``regular`` container is not widened.
    ``cache`` is a directory of root's: one file a profile, flags (8 bytes, little endian), length (8), filter. Raises Failure 21xx.
    """
    if not profile:
        return None
    key = blake2b(
        repr(profile).encode("utf-8", "surrogateescape"), digest_size=24, person=VERSION, salt=posix.uname().machine.encode()[:16]
    )
    path = f"{cache}/{key.hexdigest()}{'.regular' * regular}.bpf"
    found = _read(path)
    if found:
        return found
    from sysbox.oci import seccomp_compile

    flags, program = seccomp_compile.compile_profile(profile, regular=regular)
    _write(cache, path, flags, program)
    return flags, program


def _read(path: str) -> tuple[int, bytes] | None:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except OSError:
        return None
    try:
        stat = posix.fstat(fd)
        data = posix.read(fd, 1 << 20)
    except OSError:
        return None
    finally:
        posix.close(fd)
    program = data[16:]
    if stat.st_uid or stat.st_mode & 0o022 or len(data) <= 16 or int.from_bytes(data[8:16], "little") != len(program):
        return None
    return int.from_bytes(data[:8], "little"), program


def _write(cache: str, path: str, flags: int, program: bytes) -> None:
    """Keep a compiled filter; without it the next container only starts later."""
    fresh = f"{path}.{posix.getpid()}"
    try:
        try:
            posix.mkdir(cache, 0o700)
        except FileExistsError:
            pass
        fd = posix.open(fresh, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW, 0o600)
        try:
            posix.write(fd, flags.to_bytes(8, "little") + len(program).to_bytes(8, "little") + program)
        finally:
            posix.close(fd)
        posix.rename(fresh, path)
    except OSError:
        return


def malformed(where: str, expected: str, value: object) -> Failure:
    """Say what is wrong at a path of the profile."""
    return Failure(2101, f"config.json is malformed at {where}: expected {expected}, got {value!r}", "correct the seccomp profile")
