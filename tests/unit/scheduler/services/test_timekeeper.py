"""The cloud's clock follows the database's, and says when this machine's is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar, cast

from structlog.testing import capture_logs

from tests.support.store import a_store
from unkai_scheduler.domain.clock import CloudClock
from unkai_scheduler.services.timekeeper import Timekeeper
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_wire.errors import Unavailable

T = TypeVar("T")
HOUR = timedelta(hours=1)


async def test_a_machine_an_hour_ahead_is_named_once_and_its_time_not_taken(
    tmp_path: Path,
) -> None:
    clock = CloudClock(wall=lambda: datetime.now(UTC) + HOUR)
    async with a_store(tmp_path) as uow:
        keeper = Timekeeper(uow, clock)
        with capture_logs() as logs:
            await keeper.read()
            await keeper.read()

    assert abs(clock() - datetime.now(UTC)) < timedelta(seconds=1)
    (told,) = logs
    assert (told["event"], told["ahead_s"]) == ("clock_differs", 3600.0)


class Away:
    """A database that does not answer for a while."""

    def __init__(self, uow: UnitOfWork, failures: int) -> None:
        self._uow = uow
        self.failures = failures
        self.answered = asyncio.Event()

    async def read(self, work: Callable[[Connection], T]) -> T:
        if self.failures:
            self.failures -= 1
            raise Unavailable("the database does not answer", reason="DATABASE_UNAVAILABLE")
        result = await self._uow.read(work)
        self.answered.set()
        return result


async def test_a_database_that_is_away_stops_no_clock_and_is_read_once_it_is_back(
    tmp_path: Path,
) -> None:
    clock = CloudClock(wall=lambda: datetime.now(UTC) - HOUR)
    async with a_store(tmp_path) as uow:
        away = Away(uow, failures=2)
        keeper = Timekeeper(cast(UnitOfWork, away), clock, read_s=0.01)
        async with asyncio.timeout(10):
            running = asyncio.create_task(keeper.run())
            try:
                await away.answered.wait()
            finally:
                running.cancel()
                await asyncio.wait([running])

    assert away.failures == 0
    assert abs(clock() - datetime.now(UTC)) < timedelta(seconds=1)
