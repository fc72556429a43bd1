"""Routers and floating addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Gateway:
    """A router's way out: a port of its own on an external network."""

    network_id: str
    port_id: str
    addresses: tuple[str, ...]
    """Read from the port, as the network is; never written."""
    snat: bool = True


@dataclass(frozen=True, slots=True)
class RouterInterface:
    """A router's place on one subnet. All those on one network share a port."""

    subnet_id: str
    port_id: str
    address: str
    """Read from the port, never written."""


@dataclass(frozen=True, slots=True)
class Route:
    """A static route."""

    destination: str
    next_hop: str


@dataclass(frozen=True, slots=True)
class Router:
    """A router's row, with its places."""

    id: str
    project_id: str
    name: str
    etag: str
    create_time: datetime
    update_time: datetime
    gateway: Gateway | None = None
    interfaces: tuple[RouterInterface, ...] = ()
    routes: tuple[Route, ...] = ()
    reconciling: bool = False
    """Read, never written."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FloatingIp:
    """A floating address's row."""

    id: str
    project_id: str
    name: str
    network_id: str
    address: str
    """Read from the holder, as the network is; never written."""
    holder_port_id: str
    """The port, on the external network, that keeps the address from being given out twice."""
    etag: str
    create_time: datetime
    update_time: datetime
    port_id: str = ""
    """Where it leads; empty: nowhere."""
    fixed_address: str = ""
    """An address of that port."""
    router_id: str = ""
    instance_id: str = ""
    """Read, never written."""
    reconciling: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
