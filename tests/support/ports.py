"""Builders of the agent's ports: a test names only what matters to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unkai_agent.domain.ports import HostRoute, Ipv6Mode, MetadataPort, PortAddress, PortSpec
from unkai_wire.ids import encode, uuid7, uuid_of


def a_port_id(number: int = 1) -> str:
    """Return a port's id; the same number gives the same."""
    return encode("prt", uuid7(1_700_000_000_000, number))


def a_network_id(number: int = 1) -> str:
    """Return a network's id; the same number gives the same."""
    return encode("net", uuid7(1_700_000_000_000, number))


def an_ipv4(address: str = "10.0.0.5", **changes: Any) -> PortAddress:
    """Return an address of a /24 with a router."""
    base = PortAddress(address, 24, address.rpartition(".")[0] + ".1")
    return replace(base, **changes)


def an_ipv6(
    address: str = "fd00::5", mode: Ipv6Mode = Ipv6Mode.DHCPV6_STATEFUL, **changes: Any
) -> PortAddress:
    """Return an address of a /64 with a router."""
    base = PortAddress(address, 64, address.partition("::")[0] + "::1", ipv6_mode=mode)
    return replace(base, **changes)


def a_port(number: int = 1, **changes: Any) -> PortSpec:
    """Return a port with one IPv4 address, on a network with a metadata port."""
    network_id = changes.pop("network_id", a_network_id())
    base = PortSpec(
        port_id=a_port_id(number),
        network_id=network_id,
        mac_address=f"02:00:00:00:00:{number:02x}",
        mtu=1442,
        position=number - 1,
        addresses=(an_ipv4(f"10.0.0.{4 + number}"),),
        dns_servers=("10.0.0.1",),
        dns_domain="internal",
        metadata=MetadataPort(f"meta-{uuid_of(network_id)}", "02:00:00:00:fe:01", ("10.0.0.2/24",)),
    )
    return replace(base, **changes)


def a_full_port() -> PortSpec:
    """Return a port that says all that a port can say."""
    return a_port(
        addresses=(an_ipv4(), an_ipv6(dhcp=False), an_ipv6("fd01::7", Ipv6Mode.SLAAC)),
        dns_servers=("10.0.0.1", "fd00::1"),
        host_routes=(HostRoute("192.168.7.0/24", "10.0.0.9"),),
    )
