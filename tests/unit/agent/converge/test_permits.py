"""The run permit: who may start a machine again, and when. Never two copies."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.agent import SimulatedAgent, a_running_agent, a_spec, an_instance_id, run
from unkai_agent.domain.machines import Fence, MachineState


async def _running(agent: SimulatedAgent) -> None:
    await agent.ensure(a_spec())
    await agent.until_state(MachineState.RUNNING)


def test_a_crashed_machine_waits_for_its_leader(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            with agent.converger.leader_watches():
                agent.compute.crash(an_instance_id())
                await agent.until_state(MachineState.AWAITING_PERMIT, within_s=5)
                await asyncio.sleep(50)
                assert not await agent.is_on()
                await agent.ensure(a_spec())
                await agent.until_state(MachineState.RUNNING, within_s=5)

    run(story())


def test_a_leave_to_run_is_good_for_one_start(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.ensure(a_spec())
            await asyncio.sleep(1)
            with agent.converger.leader_watches():
                agent.compute.crash(an_instance_id())
                await agent.until_state(MachineState.AWAITING_PERMIT, within_s=5)

    run(story())


def test_an_agent_started_again_adopts_what_runs_and_touches_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            before = agent.machine()
            text = agent.compute.console_text(an_instance_id())
            await agent.restart()
            machine = await agent.until_state(MachineState.RUNNING)
            assert before is not None
            assert machine.start_time == before.start_time
            assert machine.accelerator == "tcg"
            assert agent.compute.console_text(an_instance_id()) == text

    run(story())


def test_after_a_reboot_of_the_host_machines_wait_half_a_minute_then_start_by_themselves(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.reboot_host()
            await agent.until_state(MachineState.AWAITING_PERMIT, within_s=5)
            await asyncio.sleep(28)
            assert not await agent.is_on()
            machine = await agent.until_state(MachineState.RUNNING, within_s=5)
            entry = agent.ledger.entry(an_instance_id())
            assert entry is not None
            assert entry.boot_id == agent.boot_id
            assert machine.start_time == entry.start_time

    run(story())


def test_the_wait_is_counted_from_when_the_agent_was_ready(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.reboot_host(ready=False)
            await asyncio.sleep(100)
            assert not await agent.is_on()
            agent.converger.ready()
            await asyncio.sleep(28)
            assert not await agent.is_on()
            await agent.until_state(MachineState.RUNNING, within_s=5)

    run(story())


def test_a_leader_that_is_there_has_twice_as_long_to_answer_for_a_machine(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.reboot_host()
            await asyncio.sleep(10)
            await agent.converger.announce_term(2)
            await asyncio.sleep(48)
            assert not await agent.is_on()
            await agent.until_state(MachineState.RUNNING, within_s=5)

    run(story())


def test_a_machine_that_the_leader_knows_nothing_of_does_not_stay_off(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.reboot_host()
            with agent.converger.leader_watches():
                await asyncio.sleep(58)
                assert not await agent.is_on()
                await agent.until_state(MachineState.RUNNING, within_s=5)

    run(story())


def test_after_a_reboot_a_machine_whose_claim_moved_starts_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.reboot_host()
            with agent.converger.leader_watches():
                await asyncio.sleep(50)
                assert not await agent.is_on()
                await agent.converger.remove(Fence(2, 2, 2), an_instance_id())
                await agent.until(lambda: agent.machine() is None)
                assert await agent.domain() is None

    run(story())


def test_a_reason_told_from_before_the_reboot_is_not_believed(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.kill()
            agent.compute.guest_shuts_down(an_instance_id())
            agent.boot_id = "boot-2"
            agent.start()
            machine = await agent.until_state(MachineState.AWAITING_PERMIT, within_s=5)
            assert not machine.guest_shutdown

    run(story())


def test_a_guest_that_went_off_while_the_agent_was_away_is_noticed(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.kill()
            agent.compute.guest_shuts_down(an_instance_id())
            agent.start()
            machine = await agent.until_state(MachineState.STOPPED, within_s=5)
            assert machine.guest_shutdown

    run(story())


def test_a_domain_or_disk_that_the_ledger_does_not_know_is_reported_and_kept(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _running(agent)
            await agent.kill()
            (tmp_path / "ledger" / "machines" / f"{an_instance_id()}.json").write_bytes(b"torn")
            agent.start()
            await asyncio.sleep(120)
            assert agent.converger.unknown.domains == {an_instance_id()}
            assert agent.converger.ledger_problems == 1
            assert await agent.is_on()
            # The leader, who knows it, gives it back to the ledger.
            await agent.ensure(a_spec(must_exist=True))
            await agent.until_state(MachineState.RUNNING)
            await asyncio.sleep(60)
            assert agent.converger.unknown.domains == frozenset()

    run(story())
