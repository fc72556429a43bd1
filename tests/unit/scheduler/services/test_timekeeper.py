"""The cloud's clock follows the database's, and says when this machine's is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar, cast

import pytest
from structlog.testing import capture_logs

from tests.support.builders import an_event
from tests.support.store import a_store
from unkai_scheduler.domain.clock import CloudClock
from unkai_scheduler.services.timekeeper import Timekeeper
from unkai_scheduler.store import events
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

    def __init__(self, uow: UnitOfWork, failures: int, error: Exception) -> None:
        self._uow = uow
        self._error = error
        self.failures = failures
        self.answered = asyncio.Event()

    async def read(self, work: Callable[[Connection], T]) -> T:
        if self.failures:
            self.failures -= 1
            raise self._error
        result = await self._uow.read(work)
        self.answered.set()
        return result


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (Unavailable("it does not answer", reason="DATABASE_UNAVAILABLE"), []),
        (RuntimeError("what no class of failures fits"), ["database_time_unread"]),
    ],
    ids=["away", "a bug"],
)
async def test_a_database_that_fails_stops_no_clock_and_is_read_once_it_is_back(
    tmp_path: Path, error: Exception, logged: list[str]
) -> None:
    clock = CloudClock(wall=lambda: datetime.now(UTC) - HOUR)
    async with a_store(tmp_path) as uow:
        away = Away(uow, failures=2, error=error)
        keeper = Timekeeper(cast(UnitOfWork, away), clock, read_s=0.01)
        with capture_logs() as logs:
            async with asyncio.timeout(10):
                running = asyncio.create_task(keeper.run())
                try:
                    await away.answered.wait()
                finally:
                    running.cancel()
                    await asyncio.wait([running])

    assert away.failures == 0
    told = [log["event"] for log in logs if log["log_level"] == "error"]
    assert [event for event in told if event != "clock_differs"] == logged, "said once"
    assert abs(clock() - datetime.now(UTC)) < timedelta(seconds=1)


async def test_what_lies_after_the_newest_event_is_doubted_at_the_start(tmp_path: Path) -> None:
    last = datetime.now(UTC) - 24 * HOUR
    clock = CloudClock()
    async with a_store(tmp_path) as uow:
        await uow.write(lambda conn: events.insert(conn, an_event(create_time=last)))
        await uow.write(lambda conn: events.stamp(conn, 1))
        await Timekeeper(uow, clock).read()

    assert abs(clock() - datetime.now(UTC)) < timedelta(seconds=10)
    assert abs(clock.reached() - last) < timedelta(seconds=10)
