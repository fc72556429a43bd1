"""Machines with ports on simulated hosts: plugged in name, and said to be."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from tests.support.agent import a_fence, a_spec, an_instance_id
from tests.support.ports import a_port
from unkai_agent import fleet
from unkai_agent.api.directory import HostDirectory
from unkai_agent.api.exporter import HostCollector
from unkai_agent.domain.machines import Machine, MachineState
from unkai_agent.settings import FleetSettings, Settings


async def _nothing(image_id: str, offset_bytes: int) -> object:
    raise AssertionError


async def test_a_simulated_host_says_that_its_machines_ports_are_installed(
    tmp_path: Path,
) -> None:
    settings = Settings(
        state_dir=tmp_path, advertise="127.0.0.1:7444", fleet=FleetSettings(hosts=1)
    )
    [host] = fleet.make_fleet(settings, "f1", _nothing)  # type: ignore[arg-type]
    running = asyncio.ensure_future(host.run())
    host.converger.ready()
    spec = a_spec(ports=(a_port(1), a_port(2)))
    try:
        await asyncio.sleep(0)
        await host.converger.ensure(a_fence(spec), spec)
        async with asyncio.timeout(30):
            machine = host.converger.machine(an_instance_id())
            async for change in host.converger.watch():
                if isinstance(change, Machine) and change.state is MachineState.RUNNING:
                    machine = change
                    break
        collector = HostCollector(
            HostDirectory({host.host.record.host_id: host.host}), asyncio.get_running_loop()
        )
        families = await asyncio.to_thread(lambda: list(collector.collect()))
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert [status.installed for status in machine.ports] == [True, True]
    received = {
        sample.labels["port_id"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "unkai_instance_port_received_bytes_total"
    }
    assert received == {port.port_id: 0 for port in spec.ports}
