"""Which of sysbox-fs's processes this one is: the zygote must not import what the others do."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Run sysbox-fs; return the exit status. Raises SystemExit."""
    if argv[:1] == ["--zygote"]:
        from sysbox.fs import zygote

        zygote.run(argv[1])
    from sysbox.fs.main import main as run

    return run(argv)
