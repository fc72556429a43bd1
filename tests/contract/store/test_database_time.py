"""The database's time: the same for all who ask, and UTC whatever zone a server is set to."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from unkai_scheduler.domain.clock import CloudClock
from unkai_scheduler.services.timekeeper import Timekeeper
from unkai_scheduler.store import times
from unkai_scheduler.store.unit_of_work import UnitOfWork

HOUR = timedelta(hours=1)


async def test_it_is_utc_and_goes_on_within_a_transaction(uow: UnitOfWork) -> None:
    def twice(conn: Connection) -> tuple[datetime, datetime]:
        first = times.now(conn)
        later = first
        while later <= first:
            later = times.now(conn)
        return first, later

    before = datetime.now(UTC)
    first, later = await uow.read(twice)
    after = datetime.now(UTC)

    # These servers run on this machine.
    slack = timedelta(milliseconds=1)
    assert before - slack <= first < later <= after + slack


async def test_a_scheduler_an_hour_ahead_and_one_an_hour_late_agree(uow: UnitOfWork) -> None:
    clocks = [
        CloudClock(wall=lambda step=step: datetime.now(UTC) + step)  # type: ignore[misc]
        for step in (HOUR, -HOUR)
    ]
    await asyncio.gather(*(Timekeeper(uow, clock).read() for clock in clocks))

    ahead, late = (clock() for clock in clocks)
    assert abs(ahead - late) < timedelta(seconds=1)
