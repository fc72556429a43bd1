"""Histories are kept for a time, then they go, and nothing else does."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.support.builders import NOON, an_event, an_id, an_operation
from tests.support.cloud import Cloud, a_cloud
from unkai_scheduler.domain.clock import CloudClock, Reading
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.reconcile.retention import BATCH
from unkai_scheduler.settings import RetentionSettings
from unkai_scheduler.store import events, operations, requests, tombstones

KEPT = RetentionSettings(prune_s=1.0, events=1000)
LONG_AGO = NOON - timedelta(days=400)
RECENT = NOON - timedelta(hours=1)


def ended(moment: Any) -> Any:
    return an_operation(state=OperationState.SUCCEEDED, create_time=moment, end_time=moment)


async def fill(cloud: Cloud) -> tuple[str, str]:
    """Write more old rows than fit a batch, and a young one of each; return two operations."""
    young, under_way = ended(RECENT), an_operation(create_time=LONG_AGO)

    def work(conn: Any) -> None:
        for number in range(BATCH + 1):
            operations.insert(conn, ended(LONG_AGO))
            requests.remember(conn, f"old{number}", "local", "m", "d", {}, LONG_AGO)
            tombstones.insert(conn, Tombstone(an_id("instance"), "hst-1", 1, 1, LONG_AGO))
            events.insert(conn, an_event())
            events.insert(conn, an_event())
        operations.insert(conn, young)
        operations.insert(conn, under_way)
        requests.remember(conn, "young", "local", "m", "d", {}, RECENT)
        tombstones.insert(conn, Tombstone("ins-young", "hst-1", 1, 1, RECENT))

    await cloud.uow.write(work)
    return young.id, under_way.id


async def test_what_is_too_old_goes_and_the_rest_stays(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, host_count=0, retention=KEPT) as cloud:
        young, under_way = await fill(cloud)

        def counts(conn: Any) -> dict[str, int]:
            tables = ("operations", "requests", "tombstones", "events")
            return {
                name: conn.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one()
                for name in tables
            }

        expected = {"operations": 2, "requests": 1, "tombstones": 1, "events": KEPT.events}

        async def holds() -> bool:
            return await cloud.uow.read(counts) == expected

        await cloud.until(holds, "all histories are pruned", within_s=60)
        left = await cloud.uow.read(
            lambda conn: {row.id for row in operations.list_page(conn, after=None, limit=9)}
        )
    assert left == {young, under_way}


async def test_a_clock_put_ahead_prunes_nothing_that_is_young(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, host_count=0, lead=False, retention=KEPT) as cloud:
        up_s = asyncio.get_running_loop().time
        kept = CloudClock(wall=cloud.clock, monotonic=up_s)
        kept.follow(Reading(up_s(), cloud.clock(), up_s()))
        cloud.reached = kept.reached
        young, under_way = await fill(cloud)
        await cloud.start()

        async def pruned() -> bool:
            return await cloud.uow.read(count_operations) == 2

        await cloud.until(pruned, "what is old is gone")
        cloud.put_clock_back(-timedelta(days=400).total_seconds())
        kept.follow(Reading(up_s(), cloud.clock(), up_s()))
        await asyncio.sleep(5 * KEPT.prune_s)

        assert await cloud.uow.read(count_operations) == 2
        assert await cloud.uow.read(lambda conn: operations.get(conn, young)) is not None
        assert len(await cloud.tombstones("ins-young")) == 1
        assert abs(kept.ahead_s()) < 1, "the cloud's time is the one that was set"
        assert (await cloud.operation(under_way)).state is OperationState.FAILED


def count_operations(conn: Any) -> int:
    """Return how many there are."""
    counted: int = conn.exec_driver_sql("SELECT count(*) FROM operations").scalar_one()
    return counted
