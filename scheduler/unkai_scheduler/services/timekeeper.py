"""Keeps the cloud's clock: reads the database's time now and then, in every scheduler.

While the database does not answer, the monotonic clock goes on; it strays by milliseconds a minute
at worst. What is said in the log is said once: that the database's clock jumped, and that this
machine's differs from it.
"""

from __future__ import annotations

import asyncio

import structlog

from unkai_scheduler.domain.clock import STEP_S, CloudClock, Reading
from unkai_scheduler.store import events, times
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_wire.errors import UnkaiError

READ_S = 5.0
"""Seconds between readings: so long a database's clock that was set is not followed."""
DIFFERS_S = STEP_S
"""Clocks so far apart are wrong."""
_LOG = structlog.get_logger()


class Timekeeper:
    """Has the cloud's clock follow the database's."""

    def __init__(self, uow: UnitOfWork, clock: CloudClock, *, read_s: float = READ_S) -> None:
        self._uow = uow
        self._clock = clock
        self._read_s = read_s
        self._differs = False
        self._failing = ""
        self._is_begun = False

    async def run(self) -> None:
        """Read again and again until cancelled. It never fails: the scheduler would end with it."""
        while True:
            await asyncio.sleep(self._read_s)
            try:
                moved_s = await self.read()
            except UnkaiError:
                continue  # those who need the database say so
            except Exception as error:  # noqa: BLE001 - a bug met here must not end the scheduler
                self._note(error)
                continue
            self._failing = ""
            if abs(moved_s) > DIFFERS_S:
                _LOG.warning("database_clock_was_set", forward_s=round(moved_s, 1))

    async def read(self) -> float:
        """Read the database's time; return by how many seconds the cloud's clock went forward."""
        clock = self._clock

        def work(conn: Connection) -> Reading:
            return Reading(clock.monotonic(), times.now(conn), clock.monotonic())

        moved_s = clock.follow(await self._uow.read(work))
        if not self._is_begun:
            await self._begin()
        ahead_s = clock.ahead_s()
        if self._differs != (abs(ahead_s) > DIFFERS_S):
            self._differs = not self._differs
            if self._differs:
                _LOG.error("clock_differs", of="this machine", ahead_s=round(ahead_s, 1))
            else:
                _LOG.info("clock_agrees", of="this machine")
        return moved_s

    async def _begin(self) -> None:
        """Doubt what lies between the newest event and now: the clock may have been set there."""
        newest = await self._uow.read(lambda conn: events.list_page(conn, after=None, limit=1))
        if newest:
            self._clock.doubt(newest[0].create_time)
        self._is_begun = True

    def _note(self, error: Exception) -> None:
        if self._failing != repr(error):
            self._failing = repr(error)
            _LOG.error("database_time_unread", error=str(error), exc_info=error)
