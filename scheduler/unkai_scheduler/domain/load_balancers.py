"""Load balancers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum


class BalancedProtocol(Enum):
    """Protocol of a listener."""

    TCP = "TCP"
    UDP = "UDP"


@dataclass(frozen=True, slots=True)
class Member:
    """Takes a share of a listener's connections."""

    port_id: str
    port_number: int
    address: str = ""
    """The port's first one of the load balancer's version; read, never written."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Connects to each member; who does not answer gets no connections."""

    interval_s: int = 5
    timeout_s: int = 3
    failure_count: int = 3
    success_count: int = 1


@dataclass(frozen=True, slots=True)
class Listener:
    """One port number of the address."""

    protocol: BalancedProtocol
    port_number: int
    members: tuple[Member, ...] = ()
    health_check: HealthCheck | None = None


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """A load balancer's row, with its listeners."""

    id: str
    project_id: str
    name: str
    subnet_id: str
    port_id: str
    """Its own port, which has its address."""
    address: str
    """Read from the port, never written."""
    etag: str
    create_time: datetime
    update_time: datetime
    listeners: tuple[Listener, ...] = ()
    reconciling: bool = False
    """Read, never written."""
    labels: Mapping[str, str] = field(default_factory=dict)
