"""Namespaces, cgroups, sysctls and seccomp: what is separate, what is limited, what is refused."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from container.bundle import OURS, RUNTIME, Bundle, made, sysbox_only, wait_for

V1 = Path("/sys/fs/cgroup/memory").is_dir()


def test_hostname_and_time(bundle: Bundle) -> None:
    bundle.config["hostname"] = "my-host"
    bundle.sh("hostname")
    assert bundle.good() == "my-host\n"


@sysbox_only
def test_domainname_and_time_offsets(bundle: Bundle) -> None:
    bundle.config["domainname"] = "my.domain"
    bundle.config["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000}}
    bundle.sh("cat /proc/sys/kernel/domainname; cut -d. -f1 /proc/uptime")
    name, uptime = bundle.good().split()
    assert name == "my.domain"
    assert int(uptime) >= 1_000_000


@sysbox_only
def test_a_network_that_belongs_to_the_host_is_joined(bundle: Bundle) -> None:
    name = bundle.name
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "add", "v0", "type", "veth", "peer", "v1"], check=True)
        bundle.config["linux"]["namespaces"][1]["path"] = f"/run/netns/{name}"
        bundle.sh("ls /sys/class/net; ip link show v0 | grep -c mtu")
        assert set(bundle.good().split()) == {"1", "v0", "v1", "lo"}
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def cgroup(bundle: Bundle, controller: str, file: str) -> str:
    return (Path("/sys/fs/cgroup") / controller / bundle.name / file).read_text().strip()


LIMITS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"memory": {"limit": 64 << 20}}, "memory", "memory.limit_in_bytes", str(64 << 20)),
    ({"memory": {"limit": 64 << 20, "reservation": 32 << 20}}, "memory", "memory.soft_limit_in_bytes", str(32 << 20)),
    ({"cpu": {"shares": 512}}, "cpu", "cpu.shares", "512"),
    ({"cpu": {"quota": 30000, "period": 50000}}, "cpu", "cpu.cfs_quota_us", "30000"),
    ({"cpu": {"quota": 30000, "period": 50000}}, "cpu", "cpu.cfs_period_us", "50000"),
    ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset", "cpuset.cpus", "0"),
    ({"pids": {"limit": 77}}, "pids", "pids.max", "77"),
]
if os.major(os.stat("/").st_dev):  # / is on a disk
    DISK = {"major": os.major(os.stat("/").st_dev), "minor": os.minor(os.stat("/").st_dev)}
    READ = {"blockIO": {"throttleReadBpsDevice": [{**DISK, "rate": 1 << 20}]}}
    LIMITS.append((READ, "blkio", "blkio.throttle.read_bps_device", f"{DISK['major']}:{DISK['minor']} {1 << 20}"))


@pytest.mark.skipif(not V1, reason="reads the files of cgroup v1")
@pytest.mark.parametrize(("resources", "controller", "file", "value"), LIMITS)
def test_limits(bundle: Bundle, resources: dict[str, Any], controller: str, file: str, value: str) -> None:
    bundle.config["linux"]["cgroupsPath"] = f"/{bundle.name}"
    bundle.config["linux"]["resources"].update(resources)
    bundle.sh("sleep 100").start()
    assert cgroup(bundle, controller, file) == value


@pytest.mark.skipif(not V1, reason="reads the files of cgroup v1")
def test_update(bundle: Bundle) -> None:
    bundle.config["linux"]["cgroupsPath"] = f"/{bundle.name}"
    bundle.config["linux"]["resources"].update({"memory": {"limit": 64 << 20}, "pids": {"limit": 50}})
    bundle.sh("sleep 100").start()
    assert bundle.command("update", "--memory", "32m", "--pids-limit", "60", bundle.name).status == 0
    assert (cgroup(bundle, "memory", "memory.limit_in_bytes"), cgroup(bundle, "pids", "pids.max")) == (str(32 << 20), "60")
    (bundle.directory / "new.json").write_text(json.dumps({"cpu": {"shares": 99}}))
    assert bundle.command("update", "-r", "new.json", bundle.name).status == 0
    assert cgroup(bundle, "cpu", "cpu.shares") == "99"


@pytest.mark.skipif(not V1, reason="reads the files of cgroup v1")
def test_it_cannot_loosen_its_limits_but_may_divide_them(bundle: Bundle) -> None:
    bundle.config["linux"]["cgroupsPath"] = f"/{bundle.name}"
    bundle.config["linux"]["resources"].update({"memory": {"limit": 64 << 20}, "pids": {"limit": 50}})
    bundle.mount("/sys/fs/cgroup", "cgroup", kind="cgroup")
    bundle.sh(
        "cd /sys/fs/cgroup; echo max > pids/pids.max; echo -1 > memory/memory.limit_in_bytes; "
        "mkdir memory/sub && echo 1000000 > memory/sub/memory.limit_in_bytes && echo $$ > memory/sub/cgroup.procs && "
        "cat /proc/self/cgroup | grep memory"
    )
    if OURS:
        assert "/sub" in bundle.good()
    bundle.sh("sleep 100").start()
    assert (cgroup(bundle, "memory", "memory.limit_in_bytes"), cgroup(bundle, "pids", "pids.max")) == (str(64 << 20), "50")


@pytest.mark.skipif(not V1, reason="cgroup v1")
def test_memory_limit_kills(bundle: Bundle) -> None:
    bundle.config["linux"]["resources"]["memory"] = {"limit": 20 << 20, "swap": 20 << 20}
    bundle.sh("tail /dev/zero")
    assert bundle.run().status in (137, 1)


def test_statistics(bundle: Bundle) -> None:
    bundle.sh("sleep 100").start()
    result = bundle.command("events", "--stats", bundle.name)
    told = json.loads(result.out)
    assert (told["type"], told["id"], told["data"]["pids"]["current"]) == ("stats", bundle.name, 1)
    assert told["data"]["memory"]["usage"]["usage"] > 0


@sysbox_only
def test_a_relative_cgroup_path(bundle: Bundle) -> None:
    bundle.config["linux"]["cgroupsPath"] = f"{bundle.name}/inner"
    bundle.sh("sleep 100").start()
    pid = bundle.state()["pid"]
    assert f"{bundle.name}/inner" in Path(f"/proc/{pid}/cgroup").read_text()
    bundle.delete()
    for path in Path("/sys/fs/cgroup").glob(f"*/{bundle.name}"):
        path.rmdir()


@sysbox_only
def test_groups_made_inside_go_with_it(bundle: Bundle) -> None:
    bundle.sh("cd /sys/fs/cgroup; mkdir -p pids/a/b memory/c; sleep 100 & echo $! > pids/a/b/cgroup.procs; wait").start()
    wait_for(lambda: bundle.command("exec", bundle.name, "cat", "/sys/fs/cgroup/pids/a/b/cgroup.procs").out)


def test_sysctls(bundle: Bundle) -> None:
    bundle.config["linux"]["sysctl"] = {"net.core.somaxconn": "99", "net.ipv4.ip_unprivileged_port_start": "0"}
    bundle.sh("cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/ip_unprivileged_port_start")
    assert bundle.good().split() == ["99", "0"]


@sysbox_only
def test_sysctls_of_ipc_and_ids(bundle: Bundle) -> None:
    bundle.config["linux"]["sysctl"] = {"kernel.shmmni": "99", "fs.mqueue.msg_max": "77", "net.ipv4.ping_group_range": "0 2147483647"}
    bundle.sh("cat /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max")
    assert bundle.good().split() == ["99", "77"]
    assert Path("/proc/sys/kernel/shmmni").read_text().strip() != "99"


def seccomp(action: str, *names: str) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": list(names), "action": action}],
    }


def test_seccomp_in_init_and_exec(bundle: Bundle) -> None:
    bundle.config["linux"]["seccomp"] = seccomp("SCMP_ACT_ERRNO", "swapon", "acct")
    bundle.sh("grep Seccomp: /proc/self/status; sleep 100").start()
    wait_for(lambda: bundle.output.split() == ["Seccomp:", "2"])
    assert bundle.inside("grep Seccomp: /proc/self/status").split() == ["Seccomp:", "2"]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_seccomp_kill(bundle: Bundle, quiet: bool) -> None:
    bundle.config["process"]["noNewPrivileges"] = quiet
    bundle.config["linux"]["seccomp"] = seccomp("SCMP_ACT_KILL_PROCESS", "syslog")
    bundle.sh("sh -c 'dmesg; true'; echo $?; dmesg; echo $?")
    assert "159" in bundle.good()  # 128 + SIGSYS


@sysbox_only
@pytest.mark.parametrize("kind", ["pid", "ipc", "uts", "mount", "network"])
def test_namespaces_of_the_host_are_refused(bundle: Bundle, kind: str) -> None:
    bundle.config["linux"]["namespaces"] = [one for one in bundle.config["linux"]["namespaces"] if one["type"] != kind]
    result = bundle.run()
    assert result.status == 1
    assert "SBX-1012" in result.err


@sysbox_only
def test_nobody_inside_looks_into_the_runtime(bundle: Bundle) -> None:
    """Root inside must not reach the binary or the descriptors of a process that is joining it (CVE-2019-5736, CVE-2024-21626)."""
    bundle.sh(
        "while true; do for p in /proc/[0-9]*; do ls -l $p/exe $p/cwd 2>/dev/null | grep -v busybox | grep -E 'python|sysbox' ; done; done"
    ).start()
    for _ in range(20):
        assert bundle.exec("NAME", "true").status == 0
    assert bundle.output == ""


@sysbox_only
def test_the_same_volume_in_two_containers_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    bundle.mount("/var/lib/docker", volume, "bind")
    bundle.sh("sleep 100").start()
    (tmp_path / "other").mkdir()
    with made(tmp_path / "other") as other:
        other.mount("/var/lib/docker", volume, "bind")
        result = other.run()
        assert result.status == 1
        assert f"in use by container {bundle.name}" in result.err
        assert "SBX-3004" in result.err
        bundle.delete()
        assert other.run().status == 0


@sysbox_only
def test_mappings_of_the_manager(bundle: Bundle) -> None:
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 3_000_000, "size": 65536}]
    bundle.sh("cat /proc/self/uid_map; stat -c %u /")
    assert bundle.good().split() == ["0", "3000000", "65536", "0"]


@sysbox_only
def test_a_root_of_another_user_is_refused_without_mappings(bundle: Bundle) -> None:
    os.chown(bundle.rootfs, 3_000_000, 3_000_000)
    result = bundle.run()
    assert "SBX-1032" in result.err
    assert "--userns=host" in result.err


@sysbox_only
def test_a_file_system_that_cannot_be_mapped_is_chowned_and_given_back(bundle: Bundle) -> None:
    saved = bundle.directory / "saved"
    bundle.rootfs.rename(saved)
    bundle.rootfs.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", bundle.rootfs], check=True)
    try:
        subprocess.run(f"cp -a {saved}/. {bundle.rootfs}", shell=True, check=True)
        (bundle.rootfs / "etc/file").write_text("")
        os.chown(bundle.rootfs / "etc/file", 5, 6)
        (bundle.rootfs / "etc/file").chmod(0o4711)
        bundle.sh("stat -c '%u %g %a' /etc/file; stat -c %u /; touch /new")
        assert bundle.good().split() == ["5", "6", "4711", "0"]
        back = (bundle.rootfs / "etc/file").stat()
        assert (back.st_uid, back.st_gid, back.st_mode & 0o7777, (bundle.rootfs / "new").stat().st_uid) == (5, 6, 0o4711, 0)
    finally:
        subprocess.run(["umount", bundle.rootfs], check=True)


@sysbox_only
def test_inside_its_user_namespace_the_runtime_reads_none_of_its_own_files(bundle: Bundle, tmp_path: Path) -> None:
    """What init or an exec needs is imported before: our files may be root's alone."""
    text = Path(RUNTIME).read_text()
    library = text.split('insert(0, "')[1].split('"')[0]
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    subprocess.run(["cp", "-r", library, private / "lib"], check=True)
    (private / "sysbox-runc").write_text(text.replace(library, str(private / "lib")))
    (private / "sysbox-runc").chmod(0o700)
    (private / "sysbox-mgr").symlink_to(Path(RUNTIME).parent / "sysbox-mgr")  # may have to be started
    (bundle.rootfs / "data").mkdir()
    bundle.mount("/data", "tmpfs", "tmpcopyup", kind="tmpfs")
    bundle.mount("/mnt", "/etc", "rbind", "ro", "rslave")
    bundle.config["root"]["readonly"] = True
    bundle.config["process"]["oomScoreAdj"] = 1
    bundle.config["linux"]["seccomp"] = seccomp("SCMP_ACT_ERRNO", "acct")
    bundle.config["linux"]["personality"] = {"domain": "LINUX"}
    bundle.config["hooks"] = {kind: [{"path": "/bin/true", "timeout": 5}] for kind in ("createContainer", "startContainer")}
    bundle.sh("sleep 100").write()
    with (tmp_path / "output").open("w") as output:
        for words in (["create", bundle.name], ["start", bundle.name], ["exec", bundle.name, "true"]):
            command = [str(private / "sysbox-runc"), "--root", str(bundle.root), *words]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=bundle.directory, timeout=30)
            assert done.returncode == 0, (tmp_path / "output").read_text()
    missing = bundle.command("exec", bundle.name, "no-such-program")
    assert "executable file not found" in missing.err
