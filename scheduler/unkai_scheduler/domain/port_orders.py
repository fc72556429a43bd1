"""What a host is told of a machine's ports: `agent.v1.PortSpec` in our words. Data alone."""

from __future__ import annotations

from dataclasses import dataclass

from unkai_scheduler.domain.networks import HostRoute, Ipv6Mode

PORTS = "ports.v1"
"""Feature of agents that plug the ports of an order."""
NETWORKS = "networks.v1"
"""Feature of agents whose host is in OVN: only there are machines with ports put."""
MOST_DNS_SERVERS = 8
MOST_ROUTES = 32


@dataclass(frozen=True, slots=True)
class AddressOrder:
    """One address of a port, with what is so on its subnet."""

    address: str
    prefix_length: int
    gateway_address: str = ""
    """Empty: the subnet has no router."""
    dhcp: bool = True
    """Guests are told of it by DHCP or by router advertisements."""
    ipv6_mode: Ipv6Mode | None = None
    """None: IPv4."""


@dataclass(frozen=True, slots=True)
class PortOrder:
    """One port that a machine shall have, with all that its guest may be told."""

    port_id: str
    network_id: str
    mac_address: str
    mtu: int
    position: int
    """Decides the PCI slot: a port keeps its name in the guest when others come and go."""
    addresses: tuple[AddressOrder, ...] = ()
    dns_servers: tuple[str, ...] = ()
    dns_domain: str = ""
    host_routes: tuple[HostRoute, ...] = ()
    metadata_name: str = ""
    """OVN's name of the port by which the host serves metadata and names on the network."""
    metadata_mac: str = ""
