"""Whatever happens, in whatever order: nothing doubled or leaked, and in the end as ordered."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.acceptance import count
from tests.support.agent import SimulatedAgent, a_spec, an_instance_id, run
from tests.support.ports import a_port
from unkai_agent.compute.driver import DomainState
from unkai_agent.compute.fake import FakeCompute
from unkai_agent.domain.machines import Fence, MachineState, Power
from unkai_agent.domain.ports import PortSpec
from unkai_wire.errors import Conflict, FailedPrecondition, Unavailable, UnkaiError

NUMBERS = (1, 2, 3)
PORTS: dict[int, tuple[PortSpec, ...]] = {1: (), 2: (a_port(1), a_port(2)), 3: (a_port(3),)}
"""Of the machines: those that have some start paused."""


def _count_acts(agent: SimulatedAgent) -> list[str]:
    """Note starts of what already runs, which a careless agent would order."""
    doubled: list[str] = []
    boot = FakeCompute._boot

    def watched(record: object, *state: DomainState) -> None:
        if record.running is not None:  # type: ignore[attr-defined]
            doubled.append(record.spec.instance_id)  # type: ignore[attr-defined]
        boot(agent.compute, record, *state)  # type: ignore[arg-type]

    agent.compute._boot = watched  # type: ignore[method-assign,assignment]
    return doubled


@pytest.mark.parametrize("ports", [(), (a_port(),)], ids=["without ports", "with a port"])
@pytest.mark.parametrize("seed", range(60))
def test_killed_at_any_point_of_a_create_it_ends_with_one_running_machine(
    tmp_path: Path, seed: int, ports: tuple[PortSpec, ...]
) -> None:
    """The agent is cancelled after `seed` rounds of the loop, which visits every await."""

    async def story() -> None:
        agent = SimulatedAgent(tmp_path, seed)
        doubled = _count_acts(agent)
        agent.start()
        await agent.ensure(a_spec(ports=ports))
        for _ in range(seed):
            await asyncio.sleep(0)
        await agent.restart()
        await agent.ensure(a_spec(ports=ports))
        await agent.until_state(MachineState.RUNNING, within_s=60)
        assert doubled == []
        assert [d.instance_id for d in await agent.compute.list_domains()] == [an_instance_id()]
        assert list(await agent.storage.list_machines()) == [an_instance_id()]
        await agent.kill()

    run(story())


@pytest.mark.parametrize("seed", range(40))
def test_killed_at_any_point_of_a_removal_it_ends_with_nothing(tmp_path: Path, seed: int) -> None:
    async def story() -> None:
        agent = SimulatedAgent(tmp_path, seed)
        agent.start()
        await agent.ensure(a_spec())
        for _ in range(seed // 2):
            await asyncio.sleep(0)
        await agent.converger.remove(Fence(1, 2, 1), an_instance_id())
        for _ in range(seed):
            await asyncio.sleep(0)
        await agent.restart()
        await agent.until(lambda: agent.ledger.tombstone(an_instance_id()) is not None)
        await agent.until(lambda: agent.machine() is None)
        assert await agent.compute.list_domains() == []
        assert await agent.storage.list_machines() == {}
        await agent.kill()

    run(story())


async def _one_act(agent: SimulatedAgent, rng: random.Random, generations: dict[int, int]) -> None:
    number = rng.choice(NUMBERS)
    ident = an_instance_id(number)
    domain = await agent.domain(number)
    act = rng.randrange(13)
    if act < 4:
        generations[number] += rng.randrange(2)
        spec = a_spec(
            number,
            generation=generations[number],
            power=rng.choice(list(Power)),
            reboot_serial=rng.randrange(3),
            ports=PORTS[number],
        )
        await agent.ensure(spec)
    elif act == 4:
        generations[number] += 1
        await agent.converger.remove(Fence(1, generations[number], 1), ident)
    elif act == 5:
        await agent.restart()
    elif act == 6:
        await agent.reboot_host()
    elif act == 7 and domain is not None:
        rng.choice([agent.compute.crash, agent.compute.guest_shuts_down])(ident)
    elif act == 8:
        agent.compute.faults.lose_answers += rng.randrange(4)
    elif act == 9:
        faults = agent.compute.faults
        rng.choice([faults.define_errors, faults.start_errors]).append(Unavailable("away"))
    elif act == 10:
        agent.storage.faults.disk_errors.append(FailedPrecondition("full", reason="DISK_FULL"))
    elif act == 11:
        agent.network.faults.errors.append(Unavailable("away"))
    else:
        await asyncio.sleep(rng.choice([0, 0, 0.1, 1, 40]))


@pytest.mark.parametrize("seed", range(count(200)))
def test_after_any_orders_and_faults_enough_quiet_brings_what_was_ordered_last(
    tmp_path: Path, seed: int
) -> None:
    async def story() -> None:
        rng = random.Random(seed)
        agent = SimulatedAgent(tmp_path, seed)
        doubled = _count_acts(agent)
        agent.start()
        generations = dict.fromkeys(NUMBERS, 1)
        for _ in range(60):
            with suppress(FailedPrecondition, Conflict, Unavailable):
                await _one_act(agent, rng, generations)
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
        agent.compute.faults = type(agent.compute.faults)()
        agent.storage.faults = type(agent.storage.faults)()
        agent.network.faults = type(agent.network.faults)()
        powers = {number: rng.choice([Power.ON, Power.OFF, None]) for number in NUMBERS}
        for number, power in powers.items():
            await _order_at_last(agent, number, generations[number] + 10, power)
        await asyncio.sleep(60)
        assert doubled == []
        await _check(agent, powers)
        await agent.kill()

    run(story())


async def _order_at_last(
    agent: SimulatedAgent, number: int, generation: int, power: Power | None
) -> None:
    """Order until it is accepted: an older removal may be under way."""
    while True:
        try:
            if power is None:
                await agent.converger.remove(Fence(1, generation, 1), an_instance_id(number))
            else:
                spec = a_spec(number, generation=generation, power=power, reboot_serial=9)
                await agent.ensure(replace(spec, ports=PORTS[number]))
        except UnkaiError:
            await asyncio.sleep(1)
        else:
            return


async def _check(agent: SimulatedAgent, powers: dict[int, Power | None]) -> None:
    kept = sorted(an_instance_id(n) for n, power in powers.items() if power is not None)
    assert sorted(d.instance_id for d in await agent.compute.list_domains()) == kept
    assert sorted(await agent.storage.list_machines()) == kept
    assert [m.instance_id for m in agent.converger.machines()] == kept
    for number, power in powers.items():
        assert await agent.is_on(number) is (power is Power.ON)
        machine = agent.machine(number)
        if machine is not None:
            state = MachineState.RUNNING if power is Power.ON else MachineState.STOPPED
            assert (machine.state, machine.error) == (state, None)
            assert machine.observed_generation == machine.generation
