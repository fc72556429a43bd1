"""The steps of one machine: image, disk, seed, define, start; and back.

Each step asks the drivers what is there, makes what is missing and can be undone. Called by
`worker.py` after `decisions.py` said what to do; never decides, never touches the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unkai_agent.compute.driver import (
    ComputeDriver,
    DiskError,
    Domain,
    DomainDisk,
    DomainPort,
    DomainSpec,
    DomainState,
)
from unkai_agent.converge.decisions import is_on
from unkai_agent.converge.runner import Step, run_steps
from unkai_agent.domain.machines import DiskSpec, Fence, LedgerEntry, MachineSpec
from unkai_agent.domain.ports import PortSpec
from unkai_agent.network.driver import NetworkDriver, Wiring
from unkai_agent.storage.driver import StorageDriver
from unkai_wire.errors import FailedPrecondition, Unavailable, UnkaiError

FETCH = "fetch image"
"""The one step that may take minutes."""


@dataclass(frozen=True, slots=True)
class Machinery:
    """What machines are made with on this host."""

    compute: ComputeDriver
    storage: StorageDriver
    accelerator: str
    """`kvm` or `tcg`."""
    slots: asyncio.Semaphore
    """How many heavy steps run at once."""
    network: NetworkDriver | None = None
    """None: this host has no switch."""
    sites_up: Callable[[Collection[str]], bool] = lambda network_ids: True
    """Tells whether all of these networks are served to guests."""
    offloads: bool = True
    """Whether the host's switch does checksums and segments for guests."""


async def missing_disks(machinery: Machinery, entry: LedgerEntry) -> Sequence[DiskSpec]:
    """Return the disks that must exist and do not. Once it ran, all must."""
    return [
        disk
        for disk in entry.spec.disks
        if (disk.must_exist or entry.has_started)
        and await machinery.storage.get_disk(entry.spec.instance_id, disk.name) is None
    ]


async def make(
    machinery: Machinery,
    entry: LedgerEntry,
    *,
    start: bool,
    on_step: Callable[[str], None],
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Bring the machine about, and start it if asked to; undo on failure.

    What never ran is undone whole, also what an earlier run of the agent left half-made.
    `on_bytes` hears of a step that is counted in bytes: those done, and all.
    """
    steps = _Steps(machinery, entry, on_bytes)
    wanted = [steps.image(), steps.disk()]
    if not entry.spec.metadata_seed:
        wanted.append(steps.seed())
    wanted.append(await steps.define())
    if start and starts_paused(machinery, entry):
        wanted += [steps.clear_ports(), steps.start_paused()]
    elif start:
        wanted.append(steps.start())
    await run_steps(wanted, slots=machinery.slots, on_step=on_step, undo_all=entry.is_new)


def starts_paused(machinery: Machinery, entry: LedgerEntry) -> bool:
    """Tell whether a machine's guest waits for its ports."""
    return machinery.network is not None and bool(entry.spec.ports)


async def wirings(machinery: Machinery, entry: LedgerEntry) -> Mapping[str, Wiring]:
    """Say how a machine's ports stand, by port id; empty where nobody can tell."""
    if machinery.network is None:
        return {}
    try:
        return await machinery.network.wirings(entry.spec.ports)
    except UnkaiError:
        return {}  # a guest does not depend on what its switch says of itself


async def has_other_ports(machinery: Machinery, entry: LedgerEntry) -> bool:
    """Tell whether a machine that is on has other ports plugged in than it shall have."""
    try:
        live = await machinery.compute.live_ports(entry.spec.instance_id)
    except UnkaiError:
        return False  # nobody can tell
    return live.keys() != {port.port_id for port in entry.spec.ports}


def domain_port(machinery: Machinery, port: PortSpec) -> DomainPort:
    """Return a port as the hypervisor is told of it on this host."""
    return DomainPort(
        port_id=port.port_id,
        interface_id=port.interface_id,
        device=port.device,
        mac_address=port.mac_address,
        mtu=port.mtu,
        position=port.position,
        offloads=machinery.offloads,
    )


async def check_not_newer(machinery: Machinery, fence: Fence, instance_id: str) -> None:
    """Refuse an order that is older than the domain it would remove, by what the domain says.

    Where the ledger has lost a machine, that is all that is left of its fence.
    """
    domain = await machinery.compute.get_domain(instance_id)
    if domain is None:
        return
    if domain.generation > fence.generation or domain.run_epoch > fence.run_epoch:
        raise FailedPrecondition(
            f"instance {instance_id} runs here at generation {domain.generation} and run epoch "
            f"{domain.run_epoch}: the removal is older",
            reason="STALE_GENERATION",
            fix="read the instance again: it has changed meanwhile",
            metadata={
                "instance_id": instance_id,
                "generation": str(domain.generation),
                "run_epoch": str(domain.run_epoch),
            },
        )


async def remove(machinery: Machinery, instance_id: str, on_step: Callable[[str], None]) -> None:
    """Remove all of a machine. May run twice, and where there is nothing.

    Raise `Unavailable` when the hypervisor still has it afterwards: try again.
    """
    compute, storage = machinery.compute, machinery.storage
    on_step("destroy")
    if is_on(await compute.get_domain(instance_id)):
        await compute.destroy(instance_id)
    on_step("undefine")
    await compute.undefine(instance_id)
    if await compute.get_domain(instance_id) is not None:
        raise Unavailable(
            "the machine was removed, yet the hypervisor still has it",
            reason="STEP_NOT_VERIFIED",
            metadata={"instance_id": instance_id, "step": "undefine"},
        )
    on_step("remove disks")
    await storage.remove(instance_id)


class _Steps:
    """Makers of the steps for one machine."""

    def __init__(
        self, machinery: Machinery, entry: LedgerEntry, on_bytes: Callable[[int, int], None]
    ) -> None:
        self._on_bytes = on_bytes
        self._compute = machinery.compute
        self._storage = machinery.storage
        self._network = machinery.network
        self._accelerator = machinery.accelerator
        self._machinery = machinery
        self._entry = entry
        self._spec: MachineSpec = entry.spec
        self._ident = entry.spec.instance_id
        self._fetched = False
        self._seed: Path | None = None

    def image(self) -> Step:
        return Step(FETCH, self._has_images, self._fetch_images)

    def disk(self) -> Step:
        return Step("make disk", self._has_disks, self._make_disks, self._remove_disks, slot=True)

    def seed(self) -> Step:
        async def write() -> None:
            self._seed = await self._write_seed()

        async def written() -> bool:
            return self._seed is not None

        return Step("write seed", written, write)

    async def define(self) -> Step:
        """Defining compares by itself, so it is always done; undone if there was none before."""
        existed = await self._compute.get_domain(self._ident) is not None
        tried = False

        async def write() -> None:
            nonlocal tried
            wanted = await self._domain_spec()
            tried = True
            await self._compute.define(wanted)

        async def written() -> bool:
            domain = await self._compute.get_domain(self._ident) if tried else None
            return (
                domain is not None
                and domain.generation == self._spec.generation
                and domain.run_epoch == self._spec.run_epoch
            )

        undo = self._unmake if self._entry.is_new or not existed else None
        return Step("define", written, write, undo, slot=True)

    def start(self) -> Step:
        async def start() -> None:
            await self._compute.start(self._ident)
            await self._check_started()

        async def power_off() -> None:
            await self._compute.destroy(self._ident)

        return Step("start", self._is_running, start, power_off, slot=True)

    def clear_ports(self) -> Step:
        """Remove what an earlier run left in the switch: it would pass for what is to come."""
        cleared = False

        async def clear() -> None:
            nonlocal cleared
            assert self._network is not None, "else nothing starts paused"
            await self._network.clear(port.port_id for port in self._spec.ports)
            cleared = True

        async def is_clear() -> bool:
            return cleared or is_on(await self._compute.get_domain(self._ident))

        return Step("clear ports", is_clear, clear)

    def start_paused(self) -> Step:
        async def start() -> None:
            await self._compute.start(self._ident, paused=True)
            await self._check_started()

        async def is_started() -> bool:
            return is_on(await self._compute.get_domain(self._ident))

        async def power_off() -> None:
            await self._compute.destroy(self._ident)

        return Step("start", is_started, start, power_off, slot=True)

    async def _has_images(self) -> bool:
        return self._fetched

    async def _fetch_images(self) -> None:
        """Have the image of each disk, also of one that is there and stands on it.

        Where it is in the cache and sound, that costs a look at it.
        """
        for disk in self._spec.disks:
            there = await self._storage.get_disk(self._ident, disk.name)
            if there is None or there.backing_path is not None:
                told = partial(_told, self._on_bytes, disk.image.size_bytes)
                await self._storage.ensure_image(disk.image, told)
        self._fetched = True

    async def _has_disks(self) -> bool:
        disks = [await self._storage.get_disk(self._ident, d.name) for d in self._spec.disks]
        return all(disk is not None for disk in disks)

    async def _make_disks(self) -> None:
        for disk in self._spec.disks:
            if await self._storage.get_disk(self._ident, disk.name) is None:
                self._refuse_to_replace(disk)
                await self._storage.create_disk(self._ident, disk)

    def _refuse_to_replace(self, disk: DiskSpec) -> None:
        """Stand by the rule of no silent empty disk, should one vanish since it was decided."""
        if disk.must_exist or self._entry.has_started:
            raise disk_lost(self._ident, [disk], running=False)

    async def _remove_disks(self) -> None:
        if not self._entry.is_new:
            return
        if is_on(await self._compute.get_domain(self._ident)):
            raise FailedPrecondition(
                "the machine runs: its disk stays",
                reason="DISK_IN_USE",
                metadata={"instance_id": self._ident},
            )
        await self._storage.remove(self._ident)

    async def _unmake(self) -> None:
        if is_on(await self._compute.get_domain(self._ident)):
            await self._compute.destroy(self._ident)
        await self._compute.undefine(self._ident)

    async def _is_running(self) -> bool:
        domain = await self._compute.get_domain(self._ident)
        return domain is not None and domain.state is DomainState.RUNNING

    async def _check_started(self) -> None:
        domain: Domain | None = await self._compute.get_domain(self._ident)
        if not is_on(domain):
            raise FailedPrecondition(
                "the machine went off as soon as it was started",
                reason="START_FAILED",
                fix="read the console log and the hypervisor's log on the host",
                metadata={"instance_id": self._ident},
            )

    async def _domain_spec(self) -> DomainSpec:
        spec = self._spec
        disks = []
        for wanted in spec.disks:
            disk = await self._storage.get_disk(self._ident, wanted.name)
            if disk is None:
                raise disk_lost(self._ident, [wanted], running=False)
            disks.append(
                DomainDisk(
                    path=disk.path,
                    format=disk.format,
                    backing_path=disk.backing_path,
                    backing_format=disk.backing_format,
                )
            )
        return DomainSpec(
            instance_id=self._ident,
            name=spec.domain_name,
            project_id=spec.project_id,
            generation=spec.generation,
            run_epoch=spec.run_epoch,
            vcpus=spec.vcpus,
            memory_bytes=spec.memory_bytes,
            accelerator=self._accelerator,
            disks=tuple(disks),
            seed=None if spec.metadata_seed else self._seed or await self._write_seed(),
            console_log=await self._storage.console_log(self._ident),
            ports=tuple(domain_port(self._machinery, port) for port in spec.ports),
            metadata_seed=spec.metadata_seed,
        )

    async def _write_seed(self) -> Path:
        return await self._storage.ensure_seed(self._ident, self._spec.seed, self._spec.ports)


def _told(on_bytes: Callable[[int, int], None], total: int, done: int) -> None:
    on_bytes(done, total)


def disk_lost(instance_id: str, disks: Sequence[DiskSpec], *, running: bool) -> FailedPrecondition:
    """Make the error of a machine whose disk is gone."""
    names = ", ".join(disk.name for disk in disks)
    fix = (
        "its guest still runs on the deleted file: copy what matters out of it before it stops"
        if running
        else "bring the disk back, or delete the instance; no empty disk is made in its place"
    )
    return FailedPrecondition(
        f"disk {names} of instance {instance_id} is gone from its host",
        reason="DISK_LOST",
        fix=fix,
        metadata={"instance_id": instance_id, "disk": names},
    )


def paused_by_error(instance_id: str, error: DiskError | None) -> FailedPrecondition:
    """Make the error of a guest that its disk's failure on the host has paused."""
    what, fix = _DISK_ERRORS[error]
    return FailedPrecondition(
        f"the guest is paused: {what}",
        reason="PAUSED_BY_IO_ERROR",
        fix=f"{fix}; the guest then goes on by itself",
        metadata={"instance_id": instance_id, "disk_error": error.value if error else "UNKNOWN"},
    )


_DISK_ERRORS: Mapping[DiskError | None, tuple[str, str]] = {
    DiskError.NO_ROOM: ("its host has no room left for its disk", "free space on the host"),
    DiskError.FAILED: (
        "its host failed to read or write its disk",
        "see the host's kernel log (dmesg) and mend what the disk is on",
    ),
    None: ("its host failed at its disk", "free space on the host, or mend its disk"),
}
