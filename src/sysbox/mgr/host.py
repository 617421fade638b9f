"""Limits of the host that many systems on it use up together. Run as a program it prints them as sysctl.conf(5) wants it."""

from __future__ import annotations

# what each systemd, Docker and Kubernetes inside needs is counted for the whole host: sysctl -> the least that it should be
SYSCTLS = {
    "fs.inotify.max_queued_events": 1048576,
    "fs.inotify.max_user_watches": 1048576,
    "fs.inotify.max_user_instances": 1048576,
    "kernel.keys.maxkeys": 20000,
    "kernel.keys.maxbytes": 400000,
    "user.max_user_namespaces": 10000,
    "kernel.unprivileged_userns_clone": 1,
}


def low(top: str = "/proc/sys") -> list[tuple[str, int, int]]:
    """List sysctls that are lower than they should be: (name, what it is, what it should be)."""
    found = []
    for name, wanted in SYSCTLS.items():
        try:
            with open(f"{top}/{name.replace('.', '/')}", encoding="ascii") as file:
                now = int(file.read())
        except (OSError, ValueError):
            continue  # this kernel has no such limit
        if now < wanted:
            found.append((name, now, wanted))
    return found


if __name__ == "__main__":
    for name, _, wanted in low():
        print(f"{name} = {wanted}")
