"""docker cp, diff, commit, export: Docker's view of a container's files and the container's own are one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from docker.engine import BUSYBOX, RUNTIME, SYSBOX, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from docker.engine import Engine

LAYERS = 125  # with the one of the container's own and Docker's init layer 127, the most that Docker makes


def test_cp_into_a_running_container_is_seen_at_once(engine: Engine, tmp_path: Path) -> None:
    name = engine.up("--", "sh", "-c", "mkdir /data; echo old >/data/known; touch /data/ready; sleep 1000")
    eventually(lambda: engine.tried("exec", name, "test", "-e", "/data/ready").returncode == 0, what="/data/ready")
    # What is absent, and what a file says, is cached by those who looked.
    assert engine.exec(name, "ls /data/new /root/new 2>/dev/null; cat /data/known; ls /data") == "old\nknown\nready"
    (tmp_path / "file").write_text("from outside\n")
    engine("cp", str(tmp_path / "file"), f"{name}:/data/new")
    assert engine.exec(name, "cat /data/new") == "from outside"
    engine("cp", str(tmp_path / "file"), f"{name}:/data/known")
    assert engine.exec(name, "cat /data/known") == "from outside"
    engine("cp", str(tmp_path / "file"), f"{name}:/root/")
    assert engine.exec(name, "cat /root/file; ls /data").split() == ["from", "outside", "known", "new", "ready"]


@pytest.mark.parametrize("count", range(3))
def test_cp_again_and_again(engine: Engine, tmp_path: Path, count: int) -> None:
    name = engine.up()
    for text in ("one", "two", "three"):
        (tmp_path / "file").write_text(text)
        engine("cp", str(tmp_path / "file"), f"{name}:/etc/file")
        assert engine.exec(name, "cat /etc/file") == text
        assert engine.exec(name, f"echo {text} inside >/etc/file; cat /etc/file") == f"{text} inside"
        engine("cp", f"{name}:/etc/file", str(tmp_path / "back"))
        assert (tmp_path / "back").read_text() == f"{text} inside\n"


def test_cp_a_tree_and_over_what_the_image_has(engine: Engine, tmp_path: Path) -> None:
    name = engine.up()
    assert engine.exec(name, "grep -c root: /etc/passwd") == "1"
    tree = tmp_path / "tree"
    (tree / "deep/er").mkdir(parents=True)
    (tree / "deep/er/file").write_text("x")
    (tree / "link").symlink_to("deep/er/file")
    engine("cp", str(tree), f"{name}:/srv")
    assert engine.exec(name, "cat /srv/link; stat -c %u:%g /srv/deep/er/file") == "x0:0"
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\nnew:x:5:5::/:/bin/sh\n")
    engine("cp", str(tmp_path / "passwd"), f"{name}:/etc/passwd")
    assert engine.exec(name, "grep -c . /etc/passwd; tail -n 1 /etc/passwd").split() == ["2", "new:x:5:5::/:/bin/sh"]


def test_cp_keeps_owners_with_archive(engine: Engine, tmp_path: Path) -> None:
    name = engine.up()
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 1000, 33)
    engine("cp", "-a", str(tmp_path / "file"), f"{name}:/file")
    assert engine.exec(name, "stat -c %u:%g /file") == "1000:33"


def test_cp_through_standard_streams(engine: Engine) -> None:
    name = engine.up()
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w") as tar:
        member = tarfile.TarInfo("piped")
        member.size, member.uid = 5, 1000
        tar.addfile(member, io.BytesIO(b"hello"))
    subprocess.run(["docker", "cp", "-a", "-", f"{name}:/tmp"], input=blob.getvalue(), env=engine.env, check=True)
    assert engine.exec(name, "cat /tmp/piped; stat -c :%u /tmp/piped") == "hello:1000"
    out = subprocess.run(["docker", "cp", f"{name}:/tmp/piped", "-"], stdout=subprocess.PIPE, env=engine.env, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        assert (tar.getmembers()[0].name, tar.getmembers()[0].uid) == ("piped", 1000)


def test_cp_into_a_volume_of_a_running_container(engine: Engine, tmp_path: Path) -> None:
    name = engine.up("-v", "/data")
    (tmp_path / "file").write_text("x")
    engine("cp", str(tmp_path / "file"), f"{name}:/data/file")
    assert engine.exec(name, "cat /data/file; stat -c :%u /data/file") == "x:0"


def test_cp_before_start_and_after_stop(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("early")
    name = engine("create", f"--runtime={RUNTIME}", BUSYBOX, "sh", "-c", "cat /early; stat -c :%u /early; echo made >/made")
    engine("cp", str(tmp_path / "file"), f"{name}:/early")
    assert engine("start", "-a", name) == "early:0"
    engine("cp", f"{name}:/made", str(tmp_path / "made"))
    assert (tmp_path / "made").read_text() == "made\n"


def test_diff_shows_what_the_container_changed_and_no_more(engine: Engine) -> None:
    name = engine.up()
    engine.exec(name, "echo >/srv; rm /etc/group; echo x >>/etc/passwd; mkdir /opt; touch /opt/file")
    lines = set(engine("diff", name).splitlines())
    assert lines - {"C /root"} - mounted(lines) == {"A /srv", "C /etc", "D /etc/group", "C /etc/passwd", "A /opt", "A /opt/file"}


def mounted(lines: set[str]) -> set[str]:
    """Mount points that a system container is given."""
    points = ("/var", "/var/lib", "/var/lib/docker", "/lib", "/usr", "/run", "/dev", "/sys", "/proc")
    return {line for line in lines if SYSBOX and (line[2:] in points or line[2:].startswith(("/var/lib/", "/lib/modules", "/usr/src")))}


def test_commit_keeps_owners_modes_and_deletions(engine: Engine) -> None:
    name = engine.up()
    engine.exec(
        name,
        "mkdir -p /srv/d; touch /srv/d/f; chown -R 1000:33 /srv; chmod 4750 /srv/d/f; rm /etc/group; mknod /srv/pipe p; ln -s d /srv/l",
    )
    engine("commit", "-c", 'CMD ["echo", "committed"]', name, "made")
    assert engine.run("made") == "committed"
    show = ["sh", "-c", "stat -c %n=%u:%g:%a /srv /srv/d/f; test -p /srv/pipe && readlink /srv/l; ls /etc/group 2>/dev/null || echo gone"]
    want = ["/srv=1000:33:755", "/srv/d/f=1000:33:4750", "d", "gone"]
    assert engine.run("made", *show).split() == want
    # The image is one for every runtime.
    assert engine("run", "--rm", "--runtime=runc", "made", *show).split() == want
    engine("rmi", "made")


def test_commit_pauses_and_goes_on(engine: Engine) -> None:
    name = engine.up()
    engine("commit", name, "made")
    assert engine.get(name, ".State.Status") == "running"
    assert engine.exec(name, "echo alive") == "alive"
    engine("rmi", "made")


def test_file_capability_survives_a_commit(engine: Engine, tmp_path: Path) -> None:
    name = engine("run", "-d", f"--runtime={RUNTIME}", "sysbox/docker", "sleep", "1000")
    engine.exec(name, "cp /bin/true /usr/local/bin/able && setcap cap_net_raw+ep /usr/local/bin/able")
    engine("commit", name, "made")
    assert "cap_net_raw" in engine.run("made", "getcap", "/usr/local/bin/able")
    engine("rm", "-f", name)
    engine("rmi", "made")


def test_export_has_container_owners(engine: Engine, tmp_path: Path) -> None:
    name = engine.up()
    engine.exec(name, "touch /mine; chown 1000:33 /mine")
    engine("export", "-o", str(tmp_path / "out.tar"), name)
    with tarfile.open(tmp_path / "out.tar") as tar:
        owners = {member.name: (member.uid, member.gid) for member in tar}
    assert owners["mine"] == (1000, 33)
    assert owners["etc/passwd"] == owners["bin/busybox"] == (0, 0)
    engine("import", str(tmp_path / "out.tar"), "again")
    assert engine.run("again", "stat", "-c", "%u:%g", "/mine") == "1000:33"
    engine("rmi", "again")


def test_files_on_disk_have_container_owners(engine: Engine) -> None:
    name = engine.up()
    engine.exec(name, "touch /mine /roots; chown 1000:33 /mine")
    upper = engine.get(name, ".GraphDriver.Data.UpperDir")
    assert [(seen.st_uid, seen.st_gid) for seen in (os.stat(f"{upper}/{path}") for path in ("mine", "roots"))] == [(1000, 33), (0, 0)]


def test_many_layers(engine: Engine, tmp_path: Path) -> None:
    import hashlib

    blobs, digests = {}, []
    for number in range(LAYERS - 1):
        blob = io.BytesIO()
        with tarfile.open(fileobj=blob, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(f"layer{number}"))
        blobs[f"{number}/layer.tar"] = blob.getvalue()
        digests.append("sha256:" + hashlib.sha256(blob.getvalue()).hexdigest())
    engine("save", "-o", str(tmp_path / "base.tar"), BUSYBOX)
    with tarfile.open(tmp_path / "base.tar") as tar:
        manifest = json.load(tar.extractfile("manifest.json") or io.BytesIO())[0]
        config = json.load(tar.extractfile(manifest["Config"]) or io.BytesIO())
        blobs["base.tar"] = (tar.extractfile(manifest["Layers"][0]) or io.BytesIO()).read()
    config["rootfs"]["diff_ids"] += digests
    config.pop("history", None)
    layers = ["base.tar", *(f"{number}/layer.tar" for number in range(LAYERS - 1))]
    blobs["config.json"] = json.dumps(config).encode()
    blobs["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": ["many:latest"], "Layers": layers}]).encode()
    with tarfile.open(tmp_path / "many.tar", "w") as tar:
        for name, data in blobs.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    engine("load", "-i", str(tmp_path / "many.tar"))
    assert engine.run("many", "sh", "-c", "ls / | grep -c layer; rm /layer7 && touch /x && ls / | grep -c layer").split() == [
        str(LAYERS - 1),
        str(LAYERS - 2),
    ]
    engine("rmi", "many")
