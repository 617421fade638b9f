"""/proc and /sys of a container: what it may read and write there, and that the host does not change."""

import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from container.bundle import RUNTIME, Bundle, sysbox_only, wait_for
from sysbox.fs import memory as memories
from sysbox.fs.emulate.nodes import Container
from sysbox.fs.emulate.row import DIRECTORY
from sysbox.fs.emulate.tables import ROWS

pytestmark = sysbox_only
SAMPLES = {  # a value that each row takes, another than the host's usual one
    "hostname": "other",
    "domainname": "some.where",
    "printk": "3\t3\t3\t3",
    "default_qdisc": "sfq",
    "ping_group_range": "5\t9",
    "hashsize": "4096",
    "maxkeys": "999",
    "root_maxkeys": "999",
}


def running(bundle: Bundle) -> Bundle:
    bundle.sh("sleep 1000").start()
    return bundle


def host(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return "?"


@pytest.mark.parametrize("path", [path for path, row in ROWS.items() if not row.mode & DIRECTORY])
def test_a_row(bundle: Bundle, path: str) -> None:
    row = ROWS[path]
    running(bundle)
    if bundle.exec("NAME", "test", "-e", path).status:
        assert not Path(path).exists() or path.startswith("/proc/sys/net"), "the host has it, the container has not"
        assert not row.always
        return
    native = path == "/proc/sys/net/core/somaxconn" or bundle.inside(f"stat -Lc %s {path}").strip() == "0"
    mode, uid, gid = bundle.inside(f"stat -Lc '%a %u %g' {path}").split()
    if not native:
        assert (mode, uid, gid) == (f"{row.mode:o}", "0", "0")
    before, read = host(path), bundle.inside(f"cat {path}")
    assert read
    if not row.write:
        assert bundle.exec("NAME", "sh", "-c", f"echo 1 > {path}").status, "a read-only file was written"
        return
    value = SAMPLES.get(path.rpartition("/")[2]) or ("0" if read.split()[0] != "0" else "1")
    if native and path.endswith(("shmall", "shmmax", "shmmni", "pid_max")):
        value = "4096"
    if path.endswith("nr_open"):
        value = "70000"
    bundle.inside(f"echo '{value}' > {path}")
    assert bundle.inside(f"cat {path}").split() == value.split()
    assert host(path) == before or path.endswith("random/uuid"), "the host has changed"
    if not native and path.rpartition("/")[2] not in ("hostname", "domainname"):
        assert bundle.exec("NAME", "sh", "-c", f"echo nonsense > {path}").status
        assert bundle.inside(f"cat {path}").split() == value.split()


def test_the_name_of_the_host_is_that_of_the_callers_namespace(bundle: Bundle) -> None:
    running(bundle)
    assert bundle.inside("cat /proc/sys/kernel/hostname; echo outer > /proc/sys/kernel/hostname; hostname").split() == ["test", "outer"]
    script = "echo inner > /proc/sys/kernel/hostname; hostname; cat /proc/sys/kernel/hostname"
    assert bundle.inside(f"unshare -u sh -c '{script}'; hostname").split() == ["inner", "inner", "outer"]


def test_the_time_since_the_container_was_created(bundle: Bundle) -> None:
    running(bundle)
    first, idle = map(float, bundle.inside("cat /proc/uptime").split())
    assert 0 <= first == idle < 60
    time.sleep(0.2)
    assert float(bundle.inside("cat /proc/uptime").split()[0]) >= first + 0.2
    assert bundle.inside("cat /proc/swaps").split() == ["Filename", "Type", "Size", "Used", "Priority"]


def test_nothing_stands_open_that_is_nobodys(bundle: Bundle) -> None:
    """What root inside may open for writing belongs to it: a write to anything else fails as on a host without that right."""
    running(bundle)
    script = "find -L /proc/sys -type f -user 65534 | while read f; do ( : >> $f ) 2>/dev/null && echo $f; done; true"
    own = ("/proc/sys/user/", "/proc/sys/kernel/ns_last_pid")  # the kernel has these per namespace, and shows no owner
    assert [path for path in bundle.inside(script).split() if not path.startswith(own)] == []


def test_what_is_not_emulated_is_the_kernels_own(bundle: Bundle) -> None:
    running(bundle)
    assert bundle.inside("stat -f -c %T /proc/sys/kernel/ostype /proc/sys/fs /proc/meminfo /sys/class").split()[:1] == ["proc"]
    assert bundle.inside("cat /proc/sys/kernel/ostype") == "Linux\n"
    names = bundle.inside("find -L /proc/sys/net -type f | sort").split()
    assert "/proc/sys/net/ipv4/conf/lo/forwarding" in names
    assert not [name for name in names if ".kernel" in name]
    kernels = [name for name in names if name not in ROWS]
    assert len(kernels) > 200
    assert set(bundle.inside(f"stat -Lfc %T {' '.join(kernels)}").split()) == {"proc"}


def test_a_network_namespace_has_settings_of_its_own(bundle: Bundle) -> None:
    running(bundle)
    path = "/proc/sys/net/ipv4/ip_forward"
    bundle.inside(f"echo 0 > {path}")
    assert bundle.inside(f"unshare -n sh -c 'echo 1 > {path}; cat {path}'; cat {path}").split() == ["1", "0"]
    assert bundle.inside("unshare -n ls /proc/sys/net/ipv4/conf").split() == ["all", "default", "lo"]


def test_a_listing_is_of_now_and_of_who_lists(bundle: Bundle) -> None:
    """The kernel keeps listings, with no word of the networks that there are."""
    running(bundle)
    own, other = "ls /proc/sys/net/ipv4/neigh", "unshare -n ls /proc/sys/net/ipv4/neigh"
    inside = ["nsenter", "-n", "-t", str(bundle.state()["pid"]), "ip", "link"]
    for change, names in (("add v0 type veth peer v1", ["v0", "v1"]), ("set v0 name v2", ["v1", "v2"]), ("del v2", [])):
        subprocess.run([*inside, *change.split()], check=True)
        for _ in range(2):
            assert bundle.inside(f"{own}; {own}").split() == ["default", "lo", *names] * 2
            assert bundle.inside(other).split() == ["default", "lo"]


@pytest.mark.parametrize("namespaces", ["", "unshare -Ur --pid --fork --ipc --uts --net"])
def test_every_mount_is_where_the_list_of_mounts_says(bundle: Bundle, namespaces: str) -> None:
    """Some files of /proc/sys are others for other namespaces: what was mounted over one would not be there for the container."""
    running(bundle)
    script = "while read _ _ device _ point _; do echo $device $(stat -c %d $point) $point; done"
    lines = [line.split() for line in bundle.inside(f"{namespaces} sh -c '{script} < /proc/self/mountinfo'").splitlines()]
    below = [line for line in lines if line[-1].startswith(("/proc/", "/sys/"))]
    assert len(below) > len(ROWS) / 2
    for device, number, point in below:
        assert f"{os.major(int(number))}:{os.minor(int(number))}" == device, f"something else is at {point}"


def test_directories_for_file_systems_of_the_kernel(bundle: Bundle) -> None:
    running(bundle)
    names = [path for path, row in ROWS.items() if row.mode & DIRECTORY]
    assert len(names) == 4
    for path in names:
        mode, uid, gid = bundle.inside(f"stat -c '%a %u %g' {path}").split()
        assert (mode, uid, gid) == (f"{ROWS[path].mode & 0o777:o}", "0", "0")
        assert bundle.inside(f"ls -A {path}") == ""
    assert bundle.inside("ls /sys/kernel/mm")


def test_an_operator_may_leave_it_to_the_kernel(bundle: Bundle) -> None:
    bundle.sh("cut -d. -f1 /proc/uptime; mount -t tmpfs t /mnt && echo mounted").write()
    result = bundle.command("--no-sysbox-fs", "run", bundle.name)
    uptime, word = result.out.split()
    assert word == "mounted"
    assert abs(int(uptime) - float(Path("/proc/uptime").read_text().split()[0])) < 10


OPERATIONS = [
    "cat {}",
    "cat {} {}",
    "echo {value} > {}",
    "echo {value} >> {}",
    "printf {value} > {}",
    "printf '' > {}",
    "printf '\\n' > {}",
    "dd if={} bs=1 count=1 2>/dev/null",
    "dd if={} bs=64 skip=1 2>/dev/null",
    "test -r {}; echo $?",
    "test -w {}; echo $?",
    "test -d {}; echo $?",
    "rm {}",
    "ls {}/x",
    "mv {} {}.x",
    "ln {} {}.y",
    "mkdir {}",
    "touch {}x",
    "chmod 600 {}",
    "readlink -f {}",
    "stat -c %h {}",
    "head -c 2 {}",
    "find {} -type f",
]


def test_an_emulated_file_behaves_like_the_kernels(bundle: Bundle) -> None:
    """The same random sequence on both: one that the kernel keeps per namespace, and one of ours with the same range."""
    running(bundle)
    if bundle.exec("NAME", "sh", "-c", ": >> /proc/sys/kernel/shm_rmid_forced").status:
        pytest.skip("the kernel does not let root of a namespace write its IPC sysctls: Linux 6.9 does")
    seed = random.randrange(1 << 30)
    choose = random.Random(seed)
    native, ours = "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/kernel/dmesg_restrict"
    script = ["exec 2>&1"]
    for number in range(150):
        operation = choose.choice(OPERATIONS)
        value = choose.choice(["0", "1", "17", "-3", "0x20", "020", "x", "4x", "' 5'", "5 6", "99999999999", "-"])
        script.append(f"echo '#{number} '")
        script.append(operation.replace("{value}", f"'{value.strip(chr(39))}'") + "; echo $?")
    text = "\n".join(script)
    out = {}
    for path in (native, ours):
        bundle.inside(f"echo 1 > {path}")
        said = bundle.exec("NAME", "sh", "-c", text.replace("{}", path)).out
        out[path] = said.replace(path, "PATH").replace(path.rpartition("/")[0], "DIR").replace(path.rpartition("/")[2], "NAME")
    steps = {path: said.split("#")[1:] for path, said in out.items()}
    for first, second, line in zip(steps[native], steps[ours], script[2::2], strict=True):
        assert second == first, f"{line}, seed {seed}"


def workers() -> dict[str, int]:
    """Ask sysbox-fs for its workers."""
    from sysbox.wire import message as wire

    sock = wire.connect("/run/sysbox/sysfs.sock")
    wire.send(sock, {"v": wire.VERSION, "op": "ping"})
    reply, _ = wire.receive(sock)
    sock.close()
    return dict(reply["workers"])


def processes() -> list[int]:
    """List every process of sysbox-fs: keeper, supervisor, workers and their children."""
    done = subprocess.run(["pgrep", "-f", "sbin/sysbox-fs"], capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split() if _of_this_run(int(pid))]


def _of_this_run(pid: int) -> bool:
    try:
        return f"SYSBOX_TEST_DIR={os.environ['SYSBOX_TEST_DIR']}\0" in Path(f"/proc/{pid}/environ").read_text()
    except OSError:
        return False


def test_a_worker_needs_little_memory_of_its_own(bundle: Bundle) -> None:
    """Most is the zygote's, shared. What its work makes its own and leaves as it was it gives back when it has nothing to do."""
    running(bundle)
    bundle.inside("cat /proc/uptime; mkdir /tmp/t; mount -t tmpfs t /tmp/t; umount /tmp/t; mount -t proc proc /tmp/t; umount /tmp/t")

    def private() -> int:
        text = Path(f"/proc/{workers()[bundle.name]}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))

    assert private() < 1900  # kB; Python 3.11 alone has 200 after a fork
    wait_for(lambda: private() < 1450)  # some 1250 are left of 1600


def test_a_container_pays_for_its_worker(bundle: Bundle) -> None:
    """On cgroup v1: its processor time is the container's; what a worker starts when all daemons are dead is not."""
    groups = [line.split(":")[1] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    names = next((one for one in groups if one.split(",")[0] in ("cpu", "cpuacct")), None)
    if names is None:
        pytest.skip("cgroup v2: a group has memory and a freezer too")

    def group(pid: int) -> str:
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except OSError:  # a child that has just done its work
            return ""
        return next(line.split(":")[2] for line in lines if line.split(":")[1] == names)

    running(bundle)
    state = json.loads(bundle.command("state", bundle.name).out)
    worker = workers()[bundle.name]
    assert group(worker) == group(state["pid"])
    open_files = [os.readlink(file) for file in Path(f"/proc/{worker}/fd").iterdir()]
    ways = {path.split("/")[4] for path in open_files if path.endswith("/tasks")}  # to the container's and back
    assert ways <= {"cpu", "cpuacct", "cpu,cpuacct", "cpuacct,cpu"}, open_files
    for pid in [pid for pid in processes() if pid != worker]:
        os.kill(pid, 9)
    wait_for(lambda: whole(bundle.name))
    wait_for(lambda: [group(pid) for pid in processes()].count(group(state["pid"])) == 1)  # a child that starts a keeper leaves it first
    os.kill(workers()[bundle.name], 9)
    wait_for(lambda: whole(bundle.name))
    wait_for(lambda: group(workers()[bundle.name]) == group(state["pid"]))


def test_a_worker_hears_of_everything_at_once(bundle: Bundle) -> None:
    """A call that waits when the supervisor is gone is answered while the worker looks for a new one, and not waited for again."""
    again = "until test -e /go; do sleep 0.01; done; mount -t tmpfs t /t; touch /t/done"
    bundle.sh(f"mkdir -p /t; mount -t tmpfs t /t; touch /ready; {again}; sleep 1000").start()
    wait_for((bundle.rootfs / "ready").exists)
    worker = workers()[bundle.name]
    os.kill(worker, signal.SIGSTOP)
    (bundle.rootfs / "go").touch()
    time.sleep(0.3)
    for pid in [pid for pid in processes() if pid != worker]:
        os.kill(pid, 9)
    time.sleep(0.1)
    os.kill(worker, signal.SIGCONT)
    wait_for(lambda: whole(bundle.name))
    assert bundle.inside("ls /t; cat /proc/uptime").startswith("done\n")
    assert workers()[bundle.name] == worker


def test_zygotes_may_die_one_after_the_other(bundle: Bundle) -> None:
    """A supervisor whose request dies with the zygote asks the next, and the one after that."""
    running(bundle)
    wait_for(lambda: whole(bundle.name))

    def first(argument: bytes) -> int:
        return min(pid for pid in processes() if argument in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))

    zygote, supervisor = first(b"--zygote"), first(b"--supervise")
    seen = set(processes())
    os.kill(zygote, signal.SIGSTOP)
    os.kill(workers()[bundle.name], 9)
    time.sleep(0.3)
    os.kill(zygote, 9)

    def started() -> set[int]:
        return set(processes()) - seen

    for _ in range(2):
        wait_for(started)
        for pid in started():
            os.kill(pid, 9)
            seen.add(pid)
    wait_for(lambda: whole(bundle.name))
    assert first(b"--supervise") == supervisor
    assert bundle.inside("cat /proc/uptime")


def test_values_of_the_host_are_those_of_now() -> None:
    """Its files stay open, and some come and go, as with a module or a device."""
    memory = memories.Memory(memories.fresh([]))
    container = Container(memory, "never")
    path = "/proc/sys/net/ipv4/conf/sbxcomes/rp_filter"
    try:
        for value in "12":
            subprocess.run(["ip", "link", "add", "sbxcomes", "type", "veth", "peer", "sbxgoes"], check=True)
            for now in "0", value:
                Path(path).write_text(now)
                assert container.host(path) == f"{now}\n"
            subprocess.run(["ip", "link", "del", "sbxcomes"], check=True)
            for _ in range(2):
                with pytest.raises(OSError, match="No such file"):
                    container.host(path)
    finally:
        subprocess.run(["ip", "link", "del", "sbxcomes"], stderr=subprocess.DEVNULL, check=False)
        for fd in (memory.fd, *container.home.values(), *container.opened.values()):
            os.close(fd)


def test_a_worker_ends_with_its_container(bundle: Bundle) -> None:
    running(bundle)
    pid = workers()[bundle.name]
    assert os.path.exists(f"/proc/{pid}")
    bundle.delete()
    wait_for(lambda: bundle.name not in workers() and not os.path.exists(f"/proc/{pid}"))


def whole(name: str) -> bool:
    """Say whether keeper, supervisor and the container's worker are all there."""
    try:
        os.kill(int(Path("/run/sysbox/sysfs.pid").read_text()), 0)
        os.kill(workers()[name] or 1 << 22, 0)  # 0: it has not come back to a new supervisor
    except (OSError, KeyError, ValueError):
        return False
    return True


KILLS = int(os.environ.get("SYSBOX_TEST_KILLS", "100"))


@pytest.mark.timeout(600)
def test_nobody_notices_when_any_process_of_ours_is_killed(bundle: Bundle) -> None:
    """SYSBOX_TEST_KILLS=1000 for more. What runs inside reads, writes and mounts all the time and stops at the first error."""
    script = """
    mkdir -p /tmp/p /tmp/t; n=0
    while test ! -e /tmp/stop; do
        n=$((n+1))
        echo $((n % 1000)) > /proc/sys/kernel/panic && test "$(cat /proc/sys/kernel/panic)" = $((n % 1000)) || { echo value; exit 1; }
        cat /proc/uptime > /dev/null || { echo uptime; exit 1; }
        mount -t proc proc /tmp/p && cat /tmp/p/uptime > /dev/null && umount /tmp/p || { echo proc; exit 1; }
        mount -t tmpfs t /tmp/t && umount /tmp/t || { echo tmpfs; exit 1; }
        mount --bind /proc /tmp/p && cat /tmp/p/uptime > /dev/null && umount /tmp/p || { echo bind; exit 1; }
        mount -t overlay -o lowerdir=/bin:/etc o /tmp/t && umount /tmp/t || { echo overlay; exit 1; }
        grep -q /tmp/[pt] /proc/mounts && { echo left; exit 1; }
        echo $n > /tmp/m; mv /tmp/m /tmp/n
    done
    echo good
    """
    bundle.sh(script).start()
    wait_for(lambda: bundle.exec("NAME", "test", "-e", "/tmp/n").status == 0)
    choose = random.Random()
    killed = 0
    while killed < KILLS:
        for _ in range(choose.choice((1, 1, 2))):  # of keeper, supervisor and worker one is left, in whatever state it is
            try:
                os.kill(choose.choice(processes()), 9)
            except (ProcessLookupError, IndexError):
                continue
            killed += 1
            time.sleep(choose.random() * 0.1)
        wait_for(lambda: bundle.output or whole(bundle.name))
        assert bundle.output == "", bundle.output + Path("/var/log/sysbox-fs.log").read_text()[-3000:]
    before = int(bundle.inside("cat /tmp/n"))
    wait_for(lambda: int(bundle.inside("cat /tmp/n")) > before + 3, 30)
    bundle.inside("touch /tmp/stop")
    wait_for(lambda: bundle.output != "", 30)
    assert bundle.output == "good\n"
    state = json.loads(bundle.command("state", bundle.name).out)
    assert state["id"] == bundle.name
    wait_for(lambda: not [pid for pid in processes() if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]])


def test_a_service_manager_may_hold_everything(bundle: Bundle, tmp_path: Path) -> None:
    """We are systemd, which keeps descriptors for a service (sd_notify(3)) of which every process is killed, and starts it again."""
    log, sock = Path("/var/log/sysbox-fs.log"), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.settimeout(0.2)
    store: dict[str, int] = {}
    said: list[str] = []

    def heard(word: str) -> bool:
        with suppress(TimeoutError):
            while True:
                data, fds, _, _ = socket.recv_fds(sock, 4096, 16)
                words = dict(line.split("=", 1) for line in data.decode().split("\n"))
                said.append(data.decode())
                if "FDSTORE" in words:
                    assert words["FDPOLL"] == "0"
                    store[words["FDNAME"]] = fds[0]
                elif "FDSTOREREMOVE" in words:
                    os.close(store.pop(words["FDNAME"]))
        return any(word in one for one in said)

    def start() -> subprocess.Popen[bytes]:
        script = 'LISTEN_PID=$$ exec "$0" --log /var/log/sysbox-fs.log --log-level debug'
        first = max([10, *store.values()]) + 1
        fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, first) for fd in store.values()]
        moves = " ".join(f"{3 + number}<&{fd} {fd}<&-" for number, fd in enumerate(fds))
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(store)}
        program = str(Path(RUNTIME).parent / "sysbox-fs")
        command = ["bash", "-c", f"exec {moves}\n{script}", program]
        child = subprocess.Popen(command, pass_fds=fds, env={**os.environ, **env, "WATCHDOG_USEC": "1000000"}, stdin=subprocess.DEVNULL)
        for fd in fds:
            os.close(fd)
        wait_for(lambda: heard("READY=1"))
        return child

    if Path("/run/sysbox/sysfs.pid").exists():
        os.kill(int(Path("/run/sysbox/sysfs.pid").read_text()), signal.SIGTERM)
        wait_for(lambda: not Path("/run/sysbox/sysfs.pid").exists())
    child = start()
    try:
        running(bundle)
        bundle.inside("echo 7 > /proc/sys/kernel/panic")
        heard("")
        assert sorted(name.partition("%")[2] for name in store if name.startswith(bundle.name + "%")) == [
            *(["charge-0"] if Path("/sys/fs/cgroup/cpu").exists() else []),
            *(["charge-1"] if not Path("/sys/fs/cgroup/cpu").is_symlink() and Path("/sys/fs/cgroup/cpuacct").exists() else []),
            "fuse",
            "init",
            "listener-1",
            "memory",
            "room",
        ]
        said.clear()
        for pid in processes():
            os.kill(pid, 9)
        child.wait()
        wait_for(lambda: processes() == [])
        command = [RUNTIME, "--root", str(bundle.root), "exec", bundle.name, "cat", "/proc/sys/kernel/panic"]
        reader = subprocess.Popen(command, stdout=subprocess.PIPE)  # does not start another: systemd is about to
        time.sleep(0.2)
        child = start()
        assert reader.communicate(timeout=30)[0] == b"7\n"
        wait_for(lambda: heard("WATCHDOG=1"))
        bundle.command("delete", "--force", bundle.name)
        wait_for(lambda: heard("") and not [name for name in store if name.startswith(bundle.name)])
    finally:
        child.terminate()
        child.wait()
        for fd in store.values():
            os.close(fd)
        sock.close()
    assert "Traceback" not in log.read_text()


def test_readers_by_sendfile_get_each_value_whole(bundle: Bundle) -> None:
    """Busybox's cat uses sendfile(2) for a pipe. Whoever looks meanwhile, what has become longer or shorter is neither cut nor padded."""
    running(bundle)
    values = [10**n for n in range(9)] * 2
    script = "".join(f"echo {value} > /proc/sys/kernel/panic; cat /proc/sys/kernel/panic /proc/sys/kernel/panic\n" for value in values)
    assert bundle.inside(f"({script}) | cat") == "".join(f"{value}\n{value}\n" for value in values)
    names = ["a", "abcdef", "abc", "abcdefghi"]  # not written by way of the file, which would say how long it is
    script = "".join(f"hostname {name}; cat /proc/sys/kernel/hostname /proc/sys/kernel/hostname;" for name in names)
    assert bundle.inside(f"({script}) | cat").split() == [name for name in names for _ in range(2)]
    other = "(for n in $(seq 300); do ls -l /proc/sys/kernel/hostname; cat /proc/sys/kernel/hostname; done) >/dev/null &"
    script = f"{other} {other} for n in $(seq 300); do cat /proc/sys/kernel/hostname | cat; done"
    assert bundle.inside(script).split() == names[-1:] * 300


def test_a_worker_outlives_its_supervisor_and_keeper(bundle: Bundle) -> None:
    running(bundle)
    worker = workers()[bundle.name]
    for victim in (_supervisor(), int(Path("/run/sysbox/sysfs.pid").read_text())):
        os.kill(victim, 9)
        wait_for(lambda: whole(bundle.name))
        assert workers()[bundle.name] == worker
        bundle.inside("cat /proc/uptime; mkdir -p /tmp/p; mount -t proc proc /tmp/p; umount /tmp/p")
    os.kill(worker, 9)
    wait_for(lambda: whole(bundle.name) and workers()[bundle.name] != worker)
    assert bundle.inside("cat /proc/swaps")


def _supervisor() -> int:
    from sysbox.wire import message as wire

    sock = wire.connect("/run/sysbox/sysfs.sock")
    wire.send(sock, {"v": wire.VERSION, "op": "ping"})
    reply, _ = wire.receive(sock)
    sock.close()
    return int(reply["pid"])


def test_a_nested_user_namespace_has_its_own_ping_group_range(bundle: Bundle) -> None:
    """Rootless engines set it in each of their networks."""
    path = "/proc/sys/net/ipv4/ping_group_range"
    bundle.sh("sleep 100")
    bundle.start()
    nested = bundle.exec(
        "--user", "1000", "NAME", "unshare", "-Urn", "sh", "-c", f"cat {path}; echo 0 0 >{path} && cat {path} && stat -c %u {path}"
    )
    assert nested.out.split() == ["1", "0", "0", "0", "0"], nested
    assert bundle.inside(f"cat {path}").split() == ["1", "0"]
    denied = bundle.command("exec", "--user", "1000", bundle.name, "sh", "-c", f"echo 0 0 >{path}")
    assert "Permission denied" in denied.err
