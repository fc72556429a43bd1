"""Several schedulers: one leads, a stale one can do no harm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.builders import an_instance
from tests.support.cloud import Cloud, a_cloud
from unkai_scheduler.agents.port import MachineOrder
from unkai_scheduler.cluster.fake import FakeCluster
from unkai_scheduler.domain.findings import FindingKind
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.machines import Machine, MachineState
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.reconcile import metrics
from unkai_scheduler.reconcile.hearsay import BELIEVED_TIMES
from unkai_scheduler.store import instances
from unkai_wire.errors import Conflict, Unavailable

S = InstanceState


async def leads(cloud: Cloud, name: str) -> None:
    """Wait until a scheduler leads."""

    async def holds() -> bool:
        return cloud.schedulers[name].leader.is_leading

    await cloud.until(holds, f"{name} leads", within_s=30)


async def test_another_leads_within_five_seconds_of_a_leaders_death(cloud: Cloud) -> None:
    await leads(cloud, "s1")
    await cloud.start("s2")
    began_s = asyncio.get_running_loop().time()

    await cloud.kill("s1")
    await leads(cloud, "s2")

    assert asyncio.get_running_loop().time() - began_s < 5
    made = await cloud.create()
    assert (await cloud.until_ended(made.operation_id)).state is OperationState.SUCCEEDED


async def test_a_host_that_died_with_the_leader_holds_up_no_placement_elsewhere(
    cloud: Cloud,
) -> None:
    await leads(cloud, "s1")
    await cloud.start("s2")
    cloud.agents.hang(cloud.host_ids[0])
    began_s = asyncio.get_running_loop().time()

    await cloud.kill("s1")
    made = await cloud.create()

    async def is_placed() -> bool:
        return bool((await cloud.instance(made.id)).host_id)

    await cloud.until(is_placed, "it is placed", within_s=30)
    # The dead one is asked twice for its term, a second each; hosts here send a sample every 2 s.
    assert asyncio.get_running_loop().time() - began_s < 7
    assert (await cloud.instance(made.id)).host_id != cloud.host_ids[0]


async def test_a_leader_cut_from_etcd_steps_down_and_the_next_has_a_higher_term(
    cloud: Cloud,
) -> None:
    await leads(cloud, "s1")
    await cloud.start("s2")
    old = cloud.schedulers["s1"].leader
    term = old.term

    cloud.etcd.cut("s1")
    await leads(cloud, "s2")

    assert not old.is_leading
    assert cloud.schedulers["s2"].leader.term > term


async def test_a_stale_leader_cannot_write_and_its_reign_ends(cloud: Cloud) -> None:
    await leads(cloud, "s1")
    stale = cloud.schedulers["s1"].leader
    old_term = stale.term
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)

    newer = await cloud.uow.take_term(0)

    def spoil(conn: object) -> None:
        row = instances.get(conn, made.id)  # type: ignore[arg-type]
        assert row is not None
        instances.replace(conn, replace(row, state=S.STOPPED), etag=None)  # type: ignore[arg-type]

    with pytest.raises(Conflict, match="term"):
        await cloud.uow.lead(old_term, spoil)

    later = await cloud.create()
    assert (await cloud.until_ended(later.operation_id)).state is OperationState.SUCCEEDED
    assert stale.term > newer
    assert (await cloud.instance(made.id)).state is S.RUNNING


async def test_an_agent_that_has_seen_a_higher_term_makes_the_leader_take_a_higher_one(
    cloud: Cloud,
) -> None:
    await leads(cloud, "s1")
    for host_id in cloud.host_ids:
        cloud.agents.raise_term(host_id, 40)

    made = await cloud.create()
    ended = await cloud.until_ended(made.operation_id)

    assert ended.state is OperationState.SUCCEEDED
    assert cloud.schedulers["s1"].leader.term > 40


async def test_the_term_begins_above_what_any_registered_agent_has_seen(cloud: Cloud) -> None:
    await leads(cloud, "s1")
    await cloud.kill("s1")
    cloud.agents.raise_term(cloud.host_ids[1], 77)

    await cloud.start("s2")
    await leads(cloud, "s2")

    assert cloud.schedulers["s2"].leader.term > 77


async def test_two_that_both_believe_to_lead_double_nothing(cloud: Cloud) -> None:
    await leads(cloud, "s1")
    # The second is told that it has won while the first still believes so.
    await cloud.start("s2")
    cloud.etcd.leader = None
    cloud.etcd.change()
    made = [await cloud.create() for _ in range(8)]
    await cloud.until_quiet()

    held = cloud.machines()
    assert {one.id for one in made} == set(held)
    assert all(len(hosts) == 1 for hosts in held.values())
    assert {row.state for row in await cloud.instances()} == {S.RUNNING}


async def test_etcd_wiped_and_rebuilt_harms_no_machine(cloud: Cloud) -> None:
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)
    host_id = (await cloud.instance(made.id)).host_id
    before = cloud.agents.hosts[host_id].machines[made.id].machine

    cloud.etcd.stop()
    await asyncio.sleep(20)
    cloud.etcd.start()
    cloud.etcd.wipe()
    await asyncio.sleep(5)
    for each in cloud.host_ids:
        cloud.register(each)
    await leads(cloud, "s1")
    await cloud.until_state(made.id, S.RUNNING)

    assert cloud.agents.hosts[host_id].machines[made.id].machine == before
    later = await cloud.create()
    assert (await cloud.until_ended(later.operation_id)).state is OperationState.SUCCEEDED


async def test_a_term_that_nobody_can_have_reached_stops_no_leader(cloud: Cloud) -> None:
    await leads(cloud, "s1")
    await cloud.start("s2")
    cloud.agents.raise_term(cloud.host_ids[0], (1 << 63) - 1)

    await cloud.kill("s1")
    await leads(cloud, "s2")

    leader = cloud.schedulers["s2"].leader
    term = leader.term
    assert term < 1000
    for _ in range(4):
        await cloud.create()
    await asyncio.sleep(2)  # the liar refuses what it is ordered
    assert (leader.is_leading, leader.term) == (True, term)


async def test_a_host_that_disputes_every_term_costs_few_reigns_and_nobody_else(
    cloud: Cloud,
) -> None:
    await leads(cloud, "s1")
    leader, liar = cloud.schedulers["s1"].leader, cloud.host_ids[0]
    cloud.agents.dispute_terms(liar)

    made = [await cloud.create() for _ in range(6)]
    others = set(cloud.host_ids) - {liar}

    async def all_else_runs() -> bool:
        rows = await cloud.instances()
        placed = all(row.host_id for row in rows)
        return placed and all(row.state is S.RUNNING for row in rows if row.host_id in others)

    await cloud.until(all_else_runs, "what is not on the liar runs", within_s=60)
    term = leader.term
    assert liar in {(await cloud.instance(one.id)).host_id for one in made}
    await asyncio.sleep(60)  # it is ordered, and refuses, again and again

    assert (leader.is_leading, leader.term) == (True, term)
    # A new leader believes it no more often.
    await cloud.kill("s1")
    await cloud.start("s2")
    await leads(cloud, "s2")
    assert cloud.schedulers["s2"].leader.term <= term + 2 + 2 * BELIEVED_TIMES


async def test_a_new_leader_knows_which_machines_were_placed_a_moment_ago(cloud: Cloud) -> None:
    made = [await cloud.create(vcpus=4) for _ in range(3)]
    for one in made:
        await cloud.until_ended(one.operation_id)
    on = {(await cloud.instance(one.id)).host_id for one in made}
    await cloud.kill("s1")

    await cloud.start("s2")
    later = await cloud.create()
    await cloud.until_ended(later.operation_id)

    decision = await cloud.uow.read(lambda conn: instances.decision(conn, later.id))
    assert decision is not None
    expected = {c.host_id: c.inputs["expected_cpu_cores"] for c in decision.candidates}
    assert {host_id for host_id, cores in expected.items() if cores > 0} == on


class Unsteady(FakeCluster):
    """A view of etcd whose first campaign breaks."""

    campaigns = 0

    async def lead(self) -> AsyncGenerator[bool, None]:
        self.campaigns += 1
        if self.campaigns == 1:
            raise Unavailable("etcd does not answer", reason="ETCD_UNAVAILABLE")
        async for turn in super().lead():
            yield turn


async def test_a_campaign_that_breaks_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_cloud(tmp_path, lead=False) as cloud:
        monkeypatch.setattr(cloud.etcd, "member", lambda name: Unsteady(cloud.etcd, name))

        await cloud.start()

        await leads(cloud, "s1")


async def test_what_was_found_amiss_is_no_longer_told_by_who_does_not_lead(cloud: Cloud) -> None:
    def told() -> float:
        return metrics.INVARIANT_VIOLATIONS.labels(FindingKind.ORPHAN.value)._value.get()

    async def is_told() -> bool:
        return told() == 1

    await leads(cloud, "s1")
    host_id, stranger = cloud.host_ids[0], an_instance(image_id=cloud.image.id)
    machine = Machine(stranger.id, host_id, 1, 1, 1, MachineState.RUNNING)
    order = MachineOrder(stranger, cloud.image, 1 << 30, must_exist=True)
    cloud.agents.plant_machine(host_id, machine, order)
    await cloud.until(is_told, "the orphan is told of", within_s=30)

    await cloud.kill("s1")

    assert told() == 0
