"""Names of a network of Docker's users, for inner containers too.

There Docker's resolver is at 127.0.0.11, by rules of iptables in the container's network namespace. No inner container can use that
address, and inner engines do not hand it on. So the resolver is made to answer at the address of the default gateway as well, and
/etc/resolv.conf names that.
"""

from __future__ import annotations

import posix
import subprocess

from sysbox.errors import reason
from sysbox.linux import _kernel as k
from sysbox.linux import files
from sysbox.runtime import log

LOOPBACK = "127.0.0.11"
MARK = "# sysbox: Docker's resolver, 127.0.0.11, for inner containers too"


def alias(path: str, pidfd: int) -> None:
    """Rewrite resolv.conf at ``path`` on the host and add rules in the network namespace of ``pidfd``.

    What fails is told as a warning: the container itself has its names either way.
    """
    home = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        k.setns(pidfd, k.CLONE_NEWNET)
        try:
            gateway = _gateway()
            rules = _rules(_run(["iptables-save", "-t", "nat"]), gateway) if gateway else []
            if not rules:
                return
            _run(["iptables-restore", "--noflush", "--wait", "30"], "\n".join(["*nat", *rules, "COMMIT", ""]))
            files.write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")
        finally:
            k.setns(home, k.CLONE_NEWNET)
        lines = [line for line in files.read(path).decode().split("\n") if line not in (MARK, f"nameserver {gateway}")]
        text = "\n".join(f"{MARK}\nnameserver {gateway}" if line.split() == ["nameserver", LOOPBACK] else line for line in lines)
        with open(path, "w", encoding="utf-8") as file:  # in place: it is a mount by now
            file.write(text if MARK in text else f"{MARK}\nnameserver {gateway}\n{text}")
    except (OSError, ValueError) as error:
        log.warning(f"inner containers cannot ask Docker's resolver: {reason(error) if isinstance(error, OSError) else error}")
    finally:
        posix.close(home)


def _gateway() -> str:
    """Return the address of the default route, "" if there is none: proc_net_route in net/ipv4/fib_trie.c."""
    for line in files.read("/proc/self/net/route").decode().splitlines()[1:]:
        _, destination, address, *_ = line.split()
        if destination == "00000000" and address != "00000000":
            return ".".join(str(byte) for byte in bytes.fromhex(address)[::-1])
    return ""


def _rules(saved: str, gateway: str) -> list[str]:
    """Repeat Docker's rules about its resolver for the gateway's address, and for packets that come from inner containers."""
    out = []
    have = saved.splitlines()
    for line in have:
        words = line.split()
        if words[:1] != ["-A"] or f"{LOOPBACK}/32" not in words or words[words.index(f"{LOOPBACK}/32") - 1] != "-d":
            continue
        twin = line.replace(f"-d {LOOPBACK}/32", f"-d {gateway}/32", 1)
        out.append(twin)
        if words[1] == "OUTPUT":
            out.append(twin.replace("-A OUTPUT", "-A PREROUTING", 1))
    return [line for line in out if line not in have]


def _run(command: list[str], text: str = "") -> str:
    """Run a command with the tables of the network namespace that we are in. Raises OSError, ValueError."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    if done.returncode:
        raise ValueError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout
