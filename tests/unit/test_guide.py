"""How the guide's commands are checked."""

from __future__ import annotations

import pytest

from guide import Step, check

STEPS = [Step("x", [], ["first", "an Error of ... kind", "second"])]


@pytest.mark.parametrize("streams", [("0\nfirst\nsecond\n", "an Error of that kind\n"), ("first\nan Error of  a kind\nsecond", "")])
def test_lines_are_looked_for_in_their_stream(streams: tuple[str, str]) -> None:
    check(STEPS, lambda _: (1, *streams))


@pytest.mark.parametrize(
    ("out", "err"),
    [
        ("second\nfirst\n", "an Error of that kind\n"),
        ("first\nsecond\nan Error of that kind\n", ""),
        ("first\n", "an Error of that kind\n"),
    ],
)
def test_lines_that_lack_or_come_too_late_are_told(out: str, err: str) -> None:
    with pytest.raises(AssertionError, match="should print 'second'"):
        check(STEPS, lambda _: (1, out, err))


def test_a_command_that_fails_must_be_said_to() -> None:
    with pytest.raises(AssertionError, match="status 1"):
        check([Step("x", [], ["first"])], lambda _: (1, "first\n", ""))
