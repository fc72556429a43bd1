"""Whether one end of a network reaches another: the question and its answer. Data alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from unkai_scheduler.domain.security_groups import Protocol

EXTERNAL = "external"
"""Stands for any address outside the cloud."""


class Verdict(Enum):
    """The answer in one word; meanings in network/v1/reachability.proto."""

    REACHABLE = "REACHABLE"
    UNREACHABLE = "UNREACHABLE"
    LEAVES_CLOUD = "LEAVES_CLOUD"


@dataclass(frozen=True, slots=True)
class Question:
    """An imagined packet."""

    source_port_id: str
    """Empty: it comes from outside, by an external network."""
    source_address: str
    """Empty: the first of the destination's version."""
    destination_address: str
    """Or `EXTERNAL`."""
    protocol: Protocol = Protocol.ICMP
    port_number: int = 0
    source_network_id: str = ""
    """The external network that it comes in by, if it comes from outside."""

    @property
    def service(self) -> str:
        """Return what it is about, as users write it: `tcp/443`, `icmp`."""
        name = self.protocol.value.lower()
        return f"{name}/{self.port_number}" if self.port_number else name


@dataclass(frozen=True, slots=True)
class Hop:
    """One thing that the packet passed, or did not."""

    kind: str
    id: str
    name: str
    message: str
    dropped: bool = False
    answer: bool = False
    packet_count: int | None = None
    cookies: tuple[int, ...] = ()
    """Of OVN's flows that say so; 32 bits each."""


@dataclass(frozen=True, slots=True)
class Reachability:
    """What became of a packet and of its answer."""

    verdict: Verdict
    summary: str
    reason: str = ""
    fix: str = ""
    hops: tuple[Hop, ...] = ()
    trace: str = ""
