"""docker build with sysbox-runc as the default runtime; BuildKit, which brings runc, beside it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from docker.engine import BUSYBOX, SYSBOX

if TYPE_CHECKING:
    from pathlib import Path

    from docker.engine import Engine

FILE = f"""
FROM {BUSYBOX} AS first
RUN mkdir /made && echo built >/made/file && chown -R 1000:33 /made && chmod 4755 /made/file
RUN cat /proc/self/uid_map >/map
FROM {BUSYBOX}
ARG WORD=none
ENV WORD=$WORD
COPY --from=first /map /map
COPY --from=first --chown=7:8 /made/file /copied
COPY --chown=1000:1000 context.txt /srv/
WORKDIR /srv/work
RUN ["/bin/sh", "-c", "rm /bin/zcat; echo $WORD >word; ln -s word link"]
USER user
RUN id -u >/tmp/who; touch /etc/x 2>/dev/null || echo refused >>/tmp/who
CMD cat /tmp/who word /srv/context.txt
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(FILE)
    (tmp_path / "context.txt").write_text("context\n")
    return tmp_path


def check(engine: Engine) -> None:
    assert engine.run("built").split() == ["1000", "refused", "given", "context"]
    show = ["sh", "-c", "stat -c %n=%u:%g /copied /srv/context.txt /srv/work/word /srv/work; ls /bin/zcat 2>/dev/null || echo gone"]
    want = ["/copied=7:8", "/srv/context.txt=1000:1000", "/srv/work/word=0:0", "/srv/work=0:0", "gone"]
    for runtime in {"runc", *(["sysbox-runc"] if SYSBOX else [])}:
        assert engine("run", "--rm", f"--runtime={runtime}", "built", *show).split() == want
    engine("rmi", "-f", "built")


def test_classic_builder(engine: Engine, context: Path) -> None:
    engine("build", "-t", "built", "--build-arg", "WORD=given", "--rm", str(context), DOCKER_BUILDKIT="0", seconds=120)
    outside = engine("run", "--rm", "--runtime=runc", "built", "cat", "/map").split()[1]
    assert (int(outside) >= 65536) == SYSBOX, "RUN must be carried out by the default runtime"
    check(engine)


def test_a_failing_step_is_told(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN exit 33\n")
    done = engine.tried("build", str(tmp_path), DOCKER_BUILDKIT="0")
    assert done.returncode != 0
    assert "33" in done.stdout + done.stderr


def test_limits_of_a_build(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN x=aaaaaaaa; while :; do x=$x$x; done\n")
    done = engine.tried("build", "--memory", "32m", "--memory-swap", "32m", str(tmp_path), DOCKER_BUILDKIT="0")
    assert "137" in done.stdout + done.stderr


def test_buildkit(engine: Engine, context: Path) -> None:
    client = "/usr/bin/docker"  # newer ones need a plugin for BuildKit
    if not os.path.exists(client) or not engine("version", "-f", "{{.Client.Version}}", cli=client).startswith("20.10."):
        pytest.skip("no client with BuildKit built in")
    engine("build", "-t", "built", "--build-arg", "WORD=given", str(context), cli=client, DOCKER_BUILDKIT="1", seconds=120)
    check(engine)
