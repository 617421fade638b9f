"""The plan: what is mounted in which order, what is kept of config.json, and that it can print itself."""

from typing import Any

from sysbox.linux import _kernel as k
from sysbox.linux import files
from sysbox.oci.mountoptions import attributes, options
from sysbox.oci.spec import example
from sysbox.runtime import plan


def make(**linux: Any) -> dict[str, Any]:
    config = example()
    mounts = linux.pop("mounts", None)
    readonly = linux.pop("readonly", False)
    config["root"]["readonly"] = readonly
    config["linux"].update(linux)
    if mounts is not None:
        config["mounts"] = mounts
    return plan.make(config, "c1", "/bundle", {})


def dests(made: dict[str, Any]) -> list[str]:
    return [mount["dest"] for mount in made["mounts"]]


def test_our_own_mounts_cannot_be_replaced() -> None:
    hostile = [
        {"destination": dest, "source": "/host", "options": ["bind"]}
        for dest in ("/proc", "/sys/", "/dev/.", "/sys/fs/cgroup/cpu", "/dev/kmsg")
    ]
    assert dests(make(mounts=hostile)) == ["/proc", "/sys", "/dev", "/sys/fs/cgroup"]


def test_size_of_dev_is_kept_and_its_source_is_not() -> None:
    made = make(mounts=[{"destination": "/dev", "type": "tmpfs", "source": "x", "options": ["size=1m", "noexec"]}])
    dev = made["mounts"][2]
    assert (dev["data"], dev["source"], bool(dev["flags"] & k.MS_NOEXEC)) == ("size=1m", "tmpfs", True)


def test_masks_that_software_inside_needs_are_dropped() -> None:
    made = make(maskedPaths=["/proc/kcore", "/proc/keys", "/proc"], readonlyPaths=["/proc/sys", "/proc/sys/", "/proc/bus"])
    assert made["masked"] == ["/proc/keys"]
    assert made["readonly_paths"] == ["/proc/bus"]


def test_a_read_only_root_gets_writable_run_and_tmp_unless_given() -> None:
    made = make(readonly=True, mounts=[{"destination": "/run", "type": "tmpfs"}])
    assert dests(made)[4:] == ["/tmp", "/run"]
    assert all(mount["flags"] & k.MS_RDONLY for mount in made["mounts"] if mount["dest"] in ("/sys", "/sys/fs/cgroup"))


def test_sysctl_names() -> None:
    assert plan.sysctls(
        {"net.ipv4.conf.eth0/1.forwarding": "1", "kernel.msgmax": "2", "net/core/somaxconn": "3", "fs.mqueue.msg_max": "4"}
    ) == {
        "net/ipv4/conf/eth0.1/forwarding": "1",
        "kernel/msgmax": "2",
        "net/core/somaxconn": "3",
        "fs/mqueue/msg_max": "4",
    }


def test_paths_are_cleaned_as_text() -> None:
    assert [files.clean(path) for path in ("a", "/a/../../b//./c/", "//")] == ["/a", "/b/c", "/"]


def test_options_last_word_wins() -> None:
    found = options(["ro", "rw", "nosuid", "rbind", "rslave", "size=1m", "mode=755", "rro", "rrw", "tmpcopyup"])
    assert found["flags"] == k.MS_NOSUID | k.MS_BIND | k.MS_REC
    assert (found["set"], found["clear"]) == (0, k.MOUNT_ATTR_RDONLY)
    assert (found["propagation"], found["data"], found["extra"]) == ([k.MS_SLAVE | k.MS_REC], "size=1m,mode=755", ["tmpcopyup"])


def test_times_of_access_replace_one_another() -> None:
    assert attributes(options(["noatime", "ro"])["flags"]) == (k.MOUNT_ATTR_NOATIME | k.MOUNT_ATTR_RDONLY, k.MOUNT_ATTR__ATIME)
    assert attributes(options(["strictatime"])["flags"]) == (k.MOUNT_ATTR_STRICTATIME, k.MOUNT_ATTR__ATIME)
    assert attributes(options(["noatime", "relatime"])["flags"]) == (0, k.MOUNT_ATTR__ATIME)
    assert attributes(0) == (0, 0)


def test_it_prints_itself() -> None:
    made = make(mounts=[{"destination": "/data", "source": "/srv", "options": ["rbind", "ro"]}], sysctl={"net.core.somaxconn": "9"})
    text = "\n".join(plan.describe(made))
    for said in ("bind /srv -> /data", "sysctl net/core/somaxconn = 9", "namespace user new", "masked /sys/firmware", "run ['sh']"):
        assert said in text
