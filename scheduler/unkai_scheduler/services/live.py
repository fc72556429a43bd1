"""What services need of the leader's live state; `reconcile.live.LiveState` has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime
from typing import Protocol

from unkai_scheduler.agents.port import Endpoint, UsageSample
from unkai_scheduler.domain.findings import Audited
from unkai_scheduler.domain.machines import Machine
from unkai_scheduler.placement.fleet import Fleet


class AuditView(Protocol):
    """What the leader's audit knows of the hosts that are in sync."""

    async def look(self) -> Audited:
        """Compare database and hosts now."""

    def holders(self, instance_id: str) -> list[Machine]:
        """Return the machines of an instance on all hosts."""


class HostsView(Protocol):
    """The leader's knowledge of which hosts are there."""

    def is_gone(self, host_id: str) -> bool:
        """Tell whether a host is neither registered nor heard any more."""

    def forget(self, host_id: str) -> None:
        """Know a host no longer: its row was deleted."""


class LeaderView(Protocol):
    """The leader's part of this process."""

    @property
    def term(self) -> int:
        """Return the term of the reign; what it was when there is none."""

    @property
    def hosts(self) -> HostsView:
        """Return what is known of hosts; raise `Unavailable` / NOT_LEADER as `audit` does."""

    @property
    def audit(self) -> AuditView:
        """Return the audit; raise `Unavailable` / NOT_LEADER when this process does not lead."""

    async def fleet(self) -> Fleet:
        """Return a copy of the fleet as a placement would find it now; raise as `audit` does."""


class Received(Protocol):
    """A sample, with the moment it arrived."""

    @property
    def sample(self) -> UsageSample: ...

    @property
    def received_time(self) -> datetime: ...


class LiveView(Protocol):
    """Newest samples and endpoints of the hosts that are there."""

    def samples(self) -> Mapping[str, Received]:
        """Return the newest sample of each host."""

    def age_s(self, host_id: str) -> float | None:
        """Return the age of a host's newest sample in seconds; None when there is none."""

    def endpoint(self, host_id: str) -> Endpoint:
        """Return how to reach a host's agent; `Unavailable` when unknown."""

    def subscribe(self, host_ids: Collection[str] = ()) -> AsyncIterator[UsageSample]:
        """Yield the newest sample of each host, then each new one."""
