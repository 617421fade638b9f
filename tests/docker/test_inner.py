"""Docker inside a container that is not privileged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from docker.engine import DOCKER, RUNTIME, eventually, free_port
from docker.test_network import fetch

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from docker.engine import Engine

KEEP = "outer"  # the container that the tests of this module share
PORT = free_port()
pytestmark = pytest.mark.sysbox


class Inner:
    """A container with a dockerd in it."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name

    def up(self) -> None:
        """Start dockerd in it and wait until it answers; pid files of one that was killed name other processes by now."""
        self.engine("exec", "-d", self.name, "sh", "-c", "find /run -name '*.pid' -delete; exec dockerd >/var/log/dockerd.log 2>&1")
        try:
            eventually(lambda: self.engine.tried("exec", self.name, "docker", "version").returncode == 0, 40, "the inner dockerd")
        except AssertionError as error:
            pytest.fail(f"{error}\n" + self.engine.exec(self.name, "grep -v level=info /var/log/dockerd.log | tail -n 20"))

    def __call__(self, *argv: str, env: str = "A=") -> str:
        """Run the inner docker."""
        return self.engine("exec", "-e", env, self.name, "docker", *argv)

    def write(self, path: str, text: str) -> None:
        self.engine("exec", "-i", self.name, "sh", "-c", f"mkdir -p $(dirname {path}); cat >{path}", text=text)


@pytest.fixture(scope="module")
def inner(engine: Engine) -> Iterator[Inner]:
    options = ("-d", f"--runtime={RUNTIME}", "--name", KEEP, "--hostname", KEEP, "-p", f"127.0.0.1:{PORT}:{PORT}")
    engine("run", *options, DOCKER, "sleep", "10000")
    inner = Inner(engine, KEEP)
    inner.up()
    inner("load", "-q", "-i", "/usr/share/sysbox/busybox.tar")
    yield inner
    engine("rm", "-f", "-v", KEEP)


def test_storage_driver_is_overlay2(inner: Inner) -> None:
    assert inner("info", "-f", "{{.Driver}}") == "overlay2"


def test_nothing_is_privileged(inner: Inner) -> None:
    assert inner.engine.get(KEEP, ".HostConfig.Privileged") == "false"
    assert int(inner.engine.exec(KEEP, "cat /proc/self/uid_map").split()[1]) >= 65536


def test_run(inner: Inner) -> None:
    assert inner("run", "--rm", "busybox", "echo", "hello from inside") == "hello from inside"
    assert inner("run", "--rm", "-u", "1000", "busybox", "id", "-u") == "1000"
    assert inner("run", "--rm", "--hostname", "box", "-e", "A=b", "-w", "/x", "busybox", "sh", "-c", "hostname; echo $A; pwd").split() == [
        "box",
        "b",
        "/x",
    ]


def test_files_of_inner_containers(inner: Inner) -> None:
    show = "rm /etc/group; mkdir /d; touch /d/f; chown 1000:33 /d/f; mv /etc/passwd /d; stat -c %u:%g /d/f; ls /d /etc/group 2>&1"
    assert inner("run", "--rm", "busybox", "sh", "-c", f"{show}; true").split()[:3] == ["1000:33", "ls:", "/etc/group:"]


def test_exec_stop_and_logs(inner: Inner) -> None:
    inner("run", "-d", "--name", "daemon", "busybox", "sh", "-c", "echo started; sleep 1000")
    assert inner("exec", "daemon", "hostname") == inner("inspect", "-f", "{{.Config.Hostname}}", "daemon")
    assert inner("logs", "daemon") == "started"
    inner("stop", "-t", "0", "daemon")
    assert inner("inspect", "-f", "{{.State.Status}}", "daemon") == "exited"
    inner("rm", "daemon")


def test_build(inner: Inner) -> None:
    inner.write(
        "/build/Dockerfile",
        "FROM busybox\nRUN echo built >/built && chown 1000 /built && rm /etc/group\nCOPY file /srv/\nCMD cat /built /srv/file\n",
    )
    inner.write("/build/file", "copied\n")
    inner("build", "-q", "-t", "made", "/build", env="DOCKER_BUILDKIT=0")
    assert inner("run", "--rm", "made").split() == ["built", "copied"]
    assert inner("run", "--rm", "made", "sh", "-c", "stat -c %u /built; ls /etc/group 2>/dev/null || echo gone").split() == ["1000", "gone"]


def test_two_inner_containers_reach_each_other_by_name(inner: Inner) -> None:
    inner("network", "create", "mynet")
    inner(
        "run",
        "-d",
        "--name",
        "server",
        "--network",
        "mynet",
        "busybox",
        "sh",
        "-c",
        "mkdir /www; echo page >/www/index.html; exec httpd -f -h /www",
    )
    seen = inner(
        "run", "--rm", "--network", "mynet", "busybox", "sh", "-c", "for i in 1 2 3 4 5; do wget -qO- http://server/ && exit; sleep 1; done"
    )
    assert seen == "page"
    inner("rm", "-f", "server")
    inner("network", "rm", "mynet")


def test_published_port_from_the_outer_container_and_from_the_host(inner: Inner) -> None:
    inner(
        "run",
        "-d",
        "--name",
        "server",
        "-p",
        f"{PORT}:80",
        "busybox",
        "sh",
        "-c",
        "mkdir /www; echo page >/www/index.html; exec httpd -f -h /www",
    )
    wget = f"busybox wget -qO- http://127.0.0.1:{PORT}/"
    eventually(lambda: inner.engine.tried("exec", KEEP, "sh", "-c", wget).stdout == "page\n", what="the page in the outer container")
    eventually(lambda: fetch(f"http://127.0.0.1:{PORT}/") == "page", what="the page on the host")
    inner("rm", "-f", "server")


def test_privileged_inner_container(inner: Inner) -> None:
    show = "mkdir /m; mount -t tmpfs none /m; grep -c ' /m ' /proc/mounts; ip link add v0 type veth peer name v1; ip -o link | grep -c v0@"
    assert inner("run", "--rm", "--privileged", "busybox", "sh", "-c", show).split() == ["1", "1"]


def test_volumes_and_binds(inner: Inner) -> None:
    inner("run", "--rm", "-v", "vol:/data", "busybox", "sh", "-c", "echo kept >/data/file; chown 1000 /data/file")
    assert inner("run", "--rm", "-v", "vol:/data:ro", "busybox", "sh", "-c", "cat /data/file; stat -c %u /data/file").split() == [
        "kept",
        "1000",
    ]
    inner.write("/srv/bound/file", "bound\n")
    assert inner("run", "--rm", "-v", "/srv/bound:/b", "busybox", "sh", "-c", "cat /b/file; touch /b/new; chown 33 /b/new") == "bound"
    assert inner.engine.exec(KEEP, "stat -c %u /srv/bound/new") == "33"
    assert (
        inner("run", "--rm", "--tmpfs", "/t:size=1m", "busybox", "sh", "-c", "df -k /t | tail -n 1 | tr -s ' ' | cut -d' ' -f2") == "1024"
    )


def test_inner_limits(inner: Inner) -> None:
    def limited(options: str, command: str) -> subprocess.CompletedProcess[str]:
        return inner.engine.tried("exec", KEEP, "docker", "run", "--rm", *options.split(), "busybox", "sh", "-c", command)

    done = limited("-m 32m --memory-swap 32m", "x=aaaaaaaa; while :; do x=$x$x; done")
    assert done.returncode == 137, done.stderr
    assert "can't fork" in limited("--pids-limit 10", "for i in $(seq 20); do sleep 1 & done; wait").stderr
    done = limited("--cpus 0.5 --cpuset-cpus 0", "sed -n 's/^Cpus_allowed_list:.//p' /proc/self/status")
    assert done.stdout == "0\n", done.stderr


def test_cp_and_commit_of_inner_containers(inner: Inner) -> None:
    inner("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    inner.write("/tmp/file", "copied\n")
    inner("cp", "/tmp/file", "box:/file")
    assert inner("exec", "box", "cat", "/file") == "copied"
    inner("commit", "box", "committed")
    assert inner("run", "--rm", "committed", "cat", "/file") == "copied"
    inner("rm", "-f", "box")


def test_restart_of_the_outer_container_keeps_inner_ones(engine: Engine, inner: Inner) -> None:
    inner("run", "-d", "--name", "kept", "-v", "keptvol:/data", "busybox", "sh", "-c", "date +%N >>/starts; sleep 1000")
    inner("exec", "kept", "sh", "-c", "echo file >/file; chown 1000 /file; echo data >/data/file")
    engine("stop", "-t", "1", KEEP)
    engine("start", KEEP)
    inner.up()
    assert inner("info", "-f", "{{.Driver}}") == "overlay2"
    assert inner("ps", "-a", "--format", "{{.Names}} {{.Image}}") == "kept busybox"
    inner("start", "kept")
    assert inner("exec", "kept", "sh", "-c", "cat /file /data/file; stat -c %u /file; wc -l </starts").split() == [
        "file",
        "data",
        "1000",
        "2",
    ]
    assert inner("run", "--rm", "busybox", "echo", "fine") == "fine"
    inner("rm", "-f", "kept")


def test_volume_of_the_user_holds_the_inner_docker(engine: Engine, tmp_path: Path) -> None:
    engine("run", "-d", f"--runtime={RUNTIME}", "--name", "second", "-v", "innerdata:/var/lib/docker", DOCKER, "sleep", "1000")
    inner = Inner(engine, "second")
    inner.up()
    assert inner("info", "-f", "{{.Driver}}") == "overlay2"
    inner("load", "-q", "-i", "/usr/share/sysbox/busybox.tar")
    assert inner("run", "--rm", "busybox", "echo", "hello") == "hello"
    assert (engine.directory / "data/volumes/innerdata/_data/overlay2").is_dir()
    engine("rm", "-f", "second")
    engine("volume", "rm", "innerdata")


def test_inner_images_are_kept_by_a_commit(engine: Engine) -> None:
    name = engine("run", "-d", f"--runtime={RUNTIME}", DOCKER, "sleep", "1000")
    inner = Inner(engine, name)
    inner.up()
    inner("load", "-q", "-i", "/usr/share/sysbox/busybox.tar")
    engine("stop", "-t", "1", name)
    engine("commit", name, "preloaded")
    again = engine("run", "-d", f"--runtime={RUNTIME}", "preloaded", "sleep", "1000")
    inner = Inner(engine, again)
    inner.up()
    assert inner("run", "--rm", "busybox", "echo", "was here") == "was here"
    engine("rm", "-f", name, again)
    engine("rmi", "preloaded")


def test_removed_with_its_container(engine: Engine) -> None:
    name = engine("run", "-d", f"--runtime={RUNTIME}", DOCKER, "sleep", "1000")
    engine.exec(name, "mkdir -p /var/lib/docker/x; head -c 1000000 /dev/zero >/var/lib/docker/x/blob; stat -f -c %T /var/lib/docker")
    engine("rm", "-f", "-v", name)
    left = [path for path in (engine.directory / "data").glob("**/x/blob") if path.exists()]
    assert left == []
