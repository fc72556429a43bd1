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
 9. Otherwise the machine's state settles it (`machines.py`, as 6 to 8).

The trap: a machine may be absent because its host has not told us yet. `host_state` is UP only
when the host is in sync, and no rule below 4 is reached before that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime

from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.machines import Machine, Tombstone
from unkai_scheduler.domain.operations import Operation, OperationState, Verb, end
from unkai_scheduler.reconcile import deletion, held, machines, operations
from unkai_scheduler.reconcile.actions import (
    Action,
    Fail,
    Place,
    Release,
    Rules,
    Settle,
    Wait,
)
from unkai_scheduler.reconcile.cases import Case, Holder
from unkai_wire.errors import FailedPrecondition, Unavailable, UnkaiError

_S = InstanceState


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
        return held.wait(case)
    if case.due and held.is_said(case):
        return Settle(replace(instance, state_reason=None), case.operation)  # it has let go
    if len(set(case.failed_hosts)) >= case.rules.create_hosts and instance.state_reason:
        error = UnkaiError.from_record(instance.state_reason)
        return fail_create(instance, case.operation, error, case.now)
    if not case.due:
        return Wait(instance, case.operation)
    return Place(instance, case.operation)


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


# Hosts that are silent.


def _unknown(case: Case) -> Action:
    instance = case.instance
    name = instance.host_name or instance.host_id
    if instance.state is _S.PROVISIONING:
        return case.pause(f"host {name} is silent; waiting for it")
    if case.gone_for_good or instance.state is _S.FAILED:
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
    (lambda c: c.gone, machines.deleted_on_host),
    (lambda c: c.ahead, machines.take_over),
    (lambda c: c.elsewhere, held.wait),
    (lambda c: c.behind, machines.ensure),
    (lambda _: True, machines.settle),
)
"""Condition and answer, first match wins; the last matches all."""


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
        return Settle(machines.undo_start(row, operation, case.now), ended)
    return replace(action, instance=row, operation=ended)
