"""What keeps a host's networks equal to its ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.agent import SimulatedAgent, a_running_agent, a_spec, an_instance_id, run
from tests.support.ports import a_port
from unkai_agent.converge.feed import Change, Synced
from unkai_agent.converge.networks import LOOK_S, RETRY_S, SURE_S, NetworkKeeper
from unkai_agent.domain.machines import Fence, MachineSpec, MachineState, Power
from unkai_wire.errors import Unavailable

SPEC = a_spec(ports=(a_port(),))


class Noted:
    """Networks in name only."""

    def __init__(self) -> None:
        self.held: list[str] = []
        """Devices of the ports that are served."""
        self.known: dict[str, MachineSpec] = {}
        self.holds = 0
        self.failures: list[Exception] = []
        self.closed = False
        self.whole = True
        self.looks = 0
        self.bug: Exception | None = None

    def know(self, machines: Iterable[MachineSpec]) -> None:
        self.known = {spec.instance_id: spec for spec in machines}

    async def hold(self, machines: Iterable[MachineSpec]) -> None:
        self.holds += 1
        if self.failures:
            raise self.failures.pop(0)
        specs = list(machines)
        self.know(specs)
        self.held = [port.device for spec in specs for port in spec.ports]

    async def are_whole(self) -> bool:
        self.looks += 1
        if self.bug:
            raise self.bug
        return self.whole

    async def close(self) -> None:
        self.closed = True


class Kept:
    """An agent whose networks are kept."""

    def __init__(self, agent: SimulatedAgent, *failures: Exception) -> None:
        self.networks = Noted()
        self.networks.failures = list(failures)
        keeper = NetworkKeeper(self.networks, agent.ledger.entries, agent.converger.watch)
        self._task = asyncio.ensure_future(keeper.run())

    async def __aenter__(self) -> Noted:
        return self.networks

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


def test_networks_come_and_go_with_the_machines_on_them(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent, Kept(agent) as networks:
            await agent.ensure(SPEC)
            await agent.until(lambda: networks.held == [a_port().device], 5)
            await agent.until_state(MachineState.RUNNING)
            await agent.converger.remove(Fence(1, 2, 1), an_instance_id())
            await agent.until(lambda: networks.held == [], 10)

    run(story())


def test_what_changes_no_port_is_known_without_a_look_at_the_host(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent, Kept(agent) as networks:
            await agent.ensure(SPEC)
            await agent.until_state(MachineState.RUNNING)
            before = networks.holds
            await agent.ensure(a_spec(ports=SPEC.ports, power=Power.OFF, generation=2))
            await agent.until(lambda: networks.known[an_instance_id()].generation == 2, 5)
            await agent.until_state(MachineState.STOPPED, generation=2)
            assert networks.holds == before

    run(story())


def test_it_is_made_sure_of_now_and_then(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent, Kept(agent) as networks:
            await agent.ensure(SPEC)
            await agent.until_state(MachineState.RUNNING)
            before = networks.holds
            await asyncio.sleep(10 * SURE_S)
            assert 9 <= networks.holds - before <= 11

    run(story())


def test_what_is_damaged_is_made_sure_of_within_seconds(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent, Kept(agent) as networks:
            await agent.ensure(SPEC)
            await agent.until_state(MachineState.RUNNING)
            for _ in range(3):
                before = networks.holds
                networks.whole = False
                await asyncio.sleep(LOOK_S + 0.1)
                assert networks.holds == before + 1
                networks.whole = True
                await asyncio.sleep(2 * LOOK_S)

    run(story())


@pytest.mark.parametrize("bug", [None, OSError("a bug")])
def test_damage_that_nothing_mends_is_looked_at_less_and_less_often(
    tmp_path: Path, bug: Exception | None
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent, Kept(agent) as networks:
            await agent.ensure(SPEC)
            await agent.until_state(MachineState.RUNNING)
            networks.whole, networks.bug, before = False, bug, networks.holds
            await asyncio.sleep(10 * SURE_S)
            assert 10 <= networks.holds - before <= 15

    run(story())


def test_a_host_on_which_something_changes_all_the_time_is_looked_at_as_often() -> None:
    async def busy() -> AsyncIterator[Change]:
        while True:
            await asyncio.sleep(1)
            yield Synced()

    async def story() -> None:
        networks = Noted()
        keeper = asyncio.ensure_future(NetworkKeeper(networks, list, busy).run())
        await asyncio.sleep(10 * SURE_S)
        assert 9 <= networks.holds <= 12
        before, networks.whole = networks.holds, False
        await asyncio.sleep(LOOK_S + 1)
        assert networks.holds > before
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)

    run(story())


def test_a_failure_is_tried_again_less_and_less_often(tmp_path: Path) -> None:
    async def story() -> None:
        failures = [Unavailable("away") for _ in range(4)] + [OSError("a bug")]
        async with a_running_agent(tmp_path) as agent, Kept(agent, *failures) as networks:
            await agent.ensure(SPEC)
            await agent.until(lambda: networks.held == [a_port().device], 40 * RETRY_S)
            assert networks.holds == len(failures) + 1

    run(story())


def test_the_end_closes_the_sockets(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            async with Kept(agent) as networks:
                await agent.ensure(SPEC)
                await agent.until(lambda: networks.held != [], 5)
            assert networks.closed

    run(story())
