"""Events: what happened, in one order. Reading and watching alone; changes write them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import Event, Revision
from unkai_scheduler.domain.names import MAX_FILTER, check_text
from unkai_scheduler.services.checks import Violations
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.follower import Follower
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.store import events
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

KINDS = (
    "instance",
    "image",
    "flavor",
    "key_pair",
    "placement_group",
    "project",
    "host",
    "aggregate",
    "operation",
    "network",
    "subnet",
    "port",
    "router",
    "floating_ip",
    "security_group",
    "load_balancer",
)
PROGRESS_S = 10.0
"""Seconds after which a silent watch says how far it has come."""
_BATCH = 500


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a caller wants; empty fields leave all in."""

    project_id: str = ""
    kinds: tuple[str, ...] = ()
    resource_id: str = ""

    def check(self) -> None:
        """Raise `InvalidArgument` for what names nothing."""
        with Violations() as wrong:
            if self.project_id:
                with wrong.collect():
                    check_id("project", self.project_id, "project_id")
            for kind in dict.fromkeys(self.kinds):
                wrong.require(
                    kind in KINDS,
                    "resource_kinds",
                    f"{kind[:64]!r} is no kind; there are {', '.join(KINDS)}",
                    "UNKNOWN_KIND",
                )
            with wrong.collect():
                check_text(self.resource_id, "resource_id", MAX_FILTER)


@dataclass(frozen=True, slots=True)
class Progress:
    """All matching events up to this revision were given."""

    revision: Revision


class EventsService:
    """Use cases of events."""

    def __init__(
        self,
        context: ServiceContext,
        follower: Follower,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        progress_s: float = PROGRESS_S,
    ) -> None:
        self._context = context
        self._follower = follower
        self._monotonic = monotonic
        self._progress_s = progress_s

    async def list(self, paging: Paging, wanted: EventFilter) -> Page[Event]:
        """Return past events, newest first."""
        wanted.check()
        conditions = [wanted.project_id, sorted(set(wanted.kinds)), wanted.resource_id]
        page = plan(paging, "events", conditions, _key, key_length=1)
        return await page.read(
            self._context.uow,
            partial(
                events.list_page,
                project_id=wanted.project_id or None,
                kinds=wanted.kinds or None,
                resource_id=wanted.resource_id or None,
            ),
        )

    async def watch(
        self, wanted: EventFilter, after_revision: str
    ) -> AsyncIterator[Event | Progress]:
        """Yield where it begins, then every matching event once, then progress now and then.

        Raises `FailedPrecondition` / REVISION_GONE when events after the revision are not kept.
        """
        wanted.check()
        newest = await self._context.uow.read(events.newest)
        place = Revision.parse(after_revision) if after_revision else newest
        batch, place_after = await self._next(place, wanted)
        yield Progress(place)
        said_s = self._monotonic()
        while True:
            for event in batch:
                yield event
                said_s = self._monotonic()
            place = place_after
            if self._monotonic() - said_s >= self._progress_s:
                yield Progress(place)
                said_s = self._monotonic()
            if len(batch) < _BATCH:
                left_s = self._progress_s - (self._monotonic() - said_s)
                if not await self._follower.wait_past(place, max(left_s, 0.0)):
                    batch = ()  # nothing new at all: a read for each silent watcher would add up
                    continue
            batch, place_after = await self._next(place, wanted)

    async def _next(self, place: Revision, wanted: EventFilter) -> tuple[Sequence[Event], Revision]:
        """Read the next batch after a place, and the place reached with it."""

        def read(conn: Connection) -> tuple[Sequence[Event], Revision]:
            batch = events.after(
                conn,
                place,
                project_id=wanted.project_id or None,
                kinds=wanted.kinds or None,
                resource_id=wanted.resource_id or None,
                limit=_BATCH,
            )
            last = batch[-1].revision if len(batch) == _BATCH else events.newest(conn)
            return batch, last or place

        return await self._context.uow.read(read)


def _key(event: Event) -> Sequence[str]:
    return [str(event.revision)]
