"""The port to what OVN itself would do with a packet, and what it sees of ports and members.

Implemented by `trace_process.py` (`ovn-trace` and `ovsdb-client`, a process each) and
`trace_fake.py`; both pass the same contract suite. It only reads the southbound database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from unkai_wire.errors import Unavailable


class Tracking(Enum):
    """What connection tracking says of the packet, wherever it is asked."""

    NEW = "new"
    """The first packet of a connection."""
    LATER = "est"
    """A later packet of a connection that passed."""
    ANSWER = "est,rpl"
    """The answer to one that passed."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a port is, as OVN sees it."""

    host: str
    """Name of the chassis; empty: on none."""
    up: bool
    """Whether that host has all flows for it."""
    cookie: int = 0
    """Of the flow that hands packets to it."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What OVN sees of some ports."""

    bindings: Mapping[str, Binding] = field(default_factory=dict)
    """By the port's name; OVN does not have those that are absent."""
    monitors: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """By a checked member's address and port number: `online`, `offline`, `error`, or empty."""


class Tracer(Protocol):
    """What a question of reachability asks of OVN."""

    async def trace(self, flow: str, tracking: Tracking) -> str:
        """Return what `ovn-trace` says of a packet, in full.

        Raises `Unavailable` / OVN_UNREACHABLE when it says nothing in time, or says that it cannot.
        """

    async def look(self, ports: Sequence[str]) -> Sight:
        """Return what is seen of ports, by name. Raises `Unavailable`."""


def silent(why: str) -> Unavailable:
    """Make the error for a southbound database that cannot be asked now."""
    return Unavailable(
        f"OVN's southbound database cannot be asked: {why}",
        reason="OVN_UNREACHABLE",
        fix="see that ovsdb-server of OVN_Southbound runs, that its remotes are in the settings, "
        "and that ovn-trace is installed (Debian: ovn-common)",
        metadata={"why": why},
        retry_after_s=1.0,
    )
