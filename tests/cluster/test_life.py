"""The life of an instance, from the accepted request to the last event."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.cloud import Cloud
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.instances import Instance, InstanceState, Power
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.store import instances

S = InstanceState


async def test_a_created_instance_runs_on_the_host_that_claims_it(cloud: Cloud) -> None:
    made = await cloud.create()

    done = await cloud.until_ended(made.operation_id)
    row = await cloud.instance(made.id)

    assert done.state is OperationState.SUCCEEDED
    assert (row.state, row.has_run, row.operation_id) == (S.RUNNING, True, "")
    assert row.accelerator == "tcg"
    assert row.start_time is not None
    assert cloud.running() == {made.id: [row.host_id]}


async def test_who_waits_for_the_operation_or_for_events_is_told(cloud: Cloud) -> None:
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)

    async def told() -> bool:
        return made.operation_id in cloud.audience.operation_ids and cloud.audience.stamps > 0

    await cloud.until(told, "the leader told of the operation and of the stamps")


async def test_stop_start_and_reboot_end_when_the_machine_is_as_asked(cloud: Cloud) -> None:
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)

    stopped = await cloud.until_ended((await cloud.stop(made.id)).id)
    assert stopped.state is OperationState.SUCCEEDED
    assert (await cloud.instance(made.id)).state is S.STOPPED
    assert cloud.running() == {}

    started = await cloud.until_ended((await cloud.begin(made.id)).id)
    assert started.state is OperationState.SUCCEEDED
    assert (await cloud.instance(made.id)).state is S.RUNNING

    rebooted = await cloud.until_ended((await cloud.reboot(made.id)).id)
    row = await cloud.instance(made.id)
    held = cloud.agents.hosts[row.host_id].machines[made.id]
    assert rebooted.state is OperationState.SUCCEEDED
    assert row.state is S.RUNNING
    assert held.machine.reboot_serial == 1


async def test_a_deleted_instance_leaves_nothing_but_a_recorded_and_acknowledged_tombstone(
    cloud: Cloud,
) -> None:
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)
    host_id = (await cloud.instance(made.id)).host_id

    done = await cloud.until_ended((await cloud.delete(made.id)).id)

    async def acknowledged() -> bool:
        return made.id in cloud.agents.hosts[host_id].acknowledged

    await cloud.until(acknowledged, "the tombstone is acknowledged")
    assert done.state is OperationState.SUCCEEDED
    assert await cloud.find(made.id) is None
    assert await cloud.claims() == []
    assert cloud.machines() == {}
    assert [t.host_id for t in await cloud.tombstones(made.id)] == [host_id]


async def test_deleting_what_was_never_placed_is_immediate(cloud: Cloud) -> None:
    made = await cloud.create(capacity_wait_s=600, vcpus=256)

    async def queued() -> bool:
        return (await cloud.operation(made.operation_id)).queue_position == 1

    await cloud.until(queued, "it waits for capacity")
    done = await cloud.until_ended((await cloud.delete(made.id)).id, within_s=10)

    assert done.state is OperationState.SUCCEEDED
    assert await cloud.find(made.id) is None
    assert (await cloud.operation(made.operation_id)).state is OperationState.CANCELLED


async def test_a_guest_that_powers_itself_off_is_stopped_and_wanted_off(cloud: Cloud) -> None:
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)
    host_id = (await cloud.instance(made.id)).host_id

    cloud.agents.shut_down_guest(host_id, made.id)
    row = await cloud.until_state(made.id, S.STOPPED)

    assert row.desired_power is Power.OFF
    assert row.operation_id == ""

    async def told() -> bool:
        order = cloud.agents.hosts[host_id].machines[made.id].order
        return order.instance.desired_power is Power.OFF

    await cloud.until(told, "the host is told that it shall stay off")


async def test_a_crashed_machine_is_permitted_to_run_again(cloud: Cloud) -> None:
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)
    host_id = (await cloud.instance(made.id)).host_id

    cloud.agents.crash_machine(host_id, made.id)

    async def runs_again() -> bool:
        return cloud.running() == {made.id: [host_id]}

    await cloud.until(runs_again, "it runs again")
    await cloud.until_state(made.id, S.RUNNING)


async def test_a_missing_disk_makes_the_instance_lost_and_no_empty_disk(cloud: Cloud) -> None:
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)
    host_id = (await cloud.instance(made.id)).host_id

    cloud.agents.lose_disk(host_id, made.id)
    cloud.agents.crash_machine(host_id, made.id)
    row = await cloud.until_state(made.id, S.LOST)

    assert row.state_reason is not None
    assert not cloud.agents.hosts[host_id].machines[made.id].has_disk
    assert cloud.agents.hosts[host_id].machines[made.id].order.must_exist


async def test_the_events_of_a_life_are_complete_and_in_order(cloud: Cloud) -> None:
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)
    host_id = (await cloud.instance(made.id)).host_id
    await cloud.until_ended((await cloud.stop(made.id)).id)
    await cloud.until_ended((await cloud.delete(made.id)).id)
    await cloud.until_stamped()

    life = await cloud.events(made.id)
    revisions = [event.revision for event in life]

    assert [(e.type, e.state, e.reason) for e in life] == [
        (EventType.UPDATED, "PROVISIONING", "PLACED"),
        (EventType.UPDATED, "RUNNING", ""),
        (EventType.UPDATED, "STOPPING", ""),
        (EventType.UPDATED, "STOPPED", ""),
        (EventType.DELETED, "", ""),
    ]
    assert revisions == sorted(revisions)
    assert {event.actor for event in life} == {"scheduler:s1"}
    assert {event.attributes["host_id"] for event in life} == {host_id}
    states = [e.state for e in await cloud.events(made.operation_id)]
    assert states == ["RUNNING", "SUCCEEDED"]


async def test_a_leader_looks_seldom_while_nothing_happens(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)
    await cloud.until_quiet()
    looks = 0
    due = instances.due

    def counted(*args: Any) -> list[Instance]:
        nonlocal looks
        looks += 1
        return due(*args)

    monkeypatch.setattr(instances, "due", counted)
    await asyncio.sleep(60)

    # One in two seconds, and what samples, host checks and resyncs bring.
    assert 10 <= looks <= 120
