"""The one exception that reaches users, and how it reads."""

from __future__ import annotations

from errno import errorcode


class Failure(Exception):  # noqa: N818 - it is what the user reads, not a programming error
    """An operation failed for a reason that can be said in one sentence.

    ``code`` is the stable number of docs/errors.md, ``cause`` one clause without a full stop, ``hint`` what to do about it.
    """

    def __init__(self, code: int, cause: str, hint: str = "") -> None:
        """Keep the parts; ``str()`` puts them together."""
        super().__init__(code, cause, hint)
        self.code = code
        self.cause = cause
        self.hint = hint

    def __str__(self) -> str:
        """Read as ``cause. Try: hint. [SBX-1003]``."""
        hint = f". Try: {self.hint}" if self.hint else ""
        return f"{self.cause}{hint} [SBX-{self.code}]"


def reason(error: OSError) -> str:
    """Say an OSError of ours or of Python in one clause: ``mount_setattr /x: Invalid argument (EINVAL)``."""
    name = errorcode.get(error.errno or 0, str(error.errno))
    call, _, text = str(error.strerror).partition(": ")
    where = f" {error.filename}" if error.filename else ""
    return f"{call}{where}: {text} ({name})" if text else f"{error.strerror}{where} ({name})"
