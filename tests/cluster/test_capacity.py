"""Capacity: never over it, and what happens when there is none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.adopting import adopt
from tests.support.builders import an_instance
from tests.support.cloud import GIB, Cloud, a_cloud
from tests.support.store import FaultyStore
from unkai_scheduler.agents.port import Endpoint, MachineOrder, UsageSample
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.machines import Machine, MachineState, Tombstone
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.store import claims, instances
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.errors import Unavailable

S = InstanceState
T = TypeVar("T")


class LosesTheFirstClaim(FaultyStore):
    """A store in which the first transaction with a claim is rolled back."""

    has_lost = False

    async def lead(self, term: int, work: Callable[[Connection], T]) -> T:
        def losing(conn: Connection) -> T:
            result = work(conn)
            if not self.has_lost and claims.list_all(conn):
                self.has_lost = True
                raise Unavailable("the disk is busy", reason="DATABASE_UNAVAILABLE")
            return result

        return await super().lead(term, losing)


async def test_fifty_creates_over_five_hosts_never_exceed_a_host(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, host_count=0) as cloud:
        for _ in range(5):
            cloud.add_host(cpus=4, memory_bytes=16 * GIB)
        made = [await cloud.create(memory_bytes=GIB) for _ in range(50)]
        await cloud.until_quiet()

        rows = await cloud.instances()
        used = Counter(claim.host_id for claim in await cloud.claims())

        assert {row.state for row in rows} == {S.RUNNING}
        assert sum(used.values()) == len(made)
        assert max(used.values()) <= 16
        assert len(used) == 5
        assert cloud.running() == {row.id: [row.host_id] for row in rows}


async def test_what_does_not_fit_fails_at_once_with_its_reasons_and_holds_nothing(
    cloud: Cloud,
) -> None:
    made = await cloud.create(vcpus=100)

    ended = await cloud.until_ended(made.operation_id, within_s=30)
    row = await cloud.instance(made.id)
    decision = await cloud.uow.read(lambda conn: instances.decision(conn, made.id))

    assert ended.state is OperationState.FAILED
    assert ended.error is not None
    assert ended.error["reason"] == "NO_CAPACITY"
    assert ended.error["details"]["reasons"] == {"vcpus": 3}
    assert row.state is S.FAILED
    assert row.host_id == ""
    assert await cloud.claims() == []
    assert decision is not None
    assert decision.host_id == ""


async def test_who_may_wait_gets_the_capacity_that_appears_later(cloud: Cloud) -> None:
    for host in cloud.agents.hosts.values():
        assert host.description.memory_bytes == 32 * GIB
    big = [await cloud.create(memory_bytes=20 * GIB) for _ in range(3)]
    for one in big:
        await cloud.until_ended(one.operation_id)

    first = await cloud.create(memory_bytes=20 * GIB, capacity_wait_s=600)
    second = await cloud.create(memory_bytes=20 * GIB, capacity_wait_s=600)

    async def queued() -> bool:
        positions = [
            (await cloud.operation(one.operation_id)).queue_position for one in (first, second)
        ]
        return positions == [1, 2]

    await cloud.until(queued, "both are in the queue in their order")
    waiting = await cloud.operation(first.operation_id)
    assert waiting.state is OperationState.PENDING
    assert "memory" in waiting.progress_message

    await cloud.until_ended((await cloud.delete(big[0].id)).id)
    assert (await cloud.until_ended(first.operation_id)).state is OperationState.SUCCEEDED
    assert not (await cloud.operation(second.operation_id)).state.ended

    cloud.add_host()
    assert (await cloud.until_ended(second.operation_id)).state is OperationState.SUCCEEDED


async def test_one_whose_machine_turns_up_waits_no_longer_before_the_others(
    cloud: Cloud,
) -> None:
    first = await cloud.create(vcpus=100, capacity_wait_s=600)
    second = await cloud.create(vcpus=100, capacity_wait_s=600)
    await cloud.until(lambda: is_at(cloud, second, 2), "both are in the queue")
    host_id = cloud.host_ids[0]
    # The database has lost that it was placed.
    order = MachineOrder(first, cloud.image, GIB, must_exist=False)
    machine = Machine(first.id, host_id, 1, 1, 1, MachineState.RUNNING, name=first.spec.name)

    cloud.agents.plant_machine(host_id, machine, order)
    await cloud.until(lambda: is_at(cloud, second, 1), "it is the first while that is held back")
    await adopt(cloud, first.id)
    third = await cloud.create(vcpus=100, capacity_wait_s=600)

    await cloud.until(lambda: is_at(cloud, third, 2), "the adopted one is before nobody")
    assert (await cloud.operation(second.operation_id)).queue_position == 1


async def test_what_a_found_machine_takes_of_its_host_is_nobody_elses_while_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_cloud(tmp_path, host_count=1) as cloud:
        leaving = await cloud.create(memory_bytes=20 * GIB)
        await cloud.until_ended(leaving.operation_id)
        unclaimed = await a_machine_without_a_claim(cloud, memory_bytes=20 * GIB)
        waiting = await cloud.create(memory_bytes=20 * GIB, capacity_wait_s=600)
        await cloud.until(lambda: is_at(cloud, waiting, 1), "one waits for capacity")
        cloud.agents.converge_s = 60.0
        await cloud.delete(leaving.id)
        await cloud.until(lambda: is_going(cloud, leaving), "its removal has begun")

        # The leader is not told: it finds the deletion when it looks at who waits.
        monkeypatch.setattr(cloud, "wake", lambda: None)
        await cloud.delete(unclaimed.id)
        await cloud.until(lambda: has_claim(cloud, unclaimed), "its host has the claim")
        await remove_at_once(cloud, leaving)

        await asyncio.sleep(10.0)
        assert {claim.instance_id for claim in await cloud.claims()} == {unclaimed.id}
        await remove_at_once(cloud, unclaimed)
        await cloud.until(lambda: has_claim(cloud, waiting), "who waits is placed")


async def remove_at_once(cloud: Cloud, instance: Instance) -> None:
    """Let the only host have removed it, and the leader know."""
    (host_id,) = cloud.host_ids
    row = await cloud.instance(instance.id)
    tombstone = Tombstone(row.id, host_id, row.generation, row.run_epoch, cloud.clock())
    cloud.agents.plant_tombstone(host_id, tombstone)

    async def is_gone() -> bool:
        return await cloud.find(row.id) is None

    await cloud.until(is_gone, "its row is gone")


async def a_machine_without_a_claim(cloud: Cloud, *, memory_bytes: int) -> Instance:
    """Return an instance without a host, of which the only host has told that it holds it."""
    row = an_instance(image_id=cloud.image.id, state=S.FAILED, memory_bytes=memory_bytes)
    await cloud.uow.write(lambda conn: instances.insert(conn, row))
    (host_id,) = cloud.host_ids
    order = MachineOrder(row, cloud.image, GIB, must_exist=False)
    machine = Machine(row.id, host_id, 1, 1, 1, MachineState.RUNNING, name=row.spec.name)
    cloud.agents.plant_machine(host_id, machine, order)

    async def is_told() -> bool:
        return cloud.schedulers["s1"].live.holders(row.id) == (host_id,)

    await cloud.until(is_told, "the host has told what it holds")
    return row


async def is_going(cloud: Cloud, instance: Instance) -> bool:
    """Tell whether its host is removing it."""
    (host_id,) = cloud.host_ids
    return cloud.agents.hosts[host_id].held(instance.id).machine.state is MachineState.REMOVING


async def has_claim(cloud: Cloud, instance: Instance) -> bool:
    """Tell whether a host is claimed for it."""
    return instance.id in {claim.instance_id for claim in await cloud.claims()}


async def is_at(cloud: Cloud, instance: Instance, position: int) -> bool:
    """Tell whether a create has this place in the queue."""
    return (await cloud.operation(instance.operation_id)).queue_position == position


async def test_the_wait_for_capacity_ends_with_no_capacity(cloud: Cloud) -> None:
    made = await cloud.create(vcpus=100, capacity_wait_s=20)
    accepted_time = made.create_time

    ended = await cloud.until_ended(made.operation_id, within_s=60)

    assert ended.state is OperationState.FAILED
    assert ended.error is not None
    assert ended.error["reason"] == "NO_CAPACITY"
    assert ended.end_time is not None
    assert (ended.end_time - accepted_time).total_seconds() >= 20
    assert (await cloud.instance(made.id)).state is S.FAILED


async def test_a_host_that_is_cordoned_gets_nothing_new(cloud: Cloud) -> None:
    from dataclasses import replace

    from unkai_scheduler.store import hosts

    made = await cloud.create()
    await cloud.until_ended(made.operation_id)
    shut = cloud.host_ids[:2]

    def cordon(conn: object) -> None:
        for host_id in shut:
            row = hosts.get(conn, host_id)  # type: ignore[arg-type]
            assert row is not None
            hosts.replace(conn, replace(row, cordoned=True, etag="cordoned"), etag=None)  # type: ignore[arg-type]

    await cloud.uow.write(cordon)
    cloud.wake()
    later = [await cloud.create() for _ in range(6)]
    await cloud.until_quiet()

    assert {(await cloud.instance(one.id)).host_id for one in later} == {cloud.host_ids[2]}


async def test_a_claim_that_was_not_committed_is_not_taken_for_a_machine_that_boots(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path, host_count=1, lead=False) as cloud:
        store = LosesTheFirstClaim(cloud.uow)
        await cloud.start(uow=store)
        made = await cloud.create(vcpus=4)

        ended = await cloud.until_ended(made.operation_id)
        decision = await cloud.uow.read(lambda conn: instances.decision(conn, made.id))

        assert store.has_lost
        assert ended.state is OperationState.SUCCEEDED
        assert decision is not None
        assert decision.candidates[0].inputs["expected_cpu_cores"] == 0.0


async def test_a_host_that_comes_again_and_again_does_not_put_off_no_capacity(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    flapping, usage = cloud.host_ids[0], cloud.agents.watch_usage

    async def without_its_own(endpoint: Endpoint) -> AsyncGenerator[UsageSample, None]:
        if endpoint.host_id == flapping:
            await asyncio.sleep(1000)
        async for sample in usage(endpoint):
            yield sample

    async def flap() -> None:
        while True:
            cloud.agents.hosts[flapping].break_streams()
            await asyncio.sleep(3)

    monkeypatch.setattr(cloud.agents, "watch_usage", without_its_own)
    flaps = asyncio.create_task(flap())
    try:
        await asyncio.sleep(30)
        made = await cloud.create(memory_bytes=1 << 50)
        ended = await cloud.until_ended(made.operation_id, within_s=40)
    finally:
        flaps.cancel()

    assert (ended.error or {})["reason"] == "NO_CAPACITY"
