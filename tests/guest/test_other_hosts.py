"""Hosts that are set up otherwise: cgroup v1 beside v2, SELinux."""

from __future__ import annotations

import pytest

from guest.conftest import booted, with_docker
from guest.test_host import boot, import_host

V1 = "systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"


@pytest.mark.parametrize("driver", ["cgroupfs", "systemd"])
def test_cgroups_v1_and_v2_together(request: pytest.FixtureRequest, driver: str) -> None:
    """A hybrid host: the controllers are v1's, systemd has a v2 hierarchy beside them."""
    with booted(request, f"{V1} systemd.legacy_systemd_cgroup_controller=0") as guest:
        assert "/sys/fs/cgroup/unified" in guest("findmnt -no TARGET -t cgroup2")
        option = f"--exec-opt native.cgroupdriver={driver}"
        guest(f"sed -i 's/^ExecStart=.*dockerd/& {option}/' /lib/systemd/system/docker.service; systemctl daemon-reload")
        with_docker(guest)
        assert guest("docker info -f '{{.CgroupDriver}} {{.CgroupVersion}}'") == f"{driver} 1"
        guest("docker run -d --name c1 --runtime=sysbox-runc -m 64m --pids-limit 50 busybox sleep 1000")
        group = guest("find /sys/fs/cgroup/pids -name \"*$(docker inspect -f '{{.Id}}' c1)*\" | head -n 1")
        assert guest(f"cat {group}/pids.max") == "50"
        assert guest(f"systemctl daemon-reload; cat {group}/pids.max") == "50"
        assert "unified" in guest("docker exec c1 ls /sys/fs/cgroup")
        guest("docker rm -f c1")
        import_host(guest, "systemd13")
        boot(guest, "h1", "-m 500m")
        assert guest("docker exec h1 systemctl --failed --no-legend --plain") == ""
        guest("docker stop -t 100 h1; docker rm h1", 150)
        guest.eventually(f"! test -e {group}", 30)


def test_selinux(request: pytest.FixtureRequest) -> None:
    with booted(request, "security=selinux") as guest:
        with_docker(guest)
        guest("mountpoint -q /sys/fs/selinux || mount -t selinuxfs none /sys/fs/selinux")
        run = "docker run --rm --runtime=sysbox-runc busybox echo it runs"
        assert guest(f"cat /sys/fs/selinux/enforce; echo; {run}").split("\n") == ["0", "it runs"]
        guest("echo 1 >/sys/fs/selinux/enforce")
        status, said = guest.tried(run)
        assert status
        assert "SELinux is enforcing on this host" in said
        assert "[SBX-1036]" in said
