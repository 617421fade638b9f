"""The words of /dev/fuse are those of linux/fuse.h, and every opcode gets its answer."""

import os
import subprocess
from errno import ESTALE
from pathlib import Path
from struct import Struct

import pytest

from sysbox.fs.fuse import protocol as p
from sysbox.fs.fuse.server import Server

STRUCTURES = {
    "struct fuse_in_header": p.IN_HEADER,
    "struct fuse_out_header": p.OUT_HEADER,
    "struct fuse_init_out": p.INIT_OUT,
    "struct fuse_attr": p.ATTR,
    "struct fuse_open_in": p.OPEN_IN,
    "struct fuse_open_out": p.OPEN_OUT,
    "struct fuse_read_in": p.READ_IN,
    "struct fuse_write_in": p.WRITE_IN,
    "struct fuse_notify_inval_inode_out": p.INVAL_INODE_OUT,
    "struct fuse_statfs_out": p.STATFS_OUT,
    "struct fuse_batch_forget_in": p.BATCH,
    "struct fuse_forget_one": p.FORGET_ONE,
}


def compiled(tmp_path: Path, body: str) -> list[str]:
    source = f"#include <stdio.h>\n#include <stddef.h>\n#include <linux/fuse.h>\nint main(void){{{body}return 0;}}\n"
    (tmp_path / "t.c").write_text(source)
    subprocess.run(["cc", "-o", tmp_path / "t", tmp_path / "t.c"], check=True)
    return subprocess.run([tmp_path / "t"], capture_output=True, text=True, check=True).stdout.split()


def test_structures_have_the_sizes_of_the_kernel(tmp_path: Path) -> None:
    names = list(STRUCTURES)
    sizes = compiled(tmp_path, "".join(f'printf("%zu\\n", sizeof({name}));' for name in names))
    assert dict(zip(names, map(int, sizes), strict=True)) == {name: one.size for name, one in STRUCTURES.items()}
    others = ["offsetof(struct fuse_entry_out, attr)", "offsetof(struct fuse_attr_out, attr)", "offsetof(struct fuse_dirent, name)"]
    sizes = compiled(tmp_path, "".join(f'printf("%zu\\n", {name});' for name in others))
    assert [int(one) for one in sizes] == [p.ENTRY_OUT.size, p.ATTR_OUT.size, p.DIRENT.size]


def test_fields_lie_where_the_kernel_has_them(tmp_path: Path) -> None:
    fields = {
        "struct fuse_in_header, pid": 32,
        "struct fuse_attr, mode": 60,
        "struct fuse_attr, uid": 68,
        "struct fuse_write_in, size": 16,
        "struct fuse_init_out, max_write": 20,
        "struct fuse_setattr_in, valid": 0,
    }
    assert [int(one) for one in compiled(tmp_path, "".join(f'printf("%zu\\n", offsetof({one}));' for one in fields))] == [*fields.values()]


def test_opcodes_are_those_of_the_kernel(tmp_path: Path) -> None:
    numbers = compiled(tmp_path, "".join(f'printf("%d\\n", FUSE_{name});' for name in p.OPCODES))
    assert dict(zip(p.OPCODES, map(int, numbers), strict=True)) == p.OPCODES


class File:
    """A node that holds what was written."""

    mode = 0o100644
    steady = True

    def __init__(self) -> None:
        self.value = b"old\n"
        self.listed = False
        self.entries = [("a", 2, 0o100644)]

    def owner(self, _: int) -> tuple[int, int]:
        return 7, 8

    def find(self, *_: object, listed: bool = False) -> int:
        self.listed = listed
        return 2

    def names(self, _: int) -> list[tuple[str, int, int]]:
        return self.entries

    def read(self, _: int) -> bytes:
        return self.value

    def write(self, data: bytes, _: int) -> None:
        self.value = data


@pytest.fixture
def served() -> tuple[Server, File, int]:
    """A server on a packet socket instead of /dev/fuse: one request a packet, as there."""
    import socket

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    file = File()
    return Server(theirs.detach(), memoryview(bytearray(p.BUFFER)), lambda _: file), file, ours.detach()


told: list[bytes] = []  # what the kernel was told unasked


def ask(served: tuple[Server, File, int], opcode: int, body: bytes = b"") -> tuple[int, bytes]:
    server, _, fd = served
    os.write(fd, p.IN_HEADER.pack(p.IN_HEADER.size + len(body), opcode, 77, 2, 0, 0, 1, 0, 0) + body)
    assert server.serve()
    answer = os.read(fd, 1 << 16)
    while not p.OUT_HEADER.unpack_from(answer)[2]:
        told.append(answer)
        answer = os.read(fd, 1 << 16)
    size, error, unique = p.OUT_HEADER.unpack_from(answer)
    assert (size, unique) == (len(answer), 77)
    return -error, answer[p.OUT_HEADER.size :]


def test_every_opcode_there_is_gets_an_answer(served: tuple[Server, File, int]) -> None:
    silent = {p.OPCODES[name] for name in ("FORGET", "BATCH_FORGET", "INTERRUPT")}
    for opcode in range(1, 60):
        if opcode not in silent:
            error, _ = ask(served, opcode, Struct("<II").pack(*p.KERNEL) + bytes(72))
            assert error == 0 or opcode not in p.OPCODES.values() or error in (20, 1), opcode
            assert error == 38 or opcode in p.OPCODES.values(), opcode


def test_a_request_that_its_server_did_not_live_to_answer_is_answered_by_the_next(served: tuple[Server, File, int]) -> None:
    server, file, fd = served
    body = p.WRITE_IN.pack(0, 0, 4, 0, 0, 0, 0) + b"new\n"
    server.buffer[: p.IN_HEADER.size + len(body)] = (
        p.IN_HEADER.pack(p.IN_HEADER.size + len(body), p.OPCODES["WRITE"], 5, 2, 0, 0, 1, 0, 0) + body
    )
    Server(server.fd, server.buffer, server.node).resume()
    assert file.value == b"new\n"
    assert p.OUT_HEADER.unpack_from(os.read(fd, 100))[2] == 5
    assert server.buffer[0] == 0


def test_reading_and_writing(served: tuple[Server, File, int]) -> None:
    assert ask(served, p.OPCODES["READ"], p.READ_IN.pack(0, 1, 2, 0, 0, 0, 0)) == (0, b"ld")
    assert ask(served, p.OPCODES["WRITE"], p.WRITE_IN.pack(0, 3, 1, 0, 0, 0, 0) + b"x") == (0, b"\1" + bytes(7))
    assert served[1].value == b"old\n"  # not at the beginning: taken, and for nothing
    assert ask(served, p.OPCODES["SETATTR"], p.SETATTR_IN.pack(1, 0) + bytes(80))[0] == 1
    assert ask(served, p.OPCODES["SETATTR"], p.SETATTR_IN.pack(8, 0) + bytes(80))[0] == 0


def test_a_listing_with_attributes_says_what_lookup_says(served: tuple[Server, File, int]) -> None:
    error, body = ask(served, p.OPCODES["READDIRPLUS"], p.READ_IN.pack(0, 0, 4096, 0, 0, 0, 0))
    assert error == 0
    extra = p.ENTRY_OUT.size + p.ATTR.size
    entries, at = {}, 0
    while at < len(body):
        length = p.DIRENT.unpack_from(body, at + extra)[2]
        name = body[at + extra + p.DIRENT.size :][:length]
        entries[name] = body[at : at + extra]
        at += extra + (p.DIRENT.size + length + 7) // 8 * 8
    assert list(entries) == [b".", b"..", b"a"]
    assert entries[b"a"] == ask(served, p.OPCODES["LOOKUP"], b"a\0")[1]
    assert not any(entries[b"."] + entries[b".."])
    assert len(ask(served, p.OPCODES["READDIRPLUS"], p.READ_IN.pack(0, 0, len(body) - 1, 0, 0, 0, 0))[1]) < len(body)


def test_who_opens_a_file_of_another_length_comes_again(served: tuple[Server, File, int]) -> None:
    """For sendfile(2) it is as long as the kernel thinks."""
    told.clear()
    node, wants = served[1], p.OPEN_IN.pack(0, 0)
    message = p.OUT_HEADER.pack(40, 2, 0) + p.INVAL_INODE_OUT.pack(2, -1, 0)

    def asked() -> int:
        return int(p.ATTR.unpack_from(ask(served, p.OPCODES["GETATTR"], bytes(16))[1], p.ATTR_OUT.size)[1])

    def opened() -> tuple[int, list[bytes]]:
        told.clear()
        return ask(served, p.OPCODES["OPEN"], wants)[0], list(told)

    assert (asked(), opened(), opened()) == (4, (0, []), (0, []))
    node.value = b"longer\n"
    assert (opened(), asked(), opened()) == ((ESTALE, [message]), 7, (0, []))
    node.value = b"long\n"
    assert opened() == (ESTALE, [message])
    assert opened() == (0, [])  # not twice: who opens it would see the error
    assert (asked(), opened()) == (5, (0, []))
    assert ask(served, p.OPCODES["WRITE"], p.WRITE_IN.pack(0, 0, 7, 0, 0, 0, 0) + b"  long\n")[0] == 0
    assert opened()[0] == ESTALE


def test_a_listing_is_kept_while_the_names_are_the_same(served: tuple[Server, File, int]) -> None:
    served[1].mode = 0o040755
    cache = p.FOPEN_CACHE_DIR
    keep = cache | p.FOPEN_KEEP_CACHE

    def opened() -> tuple[int, int]:
        fh, flags, _ = p.OPEN_OUT.unpack(ask(served, p.OPCODES["OPENDIR"], p.OPEN_IN.pack(0, 0))[1])
        return fh, flags

    def closed(fh: int) -> None:
        ask(served, p.OPCODES["RELEASEDIR"], fh.to_bytes(8, "little") + bytes(16))

    assert [opened(), opened()] == [(1, cache), (1, keep)]
    served[1].entries = [("b", 2, 0o100644)]
    assert opened() == (0, 0)  # somebody may be amid the other names
    for fh in (1, 1, 0):
        closed(fh)
    assert [opened(), opened()] == [(1, cache), (1, keep)]
