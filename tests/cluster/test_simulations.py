"""What is foretold of a whole cloud is what comes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import a_placement_group, an_id
from tests.support.cloud import GIB, Cloud, a_cloud
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.placement.simulation import Simulated
from unkai_scheduler.placement.tally import StepOutcome
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.instance_drafts import InstanceDraft
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.services.simulation_drafts import (
    HostsDraft,
    InstancesDraft,
    LossDraft,
    StepDraft,
)
from unkai_scheduler.services.simulations import SimulationsService
from unkai_scheduler.store import hosts, placement_groups
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.errors import Unavailable

DISK_BYTES = 1 << 30


def service(cloud: Cloud, name: str = "s1") -> SimulationsService:
    context = ServiceContext(cloud.uow, cloud.clock, an_id, lambda _ids: None)
    leader = cloud.schedulers[name].leader
    return SimulationsService(context, leader, cloud.settings.placement, cloud.settings.network)


async def until_heard(cloud: Cloud) -> None:
    async def heard() -> bool:
        try:
            await service(cloud).losses(Paging())
        except Unavailable:
            return False
        return len(await cloud.hosts()) == len(cloud.host_ids)

    await cloud.until(heard, "the leader has heard the hosts")


async def simulated(cloud: Cloud, *steps: StepDraft) -> Simulated:
    return await service(cloud).simulate("", steps)


def more(count: int, memory_bytes: int) -> InstancesDraft:
    draft = InstanceDraft(vcpus=1, memory_bytes=memory_bytes, disk_bytes=DISK_BYTES)
    return InstancesDraft(count, draft)


def untimed(outcome: StepOutcome) -> list[Any]:
    """Return what came of a step, but for when it was decided."""
    refusals = [(r.count, r.decision.summary, r.instance_ids) for r in outcome.refusals]
    return [outcome.asked_count, outcome.placed_count, outcome.host_count, refusals]


async def test_so_many_as_are_foretold_find_a_host_and_the_next_does_not(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, host_count=5) as cloud:
        await until_heard(cloud)
        all_of_them = await simulated(cloud, more(5, 20 * GIB))
        one_too_many = await simulated(cloud, more(6, 20 * GIB))
        made = [await cloud.create(memory_bytes=20 * GIB) for _ in range(6)]
        ended = [await cloud.until_ended(one.operation_id) for one in made]
        nothing_left = await simulated(cloud, more(1, 20 * GIB))

    assert [o.placed_count for o in all_of_them.outcomes] == [5]
    assert all_of_them.outcomes[0].more_count == 0
    assert [o.placed_count for o in one_too_many.outcomes] == [5]
    states = Counter(operation.state for operation in ended)
    assert states == {OperationState.SUCCEEDED: 5, OperationState.FAILED: 1}
    (failed,) = [o for o in ended if o.state is OperationState.FAILED]
    assert failed.error is not None
    assert failed.error["reason"] == "NO_CAPACITY"
    (refusal,) = one_too_many.outcomes[0].refusals
    assert failed.error["message"] == refusal.decision.summary
    assert nothing_left.outcomes[0].placed_count == 0


async def test_the_loss_of_a_host_comes_as_it_was_foretold(cloud: Cloud) -> None:
    await until_heard(cloud)
    first, second, third = cloud.host_ids
    held = [await cloud.create(memory_bytes=12 * GIB) for _ in range(5)]
    await cloud.until_quiet()
    rows = {row.id: row for row in await cloud.instances()}
    fullest, _ = Counter(rows[one.id].host_id for one in held).most_common(1)[0]
    foretold = await simulated(cloud, LossDraft((fullest,)))
    alone = (await service(cloud).losses(Paging(), fullest)).rows
    saved = await simulated(cloud, HostsDraft(1, like_host_id=second), LossDraft((fullest,)))

    cloud.lose_host(fullest)

    async def is_lost() -> bool:
        return (await cloud.hosts())[fullest].state is HostState.UNKNOWN

    await cloud.until(is_lost, "the host is silent")
    again = [await cloud.create(memory_bytes=12 * GIB) for _ in range(2)]
    for one in again:
        await cloud.until_ended(one.operation_id)
    placed = [await cloud.instance(one.id) for one in again]

    (outcome,) = foretold.outcomes
    assert (outcome.asked_count, outcome.placed_count) == (2, 1)
    assert untimed(alone[0].outcome) == untimed(outcome)
    assert saved.outcomes[1].placed_count == 2
    assert [row.state for row in placed].count(InstanceState.RUNNING) == outcome.placed_count
    took = [change.host_id for change in foretold.changes if change.placed_count]
    assert [row.host_id for row in placed if row.host_id] == took
    assert {first, second, third} >= set(took)


async def test_what_is_foretold_changes_nothing_and_counts_what_was_placed_since(
    cloud: Cloud,
) -> None:
    await until_heard(cloud)
    before = await simulated(cloud, more(100, 8 * GIB))
    for _ in range(3):
        again = await simulated(cloud, more(100, 8 * GIB))
        assert again.changes == before.changes
        assert untimed(again.outcomes[0]) == untimed(before.outcomes[0])
    made = await cloud.create(memory_bytes=8 * GIB)
    await cloud.until_quiet()
    after = await simulated(cloud, more(100, 8 * GIB))

    assert (await cloud.instance(made.id)).state is InstanceState.RUNNING
    assert before.outcomes[0].placed_count == 12
    assert after.outcomes[0].placed_count == 11
    assert after.before.claimed.memory_bytes == 8 * GIB


async def test_members_of_a_group_are_where_they_are_however_hosts_moved(cloud: Cloud) -> None:
    await until_heard(cloud)
    group = a_placement_group(name="web")
    await cloud.uow.write(lambda conn: placement_groups.insert(conn, group))
    draft = InstanceDraft(
        vcpus=1, memory_bytes=GIB, disk_bytes=DISK_BYTES, placement_group_id=group.id
    )
    members = [InstancesDraft(4, draft)]
    before = await simulated(cloud, *members)
    for _ in range(2):
        made = await cloud.create(placement_group_id=group.id)
        await cloud.until_ended(made.operation_id)

    def touch(conn: Connection) -> None:
        for host in hosts.list_all(conn):
            hosts.replace(conn, replace(host, etag=f"{host.etag}-2"), etag=None)

    await cloud.uow.write(touch)
    after = await simulated(cloud, *members)
    lost = (await cloud.instance(made.id)).host_id
    moved = await simulated(cloud, LossDraft((lost,)), *members)

    assert before.outcomes[0].placed_count == 3
    assert after.outcomes[0].placed_count == 1
    assert (
        after.outcomes[0]
        .refusals[0]
        .decision.summary.startswith("no host fits: 3 of 3 are kept out by its placement group")
    )
    assert [outcome.placed_count for outcome in moved.outcomes] == [1, 0]


async def test_the_next_leader_foretells_as_soon_as_it_has_heard_the_hosts(cloud: Cloud) -> None:
    await until_heard(cloud)
    await cloud.create(memory_bytes=20 * GIB)
    await cloud.until_quiet()
    await cloud.kill("s1")
    await cloud.start("s1")
    with pytest.raises(Unavailable) as early:
        await simulated(cloud, more(1, GIB))
    await until_heard(cloud)
    found = await simulated(cloud, more(9, 20 * GIB))

    assert early.value.reason in {"NOT_LEADER", "HOSTS_NOT_HEARD"}
    assert found.outcomes[0].placed_count == 2
