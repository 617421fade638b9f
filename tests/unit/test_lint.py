"""The linters are tests: what they find is a failure like any other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
LINTERS = {
    "ruff check": [sys.executable, "-m", "ruff", "check", "src", "tests"],
    "ruff format": [sys.executable, "-m", "ruff", "format", "--check", "src", "tests"],
    "mypy": [sys.executable, "-m", "mypy"],
    "mypy of the tests": [sys.executable, "-m", "mypy", "--explicit-package-bases", "tests"],
}
LONGEST = 500  # lines of a module: above that it has more than one concern


@pytest.mark.parametrize("linter", LINTERS)
def test_linter(linter: str) -> None:
    done = subprocess.run(LINTERS[linter], cwd=TOP, capture_output=True, text=True, env={**os.environ, "MYPYPATH": "src:tests"})
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_kernel_binding_compiles_without_a_warning(tmp_path: Path) -> None:
    includes = subprocess.run(["/usr/bin/python3-config", "--includes"], capture_output=True, text=True, check=True).stdout.split()
    quiet = ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type"]
    command = [
        "gcc",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        *quiet,
        "-shared",
        "-fPIC",
        *includes,
        "src/sysbox/linux/_kernel.c",
        "-o",
        str(tmp_path / "k.so"),
    ]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_package_files_are_empty_and_modules_short() -> None:
    files = list((TOP / "src").rglob("*.py"))
    assert len(files) > 20
    assert [str(path) for path in files if path.name == "__init__.py" and path.stat().st_size] == []
    too_long = {str(path): lines for path in files if (lines := len(path.read_text().splitlines())) > LONGEST}
    assert not too_long


def test_rooms_import_one_way() -> None:
    allowed = {
        "linux": {"linux"},
        "oci": {"linux", "oci"},
        "wire": {"linux", "wire"},
        "runtime": {"linux", "oci", "wire", "runtime"},
        "mgr": {"linux", "oci", "wire", "mgr"},
    }
    wrong = []
    for path in (TOP / "src/sysbox").rglob("*.py"):
        room = path.parent.name
        if room not in allowed:
            continue
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] in ("from", "import") and words[1].startswith("sysbox."):
                other = words[1].split(".")[1]
                if other not in allowed[room] and other not in ("errors", "version"):
                    wrong.append(f"{path}: {line.strip()}")
    assert not wrong


def test_every_error_code_is_documented_once() -> None:
    import re

    used = set()
    for path in (TOP / "src/sysbox").rglob("*.py"):
        used |= {int(code) for code in re.findall(r"Failure\(\s*(\d{4})", path.read_text())}
    documented = [int(code) for code in re.findall(r"^### SBX-(\d{4})", (TOP / "docs/errors.md").read_text(), re.MULTILINE)]
    assert len(documented) == len(set(documented))
    assert used - set(documented) == set()
