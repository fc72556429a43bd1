"""An agent on real libvirt, QEMU and qcow2, that tests stop and start again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from tests.support.agent import a_fence, a_spec
from tests.support.libvirt import PrivateLibvirt
from unkai_agent.compute.libvirt_driver import LibvirtDriver
from unkai_agent.converge.supervisor import Converger
from unkai_agent.domain.clock import system_clock
from unkai_agent.domain.machines import (
    DiskSpec,
    ImageFormat,
    ImageRef,
    Machine,
    MachineSpec,
    MachineState,
)
from unkai_agent.ledger import Ledger
from unkai_agent.network.driver import NetworkDriver
from unkai_agent.settings import ConvergeSettings
from unkai_agent.storage.qcow2 import Qcow2Storage
from unkai_wire import ids


class RealAgent:
    """An agent whose images are all `content`. `network`: its switch, which forwards by itself."""

    def __init__(
        self, libvirt: PrivateLibvirt, content: bytes, network: NetworkDriver | None = None
    ) -> None:
        self._libvirt = libvirt
        self._folder = libvirt.folder / "agent"
        self.content = content
        self._network = network

    async def start(self) -> None:
        """Start it; what was there before is adopted."""
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
            network=self._network,
            offloads=self._network is None,
        )
        self._task = asyncio.create_task(self.converger.run())
        self.converger.ready()

    async def stop(self) -> None:
        """End it; guests go on."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.compute.close()
        await self.storage.close()

    async def order(self, spec: MachineSpec, state: MachineState, within_s: float = 60) -> Machine:
        """Order a machine, and wait until it is so."""
        await self.converger.ensure(a_fence(spec), spec)
        return await self.until_state(spec, state, within_s)

    async def until_state(
        self, spec: MachineSpec, state: MachineState, within_s: float = 60
    ) -> Machine:
        """Wait until the order was carried out with this result."""
        ident = spec.instance_id
        await until(
            lambda: (
                (m := self.converger.machine(ident)).state is state
                and m.observed_generation == spec.generation
            ),
            within_s,
        )
        return self.converger.machine(ident)

    async def remove(self, spec: MachineSpec) -> None:
        """Remove a machine, and wait until it is gone."""
        fence = replace(a_fence(spec), generation=spec.generation + 1)
        await self.converger.remove(fence, spec.instance_id)
        await until(lambda: not self.converger.holds(spec.instance_id))

    async def _fetch(self, _: str, offset: int) -> AsyncIterator[bytes]:
        yield self.content[offset:]


async def until(
    is_so: Callable[[], bool] | Callable[[], Awaitable[bool]], within_s: float = 60
) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(within_s):
        while True:
            found = is_so()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.05)


def a_real_spec(content: bytes, kind: ImageFormat, number: int = 1) -> MachineSpec:
    """Return a spec of a machine whose image has this content."""
    size = len(content) if kind is ImageFormat.RAW else int.from_bytes(content[24:32], "big")
    image = ImageRef(
        image_id=ids.encode("img", ids.uuid7(0, 1)),
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        virtual_size_bytes=size,
        format=kind,
    )
    disk = DiskSpec("root", max(size, 256 << 20), image, must_exist=False)
    return replace(a_spec(number, memory_bytes=128 << 20, stop_grace_s=20.0), disks=(disk,))
