"""Guests of a situation as namespaces on a real host, and packets that they really send.

A guest has the addresses and routes that its subnets tell. `external` is a namespace on the
operator's network, which is the internet. Everything runs on the one host of `ovn_host.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

from tests.support.ovn_host import HOST_ID, OvnHost
from tests.support.reach_cases import Case
from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.domain.reachability import EXTERNAL
from unkai_scheduler.ovn.northbound.names import name_of

FAR = "198.51.100.1"
"""Somewhere in the internet."""
CONNECTIONS = 12
"""To a load balancer, which chooses at random: one of two bad members shows itself in these."""
PATIENCE_S = 60.0
"""For what arrives."""
NEVER_S = 3.0
"""For what does not: twice as long as one attempt."""
_SERVE = """
import socket, threading
def talk(version, number):
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    tcp = socket.create_server(("", number), family=family, reuse_port=True)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    if version == 6:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    udp.bind(("", number))
    def echo():
        while True:
            data, who = udp.recvfrom(100)
            udp.sendto(data, who)
    threading.Thread(target=echo, daemon=True).start()
    while True:
        one, _ = tcp.accept()
        one.sendall(b"ok")
        one.close()
import sys
for version in (4, 6):
    threading.Thread(target=talk, args=(version, int(sys.argv[1]))).start()
"""
_ASK = """
import socket, sys
protocol, source, target, number = sys.argv[1:]
family = socket.AF_INET6 if ":" in target else socket.AF_INET
kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
with socket.socket(family, kind) as one:
    one.settimeout(1.5)
    one.bind((source, 0))
    one.connect((target, int(number)))
    if protocol == "udp":
        one.send(b"ok")
    sys.exit(one.recv(2) != b"ok")
"""


class Guests:
    """The machines of one situation, and the outside."""

    def __init__(self, host: OvnHost, case: Case) -> None:
        self._host = host
        self._case = case
        self._spaces: dict[str, str] = {}
        self._cards: dict[str, str] = {}
        self._servers: list[subprocess.Popen[bytes]] = []

    def plug_in(self) -> None:
        """Let all be there, each with a server."""
        for name, port in self._case.town.ports.items():
            if port.owner is PortOwner.INSTANCE and name not in self._case.unbound:
                self._machine(name, port)
        self._outside()

    def remove(self) -> None:
        """Let all be gone."""
        for server in self._servers:
            server.kill()
            server.wait()
        for name in self._spaces:
            self._host.vsctl("--if-exists", "del-port", _device(name))
            # A connection that was never ended keeps its namespace for minutes, and the card in it.
            _run("ip", "link", "del", _device(name))
        for space in dict.fromkeys(self._spaces.values()):
            _run("ip", "netns", "del", space)

    def arrives(self) -> bool:
        """Tell whether what the situation asks about really gets an answer.

        The first packets of a way may be lost while neighbours are asked for. What never arrives is
        tried for some seconds too.
        """
        if self._case.reason == "PORT_DOWN" and self._source not in self._spaces:
            return False
        end = time.monotonic() + (NEVER_S if self._case.reason else PATIENCE_S)
        while not self._once():
            if time.monotonic() > end:
                return False
        balanced = bool(self._case.town.load_balancers)
        return all(self._once() for _ in range(CONNECTIONS if balanced else 1))

    @property
    def _source(self) -> str:
        port_id = self._case.question.source_port_id
        named = [name for name, port in self._case.town.ports.items() if port.id == port_id]
        return named[0] if named else EXTERNAL

    def _once(self) -> bool:
        asked = self._case.question
        target = FAR if asked.destination_address == EXTERNAL else asked.destination_address
        source = asked.source_address
        if not source and self._source == EXTERNAL:
            source = FAR
        elif not source:
            port = self._case.town.ports[self._source]
            same = [a.address for a in port.addresses if version_of(a.address) == _version(target)]
            source = same[0]
        protocol = asked.protocol.value.lower()
        if protocol == "icmp":
            words = ["ping", "-c1", "-W1", "-I", source, target]
        else:
            words = [sys.executable, "-c", _ASK, protocol, source, target, str(asked.port_number)]
        inside = ["ip", "netns", "exec", self._spaces[self._source], *words]
        return subprocess.run(inside, capture_output=True, timeout=60, check=False).returncode == 0

    def _machine(self, name: str, port: Port) -> None:
        town, first = self._case.town, self._first_of(port)
        if first == name:
            self._space(name)
        self._card(name, first, port.mac_address, {"iface-id": name_of(port.id)})
        by_id = {subnet.id: subnet for subnet in town.subnets.values()}
        for fixed in port.addresses:
            subnet = by_id[fixed.subnet_id]
            self._address(name, f"{fixed.address}/{ip_network(subnet.cidr).prefixlen}")
            routes = [(r.destination, r.next_hop) for r in subnet.host_routes]
            anywhere = "::/0" if subnet.version == 6 else "0.0.0.0/0"
            if subnet.gateway_address and first == name:
                routes.append((anywhere, subnet.gateway_address))
            for to, via in routes:
                _run("ip", "-n", self._spaces[name], "route", "replace", to, "via", via)
        spoofed = self._case.question.source_address
        if spoofed and name == self._source:
            self._address(name, f"{spoofed}/32")
        for taker, address in self._case.taken:
            if taker == name:
                self._address(name, f"{address}/32")
        if name not in self._case.ill and first == name:
            self._serve(name)
        wait = ("--timeout=60", "wait-until", "Interface", _device(name))
        self._host.vsctl(*wait, "external_ids:ovn-installed=true")

    def _first_of(self, port: Port) -> str:
        """Return the first port of a port's machine."""
        return next(n for n, p in self._case.town.ports.items() if p.owner_id == port.owner_id)

    def _outside(self) -> None:
        self._space(EXTERNAL)
        self._card(EXTERNAL, EXTERNAL, "02:00:00:00:ee:01", {}, bridge="br-ex")
        for address in ("192.0.2.1/24", f"{FAR}/32"):
            self._address(EXTERNAL, address)
        for to, via in self._case.outside_routes:
            _run("ip", "-n", self._spaces[EXTERNAL], "route", "add", to, "via", via)
        self._serve(EXTERNAL)

    def _space(self, name: str) -> None:
        space = self._spaces[name] = f"why-{os.getpid()}-{name}"
        _run("ip", "netns", "add", space)
        _run("ip", "-n", space, "link", "set", "lo", "up")

    def _card(
        self, name: str, machine: str, mac: str, ids: dict[str, str], *, bridge: str = "br-int"
    ) -> None:
        """Give a machine a card; `name`: the port's."""
        space = self._spaces[name] = self._spaces[machine]
        device = _device(name)
        card = self._cards[name] = "eth0" if name == machine else device
        peer = ("peer", "name", card, "netns", space, "address", mac)
        _run("ip", "link", "add", device, "type", "veth", *peer)
        _run("ip", "netns", "exec", space, "ethtool", "-K", card, "tx", "off")
        _run("ip", "-n", space, "link", "set", card, "up")
        _run("ip", "link", "set", device, "up")
        settings = [f"external_ids:{key}={value}" for key, value in ids.items()]
        plug = ["--may-exist", "add-port", bridge, device]
        self._host.vsctl(*plug, *(["--", "set", "Interface", device, *settings] if ids else []))

    def _address(self, name: str, address: str) -> None:
        nodad = ["nodad"] if ":" in address else []
        add = ("addr", "add", address, "dev", self._cards[name], *nodad)
        _run("ip", "-n", self._spaces[name], *add)

    def _serve(self, name: str) -> None:
        number = self._case.question.port_number
        inside = ["ip", "netns", "exec", self._spaces[name]]
        if number:
            command = [*inside, sys.executable, "-c", _SERVE, str(number)]
            self._servers.append(subprocess.Popen(command))


@contextmanager
def guests_of(host: OvnHost, case: Case) -> Iterator[Guests]:
    """Let the guests of a situation be there meanwhile."""
    made = Guests(host, case)
    try:
        made.plug_in()
        yield made
    finally:
        made.remove()


def join(host: OvnHost) -> None:
    """Let the host belong to OVN, and reach the operator's network."""
    told = {
        "system-id": HOST_ID,
        "hostname": "h1",
        "ovn-remote": host.membership.remotes[0],
        "ovn-encap-type": "geneve",
        "ovn-encap-ip": host.membership.encap_address,
        "ovn-bridge-datapath-type": "netdev",
        "ovn-monitor-all": "true",
        "ovn-bridge-mappings": "public:br-ex",
    }
    host.vsctl(
        *("--may-exist", "add-br", "br-ex", "--", "set", "Bridge", "br-ex", "datapath_type=netdev"),
        *("--", "set", "Open_vSwitch", "."),
        *(f"external_ids:{key}={value}" for key, value in told.items()),
    )
    host.await_bridge()


def _device(name: str) -> str:
    return f"w{os.getpid()}-{name}"[:15]


def _version(address: str) -> int:
    return version_of(address)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
