"""A host of Debian 13 in a container: what people run on hosts besides Docker, and more of Docker."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docker.engine import RUNTIME, SYSBOX, Engine, eventually
from docker.test_systemd import booted

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not SYSBOX, reason="a host needs a system container")
KEEP = "virtual-host"
IMAGE = "sysbox/host"
NEXT = "sysbox/next"
IPV6 = [f"--sysctl=net.ipv6.conf.{kind}.disable_ipv6=0" for kind in ("all", "default")]  # Docker switches it off; LXC's bridge has some
SERVE = "mkdir /www; echo {} >/www/index.html; exec httpd -f -p 80 -h /www"


class Host:
    """A container that has booted systemd, with busybox in its Docker."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name

    def __call__(self, script: str, user: str = "root") -> str:
        """Run a script inside, which must succeed; what it printed."""
        command = ["bash", "-ec", textwrap.dedent(script)]
        return self.engine("exec", "-u", user, self.name, *command)

    def wait(self) -> None:
        booted(self.engine, self.name)
        self("docker load -qi /usr/share/sysbox/busybox.tar")


@pytest.fixture(scope="module")
def host(engine: Engine) -> Iterator[Host]:
    engine.load(IMAGE)
    engine("run", "-d", f"--runtime={RUNTIME}", "--name", KEEP, "--hostname", "virtual", *IPV6, IMAGE)
    one = Host(engine, KEEP)
    one.wait()
    yield one
    engine("rm", "-f", KEEP)


def test_debian_13_runs_and_no_unit_has_failed(host: Host) -> None:
    assert host("systemctl --failed --no-legend --plain; systemctl is-system-running") == "running"
    assert host("systemctl --version | head -1; cat /run/systemd/container").split()[:2] == ["systemd", "257"]


def test_networkd_and_resolved(host: Host) -> None:
    host(
        """
        cd /etc/systemd/network
        printf '[NetDev]\\nName=veth9\\nKind=veth\\n[Peer]\\nName=veth8\\n' >9.netdev
        printf '[Match]\\nName=veth9\\n[Network]\\nAddress=10.9.9.1/24\\n' >9.network
        printf '[Match]\\nName=veth8\\n[Network]\\nAddress=10.9.8.1/24\\n' >8.network
        systemctl enable -q --now systemd-networkd
        networkctl reload
        /lib/systemd/systemd-networkd-wait-online -i veth9 --timeout 20
        """
    )
    assert "10.9.9.1/24" in host("ip -o addr show veth9")
    assert "127.0.0.53" in host("systemctl is-active systemd-resolved; ss -ulnp | grep resolve")
    assert "virtual" in host("resolvectl query virtual")


def test_users_log_in_by_ssh_and_use_docker(host: Host) -> None:
    host(
        """
        useradd -m -s /bin/bash -G docker guest
        ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
        install -d -m 700 -o guest -g guest /home/guest/.ssh
        install -m 600 -o guest -g guest /root/.ssh/id_ed25519.pub /home/guest/.ssh/authorized_keys
        systemctl start ssh
        """
    )
    ssh = "ssh -o StrictHostKeyChecking=no -o LogLevel=ERROR guest@localhost"
    assert host(f"{ssh} docker run --rm busybox echo from inside") == "from inside"
    assert host(f"{ssh} 'systemctl --user is-system-running --wait; loginctl show-session $XDG_SESSION_ID -P Type'").split() == [
        "running",
        "tty",
    ]
    assert "guest" in host("loginctl list-users --no-legend")
    assert host(f"{ssh} 'systemd-run --user --wait -q --pipe echo a unit of mine'") == "a unit of mine"


def test_compose(host: Host) -> None:
    host(
        """
        mkdir -p /root/app && cd /root/app
        cat >compose.yaml <<'END'
        services:
          web:
            image: busybox
            command: sh -c 'mkdir /www; hostname >/www/index.html; exec httpd -f -p 80 -h /www'
            deploy: {replicas: 2, resources: {limits: {memory: 30m}}}
          client:
            image: busybox
            depends_on: [web]
            command: sh -c 'until wget -qO- http://web/; do sleep 0.2; done'
        END
        docker compose up -d --quiet-pull 2>/dev/null
        """
    )
    names = (
        host("cd /root/app; docker wait $(docker compose ps -aq client); docker compose logs --no-log-prefix client")
        .replace("\x1b[2K", "")
        .split()
    )
    assert names[0] == "0"
    assert names[1] in host("cd /root/app; docker compose ps -q web | cut -c1-12").split()
    assert host("cd /root/app; docker compose down 2>/dev/null; docker ps -q") == ""


def test_buildkit(host: Host) -> None:
    host(
        """
        mkdir -p /root/build && cd /root/build
        printf 'FROM busybox AS one\\nRUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/t echo made >/made\\n' >Dockerfile
        printf 'FROM busybox\\nCOPY --from=one /made /made\\nCMD cat /made\\n' >>Dockerfile
        docker buildx build -q -t built .
        """
    )
    assert host("docker run --rm built") == "made"


def test_podman(host: Host) -> None:
    host("podman load -qi /usr/share/sysbox/busybox.tar; podman network create pods")
    assert host("podman run --rm --memory 40m busybox echo from podman") == "from podman"
    host(f"podman run -q -d --name srv --network pods busybox sh -c '{SERVE.format('a page')}'")
    assert host("podman run --rm --network pods busybox sh -c 'until wget -qO- http://srv/; do sleep 0.2; done'") == "a page"
    assert host("podman exec srv cat /proc/1/comm; podman rm -ft0 srv").split()[0] == "httpd"


def test_podman_without_root(host: Host) -> None:
    """The ids of an ordinary user are among the 65536 of the container."""
    host("useradd -m -s /bin/bash plain; sed -i 's/^plain:.*/plain:10000:50000/' /etc/subuid /etc/subgid; loginctl enable-linger plain")
    run = "XDG_RUNTIME_DIR=/run/user/$(id -u) podman"
    eventually(lambda: host("ls -d /run/user/$(id -u plain) 2>/dev/null || true"), 20, "the user's manager")
    host(f"{run} load -qi /usr/share/sysbox/busybox.tar 2>/dev/null", "plain")
    assert host(f"cd; {run} run --rm busybox id -u 2>/dev/null", "plain") == "0"
    assert host(f"cd; {run} run --rm --user 5 busybox awk 'END {{ print $3 }}' /proc/self/uid_map 2>/dev/null", "plain") == "50000"


def test_nspawn(host: Host) -> None:
    host("mkdir -p /srv/tree/{bin,etc,usr,root,proc,sys,dev,run,tmp,var}; cp /bin/busybox /srv/tree/bin/; touch /srv/tree/etc/os-release")
    host("for name in sh cat sleep; do ln -sf busybox /srv/tree/bin/$name; done")
    assert host("systemd-nspawn -q -D /srv/tree sh -c 'echo $container; cat /proc/1/comm; true'").split() == ["systemd-nspawn", "sh"]
    host("systemd-run -q --unit spawned systemd-nspawn -q -D /srv/tree --machine spawned sleep 1000")
    eventually(lambda: "spawned" in host("machinectl list --no-legend"), 20, "the machine")
    host("machinectl terminate spawned")


def test_lxc(host: Host) -> None:
    host("lxc-create -n l1 -t busybox >/dev/null; lxc-start -n l1; lxc-wait -n l1 -s RUNNING -t 20")
    assert host("lxc-attach -n l1 -- cat /proc/1/comm; lxc-attach -n l1 -- grep -c . /proc/swaps").split() == ["init", "1"]
    assert host("lxc-cgroup -n l1 cpuset.cpus; lxc-stop -k -n l1; lxc-destroy -n l1")


def test_formats_of_binaries_are_the_containers_own(host: Host, engine: Engine) -> None:
    """A program for ARM runs inside by QEMU, also in inner containers; nobody else sees the format."""
    if not Path("/proc/sys/fs/binfmt_misc").exists() or "binfmt_misc" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no binfmt_misc")
    assert "qemu-aarch64" in host("ls /proc/sys/fs/binfmt_misc")
    program = host("dpkg -L hello:arm64 | grep bin/hello")
    assert "Hello" in host(program)
    inner = f"docker run --rm -v {program}:/hello:ro -v /lib:/lib:ro -v /usr/lib:/usr/lib:ro busybox /hello"
    assert "Hello" in host(inner)
    assert engine.sh("ls /proc/sys/fs/binfmt_misc").split() == ["register", "status"]
    assert list(Path("/proc/sys/fs/binfmt_misc").iterdir()) == []


def test_a_swarm_of_two_hosts(host: Host, engine: Engine) -> None:
    engine("run", "-d", f"--runtime={RUNTIME}", "--name", "second", "--hostname", "second", *IPV6, IMAGE)
    try:
        second = Host(engine, "second")
        second.wait()
        address = engine.get(KEEP, ".NetworkSettings.IPAddress")
        host(f"docker swarm init --advertise-addr {address} >/dev/null")
        token = host("docker swarm join-token -q worker")
        second(f"docker swarm join --token {token} {address}:2377")
        assert len(host("docker node ls -q").split()) == 2
        host("docker network create -d overlay --attachable mesh >/dev/null")
        # addresses of services (and ports on every node) are IPVS's, whose netlink (GENL_ADMIN_PERM) is for the host's root: EPERM
        options = "--network mesh --replicas 2 --endpoint-mode dnsrr --publish mode=host,published=8080,target=80"
        host(f"docker service create -d -q --name web {options} busybox sh -c '{SERVE.format('swarm')}'")
        eventually(lambda: host("docker service ls --format '{{.Replicas}}'") == "2/2", 60, "the service")
        assert len(set(host("docker service ps --format '{{.Node}}' --filter desired-state=running web").split())) == 2
        for one in (host, second):
            assert one("docker run --rm --network mesh busybox nslookup tasks.web 2>/dev/null | grep -c '^Address: 10'") == "2"
            assert one("for i in 1 2 3 4; do docker run --rm --network mesh busybox wget -qO- http://web/; done").split() == ["swarm"] * 4
            assert one("busybox wget -qO- http://$(ip -4 -o addr show eth0 | sed 's/.*inet //; s:/.*::'):8080/") == "swarm"
    finally:
        host("docker swarm leave --force >/dev/null 2>&1 || true")
        engine("rm", "-f", "second")


def test_inner_containers_know_names_of_the_outer_network(engine: Engine) -> None:
    engine.load(IMAGE)
    engine("network", "create", "names")
    try:
        engine.up("--name", "web", "--network", "names", "--", "sh", "-c", SERVE.format("outer"))
        name = engine("run", "-d", f"--runtime={RUNTIME}", *IPV6, "--network", "names", IMAGE)
        one = Host(engine, name)
        one.wait()
        ask = "docker run --rm busybox wget -qO- http://web/"
        assert one(f"getent hosts web >/dev/null; {ask}") == "outer"
        engine("restart", "-t", "5", name)
        one.wait()
        assert one(f"getent hosts web >/dev/null; {ask}") == "outer"
        assert one("cat /etc/resolv.conf | grep -c ^nameserver") == "1"
    finally:
        engine.clean(KEEP)
        engine("network", "rm", "names")


def test_a_pod_shares_its_user_namespace(engine: Engine) -> None:
    first = engine.up("--ipc=shareable")
    second = engine.up("--network", f"container:{first}", "--ipc", f"container:{first}")
    one, other = (engine.exec(name, "readlink /proc/self/ns/user; cat /proc/self/uid_map") for name in (first, second))
    assert one == other
    assert engine.exec(second, "ip addr add 10.77.0.1/24 dev eth0 && ip -o addr show eth0 | grep -c 10.77") == "1", (
        "root there owns the network"
    )
    assert "10.77.0.1" in engine.exec(first, "ip -o addr show eth0")
    engine("rm", "-f", first)
    third = engine.up()
    assert engine.exec(third, "cat /proc/self/uid_map") != one, "ids are free again only when the last of the pod has gone"


@pytest.mark.testing
def test_docker_of_debians_testing(engine: Engine) -> None:
    """Docker 28 and newer, which use nftables, containerd's images and the new mount calls."""
    engine.load(NEXT)
    name = engine("run", "-d", f"--runtime={RUNTIME}", NEXT, "sleep", "1000")
    one = Host(engine, name)
    one("dockerd >/var/log/dockerd.log 2>&1 & ")
    eventually(lambda: engine.tried("exec", name, "docker", "version").returncode == 0, 40, "the inner dockerd")
    assert int(one("docker version -f '{{.Server.Version}}'").split(".")[0]) >= 28
    one("docker load -qi /usr/share/sysbox/busybox.tar")
    assert one("docker run --rm --memory 50m --cpus 0.5 --pids-limit 30 busybox cat /proc/1/comm") == "cat"
    assert (
        one("docker run --rm --privileged busybox sh -c 'mount -t tmpfs none /mnt 2>/dev/null || mkdir /mnt; cat /proc/swaps | wc -l'")
        == "1"
    )
    one(f"docker network create n >/dev/null; docker run -d --name web --network n -p 8080:80 busybox sh -c '{SERVE.format('28')}'")
    assert one("docker run --rm --network n busybox sh -c 'until wget -qO- http://web/; do sleep 0.2; done'") == "28"
    assert one("busybox wget -qO- http://127.0.0.1:8080/") == "28"
    assert (
        one("printf 'FROM busybox\\nRUN echo 1 >/x\\nCMD cat /x\\n' | docker build -q -t built - >/dev/null; docker run --rm built") == "1"
    )


def test_systemd_of_ubuntu(engine: Engine) -> None:
    try:
        engine.load("sysbox/ubuntu")
    except AssertionError as error:
        pytest.skip(f"no Ubuntu beside Debian where packages come from: {str(error)[-200:]}")
    name = engine("run", "-d", f"--runtime={RUNTIME}", "sysbox/ubuntu")
    assert booted(engine, name) == "running"
    assert engine.exec(name, ". /etc/os-release; echo $ID") == "ubuntu"
    engine("stop", "-t", "60", name)
    assert engine.get(name, ".State.ExitCode") != "137"
