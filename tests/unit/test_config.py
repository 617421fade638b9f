"""config.json: every malformed value is named by its JSON path, what cannot work is refused in one sentence."""

import copy
import json
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sysbox.errors import Failure
from sysbox.oci import config as oci
from sysbox.oci.spec import example
from sysbox.runtime import plan

SRC = Path(__file__).resolve().parents[2] / "src"


def change(path: str, value: Any) -> dict[str, Any]:
    """Return the example with the value at a path such as process.args.0 replaced."""
    config = example()
    *parents, last = path.split(".")
    here: Any = config
    for name in parents:
        here = here[int(name)] if name.isdigit() else here.setdefault(name, {})
    if last.isdigit():
        here[int(last)] = value
    else:
        here[last] = value
    return config


def read(tmp_path: Path, config: Any) -> dict[str, Any]:
    file = tmp_path / "config.json"
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return oci.read(str(file))


def test_the_example_is_accepted(tmp_path: Path) -> None:
    made = plan.make(read(tmp_path, example()), "c1", "/bundle", {})
    assert made["root"] == "/bundle/rootfs"
    assert made["namespaces"] == dict.fromkeys(("pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time"), "")
    assert [mount["dest"] for mount in made["mounts"]][:4] == ["/proc", "/sys", "/dev", "/sys/fs/cgroup"]


MALFORMED = [
    ("ociVersion", 1, 1011, "$.ociVersion"),
    ("ociVersion", "2.0.0", 1011, "$.ociVersion"),
    ("ociVersion", "one", 1011, "$.ociVersion"),
    ("root", None, 1011, "$.root is missing"),
    ("root", [], 1011, "$.root"),
    ("root.path", 3, 1011, "$.root.path"),
    ("root.path", "a\0b", 1011, "$.root.path"),
    ("root.readonly", "yes", 1011, "$.root.readonly"),
    ("process.args", "sh", 1011, "$.process.args"),
    ("process.args", [], 1011, "$.process.args"),
    ("process.args", [1], 1011, "$.process.args[0]"),
    ("process.cwd", "relative", 1011, "$.process.cwd"),
    ("process.env", ["PATH"], 1011, "$.process.env[0]"),
    ("process.user.uid", -1, 1011, "$.process.user.uid"),
    ("process.user.uid", True, 1011, "$.process.user.uid"),
    ("process.user.additionalGids", [1, "2"], 1011, "$.process.user.additionalGids[1]"),
    ("process.rlimits", [{"type": "RLIMIT_NOFILE", "soft": 1}], 1011, "$.process.rlimits[0].hard is missing"),
    ("process.terminal", 1, 1011, "$.process.terminal"),
    ("mounts.0.destination", 5, 1011, "$.mounts[0].destination"),
    ("mounts.0.options", {"a": 1}, 1011, "$.mounts[0].options"),
    ("hooks", {"prestart": [{"args": []}]}, 1011, "$.hooks.prestart[0].path is missing"),
    ("hooks", {"poststop": [{"path": "hook"}]}, 1011, "$.hooks.poststop[0].path"),
    ("linux.namespaces.0.type", "pids", 1011, "$.linux.namespaces[0].type"),
    ("linux.namespaces.0.path", "relative", 1011, "$.linux.namespaces[0].path"),
    ("linux.namespaces.1.type", "pid", 1011, "$.linux.namespaces[1].type"),
    ("linux.devices", [{"type": "x", "path": "/dev/x"}], 1011, "$.linux.devices[0].type"),
    ("linux.sysctl", {"net.a": 1}, 1011, "$.linux.sysctl.net.a"),
    ("linux.sysctl", {"vm.swappiness": "1"}, 1017, "vm.swappiness"),
    ("linux.sysctl", {"kernel.hostname": "x"}, 1017, "kernel.hostname"),
    ("linux.sysctl", {"net/../vm/swappiness": "1"}, 1017, "swappiness"),
    ("linux.rootfsPropagation", "loud", 1011, "$.linux.rootfsPropagation"),
    ("linux.timeOffsets", {"realtime": {"secs": 1}}, 1011, "$.linux.timeOffsets"),
    ("annotations", {"a": 1}, 1011, "$.annotations.a"),
    ("process.env", ["SYSBOX_COLOUR=TRUE"], 1015, "SYSBOX_COLOUR is unknown"),
    ("process.env", ["SYSBOX_HONOR_CAPS=true"], 1015, "'true'"),
    ("process.env", ["SYSBOX_HONOR_CAPS"], 1015, "no value"),
    ("process.env", ["SYSBOX_HONOR_CAPS="], 1015, "''"),
    ("process.env", ["SYSBOX_HONOR_CAPS=TRUE=FALSE"], 1015, "more than one ="),
    ("process.env", ["SYSBOX_SYSCONT_MODE=no"], 1015, "SYSBOX_SYSCONT_MODE=TRUE or SYSBOX_SYSCONT_MODE=FALSE"),
    ("process.env", ["SYSBOX_SKIP_UID_SHIFT=/a,b"], 1015, "'b' of SYSBOX_SKIP_UID_SHIFT is not absolute"),
    ("process.env", ["SYSBOX_SKIP_UID_SHIFT=/a, /b"], 1015, "space"),
    ("process.env", ["SYSBOX_SKIP_UID_SHIFT="], 1015, "no value"),
    ("linux.personality", {"domain": "SOLARIS"}, 1011, "$.linux.personality"),
    ("linux.intelRdt", {"closID": "x"}, 1009, "$.linux.intelRdt"),
    ("mounts", [{"destination": "/x", "options": ["bind"]}], 1011, "$.mounts[0].source"),
    ("mounts", [{"destination": "/x", "source": "x"}], 1011, "$.mounts[0].type"),
    ("mounts", [{"destination": "/x", "source": "/y", "options": ["bind", "size=1m"]}], 1011, "$.mounts[0].options"),
    ("mounts", [{"destination": "/", "source": "/y", "options": ["bind"]}], 1011, "$.mounts[0].destination"),
]


@pytest.mark.parametrize(("path", "value", "code", "said"), MALFORMED)
def test_malformed(tmp_path: Path, path: str, value: Any, code: int, said: str) -> None:
    with pytest.raises(Failure) as caught:
        plan.make(read(tmp_path, change(path, value)), "c1", "/bundle", {})
    assert caught.value.code == code
    assert said in str(caught.value)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a":1}x', "\ufeff{}", "[" * 5000])
def test_no_json_object(tmp_path: Path, text: str) -> None:
    with pytest.raises(Failure) as caught:
        read(tmp_path, text)
    assert caught.value.code == 1011


@pytest.mark.parametrize(("text", "said"), [('{"a":\n1,}', "line 2 column 3"), ("[" * 100000, "recursion"), ("{} {}", "column 4")])
def test_what_is_wrong_with_the_json_is_told_on_the_hot_path_too(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    script = f"import sys; sys.path.insert(0, {str(SRC)!r}); from sysbox.oci import config; config.read({str(tmp_path / 'config.json')!r})"
    done = subprocess.run(["/usr/bin/python3", "-ISE", "-B", "-c", script], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert "sysbox.errors.Failure: " in last
    assert said in last
    assert "SBX-1011" in last


@pytest.mark.parametrize("kind", ["pid", "ipc", "uts", "mount", "network"])
def test_a_namespace_of_the_host_is_refused(kind: str) -> None:
    config = example()
    config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != kind]
    with pytest.raises(Failure, match=f"the host's {kind} namespace") as caught:
        oci.namespaces(config)
    assert caught.value.code == 1012


def test_joining_the_hosts_network_is_refused() -> None:
    config = example()
    config["linux"]["namespaces"][1]["path"] = "/proc/self/ns/net"
    with pytest.raises(Failure, match="the host's network namespace"):
        oci.namespaces(config)


def test_privileged_is_refused(tmp_path: Path) -> None:
    config = example()
    config["linux"].update(maskedPaths=None, readonlyPaths=None, seccomp=None)
    config["linux"]["resources"]["devices"].append({"allow": True, "access": "rwm"})
    with pytest.raises(Failure, match="--privileged") as caught:
        plan.make(read(tmp_path, config), "c1", "/bundle", {})
    assert caught.value.code == 1013
    made = plan.make(read(tmp_path, config), "c1", "/bundle", {"SYSBOX_SYSCONT_MODE": False})
    assert made["devices"] == made["resources"]["devices"] == [], "a regular one gets no device of the host"


@pytest.mark.parametrize(
    ("default", "env", "regular", "honor"),
    [
        ({}, [], False, False),
        ({}, ["SYSBOX_SYSCONT_MODE=FALSE"], True, True),
        ({"SYSBOX_SYSCONT_MODE": False}, [], True, True),
        ({"SYSBOX_SYSCONT_MODE": False}, ["SYSBOX_SYSCONT_MODE=TRUE"], False, False),
        ({"SYSBOX_HONOR_CAPS": True}, [], False, True),
        ({"SYSBOX_HONOR_CAPS": True}, ["SYSBOX_HONOR_CAPS=FALSE"], False, False),
    ],
)
def test_a_container_overrides_what_the_manager_says(tmp_path: Path, default: Any, env: list[str], *, regular: bool, honor: bool) -> None:
    config = example()
    config["process"]["env"] = env
    made = plan.make(read(tmp_path, config), "c1", "/bundle", default)
    assert (made["regular"], made["honor_caps"]) == (regular, honor)


def mapped(uid: list[list[int]], gid: list[list[int]]) -> dict[str, Any]:
    config = example()
    for name, entries in (("uidMappings", uid), ("gidMappings", gid)):
        config["linux"][name] = [dict(zip(("containerID", "hostID", "size"), entry, strict=True)) for entry in entries]
    return config


def test_mappings_of_the_manager_are_honoured() -> None:
    assert oci.ids(example()) is None
    assert oci.ids(mapped([[0, 100000, 65536]], [[0, 100000, 65536]])) == (100000, 100000, 65536)
    assert oci.ids(mapped([[1, 100001, 65535], [0, 100000, 1]], [[0, 100000, 65536]])) == (100000, 100000, 65536)


@pytest.mark.parametrize(
    ("uid", "gid"),
    [
        ([[0, 100000, 65536]], []),
        ([[0, 100000, 1000]], [[0, 100000, 65536]]),
        ([[0, 0, 65536]], [[0, 0, 65536]]),
        ([[0, 100000, 65536]], [[0, 200000, 65536]]),
        ([[0, 100000, 1], [2, 100002, 65536]], [[0, 100000, 65536]]),
        ([[0, 100000, 1], [1, 200000, 65536]], [[0, 100000, 65536]]),
    ],
)
def test_mappings_that_break_isolation_are_refused(uid: list[list[int]], gid: list[list[int]]) -> None:
    with pytest.raises(Failure) as caught:
        oci.ids(mapped(uid, gid))
    assert caught.value.code == 1014


def test_random_damage_is_a_failure_or_harmless_never_a_crash(tmp_path: Path) -> None:
    import random

    chance = random.Random(7)
    values: list[Any] = [None, True, -1, 1 << 70, 1.5, "", "x", [], {}, [None], {"a": None}]
    for _ in range(1500):
        config: Any = copy.deepcopy(example())
        here = config
        while True:
            key = chance.choice(list(here) if isinstance(here, dict) else list(range(len(here)))) if here else None
            if key is None or chance.random() < 0.4 or not isinstance(here[key], dict | list):
                break
            here = here[key]
        if key is None:
            continue
        here[key] = chance.choice(values)
        with suppress(Failure):
            plan.make(read(tmp_path, config), "c1", "/bundle", {})
