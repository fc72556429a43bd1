"""What the contract suite of the compute port needs from each kind of hypervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from tests.support.boot_sector import echo_guest, reading_guest
from tests.support.libvirt import PrivateLibvirt, give_to_qemu
from unkai_agent.compute.driver import (
    ComputeDriver,
    DiskError,
    Domain,
    DomainDisk,
    DomainSpec,
    DomainState,
)
from unkai_agent.compute.fake import FakeCompute
from unkai_agent.compute.libvirt_driver import LibvirtDriver
from unkai_agent.compute.measured import MeasuredCompute
from unkai_wire import ids

GIB = 1024**3
MIB = 1024**2


class ComputeHarness(Protocol):
    """A driver, and a hand on the world behind it."""

    @property
    def driver(self) -> ComputeDriver:
        """The driver under test."""

    def spec(self, name: str = "web", *, generation: int = 1) -> DomainSpec:
        """Return a spec of a new machine whose guest echoes on its console."""

    async def guest_shuts_down(self, spec: DomainSpec) -> None:
        """Let the guest power itself off."""

    async def crash(self, spec: DomainSpec) -> None:
        """Kill the domain's process."""

    async def wait_for_guest(self, spec: DomainSpec) -> None:
        """Wait until the guest is up."""

    async def start_on_a_broken_disk(self, spec: DomainSpec) -> None:
        """Define the domain and start it on a disk that cannot be read."""


def a_domain_spec(
    folder: Path,
    name: str = "web",
    *,
    instance_id: str = "",
    generation: int = 1,
    run_epoch: int = 1,
    vcpus: int = 1,
    memory_bytes: int = 64 * MIB,
    accelerator: str = "tcg",
    seed: Path | None = None,
) -> DomainSpec:
    """Build a spec with one raw disk in `folder`."""
    instance_id = instance_id or ids.new_id("instance")
    return DomainSpec(
        instance_id=instance_id,
        name=f"{name}.{instance_id[-6:]}",
        project_id="prj-01h455vb4pex5vsknk084sn02q",
        generation=generation,
        run_epoch=run_epoch,
        vcpus=vcpus,
        memory_bytes=memory_bytes,
        accelerator=accelerator,
        disks=(DomainDisk(folder / f"{instance_id}.raw", "raw"),),
        seed=seed,
        console_log=folder / f"{instance_id}.log",
    )


class FakeHarness:
    """The fake hypervisor; `measured`: with what counts its calls before it."""

    def __init__(self, *, measured: bool = False) -> None:
        self._fake = FakeCompute()
        before = MeasuredCompute(self._fake, system="fake")
        self.driver: ComputeDriver = before if measured else self._fake

    def spec(self, name: str = "web", *, generation: int = 1) -> DomainSpec:
        return a_domain_spec(Path("/nowhere"), name, generation=generation)

    async def guest_shuts_down(self, spec: DomainSpec) -> None:
        self._fake.guest_shuts_down(spec.instance_id)

    async def crash(self, spec: DomainSpec) -> None:
        self._fake.crash(spec.instance_id)

    async def start_on_a_broken_disk(self, spec: DomainSpec) -> None:
        await self.driver.define(spec)
        await self.driver.start(spec.instance_id)
        self._fake.pause_by_error(spec.instance_id, DiskError.FAILED)

    async def wait_for_guest(self, spec: DomainSpec) -> None:
        assert self._fake.console_text(spec.instance_id)


class LibvirtHarness:
    """Real QEMU under a libvirtd of our own."""

    def __init__(self, libvirt: PrivateLibvirt) -> None:
        self.libvirt = libvirt
        self.driver = LibvirtDriver(libvirt.uri)

    def spec(self, name: str = "web", *, generation: int = 1) -> DomainSpec:
        spec = a_domain_spec(self.libvirt.folder, name, generation=generation)
        disk = spec.disks[0].path
        disk.write_bytes(echo_guest())
        give_to_qemu(disk)
        return spec

    async def guest_shuts_down(self, spec: DomainSpec) -> None:
        await self.wait_for_guest(spec)

        async def keys() -> AsyncIterator[bytes]:
            yield b"q"

        async for _ in self.driver.attach_console(spec.instance_id, keys(), force=True):
            pass
        await until_state(self.driver, spec, DomainState.OFF)

    async def start_on_a_broken_disk(self, spec: DomainSpec) -> None:
        disk = spec.disks[0].path.with_suffix(".qcow2")
        await asyncio.to_thread(_make_unreadable, disk)
        disks = (DomainDisk(disk, "qcow2"),)
        await self.driver.define(replace(spec, disks=disks))
        await self.driver.start(spec.instance_id)

    async def crash(self, spec: DomainSpec) -> None:
        os.kill(self.libvirt.qemu_pid(ids.uuid_of(spec.instance_id)), signal.SIGKILL)
        await until_state(self.driver, spec, DomainState.OFF)

    async def wait_for_guest(self, spec: DomainSpec) -> None:
        async def is_up() -> bool:
            return spec.console_log.exists() and b"guest is up" in spec.console_log.read_bytes()

        await until(is_up)


_FAR_SECTOR = 1024
"""On the ninth cluster of 64 KiB: QEMU itself reads the first when it starts."""


def _make_unreadable(disk: Path) -> None:
    """Make a qcow2 file whose guest reads a compressed cluster that is garbage: QEMU gives EIO.

    What is where: QEMU's docs/interop/qcow2.txt.
    """
    raw = disk.with_suffix(".plain")
    raw.write_bytes(reading_guest(_FAR_SECTOR))
    command = ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(disk)]
    subprocess.run(command, check=True, timeout=30)
    raw.unlink()
    content = bytearray(disk.read_bytes())

    def entry_of(table: int, index: int) -> int:
        return int(struct.unpack_from(">Q", content, table + 8 * index)[0])

    first_table = entry_of(40, 0)
    second_table = entry_of(first_table, 0) & 0x00FF_FFFF_FFFF_FE00
    entry = entry_of(second_table, _FAR_SECTOR * 512 >> 16)
    assert entry >> 62 & 1, "the cluster is not compressed"
    offset = entry & ((1 << 54) - 1)
    content[offset : offset + 16] = b"\xff" * 16
    disk.write_bytes(content)
    give_to_qemu(disk)


async def until(holds: Callable[[], Awaitable[bool]], deadline_s: float = 30.0) -> None:
    """Wait until something holds, or fail."""
    end = time.monotonic() + deadline_s
    while not await holds():
        assert time.monotonic() < end, f"not within {deadline_s:g} s"
        await asyncio.sleep(0.02)


async def until_state(driver: ComputeDriver, spec: DomainSpec, state: DomainState) -> Domain:
    """Wait until the domain is in a state; return it."""
    found: list[Domain] = []

    async def is_there() -> bool:
        domain = await driver.get_domain(spec.instance_id)
        if domain is None or domain.state is not state:
            return False
        found.append(domain)
        return True

    await until(is_there)
    return found[0]
