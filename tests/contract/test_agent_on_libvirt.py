"""The converger on real libvirt, QEMU and qcow2: one machine's life, with the tiny guest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.agent import an_instance_id
from tests.support.images import built_tiny
from tests.support.libvirt import private_libvirt, unavailable_reason
from tests.support.real_agent import RealAgent, a_real_spec, until
from unkai_agent.compute.driver import DomainState
from unkai_agent.domain.machines import Fence, ImageFormat, MachineState, Power
from unkai_wire import ids

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(unavailable_reason()), reason=unavailable_reason() or "-"),
]
ID = an_instance_id()


@pytest.mark.timeout(180)
async def test_a_machine_boots_is_adopted_stops_starts_and_goes() -> None:
    tiny = built_tiny().read_bytes()
    with private_libvirt() as libvirt:
        agent = RealAgent(libvirt, tiny)
        await agent.start()
        try:
            spec = a_real_spec(tiny, ImageFormat.QCOW2)
            await agent.order(spec, MachineState.RUNNING)
            log = await agent.storage.console_log(ID)
            await until(lambda: b"user-data exit=0" in log.read_bytes())
            assert b"hostname=web-1" in log.read_bytes()
            pid = libvirt.qemu_pid(ids.uuid_of(ID))

            await agent.stop()
            await agent.start()
            await until(lambda: agent.converger.machine(ID).state is MachineState.RUNNING)
            assert libvirt.qemu_pid(ids.uuid_of(ID)) == pid

            await agent.order(replace(spec, generation=2, power=Power.OFF), MachineState.STOPPED)
            assert not agent.converger.machine(ID).guest_shutdown
            await agent.order(replace(spec, generation=3), MachineState.RUNNING)
            domain = await agent.compute.get_domain(ID)
            assert domain is not None
            assert (domain.state, domain.generation) == (DomainState.RUNNING, 3)

            await agent.converger.remove(Fence(1, 4, 1), ID)
            await until(lambda: not agent.converger.machines())
            assert await agent.compute.list_domains() == []
            assert await agent.storage.list_machines() == {}
        finally:
            await agent.stop()
