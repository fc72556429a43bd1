"""Follows the newest stamped event and the operations waited for, once for all in this process.

Watches and waits look at the store only when something was stamped or written, or when their time
is up. One read every `POLL_S` or `OPERATIONS_POLL_S` serves any number of them; with nobody waiting
there is no read at all. Where this process leads, the leader tells what it wrote, and nobody here
waits for a poll. It never fails: while the database does not answer, those who wait go on waiting.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog

from unkai_scheduler.domain.events import Revision
from unkai_scheduler.store import events, operations
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.errors import UnkaiError

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

T = TypeVar("T")
POLL_S = 0.1
"""Seconds between reads: half of what a watcher may be behind."""
OPERATIONS_POLL_S = 0.2
"""Seconds between looks at the operations waited for: another scheduler's leader may write them."""
GATHER_S = 0.02
"""Least seconds between reads, however often events are stamped: every watcher reads after each."""
_LOG = structlog.get_logger()


class Follower:
    """Tells when the newest revision has moved, and when an operation was written."""

    def __init__(
        self,
        uow: UnitOfWork,
        *,
        poll_s: float = POLL_S,
        operations_poll_s: float = OPERATIONS_POLL_S,
    ) -> None:
        self._uow = uow
        self._poll_s = poll_s
        self._operations_poll_s = operations_poll_s
        self._newest: Revision | None = None
        self._moved = asyncio.Event()
        self._wanted = asyncio.Event()
        self._told = asyncio.Event()
        self._waiting = 0
        self._awaited = asyncio.Event()
        self._operations: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._failing = ""

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_events())
            tasks.create_task(self._follow_operations())

    async def _follow_events(self) -> None:
        while True:
            await self._wanted.wait()
            self._told.clear()
            await self._look()
            await asyncio.sleep(min(GATHER_S, self._poll_s))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s - GATHER_S):
                    await self._told.wait()

    async def _follow_operations(self) -> None:
        seen: Mapping[str, datetime] = {}
        while True:
            await self._awaited.wait()
            await asyncio.sleep(self._operations_poll_s)
            awaited = tuple(self._operations)
            found = await self._read(partial(operations.update_times, idents=awaited))
            if found is not None:
                # One not seen before may have been written since its waiter looked: told as well.
                self.written([i for i in awaited if found.get(i) != seen.get(i)])
                seen = found

    # What the leader in this process tells.

    def stamped(self) -> None:
        """Look soon: events got their revision."""
        self._told.set()

    def written(self, operation_ids: Collection[str]) -> None:
        """Let go who waits for these operations: they were written."""
        for ident in operation_ids:
            for news in self._operations.get(ident, ()):
                news.set()

    # Those who wait.

    @contextmanager
    def news_of(self, operation_id: str) -> Iterator[asyncio.Event]:
        """Give an event that is set when the operation may have been written."""
        news = asyncio.Event()
        self._operations[operation_id].add(news)
        self._awaited.set()
        try:
            yield news
        finally:
            self._operations[operation_id].discard(news)
            if not self._operations[operation_id]:
                del self._operations[operation_id]
            if not self._operations:
                self._awaited.clear()

    async def wait_past(self, seen: Revision | None, timeout_s: float) -> bool:
        """Return once something is newer than `seen`; False when the time has passed first."""
        self._waiting += 1
        self._wanted.set()
        try:
            async with asyncio.timeout(timeout_s):
                # A newest from before we came may be old news: then `seen` is past it already.
                while self._newest is None or (seen is not None and self._newest <= seen):
                    await self._moved.wait()
                return True
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._wanted.clear()

    async def _look(self) -> None:
        newest = await self._read(events.newest)
        if newest is not None and newest != self._newest:
            self._newest = newest
            self._moved.set()
            self._moved = asyncio.Event()

    async def _read(self, work: Callable[[Connection], T]) -> T | None:
        """Read; None while the database does not answer."""
        try:
            result = await self._uow.read(work)
        except UnkaiError as error:
            if self._failing != error.reason:
                _LOG.warning("follower_failing", reason=error.reason)
            self._failing = error.reason
            return None
        except Exception as error:  # noqa: BLE001 - a bug met here must not end the scheduler
            if self._failing != repr(error):
                _LOG.error("follower_failing", error=str(error), exc_info=error)
            self._failing = repr(error)
            return None
        self._failing = ""
        return result
