"""Ports that come and go while their machine runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from tests.support.agent import SimulatedAgent, a_running_agent, a_spec, run
from tests.support.ports import a_port
from unkai_agent.converge.replugging import ASK_AGAIN_S
from unkai_agent.domain.machines import MachineState
from unkai_agent.domain.ports import PortSpec, PortStatus
from unkai_agent.network.driver import Wiring
from unkai_wire.errors import Unavailable

FIRST, SECOND = a_port(1), a_port(2)
SPEC = a_spec(ports=(FIRST,))
BOTH = replace(SPEC, ports=(FIRST, SECOND), generation=2)
NONE = replace(SPEC, ports=(), generation=3)
MISSING = Wiring(False, 0, "PORT_NOT_INSTALLED", "OVN has not installed it")


def shown(agent: SimulatedAgent, port: PortSpec) -> PortStatus | None:
    machine = agent.machine()
    assert machine is not None
    return next((each for each in machine.ports if each.port_id == port.port_id), None)


def reason(agent: SimulatedAgent, port: PortSpec) -> str:
    status = shown(agent, port)
    return "" if status is None or status.error is None else str(status.error["reason"])


def is_installed(agent: SimulatedAgent, port: PortSpec) -> bool:
    status = shown(agent, port)
    return status is not None and status.installed


async def live(agent: SimulatedAgent) -> dict[str, bool]:
    return dict(await agent.compute.live_ports(SPEC.instance_id))


async def running(agent: SimulatedAgent) -> None:
    await agent.ensure(SPEC)
    await agent.until_state(MachineState.RUNNING)


def test_a_port_that_comes_has_its_link_up_once_it_is_installed(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await running(agent)
            agent.network.faults.not_installed[SECOND.port_id] = MISSING
            await agent.ensure(BOTH)
            await agent.until(lambda: reason(agent, SECOND) == "PORT_NOT_INSTALLED")
            assert await live(agent) == {FIRST.port_id: True, SECOND.port_id: False}
            assert is_installed(agent, FIRST)
            agent.network.faults.not_installed.clear()
            await agent.until(lambda: is_installed(agent, SECOND), 60)
            assert await live(agent) == {FIRST.port_id: True, SECOND.port_id: True}
            machine = await agent.until_state(MachineState.RUNNING, generation=2)
            assert machine.error is None

    run(story())


def test_a_port_that_goes_is_cut_off_though_its_guest_keeps_the_device(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await running(agent)
            agent.compute.faults.ignore_unplug = True
            await agent.ensure(NONE)
            await agent.until(lambda: reason(agent, FIRST) == "PORT_NOT_LET_GO")
            machine = await agent.until_state(MachineState.RUNNING, generation=3)
            assert machine.error is None
            wiring = (await agent.network.wirings([FIRST]))[FIRST.port_id]
            assert wiring.reason == "PORT_NOT_PLUGGED"
            agent.network.plug(SPEC.instance_id, FIRST.device, True)  # as libvirtd's restart does
            agent.compute.faults.ignore_unplug = False
            await agent.until(lambda: shown(agent, FIRST) is None, ASK_AGAIN_S * 2)
            assert await live(agent) == {}
            wiring = (await agent.network.wirings([FIRST]))[FIRST.port_id]
            assert wiring.reason == "PORT_NOT_PLUGGED"

    run(story())


def test_a_port_that_its_guest_keeps_is_gone_with_the_next_start(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await running(agent)
            agent.compute.faults.ignore_unplug = True
            await agent.ensure(NONE)
            await agent.until(lambda: reason(agent, FIRST) == "PORT_NOT_LET_GO")
            agent.compute.crash(SPEC.instance_id)
            await agent.ensure(NONE)
            await agent.until(lambda: shown(agent, FIRST) is None)
            assert await live(agent) == {}

    run(story())


def test_an_agent_that_was_killed_half_way_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await running(agent)
            agent.compute.faults.ignore_unplug = True
            agent.network.faults.not_installed[SECOND.port_id] = MISSING
            await agent.ensure(replace(SPEC, ports=(SECOND,), generation=2))
            await agent.until(lambda: reason(agent, SECOND) == "PORT_NOT_INSTALLED")
            await agent.kill()
            assert await live(agent) == {FIRST.port_id: True, SECOND.port_id: False}
            agent.compute.faults.ignore_unplug = False
            agent.network.faults.not_installed.clear()
            agent.start()
            await agent.until(lambda: agent.machine() is not None and is_installed(agent, SECOND))
            assert await live(agent) == {SECOND.port_id: True}

    run(story())


def test_a_port_that_cannot_be_plugged_in_is_told_of_and_tried_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await running(agent)
            agent.compute.faults.attach_errors = [
                Unavailable("no slot", reason="HYPERVISOR_REFUSED") for _ in range(3)
            ]
            await agent.ensure(BOTH)
            await agent.until(lambda: reason(agent, SECOND) == "HYPERVISOR_REFUSED")
            assert is_installed(agent, FIRST)
            machine = agent.machine()
            assert machine is not None
            assert machine.state is MachineState.RUNNING
            await agent.until(lambda: is_installed(agent, SECOND), 60)

    run(story())


def test_a_lost_answer_costs_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await running(agent)
            agent.compute.faults.lose_answers = 2
            await agent.ensure(BOTH)
            await agent.until(lambda: is_installed(agent, SECOND), 60)
            agent.compute.faults.lose_answers = 1
            await agent.ensure(NONE)
            await agent.until(lambda: shown(agent, SECOND) is None, 60)
            assert await live(agent) == {}

    run(story())


def test_ports_ordered_during_a_paused_start_are_there_when_it_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            agent.network.faults.not_installed[FIRST.port_id] = MISSING
            await agent.ensure(SPEC)
            await agent.until(lambda: getattr(agent.machine(), "step", "") == "plug ports", 10)
            agent.network.faults.not_installed.clear()
            agent.network.faults.not_installed[FIRST.port_id] = MISSING
            await agent.ensure(replace(BOTH, ports=(SECOND,)))
            await agent.until_state(MachineState.RUNNING, generation=2)
            assert await live(agent) == {SECOND.port_id: True}

    run(story())


def test_a_running_machine_is_left_alone_once_its_ports_are_as_ordered(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await running(agent)
            await agent.ensure(BOTH)
            await agent.until(lambda: is_installed(agent, SECOND))
            looks = 0
            ask = agent.compute.live_ports

            async def counted(instance_id: str) -> object:
                nonlocal looks
                looks += 1
                return await ask(instance_id)

            agent.compute.live_ports = counted  # type: ignore[method-assign,assignment]
            await asyncio.sleep(120)
            assert looks == 0

    run(story())
