"""The hosts of a cloud in memory, and the menu of what may befall them.

Machines reach what was ordered `converge_s` after the order by the clock passed in; with the
default 0 at once, else in `tick`. Nothing here waits; `fake.py` is the port to it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from unkai_scheduler.agents.fake_host import (
    GIB,
    FakeHost,
    Held,
    Listener,
    idle_usage,
    put,
)
from unkai_scheduler.agents.limits import Limits
from unkai_scheduler.agents.port import MACHINE_SPECS, Endpoint, MachineOrder
from unkai_scheduler.domain.clock import Clock, system_clock
from unkai_scheduler.domain.hosts import HostUsage
from unkai_scheduler.domain.machines import HostDescription, Machine, MachineState, Tombstone
from unkai_wire.errors import UnkaiError


class FakeCloud:
    """Hosts in memory: `add_host`, and break things."""

    def __init__(
        self,
        *,
        clock: Clock = system_clock,
        converge_s: float = 0.0,
        limits: Limits | None = None,
    ) -> None:
        self._clock = clock
        self.converge_s = converge_s
        self._limits = limits or Limits()
        self.hosts: dict[str, FakeHost] = {}

    def add_host(
        self,
        host_id: str,
        name: str,
        *,
        cpus: int = 8,
        memory_bytes: int = 32 * GIB,
        features: tuple[str, ...] = (MACHINE_SPECS,),
    ) -> Endpoint:
        """Add an idle host; return how to reach it."""
        description = HostDescription(
            host_id=host_id,
            name=name,
            agent_version="0.1.0",
            boot_id=f"boot-1-{host_id}",
            cpus=cpus,
            memory_bytes=memory_bytes,
            disk_bytes=500 * GIB,
            accelerator="tcg",
            accelerator_reason="simulated",
            traits=("CPU_X86_64",),
            features=features,
            highest_term=0,
        )
        self.hosts[host_id] = FakeHost(
            description, idle_usage(memory_bytes, self._clock()), self._clock
        )
        return Endpoint(host_id, f"fake:{host_id}", f"{host_id}.host.unkai.internal")

    def fail(self, host_id: str, error: UnkaiError) -> None:
        """Let every call raise, and break the streams, until `heal`."""
        self.hosts[host_id].error = error
        self.hosts[host_id].break_streams()

    def hang(self, host_id: str) -> None:
        """Answer nothing and say nothing until `heal`."""
        self.hosts[host_id].hanging = True

    def heal(self, host_id: str) -> None:
        """End `fail`, `hang` and `fail_starts`."""
        host = self.hosts[host_id]
        host.error, host.hanging, host.start_error = None, False, None

    def fail_starts(self, host_id: str, error: UnkaiError) -> None:
        """Let machines fail to start; what they made is undone."""
        self.hosts[host_id].start_error = error

    def raise_term(self, host_id: str, term: int) -> None:
        """Let the host have seen a term, as if another leader had been there."""
        self.hosts[host_id].raise_term(term)

    def dispute_terms(self, host_id: str) -> None:
        """Let the host claim, whatever it is told, to have seen a term one higher."""
        self.hosts[host_id].disputes = True

    def crash_machine(self, host_id: str, instance_id: str) -> None:
        """End a running machine as a crash does: it waits for its permit."""
        held = self.hosts[host_id].held(instance_id)
        held.permitted = False
        self.hosts[host_id].change(held, state=MachineState.AWAITING_PERMIT)

    def shut_down_guest(self, host_id: str, instance_id: str) -> None:
        """Let the guest power itself off."""
        held = self.hosts[host_id].held(instance_id)
        self.hosts[host_id].change(held, state=MachineState.STOPPED, guest_shutdown=True)

    def lose_disk(self, host_id: str, instance_id: str) -> None:
        """Remove the disk; seen when the machine next starts."""
        self.hosts[host_id].held(instance_id).has_disk = False

    def pause_guest(self, host_id: str, instance_id: str, error: UnkaiError) -> None:
        """Let the host's disk pause a guest; it is tried again until `resume_guest`."""
        host = self.hosts[host_id]
        again = self._clock() + timedelta(minutes=1)
        held = host.held(instance_id)
        host.change(held, state=MachineState.FAILED, error=error.to_record(), retry_time=again)

    def resume_guest(self, host_id: str, instance_id: str) -> None:
        """Let a guest go on that was paused."""
        host = self.hosts[host_id]
        held = host.held(instance_id)
        host.change(held, state=MachineState.RUNNING, error=None, retry_time=None)

    def reboot_host(self, host_id: str) -> None:
        """Restart the host: new boot id, streams break, what ran awaits its permit."""
        host = self.hosts[host_id]
        boot = int(host.description.boot_id.split("-")[1]) + 1
        host.description = replace(host.description, boot_id=f"boot-{boot}-{host_id}")
        for held in host.machines.values():
            if held.machine.state in {MachineState.RUNNING, MachineState.STOPPING}:
                held.permitted = False
                self.hosts[host_id].change(held, state=MachineState.AWAITING_PERMIT)
        self.hosts[host_id].break_streams()

    def plant_machine(self, host_id: str, machine: Machine, order: MachineOrder) -> None:
        """Let the host hold a machine that nobody ordered here: an orphan, a restored backup."""
        held = Held(order, machine, self._clock(), converged=True, has_disk=True)
        self.hosts[host_id].machines[machine.instance_id] = held
        self.hosts[host_id].tell(machine)

    def plant_tombstone(self, host_id: str, tombstone: Tombstone) -> None:
        """Let the host remember a removal."""
        host = self.hosts[host_id]
        host.machines.pop(tombstone.instance_id, None)
        host.tombstones[tombstone.instance_id] = tombstone
        self.hosts[host_id].tell(tombstone)

    def write_console(self, host_id: str, instance_id: str, output: bytes) -> None:
        """Let the guest write to its console."""
        held = self.hosts[host_id].held(instance_id)
        held.console += output
        if held.console_open is not None:
            held.console_open.put_nowait(output)

    def answer_tcp(
        self, host_id: str, port_id: str, port_number: int, answer: Listener | UnkaiError
    ) -> None:
        """Let a machine answer connections to one of its TCP ports so."""
        self.hosts[host_id].listeners[port_id, port_number] = answer

    def set_usage(self, host_id: str, usage: HostUsage) -> None:
        """Set the host's figures and send a sample."""
        self.hosts[host_id].usage = usage
        self.send_sample(host_id)

    def send_sample(self, host_id: str) -> None:
        """Send the host's figures, stamped now, to whoever watches."""
        host = self.hosts[host_id]
        host.usage = replace(host.usage, sample_time=self._clock())
        if not host.hanging:
            for queue in list(host.usage_watchers):
                put(queue, host.samples())

    def tick(self) -> None:
        """Let what is due by the clock happen on all hosts."""
        for host in self.hosts.values():
            for held in list(host.machines.values()):
                if not held.converged and held.due_time <= self._clock():
                    host.converge(held)
