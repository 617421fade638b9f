"""/proc/sys/kernel: names of the host, what may be seen and how it ends when it panics."""

from __future__ import annotations

import os
from errno import EINVAL

from sysbox.fs.emulate.row import Row, highest, local, number, numbers, of_host, own, table
from sysbox.linux import _kernel as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sysbox.fs.emulate.row import Box, Read, Write

NAME = 64  # bytes of a host's name: __NEW_UTS_LEN
INT = 2**31 - 1


def _name(field: str) -> Read:
    def read(box: Box) -> str:
        if field == "nodename":
            return box.inside("uts", lambda: os.uname().nodename) + "\n"
        return box.inside("uts", lambda: box.host("/proc/sys/kernel/domainname"))

    return read


def _rename(call: Callable[[str], int]) -> Write:
    def write(box: Box, text: str) -> None:
        name = text.split("\n", 1)[0].split("\0", 1)[0][:NAME]

        def rename() -> str:
            call(name)
            return ""

        box.inside("uts", rename)

    return write


def _anything(text: str) -> str:
    if not text.strip():
        raise OSError(EINVAL, "an empty value")
    return text if text.endswith("\n") else text + "\n"


_SYS = "/proc/sys/kernel/"
ROWS = table(
    Row(f"{_SYS}hostname", 0o644, _name("nodename"), _rename(k.sethostname)),
    Row(f"{_SYS}domainname", 0o644, _name("domainname"), _rename(k.setdomainname)),
    Row(f"{_SYS}kptr_restrict", 0o644, own, local(number(0, 3))),
    Row(f"{_SYS}dmesg_restrict", 0o644, own, local(number(0, 1))),
    Row(f"{_SYS}ngroups_max", 0o444, of_host),
    Row(f"{_SYS}cap_last_cap", 0o444, of_host),
    Row(f"{_SYS}panic", 0o644, own, local(number(-INT - 1, INT))),
    Row(f"{_SYS}panic_on_oops", 0o644, own, local(number(-INT - 1, INT))),
    Row(f"{_SYS}printk", 0o644, own, local(numbers(4))),
    Row(f"{_SYS}sysrq", 0o644, own, local(number(0, 511))),
    Row(f"{_SYS}pid_max", 0o644, own, local(number(1, 4194304)), namespaced=(6, 14)),
    Row(f"{_SYS}shmall", 0o644, own, local(number(0, 2**64 - 1)), native=True),
    Row(f"{_SYS}shmmax", 0o644, own, local(number(0, 2**64 - 1)), native=True),
    Row(f"{_SYS}shmmni", 0o644, own, local(number(0, 32768)), native=True),
    Row(f"{_SYS}random/uuid", 0o444, of_host),
    Row(f"{_SYS}yama/ptrace_scope", 0o644, own, local(number(0, 3))),
    # software for which a host is prepared writes these before it starts: keys of Kubernetes' nodes
    Row(f"{_SYS}keys/maxkeys", 0o644, own, highest(number(1, INT))),
    Row(f"{_SYS}keys/maxbytes", 0o644, own, highest(number(0, INT))),
    Row(f"{_SYS}keys/root_maxkeys", 0o644, own, highest(number(1, INT))),
    Row(f"{_SYS}keys/root_maxbytes", 0o644, own, highest(number(0, INT))),
)
