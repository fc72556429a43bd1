"""The converger on real libvirt, QEMU and qcow2: one machine's life, with the tiny guest."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.agent import a_fence, a_spec, an_instance_id
from tests.support.images import built_tiny
from tests.support.libvirt import PrivateLibvirt, private_libvirt, unavailable_reason
from unkai_agent.compute.driver import DomainState
from unkai_agent.compute.libvirt_driver import LibvirtDriver
from unkai_agent.converge.supervisor import Converger
from unkai_agent.domain.clock import system_clock
from unkai_agent.domain.machines import (
    DiskSpec,
    Fence,
    ImageFormat,
    ImageRef,
    MachineSpec,
    MachineState,
    Power,
)
from unkai_agent.ledger import Ledger
from unkai_agent.settings import ConvergeSettings
from unkai_agent.storage.qcow2 import Qcow2Storage
from unkai_wire import ids

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(unavailable_reason()), reason=unavailable_reason() or "-"),
]
ID = an_instance_id()


class RealAgent:
    """An agent on real drivers that can be stopped and started again."""

    def __init__(self, libvirt: PrivateLibvirt, tiny: Path) -> None:
        self._libvirt = libvirt
        self._folder = libvirt.folder / "agent"
        self._tiny = tiny

    async def start(self) -> None:
        self.compute = LibvirtDriver(self._libvirt.uri)
        self.storage = Qcow2Storage(self._folder, self._fetch, "libvirt-qemu", system_clock)
        self.converger = Converger(
            ledger=Ledger(self._folder / "ledger"),
            compute=self.compute,
            storage=self.storage,
            accelerator="tcg",
            boot_id="boot-1",
            settings=ConvergeSettings(),
            clock=system_clock,
        )
        self._task = asyncio.create_task(self.converger.run())
        self.converger.ready()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.compute.close()
        await self.storage.close()

    async def order(self, spec: MachineSpec, state: MachineState, within_s: float = 60) -> None:
        await self.converger.ensure(a_fence(spec), spec)
        await until(
            lambda: (
                (m := self.converger.machine(ID)).state is state
                and m.observed_generation == spec.generation
            ),
            within_s,
        )

    async def _fetch(self, _: str, offset: int) -> AsyncIterator[bytes]:
        yield self._tiny.read_bytes()[offset:]


async def until(
    is_so: Callable[[], bool] | Callable[[], Awaitable[bool]], within_s: float = 60
) -> None:
    async with asyncio.timeout(within_s):
        while True:
            found = is_so()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.05)


def a_tiny_spec(tiny: Path) -> MachineSpec:
    content = tiny.read_bytes()
    image = ImageRef(
        image_id=ids.encode("img", ids.uuid7(0, 1)),
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        virtual_size_bytes=int.from_bytes(content[24:32], "big"),
        format=ImageFormat.QCOW2,
    )
    disk = DiskSpec("root", max(image.virtual_size_bytes, 256 << 20), image, must_exist=False)
    return replace(a_spec(memory_bytes=128 << 20, stop_grace_s=20.0), disks=(disk,))


@pytest.mark.timeout(180)
async def test_a_machine_boots_is_adopted_stops_starts_and_goes() -> None:
    tiny = built_tiny()
    with private_libvirt() as libvirt:
        agent = RealAgent(libvirt, tiny)
        await agent.start()
        try:
            spec = a_tiny_spec(tiny)
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
