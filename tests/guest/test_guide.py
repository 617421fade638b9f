"""The user guide's commands for a host with systemd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import guide

if TYPE_CHECKING:
    from guest.machine import Machine

SECTIONS = guide.sections("console systemd")


@pytest.mark.parametrize("section", SECTIONS)
def test_section(docker: Machine, section: str) -> None:
    guide.check(SECTIONS[section], lambda command: (*docker.tried(f'sudo() {{ "$@"; }}\ncd /root/sysbox\n{command}', 240), ""))
    docker("make -s -C /root/sysbox install")  # what was changed is as it was
