"""The port to the cluster's membership: who leads, which hosts and schedulers are there.

Implemented by `etcd.py` and `fake.py`. etcd only elects: the term that fences comes from the
database (architecture, section 3).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from unkai_wire.cluster_records import HostRecord, SchedulerRecord


@dataclass(frozen=True, slots=True)
class Membership:
    """All that is registered at one moment."""

    hosts: Mapping[str, HostRecord]
    schedulers: Mapping[str, SchedulerRecord]
    leader: SchedulerRecord | None


class Cluster(Protocol):
    """Membership and election. Methods raise `Unavailable` when etcd does not answer."""

    async def register(self, record: SchedulerRecord) -> None:
        """Keep this scheduler's record under a lease until `close`; renew it by itself."""

    def lead(self) -> AsyncIterator[bool]:
        """Campaign for ever: yield True on winning, False on losing the lead.

        A lead that a scheduler of our name left when it died is taken over at once.
        Leading ends at our own clock's deadline of the lease, before etcd gives it to another,
        also when etcd is unreachable.
        """

    async def resign(self) -> None:
        """Give the lead up at once, if held."""

    async def read(self) -> Membership:
        """Read all records."""

    def watch(self) -> AsyncIterator[Membership]:
        """Yield the membership now, after each hint of a change, and at least every 5 s.

        While etcd is unreachable it yields nothing.
        """

    async def close(self) -> None:
        """Withdraw our records and stop."""
