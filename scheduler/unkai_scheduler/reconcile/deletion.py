"""Deletion: how an instance leaves its hosts, and then the database. Pure: one answer a function.

`instances.py` asks, by its rules. What is on no host for the database, and on some by their word,
is claimed for each of them first (`reclaim`); on its host it is removed (`remove`, which serves a
create that is undone, too), and the row goes when the host has confirmed that (`forget`).

The trap: only a tombstone confirms. A silent host may hold the machine still, so it is waited for.
"""

from __future__ import annotations

from dataclasses import replace

from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.operations import OperationState, Verb, end
from unkai_scheduler.reconcile import operations
from unkai_scheduler.reconcile.actions import (
    Action,
    Forget,
    Reclaim,
    Release,
    Remove,
    Settle,
    Wait,
)
from unkai_scheduler.reconcile.cases import Case


def reclaim(case: Case) -> Action:
    """Claim it for a host that holds it: it is removed there as any other, silent or not."""
    written = [holder for holder in case.held_by if holder.is_written]
    if not written:
        names = ", ".join(holder.name for holder in case.held_by[:4])
        message = f"host {names} holds a machine of it, and is not in the database yet"
        return case.pause(message, state=InstanceState.DELETING)
    holder = min(written, key=lambda holder: (not holder.speaks, holder.name))
    row = replace(
        case.instance,
        host_id=holder.host_id,
        host_name=holder.name,
        state=InstanceState.DELETING,
        attempt=0,
        due_time=case.now,
    )
    message = f"host {holder.name} holds a machine of it, which the database did not know"
    return Reclaim(row, operations.progress(case.operation, message))


def remove_elsewhere(case: Case) -> Action:
    """Drop the claim of a host that has removed it: another holds it, and is claimed for next."""
    assert case.tombstone is not None
    return Release(case.unclaimed(), case.operation, case.tombstone)


def forget(case: Case) -> Action:
    """Delete the row: no host holds anything of it."""
    operation = case.operation
    if operation is not None:
        state = (
            OperationState.SUCCEEDED if operation.verb is Verb.DELETE else OperationState.CANCELLED
        )
        operation = end(operation, state, case.now)
    return Forget(case.instance, operation, case.tombstone if case.claimed else None)


def wait_for_host(case: Case) -> Action:
    """Wait for a silent host, which alone can remove it."""
    message = (
        f"host {case.instance.host_name or case.instance.host_id} is silent; "
        "the machine there is removed as soon as it is back"
    )
    return case.pause(message, state=InstanceState.DELETING)


def remove(case: Case) -> Action:
    """Order its host to remove it, when the next try is due; a host ahead is overtaken first."""
    instance = case.instance
    state = InstanceState.DELETING if case.deleting else instance.state
    if case.ahead:
        return Settle(case.overtaking(), case.operation)
    message = f"removing it from host {instance.host_name or instance.host_id}"
    operation = operations.progress(case.operation, message, percent=50)
    if not case.due:
        return Wait(replace(instance, state=state), operation)
    return Remove(case.retry(state=state), operation)
