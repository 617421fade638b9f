"""One boot for all tests of the guest, with the project installed by its own make install."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from guest.machine import TOP, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "smoke: part of make test, and run with other kernels")


@contextmanager
def booted(request: pytest.FixtureRequest, more: str = "") -> Iterator[Machine]:
    """Boot a machine with words more for its kernel, and install the project there."""
    machine = Machine(more)
    keep: Path | None = TOP / "build/guest-console"
    try:
        machine.start()
        machine("mkdir /tmp/project && mount -o ro /dev/disk/by-id/virtio-project /tmp/project && cp -a /tmp/project /root/sysbox")
        machine("make -C /root/sysbox install", 300)
        yield machine
        if not request.session.testsfailed:
            keep = None
    finally:
        machine.stop(keep=keep)


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with booted(request) as machine:
        yield machine


@pytest.fixture(scope="session")
def docker(guest: Machine) -> Machine:
    """The guest, its Docker with our runtime and a busybox."""
    return with_docker(guest)


def with_docker(guest: Machine) -> Machine:
    """Start a machine's Docker with our runtime and a busybox."""
    guest(
        """
        mkdir -p /etc/docker
        echo '{"runtimes": {"sysbox-runc": {"path": "/usr/local/sbin/sysbox-runc"}}}' >/etc/docker/daemon.json
        systemctl start docker
        docker import -c 'CMD ["sh"]' /srv/busybox.tar busybox
        """,
        240,
    )
    return guest
