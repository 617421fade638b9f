"""Trapped system calls of real containers: what may be mounted by which way, what stays as it is, and what is only pretended."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from container.bundle import RUNTIME, Bundle, sysbox_only, wait_for
from container.test_emulation import workers

pytestmark = [sysbox_only, pytest.mark.timeout(120)]
EPERM, EBUSY, EXDEV, EINVAL, EROFS, ENOSYS, ENODATA, ENOTSUP = 1, 16, 18, 22, 30, 38, 61, 95
X86 = os.uname().machine == "x86_64"
x86_only = pytest.mark.skipif(not X86, reason="numbers of x86_64")


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("calls") / "calls"
    source = Path(__file__).with_name("calls.c")
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-no-pie", "-o", program, source], check=True, timeout=60)
    return program


@pytest.fixture
def box(bundle: Bundle, calls: Path) -> Bundle:
    """A bundle, not started, with /bin/calls and places to mount at."""
    shutil.copy(calls, bundle.rootfs / "bin/calls")
    for name in ("t", "ov", "src/tmpfs", "src/overlay", "chroot"):
        (bundle.rootfs / name).mkdir(parents=True)
    (bundle.rootfs / "tf").touch()
    bundle.sh("sleep 1000")
    return bundle


def results(text: str) -> list[tuple[int, int]]:
    """Read what calls printed: (result, errno) of each."""
    return [(int(line.split()[0]), int(line.split()[1])) for line in text.splitlines()]


def errnos(box: Bundle, script: str, *flags: str) -> list[int]:
    done = box.exec(*flags, "NAME", "sh", "-c", script)
    assert done.status == 0, done
    return [errno for _, errno in results(done.out)]


def uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


# --- what may be mounted

FLAGS = {"none": 0, "ro": 1, "nosuid,nodev,noexec": 14}
CONTEXTS = {
    "plain": "sh",
    "chroot": "chroot /chroot sh",
    "mounts": "unshare -m sh",
    "user": "unshare -Urm sh",
    "user and pids": "unshare -Urmpf sh",
    "all": "unshare -Urmpfinu sh",
}
LAYERS = {"lowerdir": "/ov/l", "upperdir": "/ov/u", "workdir": "/ov/w"}


def way(call: str, kind: str, flags: int) -> str:
    """Write the calls that mount something at /t."""
    source = {"proc": "/proc", "sysfs": "/sys"}.get(kind, f"/src/{kind}")
    if call == "mount":
        data = "s:" + ",".join(f"{name}={value}" for name, value in LAYERS.items()) if kind == "overlay" else "0"
        return f"165 s:{kind} s:/t s:{kind} {flags} {data}"
    if call == "new":
        options = [f"431 r:0 1 s:{name} s:{value} 0" for name, value in LAYERS.items()] if kind == "overlay" else []
        steps = [f"430 s:{kind} 0", *options, "431 r:0 6 0 0 0", f"432 r:0 0 {flags}"]
        return " -- ".join([*steps, f"429 r:{len(steps) - 1} s: -100 s:/t 4"])
    if call == "clone":
        return f"428 -100 s:{source} 1 -- 442 r:0 s: 0x1000 a:{flags} 32 -- 429 r:0 s: -100 s:/t 4"
    return f"165 s:{source} s:/t 0 {0x1000 if call == 'bind' else 0x5000} 0 -- 442 -100 s:/t 0 a:{flags} 32"


POLICY = [  # (types, ways, contexts, errno): as on a host, where root of a namespace mounts the proc and sysfs of its own namespaces only
    ("tmpfs overlay", "mount new clone bind rbind", "plain chroot mounts user user-and-pids all", 0),
    ("proc sysfs", "clone bind rbind", "plain chroot mounts user user-and-pids all", 0),
    ("proc sysfs", "mount new", "plain chroot mounts all", 0),
    ("proc sysfs", "mount new", "user", EPERM),
    ("proc", "mount new", "user-and-pids", 0),
    ("sysfs", "mount new", "user-and-pids", EPERM),
]
LOOK = """
look() { # TYPE FLAGS-OF-UMOUNT2
    echo "top $(grep ' /t ' /proc/self/mountinfo | tail -n1 | cut -d' ' -f6-)"
    case $1 in
    proc) parts="uptime keys bus" ;;
    sysfs) parts="kernel/config kernel firmware" ;;
    *) parts= ;;
    esac
    for part in $parts $parts $parts; do set -- $1 $2 "$3 $(calls 166 s:/t/$part 0)"; done
    echo "part $3"
    case $1 in
    proc)
        echo "uptime $(cut -d. -f1 /t/uptime)"
        echo "keys $(stat -c %F /t/keys)"
        echo "bus $(grep ' /t/bus ' /proc/self/mountinfo | cut -d' ' -f6)"
        ;;
    sysfs)
        echo "config $(stat -c '%F %u' /t/kernel/config)"
        echo "firmware $(ls -A /t/firmware | wc -l) $(grep ' /t/firmware ' /proc/self/mountinfo | cut -d' ' -f6)"
        ;;
    *)
        echo "below $(grep -c ' /t/' /proc/self/mountinfo)"
        touch /t/file 2>/dev/null; echo "touch $?"
        ;;
    esac
    echo "umount $(calls 166 s:/t $2)"
    echo "left $(grep -c ' /t[ /]' /proc/self/mountinfo)"
    umount -l /t 2>/dev/null
}
"""
PREPARE = """
mount -t tmpfs t /src/tmpfs && mount -t tmpfs o /ov && mkdir -p /ov/l /ov/u /ov/w /ov/l2 /ov/u2 /ov/w2 &&
calls 165 s:o s:/src/overlay s:overlay 0 s:lowerdir=/ov/l2,upperdir=/ov/u2,workdir=/ov/w2
"""


def seen(kind: str, flags: str, text: dict[str, str], limit: float) -> list[str]:
    """Compare a mount with what there has to be; return what is wrong."""
    options, _, system = text["top"].partition(" - ")
    have = set(options.split()[0].split(","))
    super_options = set(system.split()[-1].split(","))
    wanted = set(flags.split(",")) if flags != "none" else {"rw"}
    rules = {"flags": wanted <= have, "umount": text["umount"] == "0 0", "left": text["left"] == "0"}
    if kind in ("proc", "sysfs"):
        # it is said to be off, as what it is mounted on will be, so many times as something is mounted there, but stays
        said = text["part"].split()
        rules["part"] = said[:6] == ["0"] * 6 and said[12:] == ["-1", str(EINVAL)] * 3
    if kind == "proc":
        rules |= {"uptime": int(text["uptime"]) < limit, "keys": text["keys"] == "character special file"}
        rules |= {"bus": "ro" in text["bus"].split(",")}
    elif kind == "sysfs":
        rules |= {"config": text["config"].startswith("directory"), "firmware": text["firmware"].startswith("0 ro,")}
    else:
        rules |= {"below": text["below"] == "0", "touch": (text["touch"] == "0") == (flags != "ro")}
        rules |= {"type": system.split()[0] == kind, "userxattr": ("userxattr" in super_options) == (kind == "overlay")}
    return [name for name, good in rules.items() if not good]


@x86_only
@pytest.mark.parametrize("context", CONTEXTS)
def test_what_may_be_mounted_and_how(box: Bundle, context: str) -> None:
    limit = uptime()
    cases = [
        (call, kind, flags, errno)
        for kinds, ways, contexts, errno in POLICY
        for kind in kinds.split()
        for call in ways.split()
        for flags in FLAGS
        if context.replace(" ", "-") in contexts.split()
    ]
    script = LOOK
    for number, (call, kind, flags, _) in enumerate(cases):
        script += f"echo '== {number}'\ncalls {way(call, kind, FLAGS[flags])} > /dev/shm/result 2>&1\n"
        script += "sed 's/^/call /' /dev/shm/result\n"
        lazily = 2 if (call, kind) == ("rbind", "sysfs") else 0  # the cgroups, which are mounted there, are copied along
        script += f"grep -q ' /t ' /proc/self/mountinfo && look {kind} {lazily}\n"
    box.start()
    assert results(box.inside(PREPARE)) == [(0, 0)]
    if context == "chroot":
        box.inside("mount --rbind / /chroot")
    done = box.exec("NAME", *CONTEXTS[context].split(), "-c", script, timeout=60)
    wrong = []
    blocks = done.out.split("== ")[1:]
    assert len(blocks) == len(cases), done
    for (call, kind, flags, errno), block in zip(cases, blocks, strict=True):
        lines = block.splitlines()[1:]
        failed = [line.split()[2] for line in lines if line.startswith("call -1")]
        text = dict(line.split(" ", 1) for line in lines if not line.startswith("call"))
        if (int(failed[0]) if failed else 0) != errno:
            wrong.append(f"{call} {kind} {flags}: errno {failed} instead of {errno}")
        elif errno == 0:
            wrong += [f"{call} {kind} {flags}: {name}: {text.get(name, text)}" for name in seen(kind, flags, text, limit)]
        elif text:
            wrong.append(f"{call} {kind} {flags}: mounted in spite of it: {text}")
    assert not wrong, "\n".join(wrong)


# --- what nobody inside may change

# $P: what must stay as it is; $T: a place for copies, outside of it
ROUTES = """
remount: calls 165 0 s:$P 0 0x1020 0
remount the file system: calls 165 0 s:$P 0 0x20 0
reconfigure: calls 433 -100 s:$P 0 -- 431 r:0 0 s:rw 0 0 -- 431 r:0 7 0 0 0
bind and remount: calls 165 s:$P s:$T 0 0x1000 0 -- 165 0 s:$T 0 0x1020 0
rbind and remount: calls 165 s:$P s:$T 0 0x5000 0 -- 165 0 s:$T 0 0x1020 0
mount_setattr: calls 442 -100 s:$P 0 a:0,1 32
mount_setattr below: calls 442 -100 s:$P 0x8000 a:0,1 32
rbind and mount_setattr below: calls 165 s:$P s:$T 0 0x5000 0 -- 442 -100 s:$T 0x8000 a:0,1 32
clone: calls 428 -100 s:$P 1 -- 442 r:0 s: 0x1000 a:0,1 32 -- 257 r:0 s:x 0x41 0644 -- 429 r:0 s: -100 s:$T 4
clone all: calls 428 -100 s:$P 0x8001 -- 442 r:0 s: 0x9000 a:0,1 32 -- 257 r:0 s:x 0x41 0644 -- 429 r:0 s: -100 s:$T 4
open_tree_attr: calls 467 -100 s:$P 1 a:0,1 32 -- 429 r:0 s: -100 s:$T 4
open_tree_attr below: calls 467 -100 s:$P 0x8001 a:0,1 32 -- 429 r:0 s: -100 s:$T 4
copy what is around: calls 165 s:$UP s:$D 0 0x5000 0 -- 442 -100 s:$D 0x8000 a:0,1 32 -- 166 s:$D/$NAME 2 -- 442 -100 s:$D/$NAME 0 a:0,1 32
bind what is around: calls 165 s:$UP s:$D 0 0x1000 0 -- 165 0 s:$D 0 0x1020 0
clone what is around: calls 428 -100 s:$UP 0x8001 -- 442 r:0 s: 0x9000 a:0,1 32 -- 429 r:0 s: -100 s:$D 4 -- 166 s:$D/$NAME 2
clone around alone: calls 428 -100 s:$UP 1 -- 442 r:0 s: 0x1000 a:0,1 32 -- 429 r:0 s: -100 s:$D 4
cover and uncover: calls 165 s:/dev/shm/$KIND s:$P 0 0x1000 0 -- 166 s:$P 0 -- 166 s:$P 0 -- 166 s:$P 2
unmount: calls 166 s:$P 0 -- 166 s:$P 1 -- 166 s:$P 4 -- 166 s:$P 4
unmount lazily: calls 166 s:$P 2
unmount lazily by a propagated copy: calls 165 0 s:/ 0 0x104000 0; unshare -m --propagation shared calls 166 s:$P 2
move: calls 165 s:$P s:$T 0 0x2000 0 -- 165 0 s:$T 0 0x1020 0
move_mount: calls 429 -100 s:$P -100 s:$T 0 -- 442 -100 s:$T 0 a:0,1 32
move what is around: calls 165 s:$UP s:$D 0 0x2000 0 -- 166 s:$D/$NAME 2
unmount what is around: cd $UP; calls 166 s:$UP 2; P=${NAME:-/}
"""
THINGS = {  # its path, what is mounted there as a mountinfo has it
    "bind": ("/mnt", "{}/source"),
    "file": ("/etc/file", "{}/file"),
    "readonlyPaths": ("/proc/bus", "/bus"),
    "masked file": ("/proc/keys", "/null"),
    "masked directory": ("/sys/firmware", "none"),
    "root of a read-only container": ("/", "{}/rootfs"),
    "sysfs of a read-only container": ("/sys", "none"),
    "cgroups of a read-only container": ("/sys/fs/cgroup", "none"),
    "a cgroup of a read-only container": ("/sys/fs/cgroup/GROUP", "none"),
    "tmpfs": ("/data", "none"),
    "on a read-only tmpfs": ("/data/file", "{}/file"),
}
LOOK_AROUND = """
P={path} UP={up} NAME={name} KIND={kind} T=/dev/shm/t{kind} D=/dev/shm/d
look() {{
    grep ' {root} ' /proc/self/mountinfo | grep -e ' {path} ' -e ' /dev/shm/' | cut -d' ' -f5,6
    for p in $P $T $D/$NAME; do
        echo "at $(stat -c %F $p 2>/dev/null | tr ' ' -),$(calls 90 s:$p 0777)"
        {{ test ! -d $p || touch $p/x; test ! -f $p || echo x >> $p; }} 2>/dev/null
    done
}}
"""


def attempts(box: Bundle, path: str, root: str, way_in: str) -> dict[str, list[str]]:
    """Go all routes in namespaces of their own; return what was found after each: mounts with their options, what may be changed."""
    up, _, name = path.rpartition("/")
    kind = box.inside(f"test -d {path} && echo dir || echo file").strip()
    head = LOOK_AROUND.format(path=path, up=up or "/", name=name, root=root, kind=kind)
    box.inside(f"mkdir -p /dev/shm/tdir /dev/shm/d /dev/shm/dir; touch /dev/shm/tfile /dev/shm/file\ncat > /dev/shm/head << 'E'\n{head}E\n")
    script = ""
    for line in ROUTES.strip().splitlines():
        title, _, command = line.partition(": ")
        script += f"echo '== {title}'\n{way_in} sh -c '. /dev/shm/head; {{ {command}; }} > /dev/shm/said 2>&1; look'\n"
    blocks = box.exec("NAME", "sh", "-c", script, timeout=60).out.split("== ")[1:]
    found = {block.splitlines()[0]: block.splitlines()[1:] for block in blocks}
    assert len(found) == len(ROUTES.strip().splitlines())
    return found


@x86_only
@pytest.mark.parametrize("way_in", ["unshare -m", "unshare -Urm"])
@pytest.mark.parametrize("thing", THINGS)
def test_what_is_immutable_stays_so(box: Bundle, tmp_path: Path, thing: str, way_in: str) -> None:
    source, file = tmp_path / "source", tmp_path / "file"
    source.mkdir()
    source.chmod(0o777)
    file.write_text("as it was")
    file.chmod(0o666)
    box.mount("/mnt", source, "ro")
    box.mount("/etc/file", file, "ro")
    box.mount("/data", "tmpfs", "ro", kind="tmpfs")
    box.mount("/data/file", file, "ro")
    box.config["root"]["readonly"] = thing.endswith("read-only container")
    box.start()
    path, root = THINGS[thing]
    path = path.replace("GROUP", box.inside("ls /sys/fs/cgroup").split()[0])
    for title, lines in attempts(box, path, root.format(tmp_path), way_in).items():
        places = [line.removeprefix("at ").split(",") for line in lines if line.startswith("at ")]
        mounts = [line.split()[1].split(",")[0] for line in lines if not line.startswith("at ")]
        assert len(places) == 3, (title, lines)
        if thing == "masked file":
            for kind, did in places:  # it is that, or a file of our own
                assert kind in ("character-special-file", "") or did == "0 0", title
        else:
            assert set(mounts) <= {"ro"}, title
            for kind, did in places:  # EPERM: it belongs to somebody else, and might be written if it belonged to us
                assert did in ("0 0", "-1 2", "-1 20", f"-1 {EROFS}"), (title, kind)
    assert list(source.iterdir()) == []
    assert not (box.rootfs / "x").exists()
    assert file.read_text() == "as it was"
    assert box.inside(f"test -d {path} || stat -c %F {path}").strip() in ("", "regular file", "character special file")


@x86_only
def test_what_root_inside_has_made_read_only_may_be_changed(box: Bundle) -> None:
    """The same routes lead somewhere where they may."""
    (box.rootfs / "own").mkdir()
    box.start()
    assert errnos(box, "calls 165 s:/own s:/own 0 0x1000 0 -- 165 0 s:/own 0 0x1021 0; calls 90 s:/own 0777") == [0, 0, EROFS]
    found = attempts(box, "/own", f"{box.rootfs}/own", "unshare -m")
    ways = {title for title, lines in found.items() if any(line.split()[1].split(",")[0] == "rw" for line in lines if line[0] == "/")}
    assert {"remount", "bind and remount", "rbind and remount", "mount_setattr", "clone", "clone all", "move", "move_mount"} <= ways


@x86_only
@pytest.mark.parametrize("source", ["/proc/sys", "/proc/sys/net", "/proc/sys/kernel", "/proc/1/../sys/net/core"])
@pytest.mark.parametrize("way_in", ["unshare -m", "unshare -Urm"])
def test_a_bind_of_a_part_of_proc_takes_what_is_below_along(box: Bundle, source: str, way_in: str) -> None:
    """As LXC does: bind /proc/sys/net elsewhere, make /proc/sys read-only, move it back."""
    box.start()
    new = "calls 428 -100 s:$S 1 -- 429 r:0 s: -100 s:/mnt 4"
    script = f"S={source}; mount --bind $S /mnt && ls /mnt | wc -l; umount /mnt; ls $S | wc -l; {new}; ls /mnt | wc -l"
    seen = box.inside(f"{way_in} sh -c '{script}'").split()
    assert seen[0] == seen[-1] != "0"
    lxc = "mount --bind /proc/sys/net /proc/tty && mount --bind /proc/sys /proc/sys && calls 165 0 s:/proc/sys 0 0x1021 0 >/dev/null"
    test = "mount --move /proc/tty /proc/sys/net && echo fq >/proc/sys/net/core/default_qdisc && ! echo 5 >/proc/sys/kernel/pid_max"
    assert box.inside(f"{way_in} sh -c '{lxc} && {test} && cat /proc/sys/net/core/default_qdisc' 2>/dev/null") == "fq\n"


WHOLE = ["/proc", "/sys", "/proc/sys", "/proc/sys/net", "/sys/class"]
BRANCHES = ["/sys/devices", "/sys/module", "/sys/kernel", "/sys/devices/virtual"]


@pytest.mark.parametrize("option", ["--bind", "--rbind"])
@pytest.mark.parametrize(
    ("way_in", "sources", "off"),
    [
        ("", WHOLE, "points | tac | while read -r m; do umount $m || echo $m; done"),  # as umount -R does
        ("", BRANCHES, "umount -l /t"),
        ("unshare -Urm", WHOLE + BRANCHES, "umount -l /t"),  # binfmt_misc is locked there, on any host
    ],
)
def test_directories_of_proc_and_sys_are_bound_and_taken_off(box: Bundle, option: str, way_in: str, sources: list[str], off: str) -> None:
    """Whether there are parts below or not."""
    (box.rootfs / "t/own").mkdir()
    (box.rootfs / "try").write_text(f"""
        points() {{ awk '$5 ~ "^/t($|/)" {{ print $5 }}' /proc/self/mountinfo; }}
        for n in 1 2 3; do
            ls $1 | grep -v '^[0-9]' >/tmp/seen; mount {option} $1 /t && ls /t | grep -v '^[0-9]' | cmp - /tmp/seen
            {off}
            points | wc -l
        done
        ls /t
    """)
    box.start()
    for source in sources:
        assert box.inside(f"{way_in} sh /try {source} 2>&1").split() == ["0", "0", "0", "own"], source


def test_a_part_is_not_taken_off_the_first_proc_nor_what_covers_one_left(box: Bundle) -> None:
    box.start()
    box.inside("umount /proc/uptime && exit 1; mount --rbind /proc /t; mount -t tmpfs none /t/sys/kernel; mount --bind /bin/sh /t/uptime")
    box.inside(
        "umount /t && exit 1; umount /t/uptime && umount /t/uptime && cat /t/uptime && ls /t/sys/kernel && umount /t && exit 1; true"
    )
    assert box.inside("umount /t/sys/kernel; ls /t/sys/kernel | head -1; umount /t; ls /t | wc -l").split() == ["acct", "0"]


@x86_only
def test_namespaces_are_bound_by_their_thread(box: Bundle) -> None:
    """As Docker's networks do: /proc/self/task/N, whose names the kernel has not cached."""
    box.start()
    for path in ("/proc/self/task/$$/ns/net", "/proc/self/ns/net", "/proc/thread-self/ns/net", "/proc/$$/ns/net"):
        shell = f"touch /tmp/ns; exec calls 165 s:{path} s:/tmp/ns 0 0x1000 0"
        assert box.inside(f"sh -c '{shell}'; umount /tmp/ns") == "0 0\n", path


# --- what is answered in the kernel's stead


@x86_only
def test_openat2_that_crosses_no_mount_finds_emulated_files(box: Bundle) -> None:
    box.start()
    box.inside("echo 7 > /proc/sys/kernel/panic; echo sfq > /proc/sys/net/core/default_qdisc")
    native, stay, beneath = "h:0,0,0", "h:0,0,1", "h:0,0,9"  # RESOLVE_NO_XDEV is 1, RESOLVE_BENEATH 8
    opened = "calls 437 -100 s:/proc h:2162688,0,0 24"  # O_PATH|O_DIRECTORY, as runc opens it
    for how in (native, stay, beneath):
        of_the_kernel = [(f"{dot}sys/net/ipv4/ip_unprivileged_port_start", "1024") for dot in ("", "./")]  # by a mirror
        for path, value in (("sys/kernel/panic", "7"), ("sys/net/core/default_qdisc", "sfq"), *of_the_kernel):
            script = f"437 r:0 s:{path} {how} 24 -- 0 r:1 b: 20"
            assert box.inside(f"{opened} -- {script}").splitlines()[2] == f"{len(value) + 1} 0 {value}", (how, path)
            relative = script.replace("r:0", "-100").replace("r:1", "r:0")
            assert box.inside(f"cd /proc && calls {relative}").splitlines()[1].split()[2:] == [value]
        assert errnos(box, f"{opened} -- 437 r:0 s:sys/kernel/ostype {how} 24") == [0, 0]
        masked = 0 if how == native else EXDEV
        assert errnos(box, f"{opened} -- 437 r:0 s:keys {how} 24 -- 437 r:0 s:bus {how} 24") == [0, masked, masked]
    path_only = f"{0o10000000},0,9"  # O_PATH
    script = f"437 r:0 s:sys/kernel/panic h:{path_only} 24 -- 0 r:1 b: 20"
    assert box.inside(f"{opened} -- {script}").splitlines()[2] == "2 0 7"
    script = f"437 r:0 s:./sys/net/ipv4/ip_default_ttl h:{0o10400000},0,15 24 -- 0 r:1 b: 20"  # O_PATH|O_NOFOLLOW, no links either: runc
    assert box.inside(f"{opened} -- {script}").splitlines()[2] == "3 0 64"
    outside = "mkdir -p /tmp/sys/net && mount -t tmpfs none /tmp/sys/net && echo other >/tmp/sys/net/file && cd /tmp"
    assert box.inside(f"{outside} && calls 437 -100 s:sys/net/file h:0,0,1 24") == f"-1 {EXDEV}\n"
    box.inside("mkdir /tmp/net /tmp/net/sub /tmp/sub")
    there = f"calls 437 -100 s:/tmp h:{0o10000000},0,0 24"
    assert errnos(box, f"{there} -- 437 r:0 s:sub h:{path_only} 24 -- 437 r:0 s:net/sub h:{path_only} 24") == [0, 0, 0]
    writing = f"{opened} -- 437 r:0 s:sys/kernel/panic h:1,0,1 24 -- 1 r:1 s:9 1 -- 437 r:0 s:sys/kernel/panic h:64,511,1 24"
    assert errnos(box, writing)[:3] == [0, 0, 0]
    assert box.inside("cat /proc/sys/kernel/panic") == "9\n"


PRETENDED = "167 s:/swap 0 -- 168 s:/swap 0 -- 164 h:1000,0 0 -- 227 0 h:1000,0"  # swapon, swapoff, settimeofday, clock_settime
PRETENDED_I386 = "i:87 s:/swap 0 -- i:115 s:/swap -- i:79 h:1000 0 -- i:25 h:1000 -- i:264 0 h:1000 -- i:404 0 h:1000,0"


@x86_only
def test_swap_and_clock_are_pretended_to_those_who_may(box: Bundle) -> None:
    box.start()
    drift, swaps = time.time() - time.monotonic(), Path("/proc/swaps").read_text()
    assert errnos(box, f"calls {PRETENDED}") == [0] * 4
    assert errnos(box, f"calls {PRETENDED}", "--user", "1000") == [EPERM] * 4
    assert errnos(box, f"unshare -Ur calls {PRETENDED}") == [EPERM] * 4
    assert abs(time.time() - time.monotonic() - drift) < 5
    assert Path("/proc/swaps").read_text() == swaps


@x86_only
def test_ctrl_alt_del_is_nobodys(box: Bundle) -> None:
    box.start()
    switch = "calls 169 0xfee1dead 672274793 0 -- 169 0xfee1dead 672274793 0x89abcdef"
    assert errnos(box, switch) == [0, 0]
    assert errnos(box, switch, "--user", "1000") == [EPERM, EPERM]
    assert errnos(box, "calls 169 1 2 0x4321fedc -- 169 0xfee1dead 672274793 1") == [EINVAL, EINVAL]


@x86_only
def test_numbers_of_x32_are_none(box: Bundle) -> None:
    box.start()
    assert results(box.inside("calls 0x40000027 -- 0x400000a5 s:proc s:/t s:proc 0 0")) == [(-1, ENOSYS)] * 2


@x86_only
def test_32_bit_calls(box: Bundle) -> None:
    """Through int 0x80, as a 32-bit program makes them."""
    box.start()
    if box.exec("NAME", "calls", "i:20").status:
        pytest.skip("this kernel runs no 32-bit programs")
    limit = uptime()
    for end in ("22 s:/t", "52 s:/t 0", "52 s:/t 2"):
        mounted = "calls i:21 s:proc s:/t s:proc 1 0 -- i:20; cat /t/uptime"
        text = box.inside(f"{mounted}; calls i:{end}; grep -c ' /t ' /proc/self/mountinfo || true")
        lines = text.splitlines()
        assert (lines[0], lines[3], lines[4]) == ("0 0", "0 0", "0"), text
        assert float(lines[2].split()[0]) < limit
    assert errnos(box, f"calls {PRETENDED_I386} -- i:88 0xfee1dead 672274793 0") == [0] * 7
    assert errnos(box, f"calls {PRETENDED_I386}", "--user", "1000") == [EPERM] * 6


def test_a_type_that_changes_under_our_eyes(box: Bundle) -> None:
    """What the kernel reads is another name than the one that we have read: it gives nobody a proc without the container's parts."""
    limit = uptime()
    box.start()
    plain, proc, none, bare = map(int, box.inside(f"timeout 20 calls race 2 /t {limit}").split())
    assert plain
    assert proc
    assert none, "the race was never lost: it shows nothing"
    assert bare == 0
    assert box.inside("grep -c ' /t ' /proc/self/mountinfo || true") == "0\n"


# --- knobs


@x86_only
@pytest.mark.parametrize("knob", [True, False])
def test_ignored_changes_of_the_owner_of_sys(box: Bundle, knob: bool) -> None:
    if knob:
        box.config["process"]["env"].append("SYSBOX_IGNORE_SYSFS_CHOWN=TRUE")
    box.start()
    before = box.inside("stat -c %u:%g /sys")
    ways = "92 s:/sys 5 5 -- 92 s:/sys/ 5 5 -- 260 -100 s:/sys 5 5 0 -- 260 -100 s:/sys 5 5 0x100 -- 2 s:/sys 0x10000 -- 93 r:4 5 5"
    ways += " -- 260 r:4 s: 5 5 0x1000"
    found = errnos(box, f"calls {ways}; cd /; calls 92 s:sys 5 5")
    assert found[4] == 0
    assert set(found[:4] + found[5:]) == ({0} if knob else {EPERM})
    assert box.inside("stat -c %u:%g /sys") == before
    assert errnos(box, "calls 92 s:/sys/kernel 5 5 -- 92 s:/sys/module 5 5 -- 92 s:/t 5 6; mount -t tmpfs x /t/; calls 92 s:/t 7 8") == [
        EROFS,
        EPERM,
        0,
        0,
    ]
    assert box.inside("stat -c %u:%g /t; umount /t; stat -c %u:%g /t").split() == ["7:8", "5:6"]


@x86_only
@pytest.mark.parametrize("knob", [True, False])
def test_trusted_attributes_of_overlays(box: Bundle, knob: bool) -> None:
    if knob:
        box.config["process"]["env"].append("SYSBOX_ALLOW_TRUSTED_XATTR=TRUE")
    box.start()
    box.inside("mount -t tmpfs t /t; mkdir /t/d")
    for path in ("/t/d", "/ov"):
        name = f"s:{path} s:trusted.overlay.opaque"
        assert results(box.inside(f"calls 188 {name} s:y 1 0")) == [(0, 0)] if knob else [(-1, EPERM)]
        text = box.inside(f"calls 191 {name} b: 20 -- 191 {name} 0 0 -- 191 {name} b: 0 -- 188 {name} s:z 1 1 -- 188 {name} s:z 1 2")
        if knob:
            assert [line.split() for line in text.splitlines()] == [["1", "0", "y"], ["1", "0"], ["1", "0"], ["-1", "17"], ["0", "0"]]
            assert results(box.inside(f"calls 197 {name} -- 191 {name} b: 20 -- 197 {name}")) == [(0, 0), (-1, ENODATA), (-1, ENODATA)]
        else:
            assert {errno for _, errno in results(text)} <= {EPERM, ENODATA, ENOTSUP}
        assert errnos(box, f"calls 188 s:{path} s:trusted.other s:y 1 0 -- 188 {name} s:y 1 0", "--user", "1000") == [EPERM] * 2
        assert errnos(box, f"calls 188 s:{path} s:user.own s:y 1 0 -- 191 s:{path} s:user.own b: 20") == [0, 0]


# --- what is left behind


def test_mounts_leave_nothing_in_the_worker(box: Bundle) -> None:
    box.start()
    pid = workers()[box.name]

    def has() -> tuple[int, int]:
        children = [Path(task, "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
        return len(os.listdir(f"/proc/{pid}/fd")), sum(map(len, children))

    box.inside("mount -t proc p /t && umount /t")
    time.sleep(0.2)
    wait_for(lambda: has()[1] == 0)
    before = has()
    box.inside("for n in $(seq 100); do mount -t proc p /t && umount /t || exit 1; done")
    wait_for(lambda: has() == before)
    box.inside("for n in $(seq 100); do calls 430 s:proc 0; done")
    wait_for(lambda: has()[1] == 0 and has()[0] <= before[0] + 65)  # contexts are forgotten
    assert workers()[box.name] == pid


def test_more_listeners_than_are_near_are_served(box: Bundle) -> None:
    """Each exec has one; some have something all the time, some seldom, and all end."""
    box.start()
    box.inside("true")
    path = f"/proc/{workers()[box.name]}/fd"
    before = len(os.listdir(path))
    with ThreadPoolExecutor(10) as pool:
        scripts = [
            f"mkdir /t/{n}; for i in $(seq 60); do mount -t tmpfs t /t/{n} && umount /t/{n} || exit 1; sleep 0.0{n % 5}; done"
            for n in range(10)
        ]
        assert list(pool.map(box.inside, scripts)) == [""] * 10
    wait_for(lambda: len(os.listdir(path)) <= before)


# --- what the operator may allow or forbid


@pytest.fixture
def operator() -> Iterator[Callable[..., None]]:
    """Restart sysbox-fs with other options; with the usual ones in the end."""

    def restart(*options: str) -> None:
        pid = int(Path("/run/sysbox/sysfs.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not Path("/run/sysbox/sysfs.pid").exists())
        program = Path(RUNTIME).parent / "sysbox-fs"
        subprocess.run([program, "--log", "/var/log/sysbox-fs.log", "--daemonize", *options], check=True, timeout=30)

    yield restart
    restart()


def test_an_operator_may_allow_remounts(box: Bundle, tmp_path: Path, operator: Callable[..., None]) -> None:
    operator("--allow-immutable-remounts")
    source = tmp_path / "source"
    source.mkdir()
    box.mount("/mnt", source, "ro")
    box.config["root"]["readonly"] = True
    box.start()
    assert box.exec("NAME", "touch", "/x").status
    box.inside("mount -o remount,rw,bind /mnt; touch /mnt/x; mount -o remount,rw,bind /; touch /x")


@pytest.mark.parametrize("readonly", [False, True])
def test_an_operator_may_forbid_unmounts(box: Bundle, tmp_path: Path, operator: Callable[..., None], readonly: bool) -> None:
    operator("--allow-immutable-unmounts=false")
    source = tmp_path / "source"
    source.mkdir()
    box.mount("/mnt", source, "ro")
    box.mount("/data", "tmpfs", kind="tmpfs")
    box.config["root"]["readonly"] = readonly
    box.start()
    before = box.inside("cut -d' ' -f 3-6 /proc/self/mountinfo")
    assert (box.exec("NAME", "touch", "/x").status != 0) == readonly
    for path in ("/mnt", "/data", "/dev", "/dev/shm", "/proc", "/sys", "/sys/fs/cgroup", "/"):
        for way_in in ("", "unshare -m ", "unshare -Urm "):
            box.inside(f"{way_in}umount -l {path} && exit 1; {way_in}mount --move {path} /dev/shm && exit 1; true")
    assert box.inside("cut -d' ' -f 3-6 /proc/self/mountinfo") == before
    box.inside("mount -t tmpfs t /data; umount /data; mount -t proc proc /data; umount /data")
