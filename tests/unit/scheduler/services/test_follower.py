"""Those who wait are let go when the leader in this process tells, not at the next poll."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.builders import an_event
from tests.support.store import open_store
from unkai_scheduler.services.follower import Follower
from unkai_scheduler.store import events

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
