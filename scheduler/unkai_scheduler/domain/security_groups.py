"""Security groups and their rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

DEFAULT_GROUP = "default"


class Direction(Enum):
    """As seen from the instance."""

    INGRESS = "INGRESS"
    EGRESS = "EGRESS"


class Protocol(Enum):
    """What a rule is about."""

    TCP = "TCP"
    UDP = "UDP"
    ICMP = "ICMP"
    SCTP = "SCTP"


@dataclass(frozen=True, slots=True)
class Rule:
    """Allows what fits all that it says."""

    id: str
    direction: Direction
    ip_version: int = 0
    """4, 6, or 0 for both."""
    protocol: Protocol | None = None
    """None: all."""
    port_first: int = 0
    port_last: int = 0
    """0 and 0: all port numbers."""
    icmp_type: int | None = None
    icmp_code: int | None = None
    remote_cidr: str = ""
    remote_group_id: str = ""
    """Both empty: from and to anywhere."""
    description: str = ""

    @property
    def meaning(self) -> tuple[object, ...]:
        """Return what it allows: two rules that allow the same have the same meaning."""
        return (
            self.direction,
            self.ip_version,
            self.protocol,
            self.port_first,
            self.port_last,
            self.icmp_type,
            self.icmp_code,
            self.remote_cidr,
            self.remote_group_id,
        )

    def same_as(self, other: Rule) -> bool:
        """Tell whether both allow the same."""
        return self.meaning == other.meaning


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """A group's row, with its rules."""

    id: str
    project_id: str
    name: str
    etag: str
    create_time: datetime
    update_time: datetime
    description: str = ""
    rules: tuple[Rule, ...] = ()
    port_count: int = 0
    """Read, never written."""
    reconciling: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
