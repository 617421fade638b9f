"""The rows: what they take, what they keep, and when the host is touched."""

from collections.abc import Callable
from errno import EINVAL, ENOENT

import pytest

from sysbox.fs.emulate import row
from sysbox.fs.emulate.tables import ROWS, mirror_of


class Box:
    """A container without files: the host's values are in a dict."""

    def __init__(self, path: str, host: str = "5\n", *, policy: bool = False) -> None:
        self.path, self.pid = path, 1
        self.values: dict[str, str] = {}
        self.container: dict[str, object] = {"id": "abcdef0123456789", "uid": 1000, "gid": 1000, "size": 65536, "created": 0.0}
        self.there = {path: host}
        self.policy = policy

    def keep(self, value: str) -> None:
        self.values[self.path] = value

    def host(self, path: str = "") -> str:
        if (path or self.path) not in self.there:
            raise OSError(ENOENT, "no such file")
        return self.there[path or self.path]

    def host_write(self, value: str) -> None:
        self.there[self.path] = value

    def may_raise(self) -> bool:
        return self.policy

    def inside(self, _: str, action: Callable[[], str]) -> str:
        return action()

    def native(self, value: str | None = None) -> str:
        if value is not None:
            self.host_write(value)
        return self.host()

    def namespace(self, _: str) -> str:
        return "4026531833"

    def root(self) -> tuple[int, int, int]:
        return int(str(self.container["uid"])), int(str(self.container["gid"])), int(str(self.container["size"]))


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("kernel/kptr_restrict", "0 1 2 3", "-1 4 x"),
        ("kernel/dmesg_restrict", "0 1", "2"),
        ("kernel/sysrq", "0 511 0x10 010", "512 -1"),
        ("kernel/pid_max", "1 4194304", "0 4194305"),
        ("kernel/yama/ptrace_scope", "0 3", "4"),
        ("kernel/panic", "-1 0 10", "1.5"),
        ("fs/protected_hardlinks", "0 1", "2"),
        ("fs/protected_symlinks", "0 1", "2"),
        ("fs/file-max", "0 9223372036854775807", "9223372036854775808 -1"),
        ("vm/overcommit_memory", "0 1 2", "3"),
        ("vm/mmap_min_addr", "0 65536", "-1"),
        ("net/core/default_qdisc", "fq fq_codel sfq pfifo_fast", "nonsense"),
        ("net/ipv4/neigh/default/gc_thresh3", "0 2147483647", "2147483648"),
        ("net/ipv4/vs/conn_reuse_mode", "0 1", "2"),
    ],
)
def test_ranges(path: str, good: str, bad: str) -> None:
    path = f"/proc/sys/{path}"
    one = ROWS[path]
    assert one.read
    assert one.write
    for word in good.split():
        box = Box(path)
        one.write(box, f"{word}\n")
        base = 0 if word.isalnum() and not word.startswith("0") else 10
        expected = {"0x10": "16", "010": "8"}.get(word, word)
        assert one.read(box) == f"{expected}\n", base
        assert box.there == {path: "5\n"}, "the host was changed"
    for word in [*bad.split(), ""]:
        with pytest.raises(OSError, match="invalid value") as caught:
            one.write(Box(path), f"{word}\n")
        assert caught.value.errno == EINVAL


def test_limits_of_the_host_are_raised_only_if_allowed_and_never_lowered() -> None:
    path = "/proc/sys/fs/file-max"
    for policy, value, there in ((False, "9", "5\n"), (True, "9", "9\n"), (True, "3", "5\n")):
        box = Box(path, policy=policy)
        one = ROWS[path]
        assert one.write
        assert one.read
        one.write(box, value)
        assert one.read(box) == f"{value}\n"
        assert box.there[path] == there


def test_an_unwritten_value_is_the_hosts_of_now() -> None:
    box = Box("/proc/sys/fs/nr_open")
    read = ROWS[box.path].read
    assert read
    box.there[box.path] = "77\n"
    assert read(box) == "77\n"


def test_ping_group_range_keeps_what_was_written_and_clamps_what_the_kernel_gets() -> None:
    box = Box("/proc/sys/net/ipv4/ping_group_range", "1\t0\n")
    one = ROWS[box.path]
    path = box.path
    assert one.write
    assert one.read
    one.write(box, "0 2147483647\n")
    assert box.there[path] == f"1000\t{1000 + 65535}\n"
    box.path = path
    assert one.read(box) == "0\t2147483647\n"
    for bad in ("1", "-1 5", "0 2147483648", "x y"):
        box.path = path
        with pytest.raises(OSError, match="invalid value"):
            one.write(box, bad)


def test_the_uuid_ends_in_the_containers_id() -> None:
    path = "/sys/devices/virtual/dmi/id/product_uuid"
    read = ROWS[path].read
    assert read
    assert read(Box(path, "12345678-1234-1234-1234-123456789abc\n")) == "12345678-1234-1234-1234-abcdef012345\n"
    box = Box(path)
    box.there.clear()
    assert read(box) == "00000000-0000-0000-0000-abcdef012345\n"


def test_rows_without_a_write_may_not_be_written() -> None:
    for path, one in ROWS.items():
        if not one.mode & row.DIRECTORY:
            assert bool(one.write) == bool(one.mode & 0o222), path
            assert one.read, path
    assert all(mirror_of(path) for path, one in ROWS.items() if one.always and path.startswith("/proc"))
