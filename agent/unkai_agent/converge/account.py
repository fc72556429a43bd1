"""What one machine's worker notes in the ledger and shows to the watchers.

`worker.py` says what happened; here it becomes the machine's state, step and error. Nothing here
acts on the machine.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import structlog

from unkai_agent.converge import machines
from unkai_agent.converge.context import WorkerContext
from unkai_agent.converge.plugging import port_statuses
from unkai_agent.converge.retries import Retries
from unkai_agent.converge.shown import ShownMachine
from unkai_agent.domain.machines import LedgerEntry, Machine, MachineState
from unkai_agent.domain.ports import PortStatus
from unkai_wire.errors import InvalidArgument, UnkaiError, Unsupported

_LOG = structlog.get_logger("unkai.agent.converge")


class Account:
    """One machine as it is noted and shown."""

    def __init__(self, context: WorkerContext, entry: LedgerEntry, retries: Retries) -> None:
        """Begin with what the ledger says. `retries`: told what failed and what went well."""
        self._context = context
        self._ident = entry.spec.instance_id
        self._retries = retries
        self._logged: dict[str, Any] = {}
        """The failure that was logged last: one is logged once, however often it is tried."""
        self._shown = ShownMachine(entry, context.clock, context.publish)
        self.show = self._shown.show

    @property
    def machine(self) -> Machine:
        """The machine as it is shown."""
        return self._shown.machine

    def entry(self) -> LedgerEntry:
        """Return what the ledger says by now."""
        entry = self._context.ledger.entry(self._ident)
        assert entry is not None, "a worker ends before its entry does"
        return entry

    def begin(self, entry: LedgerEntry) -> None:
        """Say that work on the entry's order begins."""
        self._retries.begin(entry.spec.generation)
        self.show(entry, state=MachineState.CONVERGING, error=None, retry_time=None)

    def step(self, name: str) -> None:
        """Show which step is under way."""
        if name != self.machine.step:
            self.show(self.entry(), lazily=True, step=name)

    def progress(self, done: int, total: int) -> None:
        """Show how far the step is: each hundredth at most, since each is written and told."""
        if (done - self.machine.step_done_bytes) * 100 >= total or done == total:
            self.show(self.entry(), lazily=True, step_done_bytes=done, step_total_bytes=total)

    async def note(self, entry: LedgerEntry, **changes: Any) -> LedgerEntry:
        """Write to the ledger what was observed; the entry may have got a newer spec meanwhile."""
        if all(getattr(entry, name) == value for name, value in changes.items()):
            return entry
        ledger = self._context.ledger
        noted = await self._context.in_thread(ledger.update, self._ident, **changes)
        assert isinstance(noted, LedgerEntry)
        return noted

    async def settle(
        self,
        entry: LedgerEntry,
        state: MachineState,
        error: UnkaiError | None = None,
        *,
        running: bool = False,
        accelerator: str = "",
        ports: tuple[PortStatus, ...] = (),
        **changes: Any,
    ) -> float | None:
        """Note and show the result of a turn over the entry that it looked at.

        Returns None: there is nothing to look at again.
        """
        if self._retries.went_well():
            self._logged = {}
        if not running:
            changes |= {"stop_asked": False, "plugging": False}
        observed = {"observed_generation": entry.spec.generation, "running": running}
        noted = await self.note(entry, **(observed | changes))
        if running and not ports and machines.starts_paused(self._context.machinery, noted):
            wirings = await machines.wirings(self._context.machinery, noted)
            ports = port_statuses(noted.spec.ports, wirings)
        self.show(
            noted,
            ports=ports,
            state=state,
            step="",
            error=error.to_record() if error else None,
            retry_time=None,
            accelerator=accelerator,
        )
        return None

    def failed(self, entry: LedgerEntry, error: UnkaiError) -> float | None:
        """Show a failure and say when to try again: never, for a create that failed often."""
        hopeless = isinstance(error, InvalidArgument | Unsupported)
        may_be_given_up = entry.is_new and entry.removal is None
        wait_s = self._retries.failed(
            for_good=may_be_given_up and (hopeless or self._retries.is_last())
        )
        record = error.to_record()
        if self._logged != record:
            self._logged = record
            _LOG.warning(
                "machine_failed", instance_id=self._ident, reason=error.reason, error=error.message
            )
        self.show(
            entry,
            state=MachineState.REMOVING if entry.removal else MachineState.FAILED,
            step="",
            error=record,
            retry_time=None if wait_s is None else self._in(wait_s),
            observed_generation=entry.spec.generation,
        )
        return wait_s

    def _in(self, seconds: float) -> datetime:
        return self._context.clock() + timedelta(seconds=seconds)
