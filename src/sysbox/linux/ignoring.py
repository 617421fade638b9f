"""contextlib.suppress without contextlib, which is half a megabyte of memory with what it imports."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class ignoring:  # noqa: N801 - used like a function
    """Go on after the block if one of these exceptions ends it."""

    def __init__(self, *exceptions: type[BaseException]) -> None:
        """Know which."""
        self.exceptions = exceptions

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> bool:
        """Say whether it is one of them."""
        return kind is not None and issubclass(kind, self.exceptions)
