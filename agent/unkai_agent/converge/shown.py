"""What is shown of one machine: its ledger entry's figures, and what its worker observed.

Only changes are told to the watchers; the time of observation alone is none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from unkai_agent.domain.clock import Clock
from unkai_agent.domain.machines import LedgerEntry, Machine, MachineState, Tombstone


class Publish(Protocol):
    """Tells the watchers; `lazily`: a moment later will do."""

    def __call__(self, change: Machine | Tombstone, *, lazily: bool = False) -> None:
        """Tell of a change."""


class ShownMachine:
    """One machine as the watchers see it."""

    def __init__(self, entry: LedgerEntry, clock: Clock, publish: Publish) -> None:
        """Begin with what the ledger says; nobody is told yet."""
        self._clock = clock
        self._publish = publish
        self.machine = Machine(
            instance_id=entry.spec.instance_id,
            state=MachineState.REMOVING if entry.removal else MachineState.CONVERGING,
            observe_time=clock(),
            **_from(entry),
        )

    def show(self, entry: LedgerEntry, *, lazily: bool = False, **changes: Any) -> None:
        """Take over what the entry says and what else changed; tell, if anything did."""
        if changes.get("step", self.machine.step) != self.machine.step:
            changes = {"step_done_bytes": 0, "step_total_bytes": 0} | changes
        shown = replace(self.machine, **(_from(entry) | changes))
        if shown != self.machine:
            self.machine = replace(shown, observe_time=self._clock())
            self._publish(self.machine, lazily=lazily)


def _from(entry: LedgerEntry) -> dict[str, Any]:
    return {
        "generation": entry.spec.generation,
        "observed_generation": entry.observed_generation,
        "run_epoch": entry.spec.run_epoch,
        "guest_shutdown": entry.guest_shutdown,
        "reboot_serial": entry.reboot_serial_done,
        "domain_name": entry.spec.domain_name,
        "start_time": entry.start_time,
        "instance": entry.spec.instance,
    }
