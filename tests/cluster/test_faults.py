"""Hosts that fail, fall silent, come back, and know more or less than the database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.builders import an_id, an_instance
from tests.support.cloud import Cloud, a_cloud
from unkai_scheduler.agents.port import Endpoint, MachineOrder
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.findings import FindingKind
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.machines import Fence, Machine, MachineState, Tombstone
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.reconcile import audit, metrics
from unkai_scheduler.reconcile import hosts as host_watches
from unkai_scheduler.reconcile.orders import ORDERS_PER_HOST
from unkai_scheduler.store import claims
from unkai_wire.errors import FailedPrecondition, Unavailable

S = InstanceState
BROKEN = FailedPrecondition("the disk is full", reason="DISK_FULL")


async def running(cloud: Cloud) -> tuple[str, str]:
    """Make an instance that runs; return its id and its host's."""
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)
    return made.id, (await cloud.instance(made.id)).host_id


async def test_a_host_that_fails_a_create_is_left_clean_and_another_is_taken(
    cloud: Cloud,
) -> None:
    for host_id in cloud.host_ids[:2]:
        cloud.agents.fail_starts(host_id, BROKEN)

    made = [await cloud.create() for _ in range(6)]
    await cloud.until_quiet()

    for one in made:
        row = await cloud.instance(one.id)
        assert (row.state, row.host_id) == (S.RUNNING, cloud.host_ids[2])
    assert cloud.machines() == {one.id: [cloud.host_ids[2]] for one in made}


async def test_a_create_that_three_hosts_failed_is_failed_with_the_last_error(
    cloud: Cloud,
) -> None:
    cloud.add_host()
    for host_id in cloud.host_ids:
        cloud.agents.fail_starts(host_id, BROKEN)

    made = await cloud.create()
    ended = await cloud.until_ended(made.operation_id)
    row = await cloud.instance(made.id)

    assert ended.error is not None
    assert ended.error["reason"] == "DISK_FULL"
    assert (row.state, row.host_id) == (S.FAILED, "")
    assert len(await cloud.tombstones(made.id)) == 3
    assert cloud.machines() == {}
    assert await cloud.claims() == []


async def test_a_start_that_fails_leaves_the_instance_off(cloud: Cloud) -> None:
    ident, host_id = await running(cloud)
    await cloud.until_ended((await cloud.stop(ident)).id)
    cloud.agents.fail_starts(host_id, BROKEN)

    ended = await cloud.until_ended((await cloud.begin(ident)).id)

    assert ended.state is OperationState.FAILED
    assert ended.error is not None
    assert ended.error["reason"] == "DISK_FULL"
    cloud.agents.heal(host_id)
    row = await cloud.until_state(ident, S.STOPPED)
    assert row.host_id == host_id
    assert cloud.running() == {}


async def test_a_claimed_instance_waits_for_its_silent_host_and_is_never_placed_twice(
    cloud: Cloud,
) -> None:
    made = [await cloud.create() for _ in range(6)]
    lost = cloud.host_ids[0]
    cloud.agents.fail(lost, Unavailable("no route", reason="HOST_UNREACHABLE"))

    await asyncio.sleep(30)
    cloud.agents.heal(lost)
    await cloud.until_quiet()

    held = cloud.machines()
    assert all(len(held[one.id]) == 1 for one in made)
    assert {row.state for row in await cloud.instances()} == {S.RUNNING}


async def test_a_lost_host_makes_its_instances_unknown_and_its_return_makes_them_known(
    cloud: Cloud,
) -> None:
    on_it, host_id = await running(cloud)
    off, off_host = await running(cloud)
    await cloud.until_ended((await cloud.stop(off)).id)
    lost_s = asyncio.get_running_loop().time()

    cloud.lose_host(host_id)
    if off_host != host_id:
        cloud.lose_host(off_host)
    await cloud.until_state(on_it, S.UNKNOWN, within_s=30)
    await cloud.until_state(off, S.UNKNOWN, within_s=30)
    assert asyncio.get_running_loop().time() - lost_s < 12
    assert (await cloud.hosts())[host_id].state is HostState.UNKNOWN

    cloud.return_host(host_id)
    cloud.return_host(off_host)
    back = await cloud.until_state(on_it, S.RUNNING)
    await cloud.until_state(off, S.STOPPED)
    assert back.state_reason is None

    async def up() -> bool:
        return (await cloud.hosts())[host_id].state is HostState.UP

    await cloud.until(up, "the host is UP", within_s=10)


async def test_a_host_lost_at_the_beginning_of_a_reign_stays_lost(cloud: Cloud) -> None:
    ident, host_id = await running(cloud)
    await cloud.kill()
    await cloud.start()
    await cloud.until_ended((await cloud.create()).operation_id)  # the new reign knows its hosts
    await cloud.until_stamped()
    before = len(await cloud.events(host_id))

    cloud.lose_host(host_id)
    await cloud.until_state(ident, S.UNKNOWN, within_s=12)
    await asyncio.sleep(10)
    await cloud.until_stamped()

    states = [event.state for event in (await cloud.events(host_id))[before:]]
    assert states[-1] == HostState.UNKNOWN.value
    assert HostState.CONNECTING.value not in states[states.index(HostState.UNKNOWN.value) :]
    assert (await cloud.instance(ident)).state is S.UNKNOWN


async def test_a_deletion_waits_for_a_silent_host_and_says_so(cloud: Cloud) -> None:
    ident, host_id = await running(cloud)
    cloud.lose_host(host_id)
    await cloud.until_state(ident, S.UNKNOWN, within_s=30)

    deletion = await cloud.delete(ident)

    async def says_why() -> bool:
        return "silent" in (await cloud.operation(deletion.id)).progress_message

    await cloud.until(says_why, "the operation shows why it waits")
    assert [claim.host_id for claim in await cloud.claims()] == [host_id]

    cloud.return_host(host_id)
    assert (await cloud.until_ended(deletion.id)).state is OperationState.SUCCEEDED
    assert cloud.machines() == {}
    assert await cloud.find(ident) is None


async def test_a_deletion_out_of_time_fails_and_is_still_carried_out(cloud: Cloud) -> None:
    ident, host_id = await running(cloud)
    cloud.lose_host(host_id)
    await cloud.until_state(ident, S.UNKNOWN, within_s=30)

    ended = await cloud.until_ended((await cloud.delete(ident, deadline_s=5)).id)
    assert ended.state is OperationState.FAILED
    assert ended.error is not None
    assert ended.error["reason"] == "OPERATION_DEADLINE"

    cloud.return_host(host_id)

    async def gone() -> bool:
        return await cloud.find(ident) is None

    await cloud.until(gone, "the instance is gone")
    assert cloud.machines() == {}


async def test_a_cancelled_create_leaves_nothing_behind(cloud: Cloud) -> None:
    cloud.agents.converge_s = 20.0
    made = await cloud.create()

    async def ordered() -> bool:
        return made.id in cloud.machines()

    await cloud.until(ordered, "a host is at work")
    await cloud.cancel(made.operation_id)
    cloud.agents.converge_s = 0.5

    ended = await cloud.until_ended(made.operation_id)
    row = await cloud.instance(made.id)
    assert ended.state is OperationState.CANCELLED
    assert (row.state, row.host_id) == (S.FAILED, "")
    assert row.state_reason is not None
    assert row.state_reason["reason"] == "CANCELLED"
    assert cloud.machines() == {}
    assert await cloud.claims() == []


async def test_a_create_out_of_time_is_undone(cloud: Cloud) -> None:
    cloud.agents.converge_s = 3600.0
    made = await cloud.create(deadline_s=10)

    ended = await cloud.until_ended(made.operation_id)
    cloud.agents.converge_s = 0.5
    for host in cloud.agents.hosts.values():
        for held in host.machines.values():
            held.due_time = cloud.clock()
    row = await cloud.until_state(made.id, S.FAILED)

    assert ended.state is OperationState.FAILED
    assert row.host_id == ""
    assert cloud.machines() == {}


async def test_a_rebooted_host_gets_the_permit_for_what_it_claims(cloud: Cloud) -> None:
    ident, host_id = await running(cloud)

    cloud.agents.reboot_host(host_id)
    cloud.register(host_id)

    async def runs_again() -> bool:
        return cloud.running() == {ident: [host_id]}

    await cloud.until(runs_again, "it runs again")
    await cloud.until_state(ident, S.RUNNING)
    await cloud.until_stamped()
    reasons = [event.reason for event in await cloud.events(host_id)]
    assert "HOST_REBOOTED" in reasons


async def test_a_machine_whose_claim_moved_gets_no_permit_and_is_removed(cloud: Cloud) -> None:
    ident, old = await running(cloud)
    new = next(host_id for host_id in cloud.host_ids if host_id != old)
    cloud.lose_host(old)
    await cloud.until_state(ident, S.UNKNOWN, within_s=30)
    term = cloud.schedulers["s1"].leader.term

    await cloud.uow.lead(
        term,
        lambda conn: claims.move(
            conn, ident, new, statement="the old host was scrapped", now=cloud.clock()
        ),
    )
    cloud.wake()
    await cloud.until_state(ident, S.LOST)  # its disk was on the old host: no empty one is made
    cloud.agents.reboot_host(old)
    cloud.return_host(old)

    async def removed() -> bool:
        return cloud.machines().get(ident) == [new]

    await cloud.until(removed, "the old copy is removed")
    assert cloud.running() == {}


async def test_an_orphan_is_kept_and_reported_once(cloud: Cloud) -> None:
    host_id = cloud.host_ids[0]
    stranger = an_instance(id=an_id("instance"), name="stranger")
    machine = Machine(
        stranger.id, host_id, 3, 3, 1, MachineState.RUNNING, name="stranger", project_id="prj-x"
    )
    cloud.agents.plant_machine(host_id, machine, MachineOrder(stranger, cloud.image, 1, True))

    async def reported() -> bool:
        return any(e.type is EventType.WARNING for e in await cloud.events(stranger.id))

    await cloud.until(reported, "a warning")
    await cloud.kill()
    await cloud.start()
    await asyncio.sleep(100)

    warnings = [e for e in await cloud.events(stranger.id) if e.type is EventType.WARNING]
    assert [event.reason for event in warnings] == ["ORPHAN"]
    assert cloud.running() == {stranger.id: [host_id]}


async def test_a_host_that_invents_machines_fills_no_history(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_WARNINGS", 3)
    host_id = cloud.host_ids[0]
    for _ in range(7):
        stranger = an_instance(image_id=cloud.image.id)
        machine = Machine(stranger.id, host_id, 1, 1, 1, MachineState.RUNNING)
        order = MachineOrder(stranger, cloud.image, 1 << 30, must_exist=True)
        cloud.agents.plant_machine(host_id, machine, order)
        await asyncio.sleep(5)

    async def all_counted() -> bool:
        return metrics.INVARIANT_VIOLATIONS.labels(FindingKind.ORPHAN.value)._value.get() == 7

    await cloud.until(all_counted, "all are counted", within_s=30)
    await cloud.until_stamped()
    warnings = [event for event in await cloud.events() if event.type is EventType.WARNING]
    assert len(warnings) == 3


async def test_a_host_that_invents_machines_without_end_is_not_listened_to(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_watches, "MAX_HELD", 5)
    host_id = cloud.host_ids[0]
    for _ in range(7):
        stranger = an_instance(image_id=cloud.image.id)
        machine = Machine(stranger.id, host_id, 1, 1, 1, MachineState.RUNNING)
        order = MachineOrder(stranger, cloud.image, 1 << 30, must_exist=True)
        cloud.agents.plant_machine(host_id, machine, order)

    async def unheard() -> bool:
        states = {ident: row.state for ident, row in (await cloud.hosts()).items()}
        others = {states.pop(ident, None) for ident in cloud.host_ids[1:]}
        return others == {HostState.UP} and states.get(host_id, HostState.UP) is not HostState.UP

    await cloud.until(unheard, "that host alone is not UP", within_s=60)
    made = await cloud.create()
    assert (await cloud.until_ended(made.operation_id)).state is OperationState.SUCCEEDED


async def test_a_tombstone_we_never_asked_for_is_deleted_on_host(cloud: Cloud) -> None:
    ident, host_id = await running(cloud)
    row = await cloud.instance(ident)

    grave = Tombstone(ident, host_id, row.generation, row.run_epoch, cloud.clock())
    cloud.agents.plant_tombstone(host_id, grave)
    row = await cloud.until_state(ident, S.DELETED_ON_HOST)

    assert row.state_reason is not None
    assert row.state_reason["reason"] == "DELETED_ON_HOST"
    assert (await cloud.until_ended((await cloud.delete(ident)).id)).state is (
        OperationState.SUCCEEDED
    )
    assert await cloud.find(ident) is None


async def test_a_tombstone_nobody_recorded_is_recorded_and_acknowledged(cloud: Cloud) -> None:
    host_id, ident = cloud.host_ids[0], an_id("instance")

    cloud.agents.plant_tombstone(host_id, Tombstone(ident, host_id, 4, 1, cloud.clock()))

    async def acknowledged() -> bool:
        return ident in cloud.agents.hosts[host_id].acknowledged

    await cloud.until(acknowledged, "it is acknowledged")
    assert [t.generation for t in await cloud.tombstones(ident)] == [4]


async def test_a_host_ahead_of_a_restored_database_is_relearned_then_obeys_the_user(
    cloud: Cloud,
) -> None:
    ident, host_id = await running(cloud)
    held = cloud.agents.hosts[host_id].machines[ident]
    ahead = replace(held.machine, generation=9, observed_generation=9)
    cloud.agents.plant_machine(host_id, ahead, held.order)
    await asyncio.sleep(5)
    assert cloud.running() == {ident: [host_id]}
    assert (await cloud.instance(ident)).generation == 9

    ended = await cloud.until_ended((await cloud.stop(ident)).id)

    assert ended.state is OperationState.SUCCEEDED
    assert (await cloud.instance(ident)).generation > 9
    assert cloud.running() == {}


@pytest.mark.parametrize("seconds", [0.5, 30.0])
async def test_a_host_that_hangs_delays_only_its_own(cloud: Cloud, seconds: float) -> None:
    cloud.agents.hang(cloud.host_ids[0])
    await asyncio.sleep(seconds)
    made = [await cloud.create() for _ in range(12)]

    async def others_run() -> bool:
        rows = [await cloud.instance(one.id) for one in made]
        return all(r.state is S.RUNNING for r in rows if r.host_id != cloud.host_ids[0]) and all(
            r.host_id for r in rows
        )

    await cloud.until(others_run, "all that other hosts hold is running", within_s=15)
    cloud.agents.heal(cloud.host_ids[0])
    await cloud.until_quiet()
    assert {row.state for row in await cloud.instances()} == {S.RUNNING}
    assert all(len(hosts) == 1 for hosts in cloud.machines().values())


async def test_orders_that_wait_for_a_host_are_not_sent_once_it_is_silent(cloud: Cloud) -> None:
    made = [await cloud.create() for _ in range(60)]
    await cloud.until_quiet()
    silent = cloud.host_ids[0]
    held = [one.id for one in made if (await cloud.instance(one.id)).host_id == silent]
    sent: list[str] = []
    ensure = cloud.agents.ensure_machine

    async def counted(endpoint: Endpoint, fence: Fence, order: MachineOrder) -> Machine:
        sent.append(order.instance.id)
        return await ensure(endpoint, fence, order)

    cloud.agents.ensure_machine = counted  # type: ignore[method-assign]
    cloud.agents.hang(silent)
    for ident in held:
        await cloud.stop(ident)
    await asyncio.sleep(60)

    assert 0 < len(sent) <= ORDERS_PER_HOST < len(held)
    cloud.agents.heal(silent)
    await cloud.until_quiet()
    assert {(await cloud.instance(ident)).state for ident in held} == {S.STOPPED}


async def test_an_instance_that_cannot_be_written_holds_up_no_other(cloud: Cloud) -> None:
    last = (1 << 63) - 1  # no database has a number for what comes after it
    stuck = await cloud.create(generation=last)
    await cloud.until_ended(stuck.operation_id)
    host_id = (await cloud.instance(stuck.id)).host_id
    with capture_logs() as logs:  # a traceback in colours takes longer than figures are fresh
        cloud.agents.shut_down_guest(host_id, stuck.id)  # it becomes wanted off: a generation more
        made = [await cloud.create() for _ in range(4)]
        await cloud.until_quiet(within_s=40)

    assert [line["instance"] for line in logs if line["event"] == "instance_stuck"] == [stuck.id]
    assert {(await cloud.instance(one.id)).state for one in made} == {S.RUNNING}
    assert (await cloud.instance(stuck.id)).generation == last


async def test_a_clock_put_back_puts_nothing_off(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, lead=False) as cloud:
        made = await cloud.create(deadline_s=7200)
        cloud.put_clock_back(3600)
        await cloud.start()

        ended = await cloud.until_ended(made.operation_id, within_s=60)

        assert ended.state is OperationState.SUCCEEDED
        cloud.agents.crash_machine((await cloud.instance(made.id)).host_id, made.id)
        await cloud.until_state(made.id, S.RUNNING, within_s=60)


async def test_a_guest_that_its_hosts_disk_has_paused_says_why_and_nothing_is_ordered(
    cloud: Cloud,
) -> None:
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)
    running = await cloud.until_state(made.id, S.RUNNING)
    full = FailedPrecondition(
        "the guest is paused: its host has no room left for its disk", reason="PAUSED_BY_IO_ERROR"
    )

    async def reason() -> str:
        return str(((await cloud.instance(made.id)).state_reason or {}).get("reason", ""))

    async def is_told() -> bool:
        return await reason() == "PAUSED_BY_IO_ERROR"

    async def is_well() -> bool:
        return await reason() == ""

    cloud.agents.pause_guest(running.host_id, made.id, full)
    await cloud.until(is_told, "the instance says why its guest stands still")
    paused = await cloud.instance(made.id)
    cloud.agents.resume_guest(running.host_id, made.id)
    await cloud.until(is_well, "the reason is gone")
    await cloud.until_stamped()

    assert (paused.state, paused.generation) == (S.RUNNING, running.generation)
    told = [event.reason for event in await cloud.events(made.id) if event.state == "RUNNING"]
    assert told[-2:] == ["PAUSED_BY_IO_ERROR", ""]
