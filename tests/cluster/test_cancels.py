"""Cancelled wherever it is: before placement, queueing, at a host; each verb has its outcome."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.builders import an_operation
from tests.support.cloud import GIB, Cloud, a_cloud
from tests.support.store import noon
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.operations import CANCELLABLE, OperationState, Verb
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.follower import Follower
from unkai_scheduler.services.operations import OperationsService
from unkai_scheduler.store import operations
from unkai_wire.errors import FailedPrecondition
from unkai_wire.tls import Principal, Role

S = InstanceState


async def _ended_clean(cloud: Cloud, ident: str, operation_id: str) -> None:
    """Assert that a cancelled create ended so, and holds nothing but its row."""
    ended = await cloud.until_ended(operation_id)
    row = await cloud.instance(ident)
    assert ended.state is OperationState.CANCELLED
    assert ended.error is not None
    assert (ended.error["reason"], ended.queue_position) == ("CANCELLED", 0)
    assert (row.state, row.host_id) == (S.FAILED, "")
    assert ident not in cloud.machines()
    assert ident not in {claim.instance_id for claim in await cloud.claims()}


async def test_before_any_leader_has_seen_it(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await cloud.kill()
        made = await cloud.create()
        await cloud.cancel(made.operation_id)
        await cloud.start()
        await _ended_clean(cloud, made.id, made.operation_id)


async def test_in_the_queue_and_those_behind_move_up(cloud: Cloud) -> None:
    waiting = [await cloud.create(vcpus=100, capacity_wait_s=600) for _ in range(8)]

    async def positions(of: list[str]) -> list[int]:
        return [(await cloud.operation(ident)).queue_position for ident in of]

    ids = [one.operation_id for one in waiting]

    async def all_queue() -> bool:
        return await positions(ids) == [1, 2, 3, 4, 5, 6, 7, 8]

    await cloud.until(all_queue, "eight wait in the order in which they came")
    for gone in (waiting[0], waiting[3]):
        await cloud.cancel(gone.operation_id)
        await _ended_clean(cloud, gone.id, gone.operation_id)
    left = [ident for ident in ids if ident not in (ids[0], ids[3])]

    async def moved_up() -> bool:
        return await positions(left) == [1, 2, 3, 4, 5, 6]

    await cloud.until(moved_up, "those behind have moved up", within_s=20)
    said = (await cloud.operation(left[0])).progress_message
    assert said.startswith("waiting for capacity: ")


async def test_a_new_leader_keeps_the_queue_s_order(cloud: Cloud) -> None:
    waiting = [await cloud.create(vcpus=100, capacity_wait_s=600) for _ in range(5)]

    async def in_order(left: int) -> bool:
        rows = [await cloud.operation(one.operation_id) for one in waiting[5 - left :]]
        return [row.queue_position for row in rows] == list(range(1, left + 1))

    await cloud.until(lambda: in_order(5), "five wait in the order in which they came")
    await cloud.kill()
    await cloud.start("s2")
    # The rows say so still; that the new leader keeps the order shows where it changes them.
    await cloud.cancel(waiting[0].operation_id)
    await cloud.until(lambda: in_order(4), "those behind have moved up, in order", within_s=60)


@pytest.mark.parametrize("converge_s", [0.5, 20.0])
async def test_at_its_host(cloud: Cloud, converge_s: float) -> None:
    cloud.agents.converge_s = 20.0
    made = await cloud.create()

    async def ordered() -> bool:
        return made.id in cloud.machines()

    await cloud.until(ordered, "a host is at work")
    await cloud.cancel(made.operation_id)
    cloud.agents.converge_s = converge_s
    await _ended_clean(cloud, made.id, made.operation_id)


async def test_while_its_host_is_silent_it_ends_when_the_host_is_back(cloud: Cloud) -> None:
    cloud.agents.converge_s = 20.0
    made = await cloud.create()

    async def ordered() -> bool:
        return made.id in cloud.machines()

    await cloud.until(ordered, "a host is at work")
    (host_id,) = cloud.machines()[made.id]
    cloud.lose_host(host_id)
    await cloud.cancel(made.operation_id)
    await asyncio.sleep(15)
    assert [claim.host_id for claim in await cloud.claims()] == [host_id], "it may be there"
    cloud.return_host(host_id)
    await _ended_clean(cloud, made.id, made.operation_id)


async def test_a_start_is_taken_back(cloud: Cloud) -> None:
    made = await cloud.create(memory_bytes=GIB)
    await cloud.until_ended(made.operation_id)
    await cloud.until_ended((await cloud.stop(made.id)).id)
    cloud.agents.converge_s = 20.0
    start = await cloud.begin(made.id)
    await asyncio.sleep(1)
    await cloud.cancel(start.id)
    cloud.agents.converge_s = 0.5
    assert (await cloud.until_ended(start.id)).state is OperationState.CANCELLED
    await cloud.until_state(made.id, S.STOPPED)


@pytest.mark.parametrize("verb", sorted(set(Verb) - CANCELLABLE, key=lambda verb: verb.value))
async def test_what_cannot_be_cancelled_is_refused_exactly(cloud: Cloud, verb: Verb) -> None:
    row = an_operation(verb=verb)
    await cloud.uow.write(lambda conn: operations.insert(conn, row))
    context = ServiceContext(cloud.uow, noon, lambda kind: kind, lambda ids: None)
    service = OperationsService(context, Follower(cloud.uow, poll_s=1))
    call = Call(Principal(Role.LOCAL, "root"), "/x")
    with pytest.raises(FailedPrecondition) as caught:
        await service.cancel(call, row.id)
    assert caught.value.reason == "NOT_CANCELLABLE"
    assert verb.value.lower() in caught.value.message
    assert await cloud.operation(row.id) == row


async def test_the_percentage_of_a_fetch_moves_with_its_bytes(cloud: Cloud) -> None:
    cloud.agents.converge_s = 60.0
    made = await cloud.create()

    async def ordered() -> bool:
        return made.id in cloud.machines()

    await cloud.until(ordered, "a host is at work")
    (host_id,) = cloud.machines()[made.id]
    host = cloud.agents.hosts[host_id]
    seen = []
    for done in (0, 25, 50, 75, 100):
        held = host.machines[made.id]
        held.machine = replace(
            held.machine, step="fetch image", step_done_bytes=done << 20, step_total_bytes=100 << 20
        )
        host.tell(held.machine)

        async def shown(words: str = f"fetch image: {done} of 100 MiB") -> bool:
            return (await cloud.operation(made.operation_id)).progress_message == words

        await cloud.until(shown, f"{done} MiB are shown", within_s=20)
        seen.append((await cloud.operation(made.operation_id)).progress_percent)
    assert seen == sorted(set(seen)), "it moves with each piece"
    assert (seen[0], seen[-1]) == (30, 49)
