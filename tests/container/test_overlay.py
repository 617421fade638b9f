"""The second overlay over id-mapped layers, by both ways of mounting it: what is written lands on disk with owners from 0 on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
FIRST = 1_000_000  # the container's first id on the host

# runs in a mount namespace of its own; argv: directory, ways (new or attached), number of lower layers, extra options
SCRIPT = """
import os, sys
sys.path.insert(0, "SRC")
from sysbox.linux import _kernel as k, mountinfo
from sysbox.runtime import rootfs, shift
top, way, layers, extra = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
k.mount(None, "/", None, k.MS_REC | k.MS_SLAVE, None)
k.mount(None, "/", None, k.MS_REC | k.MS_SHARED, None)  # as systemd makes it
os.chdir(top)
os.makedirs("id/diff"); os.makedirs("id/work"); os.makedirs("id/merged"); os.makedirs("l")
for number in range(layers):
    os.makedirs(f"l/{number}/d{number}")
    with open(f"l/{number}/same", "w") as file:
        file.write(str(number))
os.chown("l/0/d0", 7, 8)
with open("l/0/old", "w") as file:
    file.write("old")
lower = ":".join(f"l/{number}" for number in range(layers))
k.mount("overlay", "id/merged", "overlay", 0, f"lowerdir={lower},upperdir=id/diff,workdir=id/work,index=off{extra}")
ready, done = os.pipe(), os.pipe()
child = os.fork()
if not child:  # a user namespace with the ids of the container
    k.unshare(k.CLONE_NEWUSER)
    os.write(ready[1], b"1")
    os.close(done[1])
    os.read(done[0], 1)
    os._exit(0)
os.read(ready[0], 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as file:
        file.write("0 FIRST 65536")
ids = shift.Ids(FIRST, FIRST, 65536, os.open(f"/proc/{child}/ns/user", os.O_RDONLY))
lines = mountinfo.read()
line = mountinfo.at(lines, top + "/id/merged")
fd = rootfs.overlay(line, lines, ids, {}, attached=way == "attached")
assert mountinfo.read() == lines, "it is mounted for others too"
os.makedirs("view")
k.move_mount(fd, "", k.AT_FDCWD, "view", k.MOVE_MOUNT_F_EMPTY_PATH)
assert os.getcwd() == top
assert os.stat("view/d0").st_uid == FIRST + 7, os.stat("view/d0")
assert open("view/same").read() == "0"
worker = os.fork()
if not worker:
    os.setgid(FIRST); os.setuid(FIRST)
    os.chdir("view")
    os.mkdir("new"); open("new/file", "w").write("x"); os.symlink("file", "new/link"); os.link("new/file", "new/hard")
    os.unlink("old"); open("same", "a").write("+"); os.rename("new/file", "renamed")
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
owners = {name: (os.lstat("id/diff/" + name).st_uid, os.lstat("id/diff/" + name).st_gid) for name in ("new", "new/link", "renamed", "same")}
assert set(owners.values()) == {(0, 0)}, owners
assert os.lstat("id/diff/old").st_rdev == 0 and (os.lstat("id/diff/old").st_mode & 0o170000) == 0o020000  # a whiteout
assert open("id/diff/same").read() == "0+"
os.write(done[1], b"1")
print("good")
""".replace("SRC", str(SRC)).replace("FIRST", str(FIRST))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.parametrize("way", ["new", "attached"])
@pytest.mark.parametrize(("layers", "extra"), [(1, ""), (3, ""), (100, ""), (2, ",metacopy=on"), (2, ",volatile")])
def test_an_overlay_over_id_mapped_layers(tmp_path: Path, way: str, layers: int, extra: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    top = tmp_path / "top"
    top.mkdir()
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o005 != 0o005 and str(parent).startswith("/tmp/pytest"):
            parent.chmod(0o755)
    done = subprocess.run(["unshare", "-m", sys.executable, str(script), str(top), way, str(layers), extra], capture_output=True, text=True)
    assert done.stdout == "good\n", done.stderr
