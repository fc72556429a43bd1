"""Several instances of one request: each by itself, or all at one moment or none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import update

from tests.support.cloud import GIB, Cloud, a_cloud
from tests.support.network_api import a_call
from tests.support.store import FaultyStore
from tests.support.tripwire import Tripwire
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.instance_drafts import InstanceDraft
from unkai_scheduler.services.launches import Batch, Launches
from unkai_scheduler.store import claims, instances, tables
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.errors import Unavailable
from unkai_wire.ids import ids_by

S = InstanceState
T = TypeVar("T")


async def launch(cloud: Cloud, count: int, *, gang: bool = True, **more: Any) -> list[Instance]:
    """Accept a batch, of a gang unless told otherwise; each takes 20 of a host's 32 GiB."""
    context = ServiceContext(cloud.uow, cloud.clock, ids_by(cloud.clock), lambda _ids: cloud.wake())
    wait_s = more.pop("capacity_wait_s", 0.0)
    draft = InstanceDraft(
        image_id=cloud.image.id, **({"name": "web", "vcpus": 1, "memory_bytes": 20 * GIB} | more)
    )
    batch = Batch(draft, count, wait_s, gang)
    made = await Launches(context, NetworkSettings()).batch(a_call(), "", batch)
    return list(made.instances)


async def ends(cloud: Cloud, made: Sequence[Instance]) -> set[OperationState]:
    return {(await cloud.until_ended(row.operation_id)).state for row in made}


async def held(cloud: Cloud, made: Sequence[Instance]) -> int:
    """Return how many of them have a host."""
    return len({claim.instance_id for claim in await cloud.claims()} & {row.id for row in made})


async def are_waiting(cloud: Cloud, made: Sequence[Instance]) -> None:
    async def queued() -> bool:
        asked = [await cloud.operation(row.operation_id) for row in made]
        return [one.queue_position for one in asked] == list(range(1, len(made) + 1))

    await cloud.until(queued, "all wait in the queue")


class Torn(FaultyStore):
    """A store in which a user changes one of a gang between its decision and its writing."""

    victim = ""

    async def lead(self, term: int, work: Callable[[Connection], T]) -> T:
        def changed(conn: Connection) -> T:
            savepoint = conn.begin_nested()
            result = work(conn)
            if not self.victim or not claims.list_all(conn):
                savepoint.commit()
                return result
            savepoint.rollback()
            of_victim = tables.instances.c.id == self.victim
            conn.execute(update(tables.instances).where(of_victim).values(generation=2))
            self.victim = ""
            return work(conn)

        return await super().lead(term, changed)


class LosesTheFirstClaims(FaultyStore):
    """A store in which the first transaction with claims is rolled back."""

    lost = 0

    async def lead(self, term: int, work: Callable[[Connection], T]) -> T:
        def losing(conn: Connection) -> T:
            result = work(conn)
            if not self.lost and (made := claims.list_all(conn)):
                self.lost = len(made)
                raise Unavailable("the disk is busy", reason="DATABASE_UNAVAILABLE")
            return result

        return await super().lead(term, losing)


async def test_a_batch_runs_whole_where_there_is_room(cloud: Cloud) -> None:
    made = await launch(cloud, 20, gang=False, memory_bytes=GIB)

    assert await ends(cloud, made) == {OperationState.SUCCEEDED}
    assert [row.spec.name for row in made] == [f"web-{number}" for number in range(1, 21)]
    assert set(cloud.running()) == {row.id for row in made}


async def test_those_of_a_batch_that_is_no_gang_go_each_their_way(cloud: Cloud) -> None:
    made = await launch(cloud, 5, gang=False)

    states = [(await cloud.until_ended(row.operation_id)).state for row in made]

    assert sorted(state.value for state in states) == ["FAILED"] * 2 + ["SUCCEEDED"] * 3
    assert await held(cloud, made) == 3


async def test_a_gang_gets_its_hosts_at_one_moment(cloud: Cloud) -> None:
    made = await launch(cloud, 3)

    assert await ends(cloud, made) == {OperationState.SUCCEEDED}
    assert len({claim.create_time for claim in await cloud.claims()}) == 1
    assert {(await cloud.instance(row.id)).gang_id for row in made} == {""}


async def test_a_gang_that_does_not_fit_fails_whole_and_says_how_many_would(cloud: Cloud) -> None:
    made = await launch(cloud, 5)
    small = await cloud.create(memory_bytes=20 * GIB)

    assert await ends(cloud, made) == {OperationState.FAILED}
    assert await ends(cloud, [small]) == {OperationState.SUCCEEDED}
    assert [claim.instance_id for claim in await cloud.claims()] == [small.id]
    error = (await cloud.operation(made[0].operation_id)).error
    assert error is not None
    assert error["reason"] == "NO_CAPACITY"
    assert error["message"].startswith(
        "all or nothing, and 3 of 5 would fit; for the next, no host fits: 3 of 3 lack memory"
    )
    assert error["details"]["reasons"] == {"memory": 3}
    explained = await cloud.uow.read(lambda conn: instances.decision(conn, made[4].id))
    assert explained is not None
    assert explained.summary == error["message"]


async def test_a_gang_that_waits_takes_no_room_and_comes_whole_once_it_fits(cloud: Cloud) -> None:
    made = await launch(cloud, 4, capacity_wait_s=600)
    await are_waiting(cloud, made)
    assert await held(cloud, made) == 0
    small = await cloud.create(memory_bytes=20 * GIB)
    assert await ends(cloud, [small]) == {OperationState.SUCCEEDED}

    cloud.add_host()
    await asyncio.sleep(10)
    assert await held(cloud, made) == 0
    cloud.add_host()

    assert await ends(cloud, made) == {OperationState.SUCCEEDED}
    assert len({c.create_time for c in await cloud.claims() if c.instance_id != small.id}) == 1


async def test_a_gang_is_waited_for_no_more_when_its_time_is_over(cloud: Cloud) -> None:
    made = await launch(cloud, 4, capacity_wait_s=20)
    await are_waiting(cloud, made)

    assert await ends(cloud, made) == {OperationState.FAILED}
    assert {row.state for row in await cloud.instances()} == {S.FAILED}


async def test_who_is_removed_or_given_up_is_waited_for_no_more(cloud: Cloud) -> None:
    made = await launch(cloud, 5, capacity_wait_s=600)
    await are_waiting(cloud, made)

    await cloud.until_ended((await cloud.delete(made[0].id)).id)
    assert await held(cloud, made) == 0
    await cloud.cancel(made[3].operation_id)

    left = [made[1], made[2], made[4]]
    assert await ends(cloud, left) == {OperationState.SUCCEEDED}
    assert (await cloud.operation(made[3].operation_id)).state is OperationState.CANCELLED


async def test_a_gang_larger_than_a_round_is_decided_whole(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, batch_size=4) as cloud:
        others = await launch(cloud, 9, name="db", memory_bytes=GIB)
        made = await launch(cloud, 11, memory_bytes=GIB)
        alone = [await cloud.create(memory_bytes=GIB) for _ in range(6)]

        assert await ends(cloud, [*others, *made, *alone]) == {OperationState.SUCCEEDED}
        moments = {claim.instance_id: claim.create_time for claim in await cloud.claims()}
        for gang in (others, made):
            assert len({moments[row.id] for row in gang}) == 1


async def test_a_gang_too_large_for_the_cloud_is_refused_whole_by_small_rounds(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path, batch_size=2) as cloud:
        made = await launch(cloud, 7)

        assert await ends(cloud, made) == {OperationState.FAILED}
        assert await cloud.claims() == []


async def test_a_gang_whose_claims_were_lost_is_decided_again_whole(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, lead=False) as cloud:
        store = LosesTheFirstClaims(cloud.uow)
        await cloud.start(uow=store)
        made = await launch(cloud, 3)

        assert await ends(cloud, made) == {OperationState.SUCCEEDED}
        assert store.lost == 3
        assert await held(cloud, made) == 3


async def test_nothing_is_written_of_a_gang_when_one_of_it_has_changed_meanwhile(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path, lead=False) as cloud:
        store = Torn(cloud.uow)
        await cloud.start(uow=store)
        made = await launch(cloud, 3, capacity_wait_s=60)
        store.victim = made[1].id

        assert await ends(cloud, made) == {OperationState.SUCCEEDED}
        assert store.victim == ""
        assert len({claim.create_time for claim in await cloud.claims()}) == 1
        assert (await cloud.instance(made[1].id)).generation == 2


@pytest.mark.parametrize("at", range(2, 42, 4))
async def test_a_leader_that_dies_leaves_all_of_a_gang_placed_or_none(
    tmp_path: Path, at: int
) -> None:
    async with a_cloud(tmp_path, lead=False) as cloud:
        made = await launch(cloud, 3, capacity_wait_s=600)
        late = await launch(cloud, 3, name="late", capacity_wait_s=600)
        wire = Tripwire(at)
        await cloud.start("s1", uow=wire.around(cloud.uow), agents=wire.around(cloud.agents))
        await asyncio.wait([asyncio.create_task(wire.died.wait())], timeout=60)
        await cloud.kill("s1")

        for gang in (made, late):
            assert await held(cloud, gang) in {0, 3}

        await cloud.start("s2")
        assert await ends(cloud, made) == {OperationState.SUCCEEDED}
        assert await held(cloud, late) == 0
        for row in made:
            await cloud.delete(row.id)
        assert await ends(cloud, late) == {OperationState.SUCCEEDED}


async def test_who_has_priority_goes_first_whoever_asked_first(cloud: Cloud) -> None:
    full = [await cloud.create(memory_bytes=20 * GIB) for _ in range(3)]
    assert await ends(cloud, full) == {OperationState.SUCCEEDED}
    low = await cloud.create(memory_bytes=20 * GIB, capacity_wait_s=600)
    high = await cloud.create(memory_bytes=20 * GIB, capacity_wait_s=600, priority=9)
    await are_waiting(cloud, [high, low])

    await cloud.delete(full[0].id)

    assert await ends(cloud, [high]) == {OperationState.SUCCEEDED}
    assert not (await cloud.operation(low.operation_id)).state.ended


async def test_who_has_priority_goes_first_of_more_than_a_round_takes(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, batch_size=2) as cloud:
        full = [await cloud.create(memory_bytes=20 * GIB) for _ in range(3)]
        assert await ends(cloud, full) == {OperationState.SUCCEEDED}
        more = {"memory_bytes": 20 * GIB, "capacity_wait_s": 600.0}
        low = [await cloud.create(**more) for _ in range(6)]
        high = [await cloud.create(**more, priority=n) for n in (1, 1000, 7)]
        await are_waiting(cloud, [high[1], high[2], high[0], *low])

        for row in full:
            await cloud.delete(row.id)

        assert await ends(cloud, high) == {OperationState.SUCCEEDED}
        assert await held(cloud, low) == 0
