"""Ports: where an instance, a router, a load balancer or a floating address is on a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum


class PortState(Enum):
    """Where a port stands."""

    DOWN = "DOWN"
    ACTIVE = "ACTIVE"
    UNKNOWN = "UNKNOWN"


class PortOwner(Enum):
    """What is plugged in."""

    INSTANCE = "INSTANCE"
    ROUTER = "ROUTER"
    GATEWAY = "GATEWAY"
    LOAD_BALANCER = "LOAD_BALANCER"
    FLOATING_IP = "FLOATING_IP"


@dataclass(frozen=True, slots=True)
class FixedAddress:
    """An address of a port."""

    subnet_id: str
    address: str


@dataclass(frozen=True, slots=True)
class AddressPair:
    """What may come from a port besides its own addresses."""

    cidr: str
    mac_address: str = ""
    """Empty: the port's."""


@dataclass(frozen=True, slots=True)
class Qos:
    """Limits; 0 means none."""

    egress_bits_per_s: int = 0
    egress_burst_bits: int = 0
    ingress_bits_per_s: int = 0
    ingress_burst_bits: int = 0


@dataclass(frozen=True, slots=True)
class Port:
    """A port's row, with its addresses and groups."""

    id: str
    project_id: str
    network_id: str
    name: str
    mac_address: str
    etag: str
    create_time: datetime
    update_time: datetime
    addresses: tuple[FixedAddress, ...] = ()
    """In the order they were asked for; read, and written one by one (`store.addresses`)."""
    security_group_ids: tuple[str, ...] = ()
    """Empty: no rule holds for it."""
    pairs: tuple[AddressPair, ...] = ()
    anti_spoofing: bool = True
    qos: Qos = Qos()
    owner: PortOwner | None = None
    owner_id: str = ""
    position: int = 0
    delete_with_owner: bool = False
    state: PortState = PortState.DOWN
    reconciling: bool = False
    """Read, never written."""
    labels: Mapping[str, str] = field(default_factory=dict)
