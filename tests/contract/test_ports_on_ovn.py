"""The converger on real libvirt, QEMU, Open vSwitch and OVN: what becomes of a machine's ports."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.agent import a_fence
from tests.support.boot_sector import echo_guest
from tests.support.images import built_tiny
from tests.support.ovn_host import OvnHost, ovn_host, unavailable_reason
from tests.support.ports import a_port
from tests.support.real_agent import RealAgent, a_real_spec, until
from unkai_agent.compute.driver import DomainState
from unkai_agent.doctor.switch_facts import CONNECTED, SwitchFacts, look_at_switch
from unkai_agent.domain.machines import ImageFormat, MachineSpec, MachineState, Power
from unkai_agent.domain.ports import PortSpec
from unkai_agent.network.namespaces import Namespaces
from unkai_agent.network.ovs_database import OvsDatabase
from unkai_agent.network.ovs_driver import OvsNetwork
from unkai_wire import ids

_WHY_NOT = unavailable_reason()
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT),
    pytest.mark.timeout(180),
]
GUEST = echo_guest()
PORT = a_port(1)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def host() -> Iterator[OvnHost]:
    with ovn_host() as made:
        yield made


@pytest.fixture
def network(host: OvnHost, tmp_path: Path) -> OvsNetwork:
    database = OvsDatabase(("ovs-vsctl", f"--db={host.database}"))
    return OvsNetwork(database, Namespaces(tmp_path / "netns"))


@pytest.fixture
async def agent(host: OvnHost, network: OvsNetwork) -> AsyncIterator[RealAgent]:
    await network.join(host.membership)
    host.await_bridge()
    host.make_port(PORT)
    made = RealAgent(host.libvirt, GUEST, network)
    await made.start()
    yield made
    for entry in made.converger.machines():
        await made.remove(made.converger.order_of(entry.instance_id).spec)
    await made.stop()
    host.forget_ports()


def a_machine(*ports: PortSpec) -> MachineSpec:
    """Return a spec of a machine that there was not yet."""
    spec = a_real_spec(GUEST, ImageFormat.RAW, next(_numbers))
    return replace(spec, ports=ports or (PORT,))


def pid_of(host: OvnHost, spec: MachineSpec) -> int:
    return host.libvirt.qemu_pid(ids.uuid_of(spec.instance_id))


async def until_installed(network: OvsNetwork, *ports: PortSpec) -> None:
    async def is_so() -> bool:
        return all(wiring.installed for wiring in (await network.wirings(ports)).values())

    await until(is_so)


async def test_a_guest_runs_once_its_port_is_installed(
    host: OvnHost, agent: RealAgent, network: OvsNetwork
) -> None:
    host.remove_port(PORT)
    spec = a_machine()
    await agent.converger.ensure(a_fence(spec), spec)
    await until(lambda: agent.converger.machine(spec.instance_id).step == "plug ports")
    domain = await agent.compute.get_domain(spec.instance_id)
    assert domain is not None
    assert domain.state is DomainState.PAUSED
    [shown] = agent.converger.machine(spec.instance_id).ports
    assert shown.error is not None
    host.make_port(PORT)
    machine = await agent.until_state(spec, MachineState.RUNNING)
    assert [(port.port_id, port.installed) for port in machine.ports] == [(PORT.port_id, True)]
    assert PORT.device in await network.statistics()


async def test_ports_outlive_the_end_of_each_daemon(
    host: OvnHost, agent: RealAgent, network: OvsNetwork
) -> None:
    spec = a_machine()
    await agent.order(spec, MachineState.RUNNING)
    pid = pid_of(host, spec)
    for daemon in ("libvirtd", "ovs-vswitchd", "ovn-controller", "ovsdb-server"):
        if daemon != "ovsdb-server":
            host.libvirt.restart_daemon(daemon)
        else:
            host.restart_databases()
        await asyncio.to_thread(host.settle)
        await until_installed(network, PORT)
        assert pid_of(host, spec) == pid
    await agent.stop()
    await agent.start()
    await agent.until_state(spec, MachineState.RUNNING)
    assert pid_of(host, spec) == pid
    assert await network.sweep({spec.instance_id}) == []


async def test_a_machine_whose_qemu_was_killed_is_plugged_anew(
    host: OvnHost, agent: RealAgent, network: OvsNetwork
) -> None:
    spec = a_machine()
    await agent.order(spec, MachineState.RUNNING)
    before = (await network.wirings([PORT]))[PORT.port_id]
    os.kill(pid_of(host, spec), signal.SIGKILL)
    await until(lambda: agent.converger.machine(spec.instance_id).state is not MachineState.RUNNING)
    await agent.order(replace(spec, generation=2), MachineState.RUNNING)
    after = (await network.wirings([PORT]))[PORT.port_id]
    assert after.installed
    assert after.installed_ms > before.installed_ms


async def test_what_a_crash_of_the_host_left_in_the_switch_is_not_believed(
    host: OvnHost, agent: RealAgent, network: OvsNetwork
) -> None:
    spec = a_machine()
    host.add_device(PORT, str(ids.uuid_of(spec.instance_id)))
    host.drop_device(PORT)
    assert 'ovn-installed="true"' in host.external_ids(PORT)
    host.remove_port(PORT)
    await agent.converger.ensure(a_fence(spec), spec)
    await until(lambda: agent.converger.machine(spec.instance_id).step == "plug ports")
    assert not (await network.wirings([PORT]))[PORT.port_id].installed
    host.make_port(PORT)
    await agent.until_state(spec, MachineState.RUNNING)


async def test_a_machine_that_stops_leaves_nothing_in_the_switch(
    host: OvnHost, agent: RealAgent, network: OvsNetwork
) -> None:
    spec = replace(a_machine(), stop_grace_s=0.5)
    await agent.order(spec, MachineState.RUNNING)
    await agent.order(replace(spec, generation=2, power=Power.OFF), MachineState.STOPPED)
    assert host.external_ids(PORT) == ""
    await agent.order(replace(spec, generation=3), MachineState.RUNNING)


async def live(agent: RealAgent, spec: MachineSpec) -> dict[str, bool]:
    return dict(await agent.compute.live_ports(spec.instance_id))


async def test_a_port_comes_to_a_machine_that_runs(
    host: OvnHost, agent: RealAgent, network: OvsNetwork
) -> None:
    spec, more = a_machine(), a_port(2)
    await agent.order(spec, MachineState.RUNNING)
    pid = pid_of(host, spec)
    wanted = replace(spec, ports=(PORT, more), generation=2)
    await agent.converger.ensure(a_fence(wanted), wanted)

    async def is_down() -> bool:
        return await live(agent, spec) == {PORT.port_id: True, more.port_id: False}

    await until(is_down)
    await agent.stop()  # half-way
    host.make_port(more)
    await until_installed(network, more)
    await agent.start()

    def installed() -> bool:
        return [port.installed for port in agent.converger.machine(spec.instance_id).ports] == [
            True,
            True,
        ]

    await until(installed)
    assert await live(agent, spec) == {PORT.port_id: True, more.port_id: True}
    assert pid_of(host, spec) == pid


async def test_a_guest_lets_go_of_a_port(
    host: OvnHost, agent: RealAgent, network: OvsNetwork
) -> None:
    more = a_port(2)
    host.make_port(more)
    agent.content = await asyncio.to_thread(built_tiny().read_bytes)
    made = a_real_spec(agent.content, ImageFormat.QCOW2, next(_numbers))
    spec = replace(made, ports=(PORT, more))
    await agent.order(spec, MachineState.RUNNING)
    log = await agent.storage.console_log(spec.instance_id)
    await until(lambda: b"user-data exit=0" in log.read_bytes())
    await agent.order(replace(spec, ports=(more,), generation=2), MachineState.RUNNING)
    await until(
        lambda: (
            [
                (port.port_id, port.installed)
                for port in agent.converger.machine(spec.instance_id).ports
            ]
            == [(more.port_id, True)]
        )
    )
    assert await live(agent, spec) == {more.port_id: True}
    assert (host.external_ids(PORT), bool(host.external_ids(more))) == ("", True)


async def test_a_guest_that_keeps_a_port_is_cut_off_from_it(
    host: OvnHost, agent: RealAgent, network: OvsNetwork
) -> None:
    spec = a_machine()
    await agent.order(spec, MachineState.RUNNING)
    without = replace(spec, ports=(), generation=2)
    await agent.order(without, MachineState.RUNNING)

    def kept() -> bool:
        machine = agent.converger.machine(spec.instance_id)
        return [port.error and port.error["reason"] for port in machine.ports] == [
            "PORT_NOT_LET_GO"
        ]

    await until(kept)
    assert host.external_ids(PORT) == ""
    assert await live(agent, spec) == {PORT.port_id: True}
    # Another may have its place meanwhile.
    more = replace(a_port(2), position=PORT.position)
    host.make_port(more)
    without = replace(without, ports=(more,), generation=3)
    await agent.order(without, MachineState.RUNNING)

    async def comes() -> bool:
        return await live(agent, spec) == {PORT.port_id: True, more.port_id: True}

    await until(comes)
    # libvirtd plugs it in again when it is restarted; that does not last.
    host.libvirt.restart_daemon()
    await until(lambda: host.external_ids(PORT) == "", 30)
    os.kill(pid_of(host, spec), signal.SIGKILL)
    await until(lambda: agent.converger.machine(spec.instance_id).state is not MachineState.RUNNING)
    await agent.order(replace(without, generation=4), MachineState.RUNNING)
    assert await live(agent, spec) == {more.port_id: True}


async def test_the_doctor_sees_a_controller_that_lost_its_database(
    host: OvnHost, network: OvsNetwork
) -> None:
    await network.join(host.membership)
    host.await_bridge()

    async def look() -> SwitchFacts:
        return await asyncio.to_thread(look_at_switch, host.database, host.controller_dir)

    async def says(word: str) -> bool:
        facts = await look()
        return facts.controller == word

    await until(lambda: says(CONNECTED))
    facts = await look()
    assert facts.trouble == facts.forwarder == ""
    assert facts.said["system-id"] == host.membership.host_id
    assert facts.bridges["br-int"] == "netdev"
    assert "br-int" in {row["name"] for row in facts.interfaces}
    await network.join(replace(host.membership, remotes=("tcp:127.0.0.1:1",)))
    await until(lambda: says("not connected"))
    await network.join(host.membership)
    await until(lambda: says(CONNECTED))
