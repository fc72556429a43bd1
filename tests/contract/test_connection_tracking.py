"""Guests' connections that end and come again do not end the switch that tracks them.

Open vSwitch 3.1.0 aborts, in userspace, at the first packet of a connection that has ended and is
not swept yet, if it was committed with a translation that changes nothing, as OVN does wherever a
datapath is said to know that (`ct_zero_snat`).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ovn_host import PATIENCE_S, OvnHost, ovn_host, unavailable_reason
from tests.support.ports import a_port, an_ipv4
from unkai_agent.domain.ports import PortSpec
from unkai_agent.network.namespaces import Namespaces
from unkai_agent.network.ovs_database import OvsDatabase
from unkai_agent.network.ovs_driver import OvsNetwork

_WHY_NOT = unavailable_reason()
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT),
    pytest.mark.timeout(180),
]
_TUNSETIFF = 0x400454CA
_TAP_NO_INFO = 0x0002 | 0x1000
_ENDS_S = 1
"""A connection of UDP ends after so much silence here; ended ones are swept every 20 s."""
_TIMES = 6


@pytest.fixture
def host() -> Iterator[OvnHost]:
    with ovn_host() as made:
        yield made


async def test_a_connection_that_ended_may_come_again(host: OvnHost, tmp_path: Path) -> None:
    database = OvsDatabase(("ovs-vsctl", f"--db={host.database}"))
    network = OvsNetwork(database, Namespaces(tmp_path / "netns"))
    await network.join(host.membership)
    one, other = a_port(1), a_port(2, addresses=(an_ipv4("10.0.0.6"),))
    for port in (one, other):
        await asyncio.to_thread(host.add_device, port, f"vm-{port.port_id}")
    # OVN asks what the datapath can once it is there: so a later look of the agent's sees it.
    await network.join(host.membership)
    for direction in ("from-lport", "to-lport"):
        host.nbctl("acl-add", one.network_id, direction, "1002", "ip4", "allow-related")
    _let_connections_end_soon(host)
    sender, receiver = _opened(one), _opened(other)
    switch = host.libvirt.daemon_pid("ovs-vswitchd")

    datagram = _datagram(one, other)
    for _ in range(_TIMES):
        os.write(sender, datagram)
        assert await _arrives(receiver, datagram), host.libvirt.log()
        await asyncio.sleep(_ENDS_S * 1.3)

    assert host.libvirt.daemon_pid("ovs-vswitchd") == switch


def _let_connections_end_soon(host: OvnHost) -> None:
    host.settle()
    for line in host.appctl(host.controller, "ct-zone-list").splitlines():
        limits = (f"{name}={_ENDS_S}" for name in ("udp_first", "udp_single", "udp_multiple"))
        host.vsctl("add-zone-tp", "netdev", f"zone={line.split()[-1]}", *limits)
    host.settle()


def _opened(port: PortSpec) -> int:
    """Return the guest's end of a port's device."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", port.device.encode(), _TAP_NO_INFO))
    return end


async def _arrives(end: int, frame: bytes) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if os.read(end, 2048) == frame:
                return True
        except BlockingIOError:
            await asyncio.sleep(0.01)
    return False


def _datagram(one: PortSpec, other: PortSpec) -> bytes:
    """Return a frame with a datagram of UDP, without a checksum of its content (RFC 768)."""
    content = b"hello!"
    udp = struct.pack("!HHHH", 1111, 2222, 8 + len(content), 0) + content
    addresses = b"".join(socket.inet_aton(port.addresses[0].address) for port in (one, other))
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0)
    sum_ = sum(struct.unpack("!10H", head + addresses))
    while sum_ >> 16:
        sum_ = (sum_ & 0xFFFF) + (sum_ >> 16)
    ethernet = b"".join(bytes.fromhex(p.mac_address.replace(":", "")) for p in (other, one))
    return ethernet + b"\x08\0" + head[:10] + struct.pack("!H", ~sum_ & 0xFFFF) + addresses + udp
