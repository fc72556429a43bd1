"""One host of the fake cloud: what it holds, and how it keeps an agent's promises.

Terms, generations, run epochs and tombstones are checked here; machines reach here what was
ordered. It never waits: `fake.py` says when.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from unkai_scheduler.agents.port import MachineChange, MachineOrder, UsageSample
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.domain.hosts import HostUsage, MachineUsage
from unkai_scheduler.domain.instances import Power
from unkai_scheduler.domain.machines import (
    Fence,
    HostDescription,
    Machine,
    MachineState,
    PortSeen,
    Tombstone,
)
from unkai_scheduler.domain.network_names import NameChange
from unkai_wire.doctor.findings import Finding
from unkai_wire.errors import FailedPrecondition, NotFound, UnkaiError

GIB = 1 << 30


_NOT_RUNNING = frozenset(MachineState) - {
    MachineState.RUNNING,
    MachineState.CONVERGING,
    MachineState.STOPPING,
}


Listener = Callable[[AsyncIterator[bytes]], AsyncGenerator[bytes | None, None]]
"""What answers a connection: takes the pieces sent to it, yields its own; None is its end."""


class Ended:
    """Put into a watcher's queue: the stream broke."""


@dataclass(slots=True)
class Held:
    """One machine that a fake host holds."""

    order: MachineOrder
    machine: Machine
    due_time: datetime
    converged: bool = False
    removing: bool = False
    permitted: bool = True
    has_disk: bool = False
    console: bytes = b""
    console_open: asyncio.Queue[bytes | None] | None = None


@dataclass(slots=True)
class FakeHost:
    """One host. Tests may change any field; `FakeAgents` has the acts that are more than that."""

    description: HostDescription
    usage: HostUsage
    clock: Clock
    machines: dict[str, Held] = field(default_factory=dict)
    tombstones: dict[str, Tombstone] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    cached_images: set[str] = field(default_factory=set)
    machine_usage: dict[str, MachineUsage] = field(default_factory=dict)
    error: UnkaiError | None = None
    """What every call to it raises."""
    hanging: bool = False
    """No call is answered, no stream says anything."""
    stuck_ports: set[str] = field(default_factory=set)
    """Ports that OVN does not bring up."""
    start_error: UnkaiError | None = None
    """Why machines fail to start."""
    disputes: bool = False
    """It claims to have seen a term higher than whatever it is told."""
    names: dict[str, NameChange] = field(default_factory=dict)
    """The names of each network that it was told, whole."""
    listeners: dict[tuple[str, int], Listener | UnkaiError] = field(default_factory=dict)
    """What answers connections, by port and its number; an error: what they end with."""
    told_names: list[NameChange] = field(default_factory=list)
    """What it was told of names, in order."""
    findings: tuple[Finding, ...] = ()
    """What it finds wrong with itself."""
    flow_counts: dict[int, int] = field(default_factory=dict)
    """Packets that its flows have counted, by their cookies."""
    machine_watchers: list[asyncio.Queue[MachineChange | Ended]] = field(default_factory=list)
    usage_watchers: list[asyncio.Queue[UsageSample | Ended]] = field(default_factory=list)

    def samples(self) -> UsageSample:
        """Return the sample it would send now."""
        machines = tuple(
            self.machine_usage.get(ident, MachineUsage(ident, 0.0, 0.0, 0))
            for ident, held in sorted(self.machines.items())
            if held.machine.state is MachineState.RUNNING
        )
        usage = replace(self.usage, machines_running=len(machines))
        return UsageSample(self.description.host_id, usage, machines)

    def raise_term(self, term: int) -> None:
        """Remember a term, if it is higher."""
        highest = max(term, self.description.highest_term)
        self.description = replace(self.description, highest_term=highest)

    def held(self, instance_id: str) -> Held:
        """Return a machine it holds; raise `NotFound` when it does not."""
        held = self.machines.get(instance_id)
        if held is None:
            raise NotFound.of("instance", instance_id)
        return held

    def check_term(self, fence: Fence) -> None:
        """Refuse an older term; remember a newer one."""
        highest = fence.term + 1 if self.disputes else self.description.highest_term
        if fence.term < highest:
            raise FailedPrecondition(
                f"term {fence.term} is older than {highest}",
                reason="STALE_TERM",
                metadata={"term": str(fence.term), "highest_term": str(highest)},
            )
        self.raise_term(fence.term)

    def take_names(self, change: NameChange) -> None:
        """Take over what is said of a network's names, as agents do."""
        self.told_names.append(change)
        held = self.names.get(change.network_id)
        revision = held.revision if held else 0
        if change.base_revision and change.revision == revision:
            return
        if change.revision < revision or change.base_revision not in (0, revision):
            raise FailedPrecondition(
                f"the host holds revision {revision} of the network's names",
                reason="NAMES_REVISION",
                metadata={"network_id": change.network_id, "held": str(revision)},
            )
        if held is not None and change.base_revision:
            kept = {name: some for name, some in held.put.items() if name not in change.removed}
            change = replace(change, put=kept | dict(change.put))
        self.names[change.network_id] = replace(change, base_revision=0, removed=frozenset())

    def check_tombstone(self, instance_id: str, fence: Fence) -> None:
        """Refuse what a removal has overtaken."""
        tombstone = self.tombstones.get(instance_id)
        if tombstone is not None and fence.generation <= tombstone.generation:
            raise FailedPrecondition(
                f"instance {instance_id} was removed at generation {tombstone.generation}",
                reason="TOMBSTONED",
                metadata={
                    "instance_id": instance_id,
                    "generation": str(tombstone.generation),
                    "run_epoch": str(tombstone.run_epoch),
                },
            )

    def converge(self, held: Held) -> None:
        """Bring a machine from what it is to what was ordered."""
        machine, order = held.machine, held.order
        if held.removing:
            self.bury(machine.instance_id, machine.generation, machine.run_epoch)
            return
        held.converged = True
        if not held.permitted:
            return
        reached = machine.generation
        if order.must_exist and not held.has_disk:
            self.change(held, state=MachineState.LOST, observed_generation=reached)
        elif order.instance.desired_power is Power.OFF:
            held.has_disk = True
            self.change(held, state=MachineState.STOPPED, observed_generation=reached)
        elif self.start_error is not None:
            held.has_disk = order.must_exist
            self.change(
                held,
                state=MachineState.FAILED,
                error=self.start_error.to_record(),
                observed_generation=reached,
            )
        else:
            self._run(held)

    def _run(self, held: Held) -> None:
        machine, wanted = held.machine, held.order.instance
        held.has_disk = True
        self.cached_images.add(held.order.image.sha256)
        rebooted = wanted.reboot_serial > machine.reboot_serial
        starts = machine.start_time is None or rebooted
        self.change(
            held,
            state=MachineState.RUNNING,
            error=None,
            observed_generation=machine.generation,
            guest_shutdown=False,
            reboot_serial=wanted.reboot_serial,
            accelerator=self.description.accelerator,
            start_time=self.clock() if starts else machine.start_time,
            ports=tuple(
                PortSeen(port.port_id, port.port_id not in self.stuck_ports)
                for port in held.order.ports
            ),
        )

    def bury(self, instance_id: str, generation: int, run_epoch: int) -> Tombstone:
        """Remove a machine, known or not; leave a tombstone."""
        self.machines.pop(instance_id, None)
        host_id = self.description.host_id
        tombstone = Tombstone(instance_id, host_id, generation, run_epoch, self.clock())
        self.tombstones[instance_id] = tombstone
        self.tell(tombstone)
        return tombstone

    def change(self, held: Held, **changes: object) -> Machine:
        """Change what is observed of a machine, and tell."""
        if changes.get("state") in _NOT_RUNNING:
            changes.setdefault("start_time", None)
            changes.setdefault("ports", ())
        held.machine = replace(held.machine, **changes)  # type: ignore[arg-type]
        self.tell(held.machine)
        return held.machine

    def tell(self, change: MachineChange) -> None:
        """Tell whoever watches."""
        if not self.hanging:
            for queue in list(self.machine_watchers):
                put(queue, change)

    def break_streams(self) -> None:
        """End all streams."""
        for machines in list(self.machine_watchers):
            put(machines, Ended())
        for usage in list(self.usage_watchers):
            put(usage, Ended())


def check_generation(held: Held, fence: Fence, *, to_run: bool) -> None:
    """Refuse an older right to the machine; what is being removed cannot be had back by its own."""
    machine = held.machine
    lowest = machine.generation + (1 if to_run and held.removing else 0)
    for given, wanted, reason in (
        (fence.generation, lowest, "STALE_GENERATION"),
        (fence.run_epoch, machine.run_epoch, "STALE_RUN_EPOCH"),
    ):
        if given < wanted:
            raise FailedPrecondition(
                f"instance {machine.instance_id} needs {wanted} or more, not {given}",
                reason=reason,
                metadata={
                    "instance_id": machine.instance_id,
                    "given": str(given),
                    "wanted": str(wanted),
                },
            )


def remembered(order: MachineOrder) -> dict[str, Any]:
    """Return what a host tells of an order with each word about its machine."""
    instance = order.instance
    return {
        "name": instance.spec.name,
        "project_id": instance.project_id,
        "wants_power": instance.desired_power is Power.ON,
        "vcpus": instance.spec.vcpus,
        "memory_bytes": instance.spec.memory_bytes,
        "disk_bytes": instance.spec.disk_bytes,
    }


def put(queue: asyncio.Queue[Any], item: object) -> None:
    """Put an item; a watcher that does not keep up loses its stream, as on a real host."""
    if queue.full():
        queue.get_nowait()
        queue.put_nowait(Ended())
    else:
        queue.put_nowait(item)


def idle_usage(memory_bytes: int, now: datetime) -> HostUsage:
    """Return the figures of a host that does nothing."""
    return HostUsage(
        sample_time=now,
        interval_s=2.0,
        cpu_used_cores=0.0,
        cpu_used_ratio=0.0,
        cpu_wait_cores=0.0,
        cpu_pressure_ratio=0.0,
        memory_pressure_ratio=0.0,
        memory_full_pressure_ratio=0.0,
        io_pressure_ratio=0.0,
        io_full_pressure_ratio=0.0,
        memory_total_bytes=memory_bytes,
        memory_available_bytes=memory_bytes,
        disk_available_bytes=500 * GIB,
    )
