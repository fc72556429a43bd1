"""Machines: what the machine on its host leads to, once that host is in sync. Pure.

`instances.py` asks, by its rules 6 to 9, in this order: a tombstone nobody asked for, a host ahead
of the database, one behind it, and else the state of the machine, by the table `OBSERVED`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from unkai_scheduler.domain.instances import Instance, InstanceState, Power
from unkai_scheduler.domain.machines import Machine, MachineState
from unkai_scheduler.domain.operations import PLUGGING, Operation, OperationState, Verb, end
from unkai_scheduler.reconcile import operations
from unkai_scheduler.reconcile.actions import Action, Ensure, Finish, Settle, Wait, backoff
from unkai_scheduler.reconcile.cases import Case, excluded
from unkai_wire.errors import FailedPrecondition, Internal

_S = InstanceState
_PASSING = frozenset({"Unavailable", "DeadlineExceeded"})
"""Classes of errors that the next try may not meet."""
_STATE_AHEAD: Mapping[MachineState, InstanceState] = {
    MachineState.RUNNING: _S.RUNNING,
    MachineState.STOPPING: _S.STOPPING,
    MachineState.STOPPED: _S.STOPPED,
    MachineState.LOST: _S.LOST,
}
"""What is written of a machine newer than the database, which nobody orders anything."""


def deleted_on_host(case: Case) -> Action:
    """Write that its host has removed it, which nobody asked for."""
    error = FailedPrecondition(
        f"the host holds a tombstone for instance {case.instance.id}: it was removed before",
        reason="DELETED_ON_HOST",
        fix="delete the instance; create it anew if it is still wanted",
        metadata={"instance_id": case.instance.id, "host": case.instance.host_id},
    )
    return _lasting(case, _S.DELETED_ON_HOST, error.to_record(), failed=error.to_record())


def take_over(case: Case) -> Action:
    """Take what a host ahead of the database was last told into the row, or overtake it."""
    machine, operation = case.machine, case.operation
    assert machine is not None
    if case.instance.state is _S.PROVISIONING:
        # Orders came after its creation, so that is over: it must not be undone for being late.
        operation = operation and end(operation, OperationState.SUCCEEDED, case.now)
        case = replace(case, instance=replace(case.instance, state=_S.STARTING))
    elif operation is not None:
        return Settle(case.overtaking(), operation)
    if machine.state is MachineState.AWAITING_PERMIT:
        # It asks, so it shall run: what our older row says of its power is out of date.
        row = replace(case.overtaking(), desired_power=Power.ON)
        return Settle(row, operation)
    return Settle(_relearned(case, machine), operation)


def _relearned(case: Case, machine: Machine) -> Instance:
    """Return the row with what its host was last told: the database has forgotten it.

    Nothing is ordered; from now on host and database agree, and the next look settles the rest.
    """
    state = _STATE_AHEAD.get(machine.state, case.instance.state)
    is_on = machine.wants_power
    if is_on is None:
        is_on = machine.state is not MachineState.STOPPED
    return case.observed(
        state=state,
        state_reason=machine.error if state is _S.LOST else None,
        desired_power=Power.ON if is_on else Power.OFF,
        generation=max(machine.generation, case.instance.generation),
        run_epoch=max(machine.run_epoch, case.instance.run_epoch),
        reboot_serial=max(machine.reboot_serial, case.instance.reboot_serial),
        due_time=case.now,
        attempt=0,
    )


def ensure(case: Case) -> Action:
    """Order a host that is behind to make it so; not what is gone for good, if nobody asks."""
    if case.machine is None and case.gone_for_good and not case.operation:
        return Wait(case.idle(), None)
    return _order(case, _underway(case))


def _order(case: Case, state: InstanceState) -> Action:
    """Send the order when the next try is due; else wait for it."""
    name = case.instance.host_name or case.instance.host_id
    operation = case.operation
    if not case.due:
        return Wait(replace(case.instance, state=state), operation)
    row = case.retry(state=state, has_run=case.has_run)
    if operation is not None:
        message = f"ordered from host {name}{operations.tries(row)}"
        percent = max(20, operation.progress_percent)
        operation = operations.progress(operation, message, percent=percent)
    return Ensure(row, operation)


# The machine's state, as its host observes it.


def _underway(case: Case) -> InstanceState:
    """Return the state of an instance whose host is at work on it."""
    instance, operation = case.instance, case.operation
    if instance.state is _S.PROVISIONING:
        return _S.PROVISIONING
    if operation is not None and operation.verb is Verb.REBOOT:
        return _S.REBOOTING
    stays = operation is None or operation.verb in PLUGGING
    if stays and instance.state not in (_S.UNKNOWN, _S.AWAITING_PERMIT, _S.LOST):
        return instance.state
    return _S.STARTING if case.wants_power else _S.STOPPING


def _converging(case: Case) -> Action:
    assert case.machine is not None
    operation = case.operation
    if case.machine.step and operation is not None:
        message, percent = operations.step_progress(case.machine)
        operation = operations.progress(
            operation, message, percent=max(percent, operation.progress_percent)
        )
    row = case.observed(state=_underway(case), state_reason=None, due_time=None)
    return Settle(row, operation)


def _running(case: Case) -> Action:
    if not case.wants_power:
        return _order(case, _S.STOPPING) if case.reached else _converging(case)
    if case.reached and not case.rebooted:
        return _order(case, _S.REBOOTING)
    if not case.reached and case.operation is not None:
        return _converging(case)
    if case.operation is not None and case.operation.verb is Verb.ATTACH:
        return _attached(case)
    return _lasting(case, _S.RUNNING)


def _attached(case: Case) -> Action:
    """End the plugging in once all ports work; until then say which does not, and why."""
    assert case.machine is not None
    for port in case.machine.ports:
        if not port.installed:
            why = str((port.error or {}).get("message", "")) or "OVN has not brought it up yet"
            operation = operations.progress(case.operation, f"port {port.port_id}: {why}")
            return Settle(case.observed(state=_S.RUNNING, state_reason=None), operation)
    return _lasting(case, _S.RUNNING)


def _stopping(case: Case) -> Action:
    if case.operation is None and case.instance.state is _S.UNKNOWN:
        return Settle(case.observed(state=_S.STOPPING, state_reason=None, due_time=None), None)
    return _converging(case)


def _stopped(case: Case) -> Action:
    machine = case.machine
    assert machine is not None
    if not case.reached:
        return _converging(case)
    if not case.wants_power:
        return _lasting(case, _S.STOPPED)
    if machine.guest_shutdown and case.rebooted:
        return _lasting(
            case,
            _S.STOPPED,
            desired_power=Power.OFF,
            generation=case.instance.generation + 1,
            due_time=case.now,
        )
    return _order(case, _underway(case) if case.operation else _S.STARTING)


def _awaiting_permit(case: Case) -> Action:
    instance = case.instance
    if instance.state is _S.PROVISIONING:
        return _order(case, _S.PROVISIONING)
    if instance.state is _S.AWAITING_PERMIT or case.operation is not None:
        return _order(case, _S.AWAITING_PERMIT)
    ran_s = _ran_s(case)
    if ran_s is None or ran_s >= case.rules.steady_s or instance.attempt == 0:
        first = replace(case, instance=replace(instance, attempt=0, due_time=None))
        return _order(first, _S.AWAITING_PERMIT)
    wait = backoff(case.rules, instance.id, instance.attempt)
    row = case.observed(state=_S.AWAITING_PERMIT, state_reason=None, due_time=case.now + wait)
    return Settle(row, None)


def _ran_s(case: Case) -> float | None:
    """Return how long the machine ran that asks for its permit; None: unknown."""
    since = case.instance.start_time
    if since is not None and case.instance.state is _S.RUNNING:
        # By its host's clock, which may be late; by ours it ran no longer than its row says so.
        since = max(since, case.instance.update_time)
    return None if since is None else (case.now - since).total_seconds()


def _lost(case: Case) -> Action:
    error = (case.machine.error if case.machine else None) or FailedPrecondition(
        f"a disk of instance {case.instance.id} is missing on its host",
        reason="DISK_MISSING",
        metadata={"instance_id": case.instance.id},
    ).to_record()
    return _lasting(case, _S.LOST, error, failed=error)


def _failed(case: Case) -> Action:
    machine, instance = case.machine, case.instance
    assert machine is not None
    error = dict(machine.error or Internal("the host gave no reason").to_record())
    passing = error.get("class") in _PASSING
    if instance.state is _S.PROVISIONING and not case.has_run:
        if instance.attempt < case.rules.host_patience:
            if machine.retry_time is not None:
                return case.pause(operations.trying_again(machine, error))
            if passing:
                return _order(case, _S.PROVISIONING)
        reason = excluded(error, instance.host_id)
        return Settle(replace(instance, state_reason=reason, due_time=case.now), case.operation)
    if case.operation is not None and not (passing and machine.retry_time is not None):
        return _power_failed(case, error)
    row = case.observed(state=_underway(case), state_reason=error)
    if machine.retry_time is None:
        return _order(replace(case, instance=row), row.state)
    return Settle(replace(row, due_time=None), case.operation)


def _power_failed(case: Case, error: Mapping[str, Any]) -> Action:
    """End the operation; a start that failed leaves the instance off, as it was."""
    assert case.operation is not None
    operation = end(case.operation, OperationState.FAILED, case.now, error)
    row = case.observed(state=_underway(case), state_reason=error)
    return Settle(undo_start(row, case.operation, case.now), operation)


def _removing(case: Case) -> Action:
    return case.pause("its host is removing it")


def _lasting(
    case: Case,
    state: InstanceState,
    reason: Mapping[str, Any] | None = None,
    *,
    failed: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Action:
    """Write a state that lasts; the operation under way ends by it."""
    changes = {"due_time": None, **changes}
    row = case.observed(state=state, state_reason=reason, **changes)
    if case.operation is None:
        return Settle(row, None)
    row = replace(row, attempt=0)
    if failed is not None:
        ended = end(case.operation, OperationState.FAILED, case.now, failed)
        return Settle(row, ended)
    return Finish(row, end(case.operation, OperationState.SUCCEEDED, case.now))


def undo_start(row: Instance, operation: Operation, now: datetime) -> Instance:
    """Return the row after an operation that failed: if it was a start, off again, as before."""
    if operation.verb is not Verb.START or row.desired_power is Power.OFF:
        return replace(row, due_time=now)
    return replace(
        row,
        desired_power=Power.OFF,
        generation=row.generation + 1,
        state=_S.STOPPING if row.state is _S.STARTING else row.state,
        attempt=0,
        due_time=now,
    )


OBSERVED: Mapping[MachineState, Callable[[Case], Action]] = {
    MachineState.CONVERGING: _converging,
    MachineState.RUNNING: _running,
    MachineState.STOPPING: _stopping,
    MachineState.STOPPED: _stopped,
    MachineState.AWAITING_PERMIT: _awaiting_permit,
    MachineState.LOST: _lost,
    MachineState.FAILED: _failed,
    MachineState.REMOVING: _removing,
}
"""What each state of the machine leads to, once host and database agree on the generation."""


def settle(case: Case) -> Action:
    """Answer by the state that the machine is in, by `OBSERVED`."""
    assert case.machine is not None
    return OBSERVED[case.machine.state](case)
