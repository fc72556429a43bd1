"""The office: what all loops of one reign share, and the one way they write and give orders.

Every write goes through `Office.lead`, so it is fenced by the term; whoever learns that the term
is over raises `ReignEnded`, which ends all loops of the reign together.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import structlog

from unkai_scheduler.agents.port import Agents, Endpoint
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.domain.events import Event, EventType
from unkai_scheduler.domain.machines import Fence
from unkai_scheduler.images.port import ImageStore
from unkai_scheduler.reconcile import metrics
from unkai_scheduler.reconcile.hearsay import Hearsay
from unkai_scheduler.reconcile.live import LiveState
from unkai_scheduler.settings import Settings
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_wire.errors import Conflict, FailedPrecondition, UnkaiError
from unkai_wire.ids import NewId

T = TypeVar("T")
log = structlog.get_logger(__name__)
_SPREAD = random.SystemRandom()
MAX_EVENT_MESSAGE = 512


class ReignEnded(Exception):
    """We no longer lead. `highest_term`: the term that outranks ours, 0 when unknown.

    What several tasks do at once raises it in an `ExceptionGroup`.
    """

    def __init__(self, why: str, highest_term: int = 0) -> None:
        super().__init__(why)
        self.highest_term = highest_term


class Audience(Protocol):
    """Who in this process waits for what the leader writes. Told after the commit; a hint."""

    def stamped(self) -> None:
        """Events got their revision."""

    def written(self, operation_ids: Collection[str]) -> None:
        """These operations were written."""


class Nobody:
    """The audience where none waits."""

    def stamped(self) -> None:
        """Let it be."""

    def written(self, operation_ids: Collection[str]) -> None:
        """Let it be."""


class Plugs(Protocol):
    """Whoever looks after the ports of instances."""

    def lock(self, conn: Connection, instance_ids: Iterable[str]) -> None:
        """Lock what shall be freed of several instances, at once; these are locked."""

    def free(self, conn: Connection, instance_id: str) -> None:
        """Free all that a locked instance is plugged in by; nothing is left of it on any host."""


class NoPlugs:
    """What looks after ports where nothing is plugged in."""

    def lock(self, conn: Connection, instance_ids: Iterable[str]) -> None:
        """Let it be."""

    def free(self, conn: Connection, instance_id: str) -> None:
        """Let it be."""


@dataclass
class Office:
    """One reign's tools."""

    name: str
    term: int
    uow: UnitOfWork
    agents: Agents
    images: ImageStore
    live: LiveState
    settings: Settings
    clock: Clock
    new_id: NewId
    hearsay: Hearsay
    audience: Audience = field(default_factory=Nobody)
    plugs: Plugs = field(default_factory=NoPlugs)
    written: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when events may wait for their revision."""
    is_over: bool = False
    """The reign is being ended from outside."""
    _failing: dict[str, str] = field(default_factory=dict)

    @property
    def actor(self) -> str:
        """Who we are in events."""
        return f"scheduler:{self.name}"

    async def lead(
        self,
        work: Callable[[Connection], T],
        *,
        tells: bool = True,
        operation_ids: Collection[str] = (),
    ) -> T:
        """Write under the term; raise `ReignEnded` when it is over.

        `tells`: the work may insert events, so the sequencer is to look. `operation_ids`: those
        it may write.
        """
        try:
            result = await self.uow.lead(self.term, work)
        except Conflict as error:
            if error.reason == "NOT_LEADER":
                raise ReignEnded(error.message) from error
            raise
        else:
            self.audience.written(operation_ids)
            return result
        finally:
            if tells:
                self.written.set()

    def fence(self, generation: int = 0, run_epoch: int = 0) -> Fence:
        """Return by what right we order."""
        return Fence(self.term, generation, run_epoch)

    def endpoint(self, host_id: str) -> Endpoint:
        """Return how to reach a host; `Unavailable` when it is not registered."""
        return self.live.endpoint(host_id)

    def check_still_leading(self, host_id: str, error: UnkaiError) -> None:
        """Raise `ReignEnded` when a host refused us because it knows a higher term."""
        if isinstance(error, FailedPrecondition) and error.reason == "STALE_TERM":
            said = error.metadata.get("highest_term", "")
            highest = self.hearsay.outranking(host_id, said, self.term)
            if highest:
                raise ReignEnded(error.message, highest) from error

    async def attempt(self, loop: str, work: Callable[[], Awaitable[object]]) -> bool:
        """Do one round of a loop; tell whether it went well.

        A failure is counted, and logged once per change of what fails; only the end of the reign
        and cancellation pass.
        """
        try:
            await work()
        except ReignEnded:
            raise
        except UnkaiError as error:
            self._failed(loop, error.reason, error)
        except ExceptionGroup as group:
            ended = group.subgroup(ReignEnded)
            if ended is not None:
                raise ended from None
            if self.is_over:  # a group that fails swallows the cancellation: see `Leader._end`
                raise asyncio.CancelledError from None
            self._failed(loop, repr(group), group)
        except Exception as error:  # noqa: BLE001 - a bug in one round must not end the reign
            self._failed(loop, repr(error), error)
        else:
            if self._failing.pop(loop, None):
                log.info("loop_recovered", loop=loop)
            return True
        return False

    def _failed(self, loop: str, what: str, error: Exception) -> None:
        metrics.LOOP_ERRORS.labels(loop).inc()
        if self._failing.get(loop) == what:
            return
        self._failing[loop] = what
        known = isinstance(error, UnkaiError)
        log.warning("loop_failed", loop=loop, error=str(error), exc_info=None if known else error)

    def event(
        self,
        kind: str,
        resource_id: str,
        name: str,
        *,
        project_id: str = "",
        type: EventType = EventType.UPDATED,  # noqa: A002 - the event's own word
        state: str = "",
        reason: str = "",
        message: str = "",
        attributes: dict[str, str] | None = None,
        request_id: str = "",
    ) -> Event:
        """Return an event of ours, made now."""
        return Event(
            id=self.new_id("event"),
            project_id=project_id,
            resource_kind=kind,
            resource_id=resource_id,
            resource_name=name,
            type=type,
            actor=self.actor,
            create_time=self.clock(),
            state=state,
            reason=reason,
            message=message[:MAX_EVENT_MESSAGE],
            attributes={k: v for k, v in (attributes or {}).items() if v},
            request_id=request_id,
        )


def new_etag() -> str:
    """Make an etag that no row had before."""
    return secrets.token_hex(8)


def spread_s(delay_s: float) -> float:
    """Return a delay spread by ±25 %, so that a crowd does not come back at one moment."""
    return delay_s * _SPREAD.uniform(0.75, 1.25)


def growing_s(failures: int, *, first_s: float = 0.2, cap_s: float = 5.0) -> float:
    """Return how long to wait after so many failures in a row: doubling, capped, spread."""
    return spread_s(min(cap_s, first_s * 2.0 ** min(failures, 16)))


async def wait_for(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait until an event is set, then clear it; False when the time is over first."""
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True


@contextlib.asynccontextmanager
async def closing(stream: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close a stream that is left before its end."""
    try:
        yield stream
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
