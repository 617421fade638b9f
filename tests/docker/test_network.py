"""Networks: bridge, none, another container's, published ports, the container's own settings."""

from __future__ import annotations

import socket
import urllib.request
from typing import TYPE_CHECKING

import pytest

from docker.engine import DOCKER, RUNTIME, eventually, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.engine import Engine

HTTP = ("--", "sh", "-c", "mkdir /www; echo page >/www/index.html; exec httpd -f -p 80 -h /www")

ECHO = """
use Socket;
socket(S, PF_INET, SOCK_DGRAM, 0) and bind(S, sockaddr_in(53, INADDR_ANY)) or die;
while (my $peer = recv(S, my $text, 1000, 0)) { send(S, $text, 0, $peer) }
"""


def fetch(url: str) -> str:
    """Read a page of the host's; nothing while nobody answers."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return str(answer.read().decode().strip())
    except OSError:
        return ""


@pytest.fixture
def network(engine: Engine) -> Iterator[str]:
    engine("network", "create", "mynet")
    yield "mynet"
    engine.clean()
    engine("network", "rm", "mynet")


def test_bridge(engine: Engine) -> None:
    name = engine.up()
    address, gateway = engine.get(name, ".NetworkSettings.IPAddress"), engine.get(name, ".NetworkSettings.Gateway")
    assert f"inet {address}/" in engine.exec(name, "ip addr show eth0")
    assert engine.exec(name, f"ping -c 1 -W 2 {gateway} >/dev/null && echo reached") == "reached"
    assert f"default via {gateway}" in engine.exec(name, "ip route")


def test_none(engine: Engine) -> None:
    assert engine.sh("--network", "none", "ls /sys/class/net 2>/dev/null || ip -o link | cut -d: -f2").split() == ["lo"]
    assert engine.sh("--network", "none", "ping -c 1 -W 1 127.0.0.1 >/dev/null && echo lo is up") == "lo is up"


def test_of_another_container(engine: Engine) -> None:
    first = engine.up(*HTTP)
    second = engine.up("--network", f"container:{first}")
    assert engine.exec(second, "ip -o addr show eth0") == engine.exec(first, "ip -o addr show eth0")
    eventually(lambda: "page" in engine.tried("exec", second, "wget", "-qO-", "http://127.0.0.1/").stdout, what="the first's page")
    third = engine.sh("--network", f"container:{first}", "wget -qO- http://127.0.0.1/")
    assert third == "page"


def test_published_port_is_reached_from_the_host(engine: Engine) -> None:
    mine = free_port()
    name = engine.up("-p", f"127.0.0.1:{mine}:80", "-p", "80", *HTTP)
    eventually(lambda: fetch(f"http://127.0.0.1:{mine}/") == "page", what="the page on the published port")
    other = next(line.rpartition(":")[2] for line in engine("port", name, "80").splitlines() if not line.endswith(f":{mine}"))
    assert fetch(f"http://127.0.0.1:{other}/") == "page"
    assert fetch(f"http://{engine.get(name, '.NetworkSettings.IPAddress')}/") == "page"


def test_published_udp_port(engine: Engine) -> None:
    port = free_port()
    name = engine("run", "-d", f"--runtime={RUNTIME}", "-p", f"127.0.0.1:{port}:53/udp", DOCKER, "perl", "-e", ECHO)
    eventually(lambda: "0035" in engine.exec(name, "cat /proc/net/udp"), what="the listener")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(b"datagram", ("127.0.0.1", port))
        assert sock.recv(100) == b"datagram"


def test_names_on_a_network_of_the_users(engine: Engine, network: str) -> None:
    engine.up("--name", "server", "--network", network, "--network-alias", "www", *HTTP)
    name = engine.up("--network", network)
    for host in ("server", "www"):
        eventually(lambda host=host: engine.tried("exec", name, "wget", "-qO-", f"http://{host}/").stdout == "page\n", what=host)  # type: ignore[misc]


def test_connect_and_disconnect(engine: Engine, network: str) -> None:
    name = engine.up()
    engine("network", "connect", network, name)
    assert "eth1" in engine.exec(name, "ip -o link")
    engine("network", "disconnect", network, name)
    assert "eth1" not in engine.exec(name, "ip -o link")


def test_root_inside_administers_its_own_network(engine: Engine) -> None:
    add = "ip link add veth9 type veth peer name veth8; ip addr add 10.99.0.1/24 dev lo; ip -o addr show lo"
    assert "10.99.0.1/24" in engine.sh("--cap-add", "NET_ADMIN", add)


@pytest.mark.sysbox
def test_net_admin_needs_no_option(engine: Engine) -> None:
    seen = engine.sh(
        "ip addr add 10.99.0.1/24 dev lo && ip -o addr show lo; echo 1 >/proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward"
    )
    assert "10.99.0.1/24" in seen
    assert seen.endswith("\n1")
