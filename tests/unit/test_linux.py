"""mountinfo, overlay layers, signals, JSON: text in, data out."""

import json
import random

import pytest

from sysbox.errors import Failure, reason
from sysbox.linux import jsons, mountinfo
from sysbox.runtime import create, lifecycle, options, rootfs, state

LINES = [
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw",
    "30 22 0:25 / /a rw - tmpfs a rw",
    "31 30 0:26 / /a/b\\040c rw,nosuid - tmpfs b rw",
    "32 22 0:27 / /ab rw - tmpfs ab rw",
    "33 22 0:28 / /a rw - tmpfs top rw",
    "40 22 0:30 / /m ro,nodev - overlay overlay rw,lowerdir=l/X:l/Y\\134:Z,upperdir=/o/id/diff,workdir=/o/id/work,volatile,metacopy=on",
]


def test_mountinfo() -> None:
    assert mountinfo.at(LINES, "/a") == LINES[4]
    assert mountinfo.at(LINES, "/a/b c") == LINES[2]
    assert mountinfo.at(LINES, "/none") is None
    assert mountinfo.holding(LINES, "/a/b") == LINES[4]
    assert mountinfo.holding(LINES, "/abc") == LINES[0]
    assert mountinfo.below(LINES, "/a") == [LINES[2]]
    assert mountinfo.kind(LINES[2]) == ("tmpfs", "b", "rw")
    assert mountinfo.plain("a\\040b\\134c\\0") == "a b\\c\\0"


def test_overlay_layers() -> None:
    found = rootfs.parse(LINES[5])
    assert found["lower"] == ["/o/l/X", "/o/l/Y:Z"]
    assert (found["upper"], found["work"]) == ("/o/id/diff", "/o/id/work")
    assert found["options"] == [("volatile", ""), ("metacopy", "on")]
    assert found["attributes"] == 1 | 4
    relative = "40 22 0:30 / /o/id/merged rw - overlay overlay rw,lowerdir=l/X,upperdir=id/diff,workdir=id/work"
    assert (rootfs.parse(relative)["lower"], rootfs.parse(relative)["upper"]) == (["/o/l/X"], "/o/id/diff")
    new = "40 22 0:30 / /m rw - overlay overlay rw,lowerdir+=/x,lowerdir+=/y"
    assert rootfs.parse(new)["lower"] == ["/x", "/y"]


@pytest.mark.parametrize(
    ("text", "number"), [("TERM", 15), ("SIGKILL", 9), ("sigint", 2), ("0", 0), ("RTMIN+3", 37), ("SIGRTMAX-1", 63), ("64", 64)]
)
def test_signals(text: str, number: int) -> None:
    assert lifecycle.signal_number(text) == number


@pytest.mark.parametrize("text", ["", "TURM", "65", "-1", "RTMIN+x", "SIG"])
def test_no_signals(text: str) -> None:
    with pytest.raises(Failure):
        lifecycle.signal_number(text)


def test_json_agrees_with_the_library() -> None:
    chance = random.Random(3)

    def value(depth: int) -> object:
        kinds = [
            None,
            True,
            False,
            chance.randrange(-(1 << 70), 1 << 70),
            chance.random(),
            "".join(map(chr, chance.choices(range(1, 0xD000), k=5))),
        ]
        if depth and chance.random() < 0.6:
            return [value(depth - 1) for _ in range(3)] if chance.random() < 0.5 else {str(n): value(depth - 1) for n in range(3)}
        return chance.choice(kinds)

    for _ in range(300):
        one = value(4)
        assert jsons.loads(jsons.dumps(one)) == one == json.loads(jsons.dumps(one))
    for bad in ("", "{", "nul", "[1,]", '{"a" 1}', "1 2"):
        with pytest.raises(ValueError, match=r"char|Extra|Expecting"):
            jsons.loads(bad)
    with pytest.raises(TypeError):
        jsons.dumps(object())


def test_options() -> None:
    words = "bundle,b= env,e=* tty,t"
    assert options.parse(["-b", "x", "c1", "--tty"], words, ordered=False, where="run") == ({"bundle": "x", "tty": True}, ["c1"])
    assert options.parse(["-e", "A=1", "--env=B=2", "c1", "sh", "-c", "x"], words, ordered=True, where="exec") == (
        {"env": ["A=1", "B=2"]},
        ["c1", "sh", "-c", "x"],
    )
    assert options.parse(["--", "-x"], words, ordered=False, where="run") == ({}, ["-x"])
    for wrong in (["--nope"], ["-b"], ["--tty=x"]):
        with pytest.raises(Failure) as caught:
            options.parse(wrong, words, ordered=False, where="run")
        assert caught.value.code == 1001


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a\n", "x" * 1025, "ä"])
def test_no_container_ids(name: str) -> None:
    with pytest.raises(Failure) as caught:
        state.check_id(name)
    assert caught.value.code == 1006


@pytest.mark.parametrize("release", ["5.11.22-generic", "4.19.0", "5.4"])
def test_an_old_kernel_is_refused(release: str) -> None:
    with pytest.raises(Failure, match=f"kernel {release} is too old") as caught:
        create.check_kernel(release)
    assert caught.value.code == 1016
    for good in ("5.12.0", "6.18.3-cloud", "10.1", "strange"):
        create.check_kernel(good)


def test_errors_read_as_one_line() -> None:
    assert str(Failure(1003, "no", "yes")) == "no. Try: yes [SBX-1003]"
    assert str(Failure(1003, "no")) == "no [SBX-1003]"
    assert reason(OSError(22, "mount: Invalid argument", "/x")) == "mount /x: Invalid argument (EINVAL)"
    assert reason(FileNotFoundError(2, "No such file or directory", "/x")) == "No such file or directory /x (ENOENT)"
