"""A backup made while requests were under way is put back: what became of them is not guessed.

The worst that could happen is a second copy of a machine: the backup says that an instance waits
for its first host, and one has run it for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import adopting
from tests.support.acceptance import Shows
from tests.support.adopting import adopt, found, restore, starts
from tests.support.builders import an_id
from tests.support.cloud import Cloud, a_cloud
from tests.support.cloud_sight import wait_clean
from tests.support.sights import Rules
from unkai_scheduler.agents.fake import FakeAgents
from unkai_scheduler.agents.port import Endpoint
from unkai_scheduler.domain.findings import FindingKind
from unkai_scheduler.domain.instances import Instance, InstanceState, Power
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.domain.operations import OperationState
from unkai_wire.errors import FailedPrecondition

S, K = InstanceState, FindingKind
RESTORED = Rules(history=False)
DISK_FULL = FailedPrecondition("the disk is full", reason="DISK_FULL")
LOOKS_S = 10.0
"""Longer than a leader waits for hosts before it places, and than it takes to order."""


async def accepted_only(cloud: Cloud, name: str = "web") -> tuple[Instance, Path]:
    """Accept a create and write a backup before anybody has placed it; then let it run."""
    await cloud.kill()
    made = await cloud.create(name)
    copy = adopting.backup(cloud)
    await cloud.start()
    ended = await cloud.until_ended(made.operation_id)
    assert ended.state is OperationState.SUCCEEDED, ended
    return made, copy


async def is_told_of(cloud: Cloud, ident: str, where: list[str]) -> None:
    """Assert that an instance is FAILED, holds nothing, and that its machine is offered."""
    row = await cloud.instance(ident)
    assert (row.state, row.host_id, row.operation_id) == (S.FAILED, "", "")
    assert row.state_reason is not None
    assert row.state_reason["reason"] == "DATABASE_RESTORED"
    assert f"unkai instance adopt {ident}" in row.state_reason["fix"]
    assert [(f.instance_id, f.host_id) for f in await found(cloud, K.ORPHAN)] == [
        (ident, host_id) for host_id in where
    ]


async def is_made_right(cloud: Cloud, ident: str) -> None:
    """Adopt it; assert that nothing else is to repair then."""
    before = starts(cloud)
    adopted = await adopt(cloud, ident)
    await wait_clean(cloud, RESTORED)
    assert starts(cloud) == before, "no machine was touched"
    row = await cloud.until_state(ident, S.RUNNING)
    assert (row.host_id, row.has_run) == (adopted.instance.host_id, True)
    assert not await found(cloud)


@pytest.mark.parametrize("is_silent", [False, True], ids=["its host speaks", "its host is silent"])
async def test_a_create_accepted_before_the_backup_and_placed_after_it_has_no_second_copy(
    cloud: Cloud, is_silent: bool, shows: Shows
) -> None:
    made, copy = await accepted_only(cloud)
    (holder,) = cloud.machines()[made.id]
    if is_silent:
        cloud.lose_host(holder)

    await restore(cloud, copy, wipe_etcd=False)
    await asyncio.sleep(LOOKS_S)

    assert cloud.running() == {made.id: [holder]}
    operation = await cloud.operation(made.operation_id)
    assert operation.state is OperationState.FAILED
    assert (operation.error or {})["reason"] == "DATABASE_RESTORED"
    if is_silent:
        cloud.return_host(holder)
    await is_told_of(cloud, made.id, [holder])
    await is_made_right(cloud, made.id)
    for act in (cloud.stop, cloud.begin, cloud.delete):
        assert (await cloud.until_ended((await act(made.id)).id)).state is OperationState.SUCCEEDED
    await wait_clean(cloud, RESTORED)
    assert cloud.machines() == {}
    shows(
        f"solid 3 create under way at the backup, its host {'silent' if is_silent else 'there'}",
        "one machine, never a second; the create FAILED, adopted, then stopped, started, deleted",
    )


async def test_a_create_that_was_leaving_its_host_at_the_backup_has_no_second_copy(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path, host_count=2) as cloud:
        first, second = cloud.host_ids
        cloud.lose_host(second)
        cloud.agents.fail_starts(first, DISK_FULL)
        made = await cloud.create("web")

        async def leaves() -> bool:
            row = await cloud.instance(made.id)
            return bool(row.host_id == first and row.state_reason)

        await cloud.until(leaves, "the first host has failed it")
        copy = adopting.backup(cloud)
        cloud.return_host(second)
        await cloud.until_ended(made.operation_id)
        await cloud.until_state(made.id, S.RUNNING)
        cloud.agents.heal(first)

        await restore(cloud, copy)
        await asyncio.sleep(LOOKS_S)

        assert cloud.running() == {made.id: [second]}
        await is_told_of(cloud, made.id, [second])
        await is_made_right(cloud, made.id)


async def test_a_claimed_create_that_went_to_another_host_since_is_not_made_anew_on_the_first(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path, host_count=2, converge_s=15.0) as cloud:
        first, second = cloud.host_ids
        cloud.lose_host(second)
        made = await cloud.create("web")
        await cloud.until(lambda: is_claimed(cloud, made.id), "it is placed")
        copy = adopting.backup(cloud)
        cloud.agents.fail_starts(first, DISK_FULL)
        cloud.return_host(second)
        await cloud.until_state(made.id, S.RUNNING)
        cloud.agents.heal(first)
        # Its host has long forgotten that it removed it.
        cloud.agents.hosts[first].tombstones.clear()
        cloud.lose_host(second)

        await restore(cloud, copy, wipe_etcd=False)
        await asyncio.sleep(LOOKS_S)

        assert cloud.machines() == {made.id: [second]}
        cloud.return_host(second)
        await is_told_of(cloud, made.id, [second])
        await is_made_right(cloud, made.id)


async def test_a_cancel_that_waits_at_the_backup_removes_no_machine_afterwards(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path, host_count=1, converge_s=15.0) as cloud:
        made = await cloud.create("web")
        await cloud.until(lambda: is_claimed(cloud, made.id), "it is placed")
        await cloud.until(lambda: is_ordered(cloud, made.id), "its host has the order")
        await cloud.kill()
        await cloud.cancel(made.operation_id)
        copy = adopting.backup(cloud)
        await cloud.until(lambda: runs(cloud, made.id), "its host has made it")

        await restore(cloud, copy)
        await asyncio.sleep(LOOKS_S)

        assert cloud.running() == {made.id: cloud.host_ids}
        await is_told_of(cloud, made.id, cloud.host_ids)
        await is_made_right(cloud, made.id)


async def is_claimed(cloud: Cloud, ident: str) -> bool:
    """Tell whether some host has it."""
    return bool((await cloud.instance(ident)).host_id)


async def runs(cloud: Cloud, ident: str) -> bool:
    """Tell whether a machine of it runs."""
    return ident in cloud.running()


async def is_ordered(cloud: Cloud, ident: str) -> bool:
    """Tell whether some host holds a machine of it."""
    return ident in cloud.machines()


async def test_a_power_request_that_waits_at_the_backup_is_not_done_again(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, host_count=1) as cloud:
        (host_id,) = cloud.host_ids
        made = [await cloud.create(name) for name in ("stops", "starts", "reboots")]
        for one in made:
            await cloud.until_ended(one.operation_id)
        stops, begins, reboots = (one.id for one in made)
        await cloud.until_ended((await cloud.stop(begins)).id)
        cloud.agents.fail(host_id, DISK_FULL)
        waiting = [
            await cloud.stop(stops),
            await cloud.begin(begins),
            await cloud.reboot(reboots),
        ]
        copy = adopting.backup(cloud)
        # It was all done, and then its users wished otherwise.
        cloud.agents.heal(host_id)
        for operation in waiting:
            done = await cloud.until_ended(operation.id)
            assert done.state is OperationState.SUCCEEDED, done
        for later in (cloud.begin(stops), cloud.stop(begins), cloud.stop(reboots)):
            await cloud.until_ended((await later).id)
        before, was = starts(cloud), {row.id: row for row in await cloud.instances()}

        await restore(cloud, copy)
        for ident, row in was.items():
            await cloud.until_state(ident, row.state)
        await asyncio.sleep(LOOKS_S)

        assert starts(cloud) == before
        for row in await cloud.instances():
            assert (row.state, row.desired_power, row.generation) == (
                was[row.id].state,
                was[row.id].desired_power,
                was[row.id].generation,
            )
        for operation in waiting:
            ended = await cloud.operation(operation.id)
            assert ended.state is OperationState.FAILED
            assert (ended.error or {})["reason"] == "DATABASE_RESTORED"


async def test_a_deletion_that_waits_at_the_backup_goes_on(cloud: Cloud) -> None:
    made = await cloud.create("web")
    await cloud.until_ended(made.operation_id)
    (holder,) = cloud.machines()[made.id]
    cloud.agents.fail(holder, DISK_FULL)
    deletion = await cloud.delete(made.id)
    copy = adopting.backup(cloud)
    cloud.agents.heal(holder)

    await restore(cloud, copy)

    assert (await cloud.until_ended(deletion.id)).state is OperationState.SUCCEEDED
    assert cloud.machines() == {}


@pytest.mark.parametrize("is_silent", [False, True], ids=["its host speaks", "its host is silent"])
async def test_what_a_host_holds_of_a_create_that_has_ended_is_removed_with_the_instance(
    cloud: Cloud, is_silent: bool
) -> None:
    made, copy = await accepted_only(cloud)
    (holder,) = cloud.machines()[made.id]
    await restore(cloud, copy)
    await is_told_of(cloud, made.id, [holder])
    if is_silent:
        cloud.lose_host(holder)
        await asyncio.sleep(LOOKS_S)

    deletion = await cloud.delete(made.id)
    if is_silent:
        await asyncio.sleep(LOOKS_S)
        waiting = await cloud.operation(deletion.id)
        assert not waiting.state.ended, waiting
        assert cloud.agents.hosts[holder].description.name in waiting.progress_message
        cloud.return_host(holder)

    assert (await cloud.until_ended(deletion.id)).state is OperationState.SUCCEEDED
    assert cloud.machines() == {}
    assert await cloud.find(made.id) is None
    await wait_clean(cloud, RESTORED)
    assert not await found(cloud)


class LateAgents:
    """Agents of which some take a while before they tell what they hold; no ids: all."""

    def __init__(self, agents: FakeAgents, *host_ids: str) -> None:
        self._agents = agents
        self._host_ids = host_ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agents, name)

    async def watch_machines(self, endpoint: Endpoint, *args: Any) -> AsyncIterator[Any]:
        if not self._host_ids or endpoint.host_id in self._host_ids:
            await asyncio.sleep(3)
        async for word in self._agents.watch_machines(endpoint, *args):
            yield word


async def test_a_new_leader_forgets_nothing_before_hosts_have_told(cloud: Cloud) -> None:
    made, copy = await accepted_only(cloud)
    await restore(cloud, copy)
    await is_told_of(cloud, made.id, cloud.machines()[made.id])
    await cloud.kill()
    deletion = await cloud.delete(made.id)

    await cloud.start(agents=LateAgents(cloud.agents))  # type: ignore[arg-type]

    assert (await cloud.until_ended(deletion.id)).state is OperationState.SUCCEEDED
    assert cloud.machines() == {}
    await wait_clean(cloud, RESTORED)


async def test_of_what_two_hosts_hold_a_deletion_leaves_nothing(cloud: Cloud) -> None:
    made, copy = await accepted_only(cloud)
    (holder,) = cloud.machines()[made.id]
    other = next(host_id for host_id in cloud.host_ids if host_id != holder)
    held = cloud.agents.hosts[holder].machines[made.id]
    cloud.agents.plant_machine(other, replace(held.machine, host_id=other), held.order)
    await restore(cloud, copy)
    await is_told_of(cloud, made.id, sorted([holder, other]))

    deletion = await cloud.delete(made.id)

    assert (await cloud.until_ended(deletion.id)).state is OperationState.SUCCEEDED
    assert cloud.machines() == {}
    await wait_clean(cloud, RESTORED)


async def test_what_never_ran_is_not_forgotten_on_its_own_hosts_word_before_others_have_told(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path, host_count=2, converge_s=15.0) as cloud:
        made = await cloud.create("web")
        await cloud.until(lambda: is_ordered(cloud, made.id), "its host has the order")
        (own,) = cloud.machines()[made.id]
        other = next(host_id for host_id in cloud.host_ids if host_id != own)
        await cloud.kill()
        held = cloud.agents.hosts[own].machines[made.id]
        cloud.agents.plant_machine(other, replace(held.machine, host_id=other), held.order)
        deletion = await cloud.delete(made.id)
        row = await cloud.instance(made.id)
        removed = Tombstone(row.id, own, row.generation, row.run_epoch, cloud.clock())
        cloud.agents.plant_tombstone(own, removed)

        await cloud.start(agents=LateAgents(cloud.agents, other))  # type: ignore[arg-type]

        assert (await cloud.until_ended(deletion.id)).state is OperationState.SUCCEEDED
        assert cloud.machines() == {}


async def test_a_deletion_waits_for_a_host_whose_name_is_taken_until_that_is_gone(
    cloud: Cloud,
) -> None:
    made, copy = await accepted_only(cloud)
    (holder,) = cloud.machines()[made.id]
    held = cloud.agents.hosts[holder].machines[made.id]
    stranger = an_id("host")
    cloud.agents.add_host(stranger, cloud.agents.hosts[holder].description.name)
    cloud.agents.plant_machine(stranger, replace(held.machine, host_id=stranger), held.order)
    await restore(cloud, copy)

    async def is_named() -> bool:
        return holder in await cloud.hosts()

    await cloud.until(is_named, "the holder has its name")
    cloud.register(stranger)

    async def all_told() -> bool:
        return set(cloud.schedulers["s1"].live.holders(made.id)) == {holder, stranger}

    await cloud.until(all_told, "both hosts have told what they hold")
    deletion = await cloud.delete(made.id)
    await asyncio.sleep(LOOKS_S)
    assert cloud.machines() == {made.id: [stranger]}
    assert not (await cloud.operation(deletion.id)).state.ended

    cloud.lose_host(stranger)

    assert (await cloud.until_ended(deletion.id)).state is OperationState.SUCCEEDED


async def test_a_deletion_removes_what_was_held_back_for_another_hosts_machine(
    cloud: Cloud,
) -> None:
    made, copy = await accepted_only(cloud)
    await restore(cloud, copy, declares=False)

    async def is_held() -> bool:
        return (await cloud.instance(made.id)).state_reason is not None

    await cloud.until(is_held, "it is said why it waits")
    deletion = await cloud.delete(made.id)

    assert (await cloud.until_ended(deletion.id)).state is OperationState.SUCCEEDED
    assert cloud.machines() == {}
    await wait_clean(cloud, RESTORED)


# Nobody has declared that the database was put back, or the server has lost commits by itself.


async def test_an_undeclared_backup_places_nothing_that_a_host_holds(cloud: Cloud) -> None:
    made, copy = await accepted_only(cloud)
    (holder,) = cloud.machines()[made.id]
    name = cloud.agents.hosts[holder].description.name

    await restore(cloud, copy, declares=False)

    async def is_held() -> bool:
        return (await cloud.instance(made.id)).state_reason is not None

    await cloud.until(is_held, "it is said why it waits")
    await asyncio.sleep(LOOKS_S)
    row = await cloud.instance(made.id)
    assert row.state is S.PROVISIONING
    assert row.state_reason is not None
    assert row.state_reason["reason"] == "MACHINE_HELD"
    assert name in row.state_reason["message"]
    assert f"unkai instance adopt {made.id}" in row.state_reason["fix"]
    assert cloud.running() == {made.id: [holder]}
    adopted = await adopt(cloud, made.id)
    assert (adopted.instance.state, adopted.instance.desired_power) == (S.RUNNING, Power.ON)
    operation = await cloud.operation(made.operation_id)
    assert operation.state is OperationState.SUCCEEDED
    await wait_clean(cloud, RESTORED)
    assert cloud.running() == {made.id: [holder]}


async def test_what_an_undeclared_backup_holds_back_can_be_adopted_after_its_deadline(
    cloud: Cloud,
) -> None:
    await cloud.kill()
    made = await cloud.create("web", deadline_s=60)
    copy = adopting.backup(cloud)
    await cloud.start()
    await cloud.until_ended(made.operation_id)
    (holder,) = cloud.machines()[made.id]

    await restore(cloud, copy, declares=False)
    row = await cloud.until_state(made.id, S.FAILED)
    assert row.state_reason is not None
    assert "adopt" in row.state_reason["message"]
    await adopt(cloud, made.id)

    await cloud.until_state(made.id, S.RUNNING)
    await wait_clean(cloud, RESTORED)
    assert cloud.running() == {made.id: [holder]}
