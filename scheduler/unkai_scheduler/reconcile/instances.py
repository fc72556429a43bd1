"""What to do about one instance: a pure function of what is desired and what is observed.

`next_action` walks the table `RULES` from the top; the first rule whose condition holds answers.
It reads no clock, draws no ids and acts on nothing; `loop.py` writes the rows it returns and
sends the order it names. Asking twice is harmless, and what a crash loses is found by asking
again. In the order of the table:

 1. **Deletion** wins over everything. It ends when nothing was ever claimed, or when the host's
    tombstone covers our generation and run epoch; while the host is silent it waits. What is on no
    host for the database, and on some by their word, is claimed for each of them first
    (`deletion.py`).
 2. **A create given up** (cancelled, out of time, or without an operation) is removed from its
    host; only then is it FAILED, holding nothing. What has run for long is no create any more.
 3. **No claim**: a PROVISIONING instance is placed, unless `create_hosts` hosts have failed it, or
    some host holds a machine of it: the database has lost that, and two copies must never be.
 4. **A silent host** makes its instances UNKNOWN: nothing is ordered there and nothing moves.
 5. **Leaving** a host that failed it before it first ran: removed there, then released. The mark
    is durable: `state_reason` names the claiming host while the instance is PROVISIONING.
 6. **A tombstone we never asked for** makes it DELETED_ON_HOST.
 7. **A host ahead of the database** (restored from a backup): what it was last told is taken over
    into the row, and nothing is ordered. It is overtaken when the user asks for something, or the
    machine asks whether it may run.
 8. **A host behind**, or without the machine, gets `Ensure`; not for a machine that has never run
    and that another host holds.
 9. Otherwise the machine's state is settled by the table `OBSERVED`.

The trap: a machine may be absent because its host has not told us yet. `host_state` is UP only
when the host is in sync, and no rule below 4 is reached before that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import Instance, InstanceState, Power
from unkai_scheduler.domain.machines import Machine, MachineState, Tombstone
from unkai_scheduler.domain.operations import Operation, OperationState, Verb, end
from unkai_scheduler.reconcile import deletion, operations
from unkai_scheduler.reconcile.actions import (
    Action,
    Ensure,
    Fail,
    Finish,
    Place,
    Release,
    Rules,
    Settle,
    Wait,
    backoff,
)
from unkai_scheduler.reconcile.cases import Case, Holder, excluded
from unkai_scheduler.reconcile.held import machine_held, reason_kept, says_held
from unkai_wire.errors import FailedPrecondition, Internal, Unavailable, UnkaiError

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
_GONE_FOR_GOOD = frozenset({_S.LOST, _S.DELETED_ON_HOST})


def next_action(
    instance: Instance,
    operation: Operation | None,
    machine: Machine | None,
    tombstone: Tombstone | None,
    *,
    host_state: HostState | None,
    now: datetime,
    failed_hosts: Collection[str] = (),
    held_by: Collection[Holder] = (),
    rules: Rules | None = None,
) -> Action:
    """Decide what to do about an instance now.

    `machine` and `tombstone` are what the claiming host reports; `host_state` is None when
    nothing is known of that host; `failed_hosts` failed this create before; `held_by`: other
    hosts that say they hold a machine of it.
    """
    live = None if operation is None or operation.state.ended else operation
    case = Case(
        instance,
        live,
        machine,
        tombstone,
        host_state,
        now,
        tuple(failed_hosts),
        rules or Rules(),
        tuple(held_by),
    )
    action = next(act(case) for holds, act in RULES if holds(case))
    return _end_what_is_late(case, action)


# A create that does not go on.


def _fail(case: Case) -> Action:
    error = operations.why_given_up(case.instance, case.operation)
    operation = case.operation
    if operation is not None:
        operation = end(operation, operations.give_up_state(operation), case.now, error.to_record())
    row = case.idle(state=_S.FAILED, state_reason=error.to_record())
    return Fail(row, operation, case.tombstone if case.claimed else None)


def _wait_to_give_up(case: Case) -> Action:
    name = case.instance.host_name or case.instance.host_id
    return case.pause(f"host {name} is silent; what was made there is removed once it is back")


def fail_create(
    instance: Instance, operation: Operation | None, error: UnkaiError, now: datetime
) -> Fail:
    """Return the failure of a create that holds no claim."""
    ended = operation and end(operation, OperationState.FAILED, now, error.to_record())
    row = replace(instance, state=_S.FAILED, state_reason=error.to_record(), due_time=None)
    return Fail(row, ended)


def _place(case: Case) -> Action:
    instance = case.instance
    if case.elsewhere:
        return _held_elsewhere(case)
    if case.due and says_held(case):
        return Settle(replace(instance, state_reason=None), case.operation)  # it has let go
    if len(set(case.failed_hosts)) >= case.rules.create_hosts and instance.state_reason:
        error = UnkaiError.from_record(instance.state_reason)
        return fail_create(instance, case.operation, error, case.now)
    if not case.due:
        return Wait(instance, case.operation)
    return Place(instance, case.operation)


def _held_elsewhere(case: Case) -> Action:
    """Make no second copy: wait until somebody has said what that machine is."""
    error = machine_held(case)
    reason = reason_kept(case) or error.to_record()
    return case.pause(f"{error.message}; {error.fix}", state_reason=reason)


def _holds_nothing(case: Case) -> Action:
    if case.operation is None:
        return Wait(case.idle(), None)
    error = FailedPrecondition(
        f"instance {case.instance.spec.name} is {case.instance.state.value} and on no host",
        reason="INSTANCE_STATE",
        fix="delete the instance, and create it again if it is still wanted",
        metadata={"instance_id": case.instance.id, "state": case.instance.state.value},
    )
    ended = end(case.operation, OperationState.FAILED, case.now, error.to_record())
    return Settle(case.idle(), ended)


def _release(case: Case) -> Action:
    assert case.tombstone is not None
    operation = operations.progress(case.operation, "placing it on another host", percent=5)
    return Release(case.unclaimed(), operation, case.tombstone)


# Hosts that are silent, ahead, or behind.


def _unknown(case: Case) -> Action:
    instance = case.instance
    name = instance.host_name or instance.host_id
    if instance.state is _S.PROVISIONING:
        return case.pause(f"host {name} is silent; waiting for it")
    if instance.state in _GONE_FOR_GOOD or instance.state is _S.FAILED:
        return Wait(case.idle(), case.operation)
    reason = Unavailable(
        f"host {name} is silent; the instance may well be running",
        reason="HOST_UNREACHABLE",
        fix="see 'unkai host show'; the state is known again once it answers",
        metadata={"host": instance.host_id},
    )
    operation = operations.progress(case.operation, f"host {name} is silent; waiting for it")
    return Settle(case.idle(state=_S.UNKNOWN, state_reason=reason.to_record()), operation)


def _wait_for_host(case: Case) -> Action:
    if case.operation is None and case.instance.state is not _S.PROVISIONING:
        return Wait(case.idle(), None)  # it is marked again when its host answers
    name = case.instance.host_name or case.instance.host_id
    return case.pause(f"waiting for host {name} to answer")


def _deleted_on_host(case: Case) -> Action:
    error = FailedPrecondition(
        f"the host holds a tombstone for instance {case.instance.id}: it was removed before",
        reason="DELETED_ON_HOST",
        fix="delete the instance; create it anew if it is still wanted",
        metadata={"instance_id": case.instance.id, "host": case.instance.host_id},
    )
    return _settle(case, _S.DELETED_ON_HOST, error.to_record(), failed=error.to_record())


def _ahead(case: Case) -> Action:
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


def _ensure(case: Case) -> Action:
    if case.machine is None and case.instance.state in _GONE_FOR_GOOD and not case.operation:
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
    if operation is None and instance.state not in (_S.UNKNOWN, _S.AWAITING_PERMIT, _S.LOST):
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
    return _settle(case, _S.RUNNING)


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
        return _settle(case, _S.STOPPED)
    if machine.guest_shutdown and case.rebooted:
        return _settle(
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
    return _settle(case, _S.LOST, error, failed=error)


def _machine_failed(case: Case) -> Action:
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
    return Settle(_undo_start(row, case.operation, case.now), operation)


def _undo_start(row: Instance, operation: Operation, now: datetime) -> Instance:
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


def _removing(case: Case) -> Action:
    return case.pause("its host is removing it")


OBSERVED: Mapping[MachineState, Callable[[Case], Action]] = {
    MachineState.CONVERGING: _converging,
    MachineState.RUNNING: _running,
    MachineState.STOPPING: _stopping,
    MachineState.STOPPED: _stopped,
    MachineState.AWAITING_PERMIT: _awaiting_permit,
    MachineState.LOST: _lost,
    MachineState.FAILED: _machine_failed,
    MachineState.REMOVING: _removing,
}
"""What each state of the machine leads to, once host and database agree on the generation."""


def _settle_machine(case: Case) -> Action:
    assert case.machine is not None
    return OBSERVED[case.machine.state](case)


RULES: tuple[tuple[Callable[[Case], bool], Callable[[Case], Action]], ...] = (
    (lambda c: c.deleting and not c.claimed and bool(c.held_by), deletion.reclaim),
    (lambda c: c.deleting and c.gone and c.elsewhere, deletion.remove_elsewhere),
    (lambda c: c.deleting and (not c.claimed or c.gone), deletion.forget),
    (lambda c: c.deleting and not c.up, deletion.wait_for_host),
    (lambda c: c.deleting, deletion.remove),
    (lambda c: c.given_up and (not c.claimed or c.gone), _fail),
    (lambda c: c.given_up and not c.up, _wait_to_give_up),
    (lambda c: c.given_up, deletion.remove),
    (lambda c: not c.claimed and c.instance.state is _S.PROVISIONING, _place),
    (lambda c: not c.claimed, _holds_nothing),
    (lambda c: c.host_state is HostState.UNKNOWN, _unknown),
    (lambda c: not c.up, _wait_for_host),
    (lambda c: c.leaving and c.gone, _release),
    (lambda c: c.leaving, deletion.remove),
    (lambda c: c.gone, _deleted_on_host),
    (lambda c: c.ahead, _ahead),
    (lambda c: c.elsewhere, _held_elsewhere),
    (lambda c: c.behind, _ensure),
    (lambda _: True, _settle_machine),
)
"""Condition and answer, first match wins; the last matches all."""


# Rows.


def _settle(
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


def _end_what_is_late(case: Case, action: Action) -> Action:
    """End an operation whose time is over, whatever the action; the work itself goes on.

    A start out of time, or cancelled, is undone: nothing that failed happens later by surprise.
    """
    operation = action.operation
    if operation is None or operation.state.ended or isinstance(action, Place):
        return action
    cancelled = operation.cancel_requested_time is not None and operation.verb is Verb.START
    if not (cancelled or operations.is_expired(operation, case.now)):
        return action
    error = operations.why_given_up(case.instance, operation).to_record()
    state = OperationState.CANCELLED if cancelled else OperationState.FAILED
    ended = end(operation, state, case.now, error)
    row = action.instance
    if operation.verb is Verb.CREATE:
        row = replace(row, state_reason=error)
    if operation.verb is Verb.START:
        return Settle(_undo_start(row, operation, case.now), ended)
    return replace(action, instance=row, operation=ended)
