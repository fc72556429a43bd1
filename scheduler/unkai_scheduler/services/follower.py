"""Follows the newest stamped event, once for all who wait in this process.

Watches and waits look at the store only when something was stamped, or when their own timer says
so. One read every `POLL_S` serves any number of them; with nobody waiting there is no read at all.
It never fails: while the database does not answer, those who wait go on waiting.
"""

from __future__ import annotations

import asyncio

import structlog

from unkai_scheduler.domain.events import Revision
from unkai_scheduler.store import events
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.errors import UnkaiError

POLL_S = 0.1
"""Seconds between reads: half of what a watcher may be behind."""
_LOG = structlog.get_logger()


class Follower:
    """Tells when the newest revision has moved."""

    def __init__(self, uow: UnitOfWork, *, poll_s: float = POLL_S) -> None:
        self._uow = uow
        self._poll_s = poll_s
        self._newest: Revision | None = None
        self._moved = asyncio.Event()
        self._wanted = asyncio.Event()
        self._waiting = 0
        self._failing = False

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self._wanted.wait()
            await self._look()
            await asyncio.sleep(self._poll_s)

    async def wait_past(self, seen: Revision | None, timeout_s: float) -> None:
        """Return when something is newer than `seen`, or the time has passed."""
        self._waiting += 1
        self._wanted.set()
        try:
            async with asyncio.timeout(timeout_s):
                # A newest from before we came may be old news: then `seen` is past it already.
                while self._newest is None or (seen is not None and self._newest <= seen):
                    await self._moved.wait()
        except TimeoutError:
            return
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._wanted.clear()

    async def wait_next(self, timeout_s: float) -> None:
        """Return at the next move of the newest revision, or when the time has passed."""
        await self.wait_past(self._newest, timeout_s)

    async def _look(self) -> None:
        try:
            newest = await self._uow.read(events.newest)
        except UnkaiError as error:
            if not self._failing:
                _LOG.warning("follower_failing", reason=error.reason)
            self._failing = True
            return
        self._failing = False
        if newest != self._newest:
            self._newest = newest
            self._moved.set()
            self._moved = asyncio.Event()
