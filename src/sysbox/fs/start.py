"""Which of sysbox-fs's processes this one is, and how one starts another: the zygote must not import what the others do."""

from __future__ import annotations

from sysbox.linux import _kernel as k
from sysbox.linux.ignoring import ignoring


def main(argv: list[str]) -> int:
    """Run sysbox-fs; return the exit status. Raises SystemExit."""
    with ignoring(OSError):
        # what is forked or started from here inherits it: 2 MB would be private where a few bytes are
        k.prctl(k.PR_SET_THP_DISABLE, 1)
    if argv[:1] == ["--zygote"]:
        from sysbox.fs import zygote

        zygote.run(argv[1])
    from sysbox.fs.main import main as run

    return run(argv)


def spawn(command: list[str], *fds: int) -> None:
    """Start a program of ours that gets these descriptors and outlives us."""
    import subprocess

    silent = subprocess.DEVNULL
    subprocess.Popen(command, pass_fds=fds, start_new_session=True, stdin=silent, stdout=silent, stderr=silent)
