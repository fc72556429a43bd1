"""The converger on fake drivers, in leaping time: a machine's life and what may go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
from prometheus_client import REGISTRY

from tests.support.agent import (
    SimulatedAgent,
    a_fence,
    a_running_agent,
    a_spec,
    an_instance_id,
    run,
)
from unkai_agent.compute.changes import ChangeFeed
from unkai_agent.compute.driver import DiskError, Domain
from unkai_agent.compute.fake import FakeCompute
from unkai_agent.domain.machines import Fence, Machine, MachineState, Power, Tombstone
from unkai_agent.ledger_files import LedgerFiles
from unkai_wire.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)

ROOT = "root"


async def _running(agent: SimulatedAgent, number: int = 1) -> None:
    await agent.ensure(a_spec(number))
    await agent.until_state(MachineState.RUNNING, number)


async def _at_rest_without_hints(agent: SimulatedAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a machine that has run for a while, and from now on nobody who tells of changes."""
    await _running(agent)
    await asyncio.sleep(60)
    monkeypatch.setattr(ChangeFeed, "publish", lambda *_: None)


def test_a_machine_is_made_and_runs(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            first = await agent.ensure(a_spec())
            assert first.state is MachineState.CONVERGING
            machine = await agent.until_state(MachineState.RUNNING)
            assert await agent.is_on()
            assert machine.accelerator == "tcg"
            assert machine.start_time is not None
            assert machine.domain_name == a_spec().domain_name
            entry = agent.ledger.entry(an_instance_id())
            assert entry is not None
            assert entry.has_started
            assert entry.boot_id == agent.boot_id

    run(story())


def test_ensuring_twice_changes_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            before = agent.machine()
            await agent.ensure(a_spec())
            await asyncio.sleep(120)
            assert agent.machine() == before

    run(story())


@pytest.mark.parametrize("where", ["image", "disk", "define", "start", "crash"])
def test_a_failed_create_leaves_nothing_and_is_given_up_after_its_tries(
    tmp_path: Path, where: str
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path, create_tries=3) as agent:
            errors = [FailedPrecondition("no", reason="TEST_REFUSED") for _ in range(3)]
            match where:
                case "image":
                    agent.storage.faults.image_errors.extend(errors)
                case "disk":
                    agent.storage.faults.disk_errors.extend(errors)
                case "define":
                    agent.compute.faults.define_errors.extend(errors)
                case "start":
                    agent.compute.faults.start_errors.extend(errors)
                case _:
                    agent.compute.faults.crash_on_start = 3
            await agent.ensure(a_spec())
            ident = an_instance_id()
            await agent.until(
                lambda: (
                    (m := agent.converger.machine(ident)).state is MachineState.FAILED
                    and m.retry_time is None
                )
            )
            machine = agent.converger.machine(ident)
            assert machine.error is not None
            expected = "START_FAILED" if where == "crash" else "TEST_REFUSED"
            assert machine.error["reason"] == expected
            assert await agent.domain() is None
            assert await agent.storage.list_machines() == {}
            await asyncio.sleep(600)
            assert agent.converger.machine(ident).state is MachineState.FAILED
            # Asked again, it is tried again.
            await agent.ensure(a_spec())
            await agent.until_state(MachineState.RUNNING)

    run(story())


@pytest.mark.parametrize("where", ["image", "disk", "define", "start"])
def test_one_failure_is_undone_and_tried_again(tmp_path: Path, where: str) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            faults = {
                "image": agent.storage.faults.image_errors,
                "disk": agent.storage.faults.disk_errors,
                "define": agent.compute.faults.define_errors,
                "start": agent.compute.faults.start_errors,
            }[where]
            faults.append(Unavailable("away"))
            await agent.ensure(a_spec())
            await agent.until_state(MachineState.FAILED)
            shown = agent.converger.machine(an_instance_id())
            assert shown.retry_time is not None
            assert await agent.storage.list_machines() == {}
            await agent.until_state(MachineState.RUNNING)

    run(story())


def test_a_lost_answer_of_the_hypervisor_is_looked_after_not_undone(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            agent.compute.faults.lose_answers = 2
            changes = agent.converger.watch()
            await agent.ensure(a_spec())
            states = set()
            async for change in changes:
                if isinstance(change, Machine):
                    states.add(change.state)
                    if change.state is MachineState.RUNNING:
                        break
            assert states == {MachineState.CONVERGING, MachineState.RUNNING}

    run(story())


def test_the_disk_of_a_guest_that_may_be_running_is_not_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            start = agent.compute.start

            async def start_and_go_silent(instance_id: str) -> None:
                await start(instance_id)
                agent.compute.faults.hang = True
                raise Unavailable("the hypervisor went away")

            monkeypatch.setattr(agent.compute, "start", start_and_go_silent)
            await agent.ensure(a_spec())
            await agent.until_state(MachineState.FAILED, within_s=60)
            assert await agent.storage.get_disk(an_instance_id(), ROOT) is not None
            agent.compute.faults.hang = False
            await agent.until_state(MachineState.RUNNING, within_s=60)
            await asyncio.sleep(60)
            machine = agent.machine()
            assert machine is not None
            assert machine.state is MachineState.RUNNING

    run(story())


def test_what_an_earlier_agent_left_half_made_is_undone_too(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path, create_tries=1) as agent:
            await agent.ensure(a_spec())
            while not await agent.storage.list_machines():  # noqa: ASYNC110 - catches the very round
                await asyncio.sleep(0)
            await agent.kill()
            assert await agent.domain() is None
            agent.compute.faults.define_errors.append(Unavailable("away"))
            agent.start()
            await agent.ensure(a_spec())
            await agent.until_state(MachineState.FAILED)
            assert await agent.storage.list_machines() == {}

    run(story())


def test_a_disk_that_must_exist_outlives_a_lost_ledger_and_a_start_that_fails(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path, create_tries=2) as agent:
            await _running(agent)
            await agent.kill()
            agent.compute.reboot_host()
            (tmp_path / "ledger" / "machines" / f"{an_instance_id()}.json").write_text("torn")
            agent.start()
            failure = FailedPrecondition("no memory", reason="HOST_MEMORY_EXHAUSTED")
            agent.compute.faults.start_errors.extend([failure] * 5)
            await agent.ensure(a_spec(must_exist=True))
            await agent.until_state(MachineState.FAILED)
            await agent.until_state(MachineState.RUNNING)
            assert await agent.storage.get_disk(an_instance_id(), ROOT) is not None

    run(story())


def test_a_machine_with_a_damaged_disk_can_be_stopped_and_removed(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            agent.storage.faults.damaged_disks.add(an_instance_id())
            await agent.ensure(a_spec(generation=2, power=Power.OFF))
            await agent.until(lambda: not agent.compute.running_machines())
            await agent.until_state(MachineState.FAILED, generation=2)
            shown = agent.converger.machine(an_instance_id())
            assert shown.error is not None
            assert shown.error["reason"] == "DISK_CORRUPT"
            await agent.converger.remove(Fence(1, 3, 1), an_instance_id())
            await agent.until(lambda: agent.machine() is None, within_s=60)
            assert await agent.storage.list_machines() == {}

    run(story())


def test_what_the_ledger_has_lost_is_not_removed_by_an_older_order(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            newer = a_spec(generation=7, run_epoch=2)
            await agent.ensure(newer)
            await agent.until_state(MachineState.RUNNING, generation=7)
            await agent.kill()
            (tmp_path / "ledger" / "machines" / f"{an_instance_id()}.json").write_text("torn")
            agent.start()
            for late in (Fence(1, 6, 2), Fence(1, 8, 1)):
                with pytest.raises(FailedPrecondition) as caught:
                    await agent.converger.remove(late, an_instance_id())
                assert caught.value.reason == "STALE_GENERATION"
            assert await agent.is_on()
            stone = await agent.converger.remove(Fence(1, 8, 2), an_instance_id())
            assert isinstance(stone, Tombstone)
            assert await agent.domain() is None

    run(story())


def test_the_image_below_a_disk_is_looked_at_before_each_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.ensure(a_spec(generation=2, power=Power.OFF))
            await agent.until_state(MachineState.STOPPED, generation=2)
            failure = Unavailable("damaged, and no scheduler is there", reason="IMAGE_UNREACHABLE")
            monkeypatch.setattr(agent.storage, "ensure_image", AsyncMock(side_effect=failure))
            await agent.ensure(a_spec(generation=3, must_exist=True))
            await agent.until_state(MachineState.FAILED, generation=3)
            assert not await agent.is_on()
            monkeypatch.undo()
            await agent.until_state(MachineState.RUNNING, generation=3)

    run(story())


def test_an_order_that_arrives_with_the_burial_is_not_forgotten(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.converger.remove(Fence(1, 2, 1), an_instance_id())
            while agent.ledger.tombstone(an_instance_id()) is None:  # noqa: ASYNC110 - catches the very round
                await asyncio.sleep(0)
            assert agent.machine() is not None
            await agent.ensure(a_spec(generation=3))
            await agent.until_state(MachineState.RUNNING, generation=3, within_s=30)

    run(story())


def test_what_can_never_work_is_given_up_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            agent.compute.faults.define_errors.append(InvalidArgument("no such machine type"))
            await agent.ensure(a_spec())
            await agent.until_state(MachineState.FAILED)
            assert agent.converger.machine(an_instance_id()).retry_time is None

    run(story())


def test_a_stop_asks_the_guest_and_does_not_count_as_its_own_shutdown(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.ensure(a_spec(generation=2, power=Power.OFF))
            machine = await agent.until_state(MachineState.STOPPED, generation=2)
            assert not machine.guest_shutdown
            assert machine.observed_generation == 2
            await agent.ensure(a_spec(generation=3))
            await agent.until_state(MachineState.RUNNING, generation=3)

    run(story())


def test_a_deaf_guest_is_cut_off_after_its_grace_and_not_before(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            agent.compute.faults.ignore_shutdown = True
            await agent.ensure(a_spec(generation=2, power=Power.OFF, stop_grace_s=60.0))
            await asyncio.sleep(58)
            assert await agent.is_on()
            assert agent.machine().state is MachineState.STOPPING  # type: ignore[union-attr]
            await agent.until_state(MachineState.STOPPED, generation=2, within_s=5)
            assert not await agent.is_on()

    run(story())


def test_no_grace_cuts_the_power_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            agent.compute.faults.ignore_shutdown = True
            await agent.ensure(a_spec(generation=2, power=Power.OFF, stop_grace_s=0.0))
            await agent.until_state(MachineState.STOPPED, generation=2, within_s=1)

    run(story())


def test_a_start_while_the_guest_still_shuts_down_starts_it_afterwards(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            agent.compute.faults.ignore_shutdown = True
            await agent.ensure(a_spec(generation=2, power=Power.OFF, stop_grace_s=60.0))
            await asyncio.sleep(5)
            await agent.ensure(a_spec(generation=3, stop_grace_s=60.0))
            await asyncio.sleep(5)
            agent.compute.guest_shuts_down(an_instance_id())
            machine = await agent.until_state(MachineState.RUNNING, generation=3)
            assert not machine.guest_shutdown
            assert await agent.is_on()

    run(story())


def test_a_guest_that_ignored_the_stop_is_running_again_once_its_grace_is_over(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            agent.compute.faults.ignore_shutdown = True
            await agent.ensure(a_spec(generation=2, power=Power.OFF, stop_grace_s=60.0))
            await asyncio.sleep(5)
            await agent.ensure(a_spec(generation=3, stop_grace_s=60.0))
            await agent.until_state(MachineState.RUNNING, generation=3, within_s=90)

    run(story())


def test_a_guest_that_powers_itself_off_stays_off_until_a_newer_generation(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            agent.compute.guest_shuts_down(an_instance_id())
            machine = await agent.until_state(MachineState.STOPPED)
            assert machine.guest_shutdown
            await agent.ensure(a_spec())
            await asyncio.sleep(120)
            assert not await agent.is_on()
            await agent.restart()
            await asyncio.sleep(120)
            assert agent.machine().guest_shutdown  # type: ignore[union-attr]
            assert not await agent.is_on()
            await agent.ensure(a_spec(generation=2, power=Power.OFF))
            await agent.until_state(MachineState.STOPPED, generation=2)
            await agent.ensure(a_spec(generation=3))
            machine = await agent.until_state(MachineState.RUNNING, generation=3)
            assert not machine.guest_shutdown

    run(story())


def test_a_reboot_happens_once_for_each_serial(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            banner = agent.compute.console_text(an_instance_id())
            for serial in (1, 1, 2):
                await agent.ensure(a_spec(generation=serial + 1, reboot_serial=serial))
                machine = await agent.until_state(MachineState.RUNNING, generation=serial + 1)
                assert machine.reboot_serial == serial
            await asyncio.sleep(60)
            assert agent.compute.console_text(an_instance_id()) == banner * 3

    run(story())


def test_a_start_counts_as_the_reboot_that_was_asked_for(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await agent.ensure(a_spec(reboot_serial=4))
            machine = await agent.until_state(MachineState.RUNNING)
            assert machine.reboot_serial == 4

    run(story())


def pauses(error: DiskError) -> float:
    labels = {"error": error.value}
    counted = REGISTRY.get_sample_value("unkai_agent_guest_disk_errors_total", labels)
    assert counted is not None, "from 0 on: of what appears as 1 no rise is seen"
    return counted


@pytest.mark.parametrize(
    ("error", "said"), [(DiskError.NO_ROOM, "no room"), (DiskError.FAILED, "failed to read")]
)
def test_a_guest_paused_by_an_io_error_is_shown_and_resumed(
    tmp_path: Path, error: DiskError, said: str
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            counted = pauses(error)
            agent.compute.pause_by_error(an_instance_id(), error)
            machine = await agent.until_state(MachineState.FAILED)
            assert machine.error is not None
            assert machine.error["reason"] == "PAUSED_BY_IO_ERROR"
            assert machine.error["metadata"]["disk_error"] == error.value
            assert said in machine.error["message"]
            assert pauses(error) == counted + 1
            await agent.until_state(MachineState.RUNNING)
            assert await agent.is_on()

    run(story())


def test_a_guest_that_a_full_disk_pauses_again_and_again_is_resumed_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            start, resumed = agent.compute.start, 0

            async def start_and_fail_soon(instance_id: str) -> None:
                nonlocal resumed
                resumed += 1
                await start(instance_id)
                later = asyncio.get_running_loop().call_later
                later(0.1, agent.compute.pause_by_error, instance_id)

            monkeypatch.setattr(agent.compute, "start", start_and_fail_soon)
            agent.compute.pause_by_error(an_instance_id())
            await asyncio.sleep(300)
            assert 10 <= resumed <= 30
            monkeypatch.undo()
            await agent.until(agent.is_on, within_s=60)
            await asyncio.sleep(120)
            agent.compute.pause_by_error(an_instance_id())
            await agent.until_state(MachineState.FAILED)
            await agent.until_state(MachineState.RUNNING, within_s=1)

    run(story())


def test_a_machine_at_rest_is_looked_at_with_all_others_and_not_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await asyncio.sleep(20)
            get_domain, asked = agent.compute.get_domain, 0

            async def count(instance_id: str) -> Domain | None:
                nonlocal asked
                asked += 1
                return await get_domain(instance_id)

            monkeypatch.setattr(agent.compute, "get_domain", count)
            await asyncio.sleep(300)
            assert asked == 0

    run(story())


@pytest.mark.parametrize("befalls", ["crash", "pause", "disk lost", "shut down by its guest"])
def test_what_befalls_a_machine_at_rest_is_found_without_any_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, befalls: str
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _at_rest_without_hints(agent, monkeypatch)
            match befalls:
                case "crash":
                    agent.compute.crash(an_instance_id())
                    await agent.until_state(MachineState.AWAITING_PERMIT, within_s=20)
                case "pause":
                    agent.compute.pause_by_error(an_instance_id())
                    await agent.until_state(MachineState.FAILED, within_s=20)
                case "disk lost":
                    agent.storage.lose_disk(an_instance_id(), ROOT)
                    await agent.until_state(MachineState.LOST, within_s=20)
                case _:
                    agent.compute.guest_shuts_down(an_instance_id())
                    await agent.until_state(MachineState.STOPPED, within_s=20)

    run(story())


def test_a_hypervisor_that_is_gone_is_not_asked_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            asked = 0

            async def refuse(*instance_id: str) -> None:
                nonlocal asked
                asked += len(instance_id)
                raise Unavailable("gone", reason="HYPERVISOR_UNAVAILABLE")

            monkeypatch.setattr(agent.compute, "get_domain", refuse)
            monkeypatch.setattr(agent.compute, "list_domains", refuse)
            await asyncio.sleep(300)
            assert 20 <= asked <= 60
            machine = agent.machine()
            assert machine is not None
            assert machine.state is MachineState.RUNNING
            monkeypatch.undo()
            agent.compute.crash(an_instance_id())
            await agent.until_state(MachineState.AWAITING_PERMIT, within_s=1)

    run(story())


@pytest.mark.parametrize("by", [FakeCompute.pause, FakeCompute.pause_by_error])
def test_a_paused_guest_whose_qemu_hangs_is_shown_with_its_error_and_tried_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: Callable[[FakeCompute, str], None]
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            tries = 0

            async def refuse(_instance_id: str) -> None:
                nonlocal tries
                tries += 1
                raise Unavailable("its QEMU hangs", reason="HYPERVISOR_UNAVAILABLE")

            monkeypatch.setattr(agent.compute, "start", refuse)
            by(agent.compute, an_instance_id())
            await agent.until(lambda: tries > 0, within_s=5)
            failed = await agent.until_state(MachineState.FAILED, within_s=1)
            assert failed.error is not None
            assert failed.error["reason"] == "HYPERVISOR_UNAVAILABLE"
            assert failed.retry_time is not None
            await asyncio.sleep(600)
            assert 10 <= tries <= 60
            assert agent.machine().state is MachineState.FAILED  # type: ignore[union-attr]
            monkeypatch.undo()
            again = await agent.until_state(MachineState.RUNNING, within_s=180)
            assert again.error is None
            assert await agent.is_on()

    run(story())


@pytest.mark.parametrize("error", [Unavailable("gone"), ZeroDivisionError()])
def test_a_look_at_all_that_fails_in_any_way_lets_each_machine_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _at_rest_without_hints(agent, monkeypatch)

            async def fail() -> None:
                raise error

            monkeypatch.setattr(agent.compute, "list_domains", fail)
            agent.compute.crash(an_instance_id())
            await agent.until_state(MachineState.AWAITING_PERMIT, within_s=20)

    run(story())


def test_a_removal_leaves_nothing_but_its_tombstone_and_is_answered_twice(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            ident = an_instance_id()
            fence = Fence(term=1, generation=2, run_epoch=1)
            await agent.converger.remove(fence, ident)
            await agent.until(lambda: agent.ledger.tombstone(ident) is not None)
            await asyncio.sleep(1)
            assert agent.machine() is None
            assert await agent.domain() is None
            assert await agent.storage.list_machines() == {}
            again = await agent.converger.remove(fence, ident)
            assert isinstance(again, Tombstone)
            with pytest.raises(FailedPrecondition) as caught:
                await agent.ensure(a_spec(generation=2))
            assert caught.value.reason == "TOMBSTONED"

    run(story())


def test_removing_what_was_never_here_leaves_a_tombstone(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            stone = await agent.converger.remove(a_fence(a_spec()), an_instance_id())
            assert isinstance(stone, Tombstone)
            with pytest.raises(FailedPrecondition):
                await agent.ensure(a_spec())
            with pytest.raises(NotFound):
                agent.converger.machine(an_instance_id())

    run(story())


def test_a_removal_while_the_hypervisor_hangs_goes_on_when_it_answers(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            agent.compute._sleep = asyncio.sleep
            await _running(agent)
            agent.compute.faults.hang = True
            await agent.converger.remove(Fence(1, 2, 1), an_instance_id())
            await asyncio.sleep(100)
            assert agent.machine().state is MachineState.REMOVING  # type: ignore[union-attr]
            with pytest.raises((Conflict, FailedPrecondition)):
                await agent.ensure(a_spec(generation=3))
            agent.compute.faults.hang = False
            await agent.until(lambda: agent.ledger.tombstone(an_instance_id()) is not None)

    run(story())


def test_a_removal_survives_a_restart_of_the_agent(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            agent.compute.faults.hang = True
            await agent.converger.remove(Fence(1, 2, 1), an_instance_id())
            await agent.kill()
            agent.compute.faults.hang = False
            agent.start()
            await agent.until(lambda: agent.ledger.tombstone(an_instance_id()) is not None)
            assert await agent.domain() is None

    run(story())


def test_a_removed_machine_may_come_back_under_a_newer_generation(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.converger.remove(Fence(1, 2, 1), an_instance_id())
            await agent.until(lambda: agent.machine() is None)
            await agent.ensure(a_spec(generation=3, run_epoch=2))
            await agent.until_state(MachineState.RUNNING, generation=3)

    run(story())


def test_a_disk_that_must_exist_and_does_not_makes_it_lost_and_no_disk_is_made(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await agent.ensure(a_spec(must_exist=True))
            machine = await agent.until_state(MachineState.LOST)
            assert machine.error is not None
            assert machine.error["reason"] == "DISK_LOST"
            await asyncio.sleep(120)
            assert await agent.storage.list_machines() == {}

    run(story())


def test_a_disk_that_vanishes_under_a_running_guest_is_reported_and_the_guest_left_alone(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.storage.remove(an_instance_id())
            machine = await agent.until_state(MachineState.LOST, within_s=60)
            assert "still runs" in str(machine.error)
            assert await agent.is_on()
            # The leader's word that it may be created does not bring an empty disk either.
            await agent.ensure(a_spec(generation=2, power=Power.OFF))
            await agent.until(lambda: _is_off(agent))
            await agent.ensure(a_spec(generation=3))
            await asyncio.sleep(120)
            assert agent.machine().state is MachineState.LOST  # type: ignore[union-attr]
            assert await agent.storage.list_machines() == {}

    run(story())


async def _is_off(agent: SimulatedAgent) -> bool:
    return not await agent.is_on()


def test_a_hung_hypervisor_does_not_make_a_running_machine_anything_else(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            agent.compute._sleep = asyncio.sleep
            await _running(agent)
            before = agent.machine()
            agent.compute.faults.hang = True
            await asyncio.sleep(300)
            assert agent.machine() == before
            agent.compute.faults.hang = False
            await asyncio.sleep(300)
            assert agent.machine() == before

    run(story())


def test_one_machine_that_hangs_does_not_hold_up_others(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path, starts=2) as agent:
            stuck: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            define = agent.compute.define

            async def hang_for_one(spec: object) -> None:
                if spec.instance_id == an_instance_id(1):  # type: ignore[attr-defined]
                    await stuck
                await define(spec)  # type: ignore[arg-type]

            agent.compute.define = hang_for_one  # type: ignore[method-assign,assignment]
            for number in range(1, 6):
                await agent.ensure(a_spec(number))
            for number in range(2, 6):
                await agent.until_state(MachineState.RUNNING, number)
            assert agent.machine(1).state is MachineState.CONVERGING  # type: ignore[union-attr]
            stuck.set_result(None)
            await agent.until_state(MachineState.RUNNING, 1)

    run(story())


def test_a_full_ledger_refuses_the_order_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            full = FailedPrecondition("full", reason="LEDGER_FULL")

            def refuse(*_: object, **__: object) -> None:
                raise full

            monkeypatch.setattr(LedgerFiles, "write", refuse)
            with pytest.raises(FailedPrecondition, match="full"):
                await agent.ensure(a_spec())
            assert agent.machine() is None
            await asyncio.sleep(10)
            assert await agent.domain() is None

    run(story())


def test_only_the_newest_of_many_orders_counts(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            agent.compute.latency_s = 0.5
            agent.compute._sleep = asyncio.sleep
            for generation in range(1, 20):
                power = Power.ON if generation % 2 else Power.OFF
                await agent.ensure(a_spec(generation=generation, power=power))
            machine = await agent.until_state(MachineState.RUNNING, generation=19)
            assert machine.observed_generation == 19
            with pytest.raises(FailedPrecondition) as caught:
                await agent.ensure(replace(a_spec(), generation=18))
            assert caught.value.reason == "STALE_GENERATION"

    run(story())
