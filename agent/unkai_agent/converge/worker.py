"""One machine's worker: look, decide, act, say what is, wait; for ever.

A turn is short: a guest that was asked to shut down is looked at again later, never waited for,
so that a newer order is seen at once. Orders that arrive during a turn merge into the next. All
that must outlive the process is in the ledger, the rest (the leave to run, the count of tries)
is meant to be forgotten with it.

The trap: a hypervisor that does not answer says nothing about the machine. What was seen last
stays, only work that could not be done is FAILED.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from typing import Any

import structlog

from unkai_agent.compute.driver import Domain, DomainState
from unkai_agent.converge import machines
from unkai_agent.converge.account import Account
from unkai_agent.converge.context import WorkerContext
from unkai_agent.converge.decisions import Act, is_on, next_act
from unkai_agent.converge.disk_pauses import DiskPauses
from unkai_agent.converge.machines import FETCH
from unkai_agent.converge.paused_starts import PausedStart
from unkai_agent.converge.permits import Permit
from unkai_agent.converge.replugging import Replugging
from unkai_agent.converge.retries import Retries
from unkai_agent.converge.shutdowns import Shutdown
from unkai_agent.domain.machines import (
    DiskSpec,
    LedgerEntry,
    Machine,
    MachineState,
    Power,
    Tombstone,
)
from unkai_wire import tracing
from unkai_wire.errors import UnkaiError
from unkai_wire.rpc_errors import internal_error

_LOG = structlog.get_logger("unkai.agent.converge")
_SETTLED = frozenset(
    {MachineState.RUNNING, MachineState.STOPPED, MachineState.AWAITING_PERMIT, MachineState.LOST}
)
_RETRIED = frozenset({Act.RUN, Act.HOLD, Act.RESUME})
"""What is tried again after a failure, no sooner than its backoff says."""
_AT_REST = frozenset({Act.KEEP, Act.HOLD, Act.REST})
"""What leaves nothing to do until something changes."""


class Worker:
    """Brings one machine to what its ledger entry says. `run` ends when it is buried."""

    def __init__(self, context: WorkerContext, entry: LedgerEntry) -> None:
        self._context = context
        self._ident = entry.spec.instance_id
        self._woken = asyncio.Event()
        self._woken.set()
        self._permit = Permit(context.contact, context.settings.permit_autonomy_s)
        self._shutdown = Shutdown()
        self._replugging = Replugging()
        self._retries = Retries(
            context.settings, context.rng, lambda: asyncio.get_running_loop().time()
        )
        self._trace = ""
        """Of the newest order, until what it asks for is so: then what follows is no part of it."""
        self._scope: asyncio.Timeout | None = None
        self._looks = False
        """Whether the turn has not got beyond its look."""
        self._rests_on: Domain | None = None
        """The domain as the last turn found it, when all was as it shall be."""
        self.buried: Tombstone | None = None
        self._account = Account(context, entry, self._retries)
        self._paused_start = PausedStart(context.machinery, self._account)
        self._disk_pauses = DiskPauses(self._retries)

    @property
    def machine(self) -> Machine:
        """The machine as it is shown."""
        return self._account.machine

    # -- orders ----------------------------------------------------------------------------

    def ordered(self, entry: LedgerEntry) -> Machine:
        """Take note of an order that the ledger accepted: it is a leave to run, too."""
        self._trace = tracing.traceparent()
        self._permit.give()
        given_up = self.machine.state is MachineState.FAILED and self.machine.retry_time is None
        self._retries.ordered(entry.spec.generation)
        if given_up:
            self._retries.forget()
        changes: dict[str, Any] = {}
        if given_up:
            changes = {"state": MachineState.CONVERGING, "error": None}
        self._account.show(entry, **changes)
        self._woken.set()
        return self.machine

    def removing(self, entry: LedgerEntry) -> Machine:
        """Take note of a removal. A fetch under way is cut short; drivers' calls are bounded
        and are let end, since one that is left alone might act after the removal."""
        self._trace = tracing.traceparent() or self._trace
        if self.machine.state is not MachineState.REMOVING:
            self._retries.forget()
            fetching = self.machine.step == FETCH
            self._account.show(
                entry, state=MachineState.REMOVING, step="", error=None, retry_time=None
            )
            if self._scope is not None and fetching:
                self._scope.reschedule(asyncio.get_running_loop().time())
        self._woken.set()
        return self.machine

    def wake(self) -> None:
        """Look again soon: something may have changed."""
        self._woken.set()

    def found(self, domain: Domain | None, disks: Set[str]) -> None:
        """Look again soon, unless this is what the last turn rests on. `disks`: those there are."""
        entry = self._context.ledger.entry(self._ident)
        rests = domain is not None and domain == self._rests_on
        if not rests or entry is None or not {disk.name for disk in entry.spec.disks} <= disks:
            self.wake()

    # -- the loop --------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until the machine is buried, or until cancelled."""
        wait_s: float | None = 0.0
        while self.buried is None:
            try:
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            trace = self._trace
            with tracing.continued(trace), tracing.span("turn", instance_id=self._ident):
                wait_s = await self._turn()
            if wait_s is None and self._trace == trace:
                self._trace = ""

    async def _turn(self) -> float | None:
        """Take one turn; return after how many seconds to look again (None: when woken)."""
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scope = scope
                return await self._look_and_act()
        except TimeoutError as error:
            return 0.0 if scope.expired() else self._failed(internal_error(error))
        except UnkaiError as error:
            return self._failed(error)
        except Exception as error:  # noqa: BLE001 - one machine's bug must not stop the others
            return self._failed(internal_error(error))
        finally:
            self._scope = None

    async def _look_and_act(self) -> float | None:
        context, entry = self._context, self._account.entry()
        self._rests_on = None
        self._looks = True
        domain = await context.machinery.compute.get_domain(self._ident)
        self._looks = False
        self._retries.answered()
        missing = await self._missing_disks(entry, domain)
        act = next_act(
            entry,
            domain,
            boot_id=context.boot_id,
            permitted=self._permit.is_given,
            disk_missing=bool(missing),
        )
        if act not in (Act.STOP, Act.WATCH):
            self._shutdown.forget()
        if act is not Act.PLUG:
            self._paused_start.forget()
        if act is not Act.AWAIT:
            self._permit.end_wait()
        if act in _RETRIED:
            # Our own undoing and the timer wake us, too: neither may shorten the backoff.
            wait_s = self._retries.left_s()
            if wait_s > 0:
                return None if wait_s == float("inf") else wait_s
        if act is Act.LOSE:
            return await self._lose(entry, domain, missing)
        again_s = await self._act(act, entry, domain)
        if again_s is None and act in _AT_REST and self._retries.calm:
            self._rests_on = domain
        return again_s

    async def _missing_disks(self, entry: LedgerEntry, domain: Domain | None) -> Sequence[DiskSpec]:
        """Look for the disks, unless it is to go or to stop: a damaged one must not hinder that."""
        if entry.removal is not None or (entry.spec.power is Power.OFF and is_on(domain)):
            return ()
        return await machines.missing_disks(self._context.machinery, entry)

    async def _act(self, act: Act, entry: LedgerEntry, domain: Domain | None) -> float | None:
        match act:
            case Act.REMOVE:
                return await self._remove(entry)
            case Act.AWAIT:
                return await self._await_permit(entry)
            case Act.RUN:
                return await self._start(entry)
            case Act.HOLD | Act.REST:
                return await self._stay_off(entry, domain, act)
            case _:
                return await self._act_on_running(act, entry, domain)

    async def _act_on_running(
        self, act: Act, entry: LedgerEntry, domain: Domain | None
    ) -> float | None:
        assert domain is not None
        match act:
            case Act.STOP:
                return await self._stop(entry)
            case Act.WATCH:
                return await self._watch_stop(entry, domain)
            case Act.REBOOT:
                return await self._reboot(entry, domain)
            case Act.PLUG:
                return await self._paused_start.turn(entry)
            case Act.RESUME:
                return await self._resume(domain)
            case _:
                return await self._keep(entry, domain)

    # -- acts ------------------------------------------------------------------------------

    async def _start(self, entry: LedgerEntry) -> float | None:
        self._account.begin(entry)
        machinery = self._context.machinery
        pauses = machines.starts_paused(machinery, entry)
        if pauses:  # noted first: else a killed agent's successor would resume it
            entry = await self._account.note(entry, plugging=True)
        await self._make(entry, start=True)
        if pauses:
            return 0.0
        domain = await machinery.compute.get_domain(self._ident)
        await self._keep(entry, domain)
        # What went off again at once did run: the next turn tells why it ended.
        return None if is_on(domain) else 0.0

    async def _stay_off(self, entry: LedgerEntry, domain: Domain | None, act: Act) -> float | None:
        """Let it be off: as ordered (HOLD: then made, if it is not), or as its guest wished."""
        rests = act is Act.REST
        machine = self.machine
        if (
            machine.state is MachineState.STOPPED
            and machine.observed_generation == entry.spec.generation
            and domain is not None
        ):
            return None
        if not rests:
            self._account.begin(entry)
            await self._make(entry, start=False)
        # The leave that came with this order is used up; one that came since is not.
        if self._account.entry() is entry:
            self._permit.use_up()
        return await self._account.settle(
            entry,
            MachineState.STOPPED,
            guest_shutdown=rests,
            reboot_serial_done=entry.spec.reboot_serial,
        )

    async def _make(self, entry: LedgerEntry, *, start: bool) -> None:
        machinery, account = self._context.machinery, self._account
        await machines.make(
            machinery, entry, start=start, on_step=account.step, on_bytes=account.progress
        )

    async def _lose(
        self, entry: LedgerEntry, domain: Domain | None, missing: Sequence[DiskSpec]
    ) -> float | None:
        """Say that a disk is gone. A guest that still runs on it is left alone."""
        error = machines.disk_lost(self._ident, missing, running=is_on(domain))
        return await self._account.settle(entry, MachineState.LOST, error, running=is_on(domain))

    async def _keep(self, entry: LedgerEntry, domain: Domain | None) -> float | None:
        """Note that it runs. The leave to run is used up by that."""
        self._permit.use_up()
        changes: dict[str, Any] = {}
        if not entry.running:
            changes = {
                "has_started": True,
                "boot_id": self._context.boot_id,
                "start_time": self._context.clock(),
                "reboot_serial_done": entry.spec.reboot_serial,
                "stop_asked": False,
            }
        replugged = await self._replugging.turn(self._context.machinery, entry)
        await self._account.settle(
            entry,
            MachineState.RUNNING,
            running=True,
            accelerator=domain.accelerator if domain else "",
            ports=replugged.ports,
            plugging=False,
            **changes,
        )
        return replugged.again_s

    async def _reboot(self, entry: LedgerEntry, domain: Domain) -> float | None:
        serial = entry.spec.reboot_serial
        self._account.step("reboot")
        await self._context.machinery.compute.reboot(self._ident, force=entry.spec.reboot_force)
        noted = await self._account.note(entry, reboot_serial_done=serial)
        _LOG.info("machine_rebooted", instance_id=self._ident, reboot_serial=serial)
        return await self._keep(noted, domain)

    async def _resume(self, domain: Domain) -> float | None:
        """Resume a guest that was paused; where an I/O error paused it, only on a retry."""
        error = self._disk_pauses.error(domain) if domain.paused_by_error else None
        if error is not None:
            return self._failed(error)
        self._account.step("resume")
        await self._context.machinery.compute.start(self._ident)
        return 0.0

    async def _stop(self, entry: LedgerEntry) -> float | None:
        """Press the power button; cut the power once the guest has had its time."""
        compute, now_s = self._context.machinery.compute, asyncio.get_running_loop().time()
        if not self._shutdown.is_under_way:
            self._shutdown.begin(now_s, entry.spec.stop_grace_s)
            await self._account.note(entry, stop_asked=True)
        self._account.show(entry, state=MachineState.STOPPING, step="shut down", error=None)
        left_s = 0.0 if entry.plugging else self._shutdown.left_s(now_s)
        if left_s == 0:  # one that was started paused has not run: it cannot shut down
            self._account.step("cut power")
            await compute.destroy(self._ident)
            return 0.0
        if self._shutdown.press(now_s):
            await compute.shutdown(self._ident)
        return min(self._context.settings.poll_s, left_s)

    async def _watch_stop(self, entry: LedgerEntry, domain: Domain) -> float | None:
        """Let a guest that shuts down, though it shall run by now, end what it began."""
        now_s = asyncio.get_running_loop().time()
        self._shutdown.begin(now_s, entry.spec.stop_grace_s)
        if self._shutdown.left_s(now_s) == 0 and domain.state is not DomainState.STOPPING:
            await self._account.note(entry, stop_asked=False)
            return 0.0
        self._account.show(entry, state=MachineState.STOPPING, step="shut down", error=None)
        return self._context.settings.poll_s

    async def _await_permit(self, entry: LedgerEntry) -> float | None:
        """Wait for a leader's leave, or for its silence about this one to have lasted."""
        context, now_s = self._context, asyncio.get_running_loop().time()
        self._permit.begin_wait(now_s)
        await self._account.settle(
            entry, MachineState.AWAITING_PERMIT, observed_generation=entry.observed_generation
        )
        ready_s = context.ready_s()
        if ready_s is None:
            return context.settings.poll_s
        left_s = self._permit.left_s(now_s, ready_s)
        if left_s == 0:
            _LOG.warning("started_without_permit", instance_id=self._ident)
            self._permit.give()
        return left_s

    async def _remove(self, entry: LedgerEntry) -> float | None:
        context = self._context
        self._account.show(entry, state=MachineState.REMOVING)
        await machines.remove(context.machinery, self._ident, self._account.step)
        removal = self._account.entry().removal
        assert removal is not None, "a removal is never taken back"
        self.buried = await context.in_thread(
            context.ledger.bury, removal, self._ident, context.clock()
        )
        _LOG.info("machine_removed", instance_id=self._ident, generation=removal.generation)
        context.publish(self.buried)
        return None

    # -- failures --------------------------------------------------------------------------

    def _failed(self, error: UnkaiError) -> float | None:
        """Show a failure and say when to try again: never, for a create that failed often."""
        entry = self._account.entry()
        if self._is_only_silence(entry, error):
            return self._retries.silence()
        return self._account.failed(entry, error)

    def _is_only_silence(self, entry: LedgerEntry, error: UnkaiError) -> bool:
        """Tell whether nothing failed but the look at a machine that was as it should be.

        An act that was not answered is a failure, of a machine whose looks are: its QEMU hangs.
        """
        return (
            self._looks
            and error.reason == "HYPERVISOR_UNAVAILABLE"
            and self.machine.state in _SETTLED
            and self.machine.observed_generation == entry.spec.generation
            and not (self._permit.is_given and self.machine.state is MachineState.AWAITING_PERMIT)
        )
