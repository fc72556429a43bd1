"""A start that is paused until the machine's ports are installed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.agent import SimulatedAgent, a_running_agent, a_spec, an_instance_id, run
from tests.support.ports import a_port
from unkai_agent.compute.driver import Domain, DomainState
from unkai_agent.converge.decisions import Act, next_act
from unkai_agent.converge.plugging import (
    PORTS_S,
    SITES_S,
    Plug,
    look_s,
    next_plug,
    not_installed,
    port_statuses,
)
from unkai_agent.domain.machines import Fence, LedgerEntry, MachineState, Power
from unkai_agent.network.driver import Wiring
from unkai_wire.errors import Unavailable

PORTS = (a_port(1), a_port(2))
SPEC = a_spec(ports=PORTS)
INSTALLED = Wiring(True, 1)
MISSING = Wiring(False, 0, "PORT_NOT_INSTALLED", "OVN has not installed it")
BOTH = {port.port_id: INSTALLED for port in PORTS}
ONE = {PORTS[0].port_id: INSTALLED, PORTS[1].port_id: MISSING}


def decided(entry: LedgerEntry, state: DomainState, *, by_error: bool = False) -> Act:
    domain = Domain(SPEC.instance_id, "web", state, paused_by_error=by_error)
    return next_act(entry, domain, boot_id="boot-1", permitted=True, disk_missing=False)


def an_entry(**changes: object) -> LedgerEntry:
    return LedgerEntry(SPEC, 1, **changes)  # type: ignore[arg-type]


def test_a_port_is_seen_soon_after_it_is_installed_and_looks_stay_few() -> None:
    waited_s, looks = 0.0, 0
    while waited_s < PORTS_S:
        again_s = look_s(waited_s, most_s=1.0)
        assert again_s <= max(0.05, waited_s / 4)
        waited_s, looks = waited_s + again_s, looks + 1
    assert looks <= 60


def test_a_paused_start_is_not_resumed_by_itself() -> None:
    assert decided(an_entry(plugging=True), DomainState.PAUSED) is Act.PLUG
    assert decided(an_entry(), DomainState.PAUSED) is Act.RESUME


def test_a_guest_that_has_run_is_not_taken_for_a_paused_start() -> None:
    entry = an_entry(plugging=True)
    assert decided(entry, DomainState.PAUSED, by_error=True) is Act.RESUME
    assert decided(entry, DomainState.RUNNING) is Act.KEEP


def test_a_paused_start_that_ended_is_begun_again() -> None:
    assert decided(an_entry(plugging=True), DomainState.OFF) is Act.RUN


def test_a_paused_start_of_what_shall_not_run_is_ended() -> None:
    off = LedgerEntry(a_spec(ports=PORTS, power=Power.OFF), 1, plugging=True)
    gone = an_entry(plugging=True, removal=Fence(1, 1, 1))
    assert decided(off, DomainState.PAUSED) is Act.STOP
    assert decided(gone, DomainState.PAUSED) is Act.REMOVE


@pytest.mark.parametrize(
    ("wirings", "sites_up", "waited_s", "new", "known"),
    [
        (BOTH, True, 0.0, Plug.RESUME, Plug.RESUME),
        (BOTH, False, 0.0, Plug.WAIT, Plug.WAIT),
        (BOTH, False, SITES_S, Plug.RESUME, Plug.RESUME),
        (ONE, True, PORTS_S - 0.1, Plug.WAIT, Plug.WAIT),
        (ONE, True, PORTS_S, Plug.GIVE_UP, Plug.RESUME),
        ({}, False, PORTS_S, Plug.GIVE_UP, Plug.RESUME),
        ({}, True, 0.0, Plug.WAIT, Plug.WAIT),
    ],
)
def test_a_start_goes_on_when_its_ports_are_there_or_it_has_run_before(
    wirings: Mapping[str, Wiring], sites_up: bool, waited_s: float, new: Plug, known: Plug
) -> None:
    for has_started, plug in ((False, new), (True, known)):
        entry = an_entry(has_started=has_started)
        assert next_plug(entry, wirings, sites_up=sites_up, waited_s=waited_s) is plug


def test_a_start_never_waits_for_ever() -> None:
    for wirings, sites_up, has_started in itertools.product(
        (BOTH, ONE, {}), (True, False), (True, False)
    ):
        entry = an_entry(has_started=has_started)
        plug = next_plug(entry, wirings, sites_up=sites_up, waited_s=PORTS_S)
        assert plug is not Plug.WAIT


def test_each_port_is_shown_with_why_it_is_not_installed() -> None:
    first, second = port_statuses(PORTS, ONE)
    assert (first.installed, first.error) == (True, None)
    assert not second.installed
    assert second.error is not None
    assert second.error["reason"] == "PORT_NOT_INSTALLED"
    assert second.error["metadata"]["port_id"] == PORTS[1].port_id
    assert not_installed(PORTS, ONE).metadata["port_id"] == PORTS[1].port_id
    assert not_installed(PORTS, {}).reason == "PORT_UNKNOWN"


async def _begin_paused(agent: SimulatedAgent, *, is_new: bool) -> None:
    """Have a machine that has started, paused, under an agent that was killed since."""
    if not is_new:
        await agent.ensure(SPEC)
        await agent.until_state(MachineState.RUNNING)
        agent.compute.crash(an_instance_id())
    agent.network.faults.not_installed = dict(ONE)
    await agent.ensure(SPEC)
    await agent.until(lambda: getattr(agent.machine(), "step", "") == "plug ports", 10)
    await agent.restart()
    await agent.ensure(SPEC)


async def _state(agent: SimulatedAgent) -> DomainState | None:
    domain = await agent.domain()
    return domain.state if domain else None


def test_a_guest_waits_for_its_ports_also_under_an_agent_that_was_killed(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _begin_paused(agent, is_new=True)
            await asyncio.sleep(PORTS_S / 2)
            assert await _state(agent) is DomainState.PAUSED
            machine = agent.machine()
            assert machine is not None
            assert machine.step == "plug ports"
            agent.network.faults.not_installed = dict(BOTH)
            await agent.until_state(MachineState.RUNNING, within_s=5)
            assert await agent.is_on()
            entry = agent.ledger.entry(an_instance_id())
            assert entry is not None
            assert (entry.plugging, entry.has_started) == (False, True)

    run(story())


def test_a_guest_that_ran_before_goes_on_though_ovn_is_away(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _begin_paused(agent, is_new=False)
            await asyncio.sleep(PORTS_S - 5)
            assert await _state(agent) is DomainState.PAUSED
            await asyncio.sleep(10)
            assert await agent.is_on()

    run(story())


def test_a_guest_that_never_ran_is_undone_and_tried_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _begin_paused(agent, is_new=True)
            machine = await agent.until_state(MachineState.FAILED, within_s=PORTS_S + 5)
            assert machine.error is not None
            assert machine.error["reason"] == "PORT_NOT_INSTALLED"
            assert machine.retry_time is not None
            agent.network.faults.not_installed = {}
            assert await agent.domain() is None
            assert await agent.storage.list_machines() == {}
            await agent.until_state(MachineState.RUNNING)

    run(story())


def test_a_paused_start_that_is_stopped_loses_its_power_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await _begin_paused(agent, is_new=False)
            await asyncio.sleep(1)
            spec = a_spec(ports=PORTS, power=Power.OFF, generation=2, stop_grace_s=600.0)
            await agent.ensure(spec)
            await agent.until_state(MachineState.STOPPED, generation=2, within_s=5)
            entry = agent.ledger.entry(an_instance_id())
            assert entry is not None
            assert not entry.plugging

    run(story())


def test_a_machine_with_ports_runs_once_they_are_installed(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            agent.network.faults.not_installed = dict(ONE)
            await agent.ensure(SPEC)
            await agent.until(lambda: getattr(agent.machine(), "step", "") == "plug ports", 5)
            await asyncio.sleep(PORTS_S / 2)
            assert agent.compute.console_text(an_instance_id()) == b"", "its guest has not run"
            machine = agent.machine()
            assert machine is not None
            assert [status.installed for status in machine.ports] == [True, False]
            agent.network.faults.not_installed = {}
            machine = await agent.until_state(MachineState.RUNNING, within_s=5)
            assert [status.installed for status in machine.ports] == [True, True]
            assert agent.compute.console_text(an_instance_id()) != b""
            await agent.ensure(a_spec(ports=PORTS, power=Power.OFF, generation=2))
            machine = await agent.until_state(MachineState.STOPPED, generation=2)
            assert machine.ports == ()

    run(story())


def test_what_an_earlier_run_left_in_the_switch_does_not_pass_for_new(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            agent.network.plug(an_instance_id(), PORTS[0].device, True)
            before = (await agent.network.wirings(PORTS))[PORTS[0].port_id]
            await agent.ensure(SPEC)
            await agent.until_state(MachineState.RUNNING)
            after = (await agent.network.wirings(PORTS))[PORTS[0].port_id]
            assert after.installed_ms > before.installed_ms

    run(story())


@pytest.mark.parametrize("kill_s", [0.0, 0.1, 0.3, 1.0, PORTS_S - 1])
def test_wherever_the_agent_is_killed_no_guest_runs_without_its_ports(
    tmp_path: Path, kill_s: float
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            agent.network.faults.not_installed = dict(ONE)
            await agent.ensure(SPEC)
            for _ in range(3):
                await asyncio.sleep(kill_s)
                await agent.restart()
                await agent.ensure(SPEC)
                domain = await agent.domain()
                assert domain is None or domain.state is not DomainState.RUNNING
            agent.network.faults.not_installed = {}
            await agent.until_state(MachineState.RUNNING, within_s=60)

    run(story())


def test_a_guest_waits_a_little_for_its_networks_to_be_served(tmp_path: Path) -> None:
    async def story() -> None:
        agent = SimulatedAgent(tmp_path)
        agent.start()
        try:
            object.__setattr__(agent.converger._context.machinery, "sites_up", lambda _: False)
            await agent.ensure(SPEC)
            await asyncio.sleep(SITES_S - 1)
            assert await _state(agent) is DomainState.PAUSED
            await agent.until_state(MachineState.RUNNING, within_s=3)
        finally:
            await agent.kill()

    run(story())


def test_a_switch_that_is_silent_is_waited_for(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            silence = Unavailable("no", reason="SWITCH_UNAVAILABLE")
            await agent.ensure(SPEC)
            await agent.until(lambda: agent.ledger.entry(an_instance_id()) is not None, 5)
            agent.network.faults.errors = [silence, silence, silence]
            machine = await agent.until_state(MachineState.RUNNING, within_s=60)
            assert machine.error is None

    run(story())
