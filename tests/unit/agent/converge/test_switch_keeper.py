"""The host's switch is kept in OVN, whatever becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from contextlib import asynccontextmanager
from typing import Any

from tests.support.agent import an_instance_id, run
from tests.support.ports import a_port
from unkai_agent.converge.switch import ALIVE_S, LOOK_S, RETRY_S, YOUNG_S, SwitchKeeper
from unkai_agent.network.driver import Datapath, JoinSettings
from unkai_agent.network.fake import FakeNetwork
from unkai_wire.errors import Unavailable, UnkaiError

MEMBERSHIP = JoinSettings("hst-1", "h1", ("ssl:10.0.0.1:6642",), "10.0.0.3", Datapath.NETDEV)


def down() -> Unavailable:
    return Unavailable("the host's switch did not join OVN", reason="SWITCH_UNAVAILABLE")


class _Host:
    """A keeper at work, what it told, and whose machines are on."""

    def __init__(self) -> None:
        self.driver = FakeNetwork()
        self.told: list[str] = []
        self.on: set[str] = {an_instance_id()}
        self.keeper = SwitchKeeper(self.driver, MEMBERSHIP, self._running, self._tell)

    async def _running(self) -> Set[str]:
        return self.on

    def _tell(self, problem: UnkaiError | None) -> None:
        self.told.append("" if problem is None else problem.reason)


@asynccontextmanager
async def kept(host: _Host) -> Any:
    task = asyncio.create_task(host.keeper.run())
    try:
        await asyncio.sleep(0.01)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_switch_that_is_down_at_the_start_is_joined_once_it_is_up() -> None:
    async def story() -> None:
        host = _Host()
        host.driver.faults.errors = [down(), down()]
        async with kept(host):
            assert host.told == ["SWITCH_UNAVAILABLE"]
            assert host.keeper.problem is not None
            await asyncio.sleep(RETRY_S * 2 + 1)
            assert host.driver.settings == MEMBERSHIP
            assert host.told == ["SWITCH_UNAVAILABLE", ""]
            assert host.keeper.problem is None

    run(story())


def test_a_switch_that_lost_its_database_is_joined_again() -> None:
    async def story() -> None:
        host = _Host()
        async with kept(host):
            host.driver.settings = None
            await asyncio.sleep(LOOK_S + 1)
            assert host.driver.settings == MEMBERSHIP
            assert host.told == [""]

    run(story())


def test_ports_of_machines_that_are_gone_are_swept() -> None:
    async def story() -> None:
        host = _Host()
        async with kept(host):
            host.driver.plug(an_instance_id(), a_port(1).device, True)
            host.driver.plug(an_instance_id(9), a_port(2).device, True)
            await asyncio.sleep(LOOK_S * 4 + 1)
            stands = await host.driver.wirings([a_port(1), a_port(2)])
            assert [stands[a_port(n).port_id].installed for n in (1, 2)] == [True, False]

    run(story())


def away() -> Unavailable:
    said = "the host's switch forwards nothing: ovs-vswitchd does not run"
    return Unavailable(said, reason="SWITCH_PROGRAM_DOWN")


def test_a_program_that_is_away_while_the_database_answers_is_told_until_it_is_back() -> None:
    async def story() -> None:
        host = _Host()
        async with kept(host):
            host.driver.faults.away = away()
            await asyncio.sleep(ALIVE_S + RETRY_S + 1)
            assert host.told == ["", "SWITCH_PROGRAM_DOWN"]
            assert host.keeper.problem is not None
            await asyncio.sleep(60)
            assert host.told == ["", "SWITCH_PROGRAM_DOWN"], "it is told once"
            host.driver.faults.away = None
            await asyncio.sleep(2 * RETRY_S + 1)
            assert host.told == ["", "SWITCH_PROGRAM_DOWN", ""]
            assert host.keeper.problem is None

    run(story())


def test_a_switch_that_another_process_serves_is_joined_before_the_next_look() -> None:
    """It states anew what it can do, also some time after it first answers."""

    async def story() -> None:
        host = _Host()
        async with kept(host):
            await asyncio.sleep(YOUNG_S + LOOK_S)
            # Between two looks.
            host.driver.settings = None
            await asyncio.sleep(ALIVE_S + 0.1)
            quiet = host.driver.settings is None
            host.driver.settings = None
            host.driver.restart()
            for _ in range(int(YOUNG_S / 2)):
                await asyncio.sleep(2 * ALIVE_S)
                assert host.driver.settings == MEMBERSHIP
                host.driver.settings = None
            assert quiet, "a switch that is as it was is not joined at each question"

    run(story())


def test_a_program_that_its_monitor_starts_again_at_once_is_not_told() -> None:
    async def story() -> None:
        host = _Host()
        async with kept(host):
            for _ in range(20):
                host.driver.faults.away = away()
                await asyncio.sleep(RETRY_S * 0.9)
                host.driver.faults.away = None
                await asyncio.sleep(LOOK_S)
            assert host.told == [""]

    run(story())


def test_a_program_that_is_away_at_the_start_is_told() -> None:
    async def story() -> None:
        host = _Host()
        host.driver.faults.away = away()
        async with kept(host):
            await asyncio.sleep(RETRY_S + 1)
            assert host.told == ["SWITCH_PROGRAM_DOWN"]
            assert host.driver.settings == MEMBERSHIP

    run(story())


def test_a_bug_of_the_driver_stops_nothing() -> None:
    async def story() -> None:
        host = _Host()
        host.driver.faults.errors = [ValueError("no row")]  # type: ignore[list-item]
        async with kept(host):
            await asyncio.sleep(RETRY_S + 1)
            assert host.told == ["INTERNAL", ""]

    run(story())
