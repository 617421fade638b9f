"""Docker tests: a dockerd of their own, which knows the sysbox-runc under test.

DOCKER_RUNTIME=runc runs those that hold for every runtime against runc, to prove the tests themselves.
DOCKER_RUNTIME_PATH is the sysbox-runc under test, DOCKER_CLI the docker command.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docker.engine import BUSYBOX, DOCKER, RUNTIME, RUNTIME_PATH, SYSBOX, Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

ENGINE = pytest.StashKey[Engine]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sysbox: holds for sysbox-runc only")
    config.addinivalue_line("markers", "testing: with software of Debian's testing, which is another every day")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("sysbox") and not SYSBOX:
        pytest.skip(f"holds for sysbox-runc, not for {RUNTIME}")
    if item.get_closest_marker("testing") and "SYSBOX_TEST_NEXT" not in os.environ:
        pytest.skip("software of Debian's testing is another every day: make test-next")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed and ENGINE in item.config.stash:
        report.sections.append(("containers and dockerd", item.config.stash[ENGINE].report()))
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A directory on a real filesystem for the data of dockerds."""
    assert os.geteuid() == 0, "docker tests need root"
    assert not SYSBOX or os.access(RUNTIME_PATH, os.X_OK), f"{RUNTIME_PATH} is missing: make install PREFIX=build/root"
    path = Path(tempfile.mkdtemp(prefix="sbxdocker.", dir="/var/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def engine(place: Path, pytestconfig: pytest.Config) -> Iterator[Engine]:
    """The dockerd that most tests share."""
    engine = Engine(place / "main")
    states = _states()
    pytestconfig.stash[ENGINE] = engine
    try:
        engine.start()
        engine.load(BUSYBOX)
        engine.load(DOCKER)
        yield engine
        engine.clean()
    finally:
        engine.stop()
        del pytestconfig.stash[ENGINE]
    assert engine.leftovers() == []
    assert _states() <= states


def _states() -> set[str]:
    """State of containers of sysbox-runc's default root: none of ours is there."""
    return set(os.listdir("/run/sysbox-runc")) if os.path.isdir("/run/sysbox-runc") else set()


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave no container to the next test but the one that a module keeps."""
    yield
    if ENGINE in request.config.stash:
        request.config.stash[ENGINE].clean(getattr(request.module, "KEEP", ""))
