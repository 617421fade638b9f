"""Which of sysbox-fs's processes this one is: the zygote must not import what the others do."""

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
