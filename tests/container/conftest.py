"""The fixture of the container tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from container.bundle import Bundle, made


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    if os.geteuid():
        pytest.skip("containers need root")
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)  # root of the container has to get through for runc
    with made(tmp_path) as one:
        yield one
