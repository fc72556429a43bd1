"""Placement groups in a whole cloud: kept whoever asks at once, and whoever leads."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import a_placement_group
from tests.support.cloud import GIB, Cloud, a_cloud
from tests.support.tripwire import Tripwire
from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.domain.placement_groups import GroupPolicy, PlacementGroup, Strictness
from unkai_scheduler.store import instances, placement_groups
from unkai_wire.errors import FailedPrecondition


async def a_group(cloud: Cloud, **changes: Any) -> PlacementGroup:
    group = a_placement_group(**changes)
    await cloud.uow.write(lambda conn: placement_groups.insert(conn, group))
    return group


async def ends(cloud: Cloud, made: list[Instance]) -> list[OperationState]:
    return [(await cloud.until_ended(row.operation_id)).state for row in made]


async def hosts_of(cloud: Cloud, group: PlacementGroup) -> Counter[str]:
    rows = await cloud.instances()
    return Counter(r.host_id for r in rows if r.spec.placement_group_id == group.id and r.host_id)


async def test_members_are_apart_and_who_finds_no_host_is_told(cloud: Cloud) -> None:
    group = await a_group(cloud, name="web")
    made = [await cloud.create(placement_group_id=group.id) for _ in range(4)]

    states = await ends(cloud, made)

    assert sorted(state.value for state in states) == ["FAILED", *["SUCCEEDED"] * 3]
    assert set((await hosts_of(cloud, group)).values()) == {1}
    lost = made[states.index(OperationState.FAILED)]
    error = (await cloud.operation(lost.operation_id)).error
    assert error is not None
    assert error["details"]["reasons"] == {"group": 3}
    assert "holds 1 of group web already" in error["message"]


async def test_who_waits_gets_the_host_of_a_member_that_goes(cloud: Cloud) -> None:
    group = await a_group(cloud)
    made = [await cloud.create(placement_group_id=group.id) for _ in range(3)]
    await ends(cloud, made)
    late = await cloud.create(placement_group_id=group.id, capacity_wait_s=600)
    await asyncio.sleep(5)
    assert (await cloud.instance(late.id)).host_id == ""
    freed = (await cloud.instance(made[1].id)).host_id

    await cloud.until_ended((await cloud.delete(made[1].id)).id)

    assert await ends(cloud, [late]) == [OperationState.SUCCEEDED]
    assert (await cloud.instance(late.id)).host_id == freed


async def test_members_near_each_other_follow_the_first_across_leaders(cloud: Cloud) -> None:
    group = await a_group(cloud, policy=GroupPolicy.AFFINITY, max_per_place=0)
    first = await cloud.create(placement_group_id=group.id)
    await ends(cloud, [first])
    await cloud.kill()
    await cloud.start("s2")

    more = [await cloud.create(placement_group_id=group.id) for _ in range(4)]

    assert set(await ends(cloud, more)) == {OperationState.SUCCEEDED}
    assert list((await hosts_of(cloud, group)).values()) == [5]


async def test_one_whose_host_failed_it_stays_apart_from_the_others(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, host_count=4) as cloud:
        group = await a_group(cloud)
        cloud.agents.fail_starts(
            cloud.host_ids[0], FailedPrecondition("no room", reason="DISK_FULL")
        )
        made = [await cloud.create(placement_group_id=group.id) for _ in range(3)]

        assert set(await ends(cloud, made)) == {OperationState.SUCCEEDED}
        assert set((await hosts_of(cloud, group)).values()) == {1}


async def test_a_soft_group_is_placed_whole_where_hosts_are_too_few(cloud: Cloud) -> None:
    group = await a_group(cloud, strictness=Strictness.SOFT)
    made = [await cloud.create(placement_group_id=group.id) for _ in range(6)]

    assert set(await ends(cloud, made)) == {OperationState.SUCCEEDED}
    assert sorted((await hosts_of(cloud, group)).values()) == [2, 2, 2]


@pytest.mark.parametrize("seed", range(6))
async def test_apart_is_never_broken_by_who_asks_at_once_or_by_leaders_that_die(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    async with a_cloud(
        tmp_path, host_count=5, lead=False, batch_size=chance.choice([3, 64])
    ) as cloud:
        groups = [await a_group(cloud, max_per_place=most) for most in (1, 1, 2)]
        broken: list[str] = []

        async def watch() -> None:
            while True:
                claims = {c.instance_id: c.host_id for c in await cloud.claims()}
                for group in groups:
                    members = await cloud.uow.read(
                        lambda conn, group=group: placement_groups.naming(conn, [group.id])
                    )
                    counts = Counter(claims.get(i) for i in members.get(group.id, ()))
                    counts.pop(None, None)
                    if counts and max(counts.values()) > group.max_per_place:
                        broken.append(f"{group.name}: {counts}")
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())

        async def user(number: int) -> None:
            for turn in range(4):
                group = groups[(number + turn) % 3]
                made = await cloud.create(placement_group_id=group.id, memory_bytes=GIB)
                ended = await cloud.until_ended(made.operation_id)
                if ended.state is OperationState.SUCCEEDED and chance.random() < 0.5:
                    await cloud.until_ended((await cloud.delete(made.id)).id)

        users = [asyncio.create_task(user(number)) for number in range(6)]
        for name in ("s1", "s2", "s3"):
            wire = Tripwire(chance.randrange(10, 80))
            await cloud.start(name, uow=wire.around(cloud.uow), agents=wire.around(cloud.agents))
            dead = asyncio.create_task(wire.died.wait())
            await asyncio.wait([dead, asyncio.gather(*users)], return_when="FIRST_COMPLETED")
            await cloud.kill(name)
            dead.cancel()
        await cloud.start("s4")
        await asyncio.gather(*users)
        await cloud.until_quiet()
        watching.cancel()

        assert broken == []
        rows = await cloud.uow.read(instances.all_claimed)
        assert len(rows) > 3
