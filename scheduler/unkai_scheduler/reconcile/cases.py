"""A case: all that a decision about one instance turns on, with the questions the rules ask.

Pure. The rules (`instances.py`) and what they lead to (`deletion.py`, `machines.py`) answer with
rows made here. The words are the rules' own: *gone* is confirmed by the host, *ahead* and *behind*
compare the host with the database, *leaving* is durable in the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import Instance, InstanceState, Power
from unkai_scheduler.domain.machines import LEAP, Machine, MachineState, Tombstone
from unkai_scheduler.domain.operations import Operation, Verb
from unkai_scheduler.reconcile import operations
from unkai_scheduler.reconcile.actions import Rules, Wait, backoff, is_due
from unkai_wire.errors import Internal

_S = InstanceState


@dataclass(frozen=True, slots=True)
class Holder:
    """Another host that holds a machine of the instance, by its last word."""

    host_id: str
    name: str
    speaks: bool = True
    """It is in sync now."""
    is_written: bool = True
    """The database has a row of it, so that it may claim."""


@dataclass(frozen=True, slots=True)
class Case:
    """All that a decision turns on, with the questions that the rules ask."""

    instance: Instance
    operation: Operation | None
    machine: Machine | None
    tombstone: Tombstone | None
    host_state: HostState | None
    now: datetime
    failed_hosts: tuple[str, ...]
    rules: Rules
    held_by: tuple[Holder, ...] = ()
    """Other hosts that say they hold a machine of it."""

    @property
    def deleting(self) -> bool:
        return self.instance.delete_requested or self.instance.state is _S.DELETING

    @property
    def claimed(self) -> bool:
        return bool(self.instance.host_id)

    @property
    def up(self) -> bool:
        """The host is in sync, and what it says of this machine can be true."""
        return self.host_state is HostState.UP and not self._absurd

    @property
    def _absurd(self) -> bool:
        machine, instance = self.machine, self.instance
        return machine is not None and (
            machine.generation > instance.generation + LEAP
            or machine.run_epoch > instance.run_epoch + LEAP
            or machine.reboot_serial > instance.reboot_serial + LEAP
        )

    @property
    def gone(self) -> bool:
        """The claiming host confirms that nothing of this instance is left."""
        tombstone, instance = self.tombstone, self.instance
        return (
            self.claimed
            and self.up
            and self.machine is None
            and tombstone is not None
            and tombstone.generation >= instance.generation
            and tombstone.run_epoch >= instance.run_epoch
        )

    @property
    def given_up(self) -> bool:
        """A create that shall be undone.

        Unless what it made has become a guest: a restored database takes for a late create what
        has run for long. One that is ahead of it got orders after its creation.
        """
        return (
            self.instance.state is _S.PROVISIONING
            and operations.is_given_up(self.operation, self.now)
            and not self._became_guest
        )

    @property
    def _became_guest(self) -> bool:
        machine, operation = self.machine, self.operation
        if machine is None or not self.up or machine.state is MachineState.REMOVING:
            return False
        if self.ahead:
            return True
        cancelled = operation is not None and operation.cancel_requested_time is not None
        steady = timedelta(seconds=self.rules.steady_s)
        since = machine.start_time
        if cancelled or since is None:
            return False
        # A host whose clock is ahead tells a start yet to come: what ran for long may be behind it.
        return self.now - since >= steady or since > self.now

    @property
    def leaving(self) -> bool:
        return (
            self.instance.state is _S.PROVISIONING
            and not self.instance.has_run
            and self.claimed
            and failed_host(self.instance) == self.instance.host_id
        )

    @property
    def ahead(self) -> bool:
        machine, instance = self.machine, self.instance
        return machine is not None and (
            machine.generation > instance.generation or machine.run_epoch > instance.run_epoch
        )

    @property
    def behind(self) -> bool:
        machine, instance = self.machine, self.instance
        return machine is None or (
            machine.generation < instance.generation or machine.run_epoch < instance.run_epoch
        )

    @property
    def elsewhere(self) -> bool:
        """To make it here would make a second copy: another host holds what this one does not."""
        return bool(self.held_by) and self.machine is None and not self.instance.has_run

    @property
    def gone_for_good(self) -> bool:
        """Its host has lost it, or has removed it unasked: no order brings it back by itself."""
        return self.instance.state in (_S.LOST, _S.DELETED_ON_HOST)

    @property
    def reached(self) -> bool:
        """The machine's state is the result of our newest generation."""
        return (
            self.machine is not None
            and self.machine.observed_generation >= self.instance.generation
        )

    @property
    def rebooted(self) -> bool:
        return (
            self.machine is not None and self.machine.reboot_serial >= self.instance.reboot_serial
        )

    @property
    def wants_power(self) -> bool:
        return self.instance.desired_power is Power.ON

    @property
    def due(self) -> bool:
        return is_due(self.instance, self.now)

    @property
    def has_run(self) -> bool:
        """It ran at least once: its disks MUST_EXIST since then."""
        machine = self.machine
        return self.instance.has_run or (
            machine is not None
            and (
                machine.state is MachineState.RUNNING
                or machine.guest_shutdown
                or machine.start_time is not None
            )
        )

    def observed(self, **changes: Any) -> Instance:
        """Return the row with what its host reports."""
        machine, instance = self.machine, self.instance
        if machine is None:
            return replace(instance, **changes)
        observed = {
            "has_run": self.has_run,
            "observed_generation": machine.observed_generation,
            "accelerator": machine.accelerator or instance.accelerator,
            "start_time": machine.start_time or instance.start_time,
        }
        return replace(instance, **{**observed, **changes})

    def retry(self, **changes: Any) -> Instance:
        """Return the row with one more try counted, and the moment of the next."""
        base = replace(self.instance, **changes)
        return replace(
            base,
            attempt=base.attempt + 1,
            due_time=self.now + backoff(self.rules, base.id, base.attempt),
        )

    def idle(self, **changes: Any) -> Instance:
        """Return the row with nothing due."""
        return replace(self.instance, due_time=None, **changes)

    def unclaimed(self) -> Instance:
        """Return the row on no host: the next one that runs it has a run epoch of its own."""
        return replace(
            self.instance,
            host_id="",
            host_name="",
            run_epoch=self.instance.run_epoch + 1,
            observed_generation=0,
            attempt=0,
            due_time=self.now,
        )

    def overtaking(self) -> Instance:
        """Return the row ahead of its host again, so that the host obeys what the user asks now."""
        machine, instance = self.machine, self.instance
        assert machine is not None
        # A reboot that the host has done already, as it sees it, would not be done.
        asked = operations.is_power(self.operation, Verb.REBOOT)
        return replace(
            instance,
            generation=max(machine.generation, instance.generation) + 1,
            run_epoch=max(machine.run_epoch, instance.run_epoch),
            reboot_serial=max(machine.reboot_serial + asked, instance.reboot_serial),
            due_time=self.now,
            attempt=0,
        )

    def pause(self, message: str, **changes: Any) -> Wait:
        """Wait for the next look, saying why."""
        operation = operations.progress(self.operation, message)
        row = self.retry(**changes) if self.due else replace(self.instance, **changes)
        return Wait(row, operation)


def failed_host(instance: Instance) -> str:
    """Return the host that the instance is leaving because it failed there; empty: none."""
    reason = instance.state_reason or {}
    return str(dict(reason.get("metadata", {})).get("host_id", ""))


def excluded(error: Mapping[str, Any] | None, host_id: str) -> dict[str, Any]:
    """Return an error's record with the mark that its host is to be left."""
    record = dict(error or Internal("the host gave no reason", reason="MACHINE_FAILED").to_record())
    record["metadata"] = {**dict(record.get("metadata", {})), "host_id": host_id}
    return record
