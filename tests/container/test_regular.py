"""Regular containers (SYSBOX_SYSCONT_MODE=FALSE): a user namespace of their own and files id-mapped, but no virtual host."""

from __future__ import annotations

import pytest

from container.bundle import Bundle, sysbox_only

pytestmark = sysbox_only


@pytest.fixture
def regular(bundle: Bundle) -> Bundle:
    bundle.config["process"]["env"].append("SYSBOX_SYSCONT_MODE=FALSE")
    return bundle


def test_it_has_the_capabilities_that_it_asks_for(regular: Bundle) -> None:
    regular.sh("grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status")
    assert [int(value, 16) for value in regular.good().split()[1::2]] == [0b100001] * 3


def test_its_processes_too(regular: Bundle) -> None:
    regular.sh("sleep 100")
    regular.start()
    assert [int(value, 16) for value in regular.inside("grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status").split()[1::2]] == [0b100001] * 3


def test_ids_and_proc_are_as_in_a_system_container(regular: Bundle) -> None:
    regular.sh("cut -d' ' -f1 /proc/uptime; awk '{print $1, $3, ($2 >= 65536)}' /proc/self/uid_map; ls -nd /bin/busybox | awk '{print $3}'")
    uptime, ids, owner = regular.good().splitlines()
    assert float(uptime) < 60
    assert ids == "0 65536 1"
    assert owner == "0"


def test_masks_and_read_only_paths_are_all_kept(regular: Bundle) -> None:
    regular.config["linux"]["maskedPaths"] = ["/proc/kcore", "/proc/kallsyms"]
    regular.config["linux"]["readonlyPaths"] = ["/proc/sys"]
    regular.sh(
        "wc -c </proc/kallsyms; echo x >/proc/sys/kernel/hostname && echo written; touch /sys/x; mount -t tmpfs none /mnt && echo mounted"
    )
    result = regular.run()
    assert result.out.split() == ["0"]
    assert result.err.count("Read-only file system") >= 2, result


def test_seccomp_is_not_widened(regular: Bundle) -> None:
    regular.config["process"]["capabilities"] = {kind: ["CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")}
    regular.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    regular.sh("hostname other")
    assert "not supported" in regular.run().err.lower()
    regular.config["process"]["env"] = ["PATH=/bin"]
    assert regular.run().status == 0, "a system container's profile is widened"


def test_privileged_is_possible_and_gives_no_device(regular: Bundle) -> None:
    everything = [f"CAP_{name}" for name in ("SYS_ADMIN", "MKNOD", "CHOWN")]
    regular.config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), everything)
    linux = regular.config["linux"]
    linux.update(maskedPaths=[], readonlyPaths=[], devices=[{"path": "/dev/mem", "type": "c", "major": 1, "minor": 1}])
    linux["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}
    regular.sh("ls /dev/mem; mknod /tmp/mem c 1 1; mount -t tmpfs none /mnt && echo mounted")
    result = regular.run()
    assert result.out.split() == ["mounted"], result


@pytest.mark.parametrize("value", ["no", "false", "", "TRUE=TRUE"])
def test_other_values_are_refused(bundle: Bundle, value: str) -> None:
    bundle.config["process"]["env"].append(f"SYSBOX_SYSCONT_MODE={value}")
    result = bundle.run()
    assert result.status
    assert "SBX-1015" in result.err
