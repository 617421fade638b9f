"""What cannot work is refused in one sentence that says what to do, and leaves nothing behind."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from docker.engine import BUSYBOX, RUNTIME

if TYPE_CHECKING:
    from docker.engine import Engine

pytestmark = pytest.mark.sysbox


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--privileged"], "privileged"),
        (["--network", "host"], "net"),
        (["--pid", "host"], "pid"),
        (["--ipc", "host"], "ipc"),
        (["--uts", "host"], "uts"),
        (["-e", "SYSBOX_NO_SUCH_THING=1"], "SYSBOX_NO_SUCH_THING"),
    ],
    ids=" ".join,
)
def test_refused(engine: Engine, options: list[str], word: str) -> None:
    done = engine.fails(*options, BUSYBOX, "true")
    assert word in done.stderr
    assert re.search(r"\. Try: .+ \[SBX-\d{4}\]", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert engine("ps", "-aq") == ""
    assert not list((engine.directory / "exec").glob(f"runtime-{RUNTIME}/*/*"))


def test_two_containers_cannot_share_a_docker_data_directory(engine: Engine) -> None:
    first = engine.up("-v", "data:/var/lib/docker")
    done = engine.fails("-v", "data:/var/lib/docker", BUSYBOX, "true")
    assert first[:12] in done.stderr, "it must name the container that has it"
    assert "SBX-" in done.stderr
    engine("rm", "-f", first)
    assert engine.sh("-v", "data:/var/lib/docker", "echo free again") == "free again"
    engine("volume", "rm", "data")
