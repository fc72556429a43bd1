"""Those who wait are let go when the leader in this process tells, not at the next poll."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.builders import NOON, an_event, an_id, an_operation
from tests.support.store import FaultyStore, a_store, noon, open_store
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.follower import Follower
from unkai_scheduler.services.operations import OperationsService
from unkai_scheduler.store import events, operations
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_wire.errors import Unavailable

T = TypeVar("T")

NEVER_S = 3600.0


async def test_a_stamped_event_is_seen_without_waiting_for_the_poll(tmp_path: Path) -> None:
    uow = await open_store(tmp_path)
    try:
        follower = Follower(uow, poll_s=NEVER_S)
        seen = await uow.read(events.newest)
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follower.run())
            waiting = tasks.create_task(follower.wait_past(seen, NEVER_S))
            await uow.write(lambda conn: events.insert(conn, an_event()))
            await uow.write(lambda conn: events.stamp(conn, 10))
            follower.stamped()
            await waiting
            following.cancel()
    finally:
        await uow.close()


async def test_news_of_an_operation_reach_all_who_wait_for_it_and_nobody_else(
    tmp_path: Path,
) -> None:
    uow = await open_store(tmp_path)
    try:
        follower = Follower(uow)
        with follower.news_of("opr-1") as one, follower.news_of("opr-2") as other:
            with follower.news_of("opr-1") as too:
                follower.written(["opr-1", "opr-3"])
                assert one.is_set()
                assert too.is_set()
                assert not other.is_set()
            one.clear()
            follower.written(["opr-1"])
            assert one.is_set(), "one who left takes nobody along"
    finally:
        await uow.close()


class CountedReads(FaultyStore):
    """A store that counts its reads, and may fail them."""

    def __init__(self, uow: UnitOfWork) -> None:
        super().__init__(uow)
        self.reads = 0
        self.away: Exception | None = None
        self.refused = asyncio.Event()

    async def read(self, work: Callable[[Connection], T]) -> T:
        self.reads += 1
        if self.away:
            self.refused.set()
            raise self.away
        return await super().read(work)


@pytest.mark.parametrize(
    "error",
    [Unavailable("it is away", reason="DATABASE_UNAVAILABLE"), RuntimeError("a bug")],
    ids=["away", "a bug"],
)
async def test_what_another_scheduler_wrote_is_told_to_those_who_wait_for_it_alone(
    tmp_path: Path, error: Exception
) -> None:
    rows = [an_operation() for _ in range(3)]
    async with a_store(tmp_path) as uow:
        store = CountedReads(uow)
        follower = Follower(store, poll_s=NEVER_S, operations_poll_s=0.001)
        await uow.write(lambda conn: [operations.insert(conn, row) for row in rows])
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follower.run())
            with (
                follower.news_of(rows[0].id) as one,
                follower.news_of(rows[1].id) as other,
            ):
                await asyncio.gather(one.wait(), other.wait())  # what came before they were there
                one.clear()
                other.clear()
                store.away = error
                written = replace(rows[0], update_time=NOON + timedelta(seconds=1))
                await uow.write(lambda conn: operations.replace(conn, written))
                await store.refused.wait()
                assert not one.is_set()
                store.away = None
                await one.wait()
                assert not other.is_set()
            following.cancel()


async def test_a_wait_reads_its_operation_when_there_is_news_and_at_its_end(
    tmp_path: Path,
) -> None:
    row = an_operation()
    async with a_store(tmp_path) as uow:
        store = CountedReads(uow)
        context = ServiceContext(store, noon, an_id, lambda _ids: None)
        service = OperationsService(context, Follower(store))
        await uow.write(lambda conn: operations.insert(conn, row))

        assert await service.wait(row.id, 0.5) == row

    assert store.reads == 2
