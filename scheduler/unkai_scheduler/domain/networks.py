"""Networks and subnets. Data alone; addresses are text in their canonical form (`addresses.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

DEFAULT_NETWORK = "default"


class NetworkType(Enum):
    """What carries a network's frames between hosts."""

    OVERLAY = "OVERLAY"
    FLAT = "FLAT"
    VLAN = "VLAN"


class Ipv6Mode(Enum):
    """How guests get an IPv6 address."""

    SLAAC = "SLAAC"
    DHCPV6_STATELESS = "DHCPV6_STATELESS"
    DHCPV6_STATEFUL = "DHCPV6_STATEFUL"


@dataclass(frozen=True, slots=True)
class Network:
    """A network's row."""

    id: str
    project_id: str
    name: str
    type: NetworkType
    mtu: int
    """Bytes of the largest packet, already computed."""
    dns_domain: str
    etag: str
    create_time: datetime
    update_time: datetime
    physical_network: str = ""
    vlan_id: int = 0
    external: bool = False
    shared: bool = False
    is_default: bool = False
    """At most one of a project's."""
    reconciling: bool = False
    """Whether OVN is not yet as it shall be; read, never written."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Range:
    """A run of addresses, both ends in it."""

    first: str
    last: str


@dataclass(frozen=True, slots=True)
class HostRoute:
    """A route that guests are told."""

    destination: str
    next_hop: str


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet's row."""

    id: str
    project_id: str
    network_id: str
    name: str
    cidr: str
    gateway_address: str
    """Empty: guests are told of no router."""
    ranges: tuple[Range, ...]
    """What may be given out; never empty, never the gateway's address."""
    etag: str
    create_time: datetime
    update_time: datetime
    dhcp: bool = True
    ipv6_mode: Ipv6Mode | None = None
    dns_servers: tuple[str, ...] = ()
    host_routes: tuple[HostRoute, ...] = ()
    used_address_count: int = 0
    """Read, never written."""
    reconciling: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.cidr else 4
