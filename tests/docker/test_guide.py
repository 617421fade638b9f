"""The user guide: each section's commands, typed as they stand there."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

import guide
from docker.engine import RUNTIME_PATH, SYSBOX, Engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not SYSBOX, reason="it is about system containers")
IMAGES = {"debian:12": "sysbox/tools", "docker-image": "sysbox/docker", "host-image": "sysbox/systemd"}  # as the guide calls them
SECTIONS = guide.sections("console")


@pytest.fixture(scope="module")
def images(engine: Engine) -> Iterator[Engine]:
    for name, image in IMAGES.items():
        engine.load(image)
        engine("tag", image, name)
    yield engine
    engine("rmi", *IMAGES)


@pytest.mark.parametrize("section", SECTIONS)
def test_section(images: Engine, section: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    state = tmp_path / "cwd"
    state.write_text(str(here))
    sudo = tmp_path / "bin/sudo"
    sudo.parent.mkdir()
    sudo.write_text('#!/bin/sh\nexec "$@"\n')
    sudo.chmod(0o755)
    path = f"{sudo.parent}:{os.path.dirname(RUNTIME_PATH)}:{os.environ['PATH']}"

    def run(command: str) -> tuple[int, str, str]:
        script = f'cd "$(cat {state})"\n{command}\nstatus=$?\npwd >{state}\nexit $status'
        done = subprocess.run(
            ["bash", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={**images.env, "PATH": path},
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr

    try:
        guide.check(SECTIONS[section], run)
    finally:
        images.clean()
        images.tried("volume", "rm", "cache")
        images.tried("rmi", "with-busybox")
        subprocess.run(["umount", here / "data"], stderr=subprocess.DEVNULL)
