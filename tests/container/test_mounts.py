"""Mounts: their options, their owners, where they end up, and what root inside cannot do to them."""

import os
import subprocess
from pathlib import Path

import pytest

from container.bundle import RUNTIME, Bundle, sysbox_only


def options_of(text: str, where: str) -> set[str]:
    """Return the options of the mount at ``where`` in a mountinfo."""
    for line in reversed(text.splitlines()):
        fields = line.split()
        if fields[4] == where:
            return set(fields[5].split(",")) | set(fields[fields.index("-") + 3].split(","))
    pytest.fail(f"nothing is mounted at {where}")


TMPFS = [
    (["ro"], {"ro"}, set()),
    (["nosuid", "nodev", "noexec"], {"nosuid", "nodev", "noexec"}, set()),
    (["nosuid", "suid"], set(), {"nosuid"}),
    (["noatime"], {"noatime"}, {"relatime"}),
    (["nodiratime"], {"nodiratime"}, set()),
    (["strictatime"], set(), {"relatime", "noatime"}),
    (["size=100k", "mode=700"], {"size=100k", "mode=700"}, set()),
    (["sync"], {"sync"}, set()),
]


@pytest.mark.parametrize(("options", "there", "absent"), TMPFS)
def test_options_of_a_tmpfs(bundle: Bundle, options: list[str], there: set[str], absent: set[str]) -> None:
    bundle.mount("/mnt", "tmpfs", *options, kind="tmpfs")
    bundle.sh("cat /proc/self/mountinfo")
    found = options_of(bundle.good(), "/mnt")
    assert there <= found
    assert not absent & found


BIND = [
    (["ro"], {"ro"}),
    (["nosuid", "noexec", "nodev"], {"nosuid", "noexec", "nodev"}),
    pytest.param(["noatime"], {"noatime"}, marks=sysbox_only),  # runc 1.1 leaves times of access as they are
    pytest.param(["ro", "nodiratime"], {"ro", "nodiratime"}, marks=sysbox_only),
]


@pytest.mark.parametrize("kind", ["bind", "rbind"])
@pytest.mark.parametrize(("options", "there"), BIND)
def test_options_of_a_bind_mount(bundle: Bundle, tmp_path: Path, kind: str, options: list[str], there: set[str]) -> None:
    source = tmp_path / "source"
    source.mkdir(mode=0o755)
    bundle.mount("/mnt", source, kind, *options)
    bundle.sh("cat /proc/self/mountinfo")
    assert there <= options_of(bundle.good(), "/mnt")


def with_mounts_below(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    for command in (
        ["mount", "-t", "tmpfs", "top", source],
        ["mkdir", source / "below"],
        ["mount", "-t", "tmpfs", "below", source / "below"],
    ):
        subprocess.run(list(map(str, command)), check=True)
    return source


@pytest.mark.parametrize(("options", "below"), [(["rbind", "ro"], "rw"), (["rbind", "rro"], "ro")])
def test_recursive_options_reach_what_is_below(bundle: Bundle, tmp_path: Path, options: list[str], below: str) -> None:
    source = with_mounts_below(tmp_path)
    try:
        bundle.mount("/mnt", source, *options)
        bundle.sh("cat /proc/self/mountinfo")
        text = bundle.good()
        assert "ro" in options_of(text, "/mnt")
        found = [line.split()[5].split(",")[0] for line in text.splitlines() if line.split()[4] == "/mnt/below"]
        assert found == [below]
    finally:
        subprocess.run(["umount", "-R", source], check=True)


@sysbox_only
def test_owners_are_shifted_and_others_are_nobody(bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number, owner in enumerate([0, 1000, 65535, 70000]):
        (source / str(number)).write_text("")
        os.chown(source / str(number), owner, owner)
    bundle.mount("/mnt", source, "bind")
    bundle.sh("stat -c %u:%g /mnt/0 /mnt/1 /mnt/2 /mnt/3; touch /mnt/new; chown 5:6 /mnt/new")
    assert bundle.good().split() == ["0:0", "1000:1000", "65535:65535", "65534:65534"]
    created = (source / "new").stat()
    assert (created.st_uid, created.st_gid) == (5, 6)


@sysbox_only
def test_each_mount_below_a_source_is_shifted_as_it_needs(bundle: Bundle, tmp_path: Path) -> None:
    bundle.sh("cut -c11- /proc/self/uid_map")
    first = int(bundle.good().split()[0])
    source = with_mounts_below(tmp_path)
    try:
        for owner in (first, 1000):
            os.chown(source / "below", owner, owner)  # belongs to the container's ids already, or not
            bundle.config["mounts"] = [one for one in bundle.config["mounts"] if one["destination"] != "/mnt"]
            bundle.mount("/mnt", source, "rbind")
            bundle.sh("stat -c %u /mnt /mnt/below")
            assert bundle.good().split() == ["0", "0" if owner == first else "1000"]
        subprocess.run(["mount", "-t", "ramfs", "ramfs", source / "below"], check=True)  # a kind that cannot be id-mapped
        bundle.sh("stat -c %u /mnt /mnt/below")
        assert bundle.good().split() == ["0", "65534"]
    finally:
        subprocess.run(["umount", "-R", source], check=True)


@sysbox_only
def test_skip_uid_shift(bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    bundle.mount("/mnt", source, "bind")
    bundle.config["process"]["env"].append("SYSBOX_SKIP_UID_SHIFT=/mnt")
    bundle.sh("stat -c %u /mnt")
    assert bundle.good().split() == ["65534"]


def test_a_file_is_bound_and_its_place_made(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    file.chmod(0o644)
    bundle.mount("/a/b/file", file, "bind", "ro")
    bundle.sh("cat /a/b/file; echo x > /a/b/file || echo refused")
    assert bundle.good() == "contentrefused\n"


@sysbox_only
@pytest.mark.parametrize("what", ["mount -o remount,rw,bind /mnt", "mount --bind /mnt /tmp; mount -o remount,rw,bind /tmp; touch /tmp/x"])
def test_root_inside_cannot_make_a_read_only_mount_writable(bundle: Bundle, tmp_path: Path, what: str) -> None:
    source = tmp_path / "source"
    source.mkdir(mode=0o777)
    bundle.mount("/mnt", source, "bind", "ro")
    bundle.sh(f"{what}; touch /mnt/x; unshare -m sh -c '{what}; touch /mnt/x'; umount /mnt && echo unmounted")
    assert "unmounted" in bundle.good()
    assert list(source.iterdir()) == []


ESCAPES = ["/link/x", "/tmp/up/../../../../../../x", "/abs/x", "/dangling/x"]


@pytest.mark.parametrize("destination", ESCAPES)
def test_no_destination_leads_out_of_the_root(bundle: Bundle, tmp_path: Path, destination: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    source = tmp_path / "source"
    source.mkdir(mode=0o755)
    (source / "mark").write_text("mark")
    (bundle.rootfs / "link").symlink_to("../outside")
    (bundle.rootfs / "abs").symlink_to(outside)
    (bundle.rootfs / "dangling").symlink_to("/not/there/yet")
    bundle.mount(destination, source, "bind")
    bundle.sh(f"cat {destination}/mark || find / -xdev -name mark -maxdepth 9")
    result = bundle.run()
    assert list(outside.iterdir()) == []
    assert result.status == 0, result
    assert "mark" in result.out


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_symlink_in_the_place_of_a_kernel_file_system(bundle: Bundle, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (bundle.rootfs / name).rmdir()
    (bundle.rootfs / name).symlink_to("../outside")
    bundle.run()
    assert list(outside.iterdir()) == []


@sysbox_only
def test_a_missing_source_is_named(bundle: Bundle) -> None:
    bundle.mount("/mnt", "/no/such/source", "bind")
    result = bundle.run()
    assert result.status == 1
    for word in ("/no/such/source", "/mnt", "open_tree", "ENOENT", "SBX-1033"):
        assert word in result.err


def test_propagation(bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "later").mkdir(parents=True)
    subprocess.run(["mount", "--bind", source, source], check=True)
    subprocess.run(["mount", "--make-shared", source], check=True)
    try:
        for destination, word in (("/slave", "rslave"), ("/private", "rprivate")):
            bundle.mount(destination, source, "rbind", word)
        bundle.sh("sleep 100").start()
        subprocess.run(["mount", "-t", "tmpfs", "later", source / "later"], check=True)
        (source / "later/mark").write_text("")
        assert bundle.inside("ls /slave/later; ls /private/later").split() == ["mark"]
    finally:
        subprocess.run(["umount", "-l", source / "later"], check=False)
        subprocess.run(["umount", "-l", source], check=True)


@sysbox_only
def test_nothing_mounted_inside_reaches_the_host(bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    subprocess.run(["mount", "--bind", source, source], check=True)
    subprocess.run(["mount", "--make-shared", source], check=True)
    try:
        bundle.mount("/mnt", source, "rbind", "rshared")
        bundle.sh("mount -t tmpfs x /mnt/inner && touch /mnt/inner/mark && ls /mnt/inner")
        assert bundle.good() == "mark\n"
        assert list((source / "inner").iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", source], check=True)


def test_read_only_root(bundle: Bundle) -> None:
    bundle.config["root"]["readonly"] = True
    bundle.sh("touch /x || echo refused")
    assert bundle.good() == "refused\n"


def test_masked_and_read_only_paths(bundle: Bundle) -> None:
    bundle.config["linux"]["readonlyPaths"] += ["/proc/irq", "/not/there"]
    bundle.sh("cat /proc/keys; ls /sys/firmware; touch /sys/firmware/x || echo ro; cat /proc/self/mountinfo")
    text = bundle.good()
    assert text.startswith("ro\n")
    assert "ro" in options_of(text, "/proc/irq")


def test_tmpcopyup(bundle: Bundle) -> None:
    (bundle.rootfs / "data/sub").mkdir(parents=True)
    (bundle.rootfs / "data/sub/file").write_text("kept")
    (bundle.rootfs / "data/link").symlink_to("sub/file")
    bundle.mount("/data", "tmpfs", "tmpcopyup", "nosuid", kind="tmpfs")
    bundle.sh("cat /data/link; echo new > /data/sub/file; grep -c ' /data ' /proc/self/mountinfo")
    assert bundle.good() == "kept1\n"
    assert (bundle.rootfs / "data/sub/file").read_text() == "kept"


def test_default_devices_and_links(bundle: Bundle) -> None:
    bundle.sh(
        "for d in null zero full random urandom tty; do stat -c '%n %F %a %t:%T' /dev/$d; done; "
        "readlink /dev/fd; readlink /dev/ptmx; echo x > /dev/null; head -c 4 /dev/zero | wc -c"
    )
    text = bundle.good()
    for line in ("/dev/null character special file 666 1:3", "/dev/tty character special file 666 5:0", "/proc/self/fd", "4"):
        assert line in text


@sysbox_only
def test_devices_of_config_json(bundle: Bundle) -> None:
    bundle.config["linux"]["devices"] = [
        {"path": "/dev/sub/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/opt/elsewhere", "type": "c", "major": 1, "minor": 3},
        {"path": "/dev/pipe", "type": "p"},
    ]
    bundle.sh(
        "stat -c '%F %a %u:%g %t:%T' /dev/sub/mine; stat -c '%F %t:%T' /opt/elsewhere; stat -c %F /dev/pipe; "
        "head -c 3 /dev/sub/mine | wc -c; mknod /dev/new c 1 3 || echo refused"
    )
    assert bundle.good().splitlines() == ["character special file 640 3:4 1:5", "character special file 1:3", "fifo", "3", "refused"]


@sysbox_only
def test_what_a_host_may_mount(bundle: Bundle) -> None:
    bundle.sh(
        "mkdir -p /m/l /m/u /m/w /m/o; mount -t tmpfs t /m/l && mount -t tmpfs u /mnt && mkdir /mnt/u /mnt/w && "
        "mount -t overlay o -o lowerdir=/m/l,upperdir=/mnt/u,workdir=/mnt/w,userxattr /m/o && touch /m/o/x && ls /mnt/u && "
        "mkdir /m/p && mount -t proc p /m/p && test -d /m/p/1 && unshare -U true && unshare -mpf true && echo good"
    )
    assert bundle.good() == "x\ngood\n"


@sysbox_only
@pytest.mark.skipif(not os.path.isdir("/proc/sys/fs/binfmt_misc"), reason="a host without it is asked for headers only if it has modules")
@pytest.mark.parametrize("readonly", [False, True])
def test_headers_of_the_kernel_are_there_if_there_is_a_place(bundle: Bundle, *, readonly: bool) -> None:
    """In a mount namespace in which the host has some; nobody has asked for them, so they are no reason to fail."""
    path = f"/usr/src/linux-headers-{os.uname().release}"
    host = f"mount -t tmpfs none /usr/src && mkdir {path} && touch {path}/Makefile"
    if readonly:
        host += f" && mount --bind {bundle.rootfs} {bundle.rootfs} && mount -o remount,bind,ro {bundle.rootfs}"
    bundle.sh(f"stat -c '%u %n' {path}/*; mount -o remount,bind,rw {path}; touch {path}/x; ls {path}; echo end")
    bundle.write()
    run = f"{RUNTIME} --root {bundle.root} run {bundle.name}"
    command = ["unshare", "-m", "sh", "-c", f"{host} && exec {run}"]
    done = subprocess.run(command, cwd=bundle.directory, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seen = [] if readonly else [f"65534 {path}/Makefile", "Makefile"]
    assert done.stdout.splitlines() == [*seen, "end"], done
