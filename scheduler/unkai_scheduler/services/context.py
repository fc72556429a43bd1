"""What every service is given, and what it is told of each call."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire import tracing
from unkai_wire.ids import NewId
from unkai_wire.tls import Principal

Wake = Callable[[Sequence[str]], None]
"""Tells the leader, wherever it is, that these rows are due. A hint: it never waits or fails."""


def new_etag() -> str:
    """Make an etag that no row had before."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """The store, time, ids, and how to wake the leader."""

    uow: UnitOfWork
    clock: Clock
    new_id: NewId
    wake: Wake
    new_etag: Callable[[], str] = new_etag


@dataclass(frozen=True, slots=True)
class Call:
    """Who calls which method, and what makes a repetition of it recognisable."""

    principal: Principal
    method: str
    """Full name, `/unkai.compute.v1.InstanceService/CreateInstance`."""
    request_id: str = ""
    digest: str = ""
    """Of the whole request: the same id with another digest is refused."""
    traceparent: str = field(default_factory=tracing.traceparent, compare=False)
    """The trace that it came in; taken here, since work in the store runs in other threads."""

    @property
    def actor(self) -> str:
        """Return the caller as events and the request table name it."""
        return str(self.principal)
