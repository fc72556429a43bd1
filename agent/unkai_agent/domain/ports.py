"""Ports: what a machine shall be plugged into networks by, and what is observed of that.

Addresses are text in their canonical form: what comes in is checked at the edge. The device on the
host is named by the port, so that it is known before the machine starts and can be found after a
crash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address
from ipaddress import ip_interface as _ip_interface
from typing import Any

from unkai_wire import ids

INTEGRATION_BRIDGE = "br-int"
"""The bridge of Open vSwitch that OVN programs."""
METADATA_ADDRESS = "169.254.169.254"
"""Where guests ask, as EC2 has it."""
PORTS_MAX = 16
"""Ports of one machine: as many slots of its PCI bus are kept for them."""


class Ipv6Mode(Enum):
    """How a guest gets an IPv6 address; meanings in agent/v1/port.proto."""

    SLAAC = "SLAAC"
    DHCPV6_STATELESS = "DHCPV6_STATELESS"
    DHCPV6_STATEFUL = "DHCPV6_STATEFUL"


@dataclass(frozen=True, slots=True)
class PortAddress:
    """One address of a port, with what is so on its subnet."""

    address: str
    prefix_length: int
    gateway_address: str = ""
    """Empty: the subnet has no router."""
    dhcp: bool = True
    """Guests are told of it by DHCP or by router advertisements."""
    ipv6_mode: Ipv6Mode | None = None
    """None: IPv4."""

    @property
    def ip(self) -> IPv4Address | IPv6Address:
        """The address alone."""
        return ip_address(self.address)

    @property
    def interface(self) -> IPv4Interface | IPv6Interface:
        """The address with its subnet."""
        return _ip_interface(f"{self.address}/{self.prefix_length}")


@dataclass(frozen=True, slots=True)
class HostRoute:
    """A route that a guest is told."""

    destination: str
    next_hop: str


@dataclass(frozen=True, slots=True)
class MetadataPort:
    """The port of a network's own, by which each host serves 169.254.169.254 there."""

    interface_id: str
    mac_address: str
    addresses: tuple[str, ...] = ()
    """On the network's subnets, in CIDR notation."""


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One port a machine shall have."""

    port_id: str
    network_id: str
    mac_address: str
    """Six pairs of lower-case hexadecimal digits."""
    mtu: int
    position: int
    """0 to 15; decides the PCI slot."""
    addresses: tuple[PortAddress, ...] = ()
    dns_servers: tuple[str, ...] = ()
    dns_domain: str = ""
    host_routes: tuple[HostRoute, ...] = ()
    metadata: MetadataPort | None = None

    @property
    def interface_id(self) -> str:
        """Name of OVN's logical switch port: the port's UUID."""
        return str(ids.uuid_of(self.port_id))

    @property
    def device(self) -> str:
        """Name of its device on the host."""
        return device_of(self.port_id)

    def metadata_address_near(self, address: PortAddress) -> str:
        """Return the metadata port's address on the subnet of one of ours; empty: it has none."""
        for text in self.metadata.addresses if self.metadata else ():
            there = _ip_interface(text)
            if there.network == address.interface.network:
                return str(there.ip)
        return ""


def device_of(port_id: str) -> str:
    """Return the name of a port's device: 15 characters, the most that Linux takes.

    The end of an id is its random part; its beginning is the clock's, and ports made together
    share it.
    """
    return f"tap{port_id[-12:]}"


@dataclass(frozen=True, slots=True)
class PortStatus:
    """One port as this host observes it."""

    port_id: str
    installed: bool
    error: Mapping[str, Any] | None = None
    """Why it is not, where it shall be: `UnkaiError.to_record()`."""
