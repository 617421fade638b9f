"""Memory that a child gives back: what it has in it must be what it was, whatever has been done with it."""

import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
BEGIN = f"""
import ctypes, os, sys
sys.path.insert(0, {str(SRC)!r})
from sysbox.fs.pages import Pages
things = [object() for _ in range(20000)]  # 80 pages
big = bytearray(b"x" * 1000000)
pages = Pages()
assert pages.areas
if pid := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
def private():
    with open("/proc/self/smaps_rollup") as file:
        return int(file.read().partition("Private_Dirty:")[2].split()[0])
"""
# the second time, as the first has what these lines themselves make private
COUNTED = """
for _ in range(2):
    pages.give_back()
    rest = private()
    for thing in things:
        pass
    used = private()
    given = pages.give_back()
    last = private()
assert used > rest + 300, (rest, used)
assert given >= 75, given
assert last < rest + 100, (rest, last)
"""
WRITTEN = """
big[5000] = 1
pages.give_back()
assert big[5000] == 1
big[5000] = ord("x")
big[500000] = 1
assert pages.give_back() > 0
assert bytes(big) == b"x" * 500000 + bytes([1]) + b"x" * 499999
assert len({id(thing) for thing in things}) == len(things) and all(type(thing) is object for thing in things)
"""
GROWN = """
big.extend(b"y" * 50000000)
pages.give_back()
assert bytes(big) == b"x" * 1000000 + b"y" * 50000000
"""
# whoever unmaps some of it and maps something else there has what he has put there, and not nothing
REPLACED = """
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
first = (ctypes.addressof(ctypes.c_char.from_buffer(big)) + 4095) & -4096
copy = ctypes.string_at(first, 40960)
assert libc.mmap(first, 40960, 3, 0x32, -1, 0) == first  # PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
ctypes.memmove(first, copy, 40960)
pages.give_back()
assert bytes(big) == b"x" * 1000000
"""
SEALED = """
fd = pages.areas[0][2]
for change in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 0)):
    try:
        change()
    except PermissionError:
        continue
    raise SystemExit("changed")
"""


@pytest.mark.parametrize("script", [COUNTED, WRITTEN, GROWN, REPLACED, SEALED], ids=["counted", "written", "grown", "replaced", "sealed"])
def test_what_is_given_back_is_the_same(script: str) -> None:
    done = subprocess.run([sys.executable, "-IS", "-B", "-c", BEGIN + script + "os._exit(0)"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
