"""Operations: how they progress and how they end. Pure functions on rows.

An operation and its resource change in one transaction; here only the operation's side is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from unkai_scheduler.domain.instances import MIB, Instance
from unkai_scheduler.domain.machines import Machine
from unkai_scheduler.domain.operations import PLUGGING, Operation, OperationState, Verb
from unkai_wire.errors import Cancelled, DeadlineExceeded, NoCapacity, UnkaiError

MAX_PROGRESS = 256
_PERCENT = {
    "image": 30,
    "disk": 50,
    "seed": 60,
    "define": 70,
    "start": 80,
}
"""How far a create is when its host is at a step whose name has this word."""


def progress(
    operation: Operation | None,
    message: str,
    *,
    percent: int | None = None,
    queue_position: int = 0,
) -> Operation | None:
    """Return the operation with a word on how it goes; it becomes RUNNING unless it queues."""
    if operation is None or operation.state.ended:
        return operation
    state = operation.state if queue_position else OperationState.RUNNING
    return replace(
        operation,
        state=state,
        progress_message=message[:MAX_PROGRESS],
        progress_percent=operation.progress_percent if percent is None else percent,
        queue_position=queue_position,
    )


def step_percent(step: str) -> int:
    """Return how far a create is when its host is at this step."""
    return next((percent for word, percent in _PERCENT.items() if word in step), 25)


def step_progress(machine: Machine) -> tuple[str, int]:
    """Return the words and the percentage of a create whose host is at a step."""
    step, total = machine.step, machine.step_total_bytes
    percent = step_percent(step)
    if total <= 0:
        return step, percent
    done = min(machine.step_done_bytes, total)
    later = min((p for p in _PERCENT.values() if p > percent), default=percent)
    message = f"{step}: {done // MIB} of {-(-total // MIB)} MiB"
    return message, percent + (later - percent - 1) * done // total


def tries(row: Instance) -> str:
    """Return which try was just sent and when the next will be, from the second on; else ''."""
    if row.attempt < 3 or row.due_time is None:  # the first is counted when it is placed
        return ""
    return f" for the {row.attempt - 1}. time; next try at {row.due_time:%H:%M:%S} UTC"


def trying_again(machine: Machine, error: Mapping[str, Any]) -> str:
    """Say why a host's try failed, and when it tries again."""
    when = f" at {machine.retry_time:%H:%M:%S} UTC" if machine.retry_time else ""
    return f"its host tries again{when}: {error.get('message', '')} ({error.get('reason', '')})"


def is_expired(operation: Operation, now: datetime) -> bool:
    """Tell whether its time is over."""
    return operation.deadline_time <= now


def is_given_up(operation: Operation | None, now: datetime) -> bool:
    """Tell whether a create shall be undone; one without an operation was given up before."""
    return (
        operation is None
        or operation.state.ended
        or operation.cancel_requested_time is not None
        or is_expired(operation, now)
    )


def why_given_up(instance: Instance, operation: Operation | None) -> UnkaiError:
    """Return the error of a create that shall be undone."""
    if operation is not None and operation.cancel_requested_time is not None:
        return Cancelled(
            f"the creation of instance {instance.spec.name} was cancelled",
            reason="CANCELLED",
            fix="delete the instance, or create it again",
            metadata={"instance_id": instance.id},
        )
    if operation is not None:
        return too_late(operation)
    if instance.state_reason is not None:
        return UnkaiError.from_record(instance.state_reason)
    return Cancelled(
        f"the creation of instance {instance.spec.name} was given up",
        reason="CANCELLED",
        metadata={"instance_id": instance.id},
    )


def too_late(operation: Operation) -> DeadlineExceeded:
    """Return the error of an operation whose time is over."""
    last = f"; last: {operation.progress_message}" if operation.progress_message else ""
    if operation.verb is Verb.DELETE:
        last += "; the deletion goes on by itself"
    elif operation.verb in PLUGGING:
        last += "; it is done as soon as the host can"
    return DeadlineExceeded(
        f"operation {operation.id} did not end by its deadline{last}",
        reason="OPERATION_DEADLINE",
        fix=f"see 'unkai event list' for {operation.resource_id}, then try again",
        metadata={
            "operation_id": operation.id,
            "resource_id": operation.resource_id,
            "progress": operation.progress_message,
        },
    )


def give_up_state(operation: Operation) -> OperationState:
    """Return how a create that was undone ends."""
    if operation.cancel_requested_time is not None:
        return OperationState.CANCELLED
    return OperationState.FAILED


def may_wait_for_capacity(operation: Operation, now: datetime) -> bool:
    """Tell whether the operation may go on waiting for a host."""
    return operation.capacity_deadline_time > now


def waiting_for_capacity(operation: Operation, error: NoCapacity, position: int) -> Operation:
    """Return the operation in the queue, with the reasons."""
    waiting = progress(
        operation, f"waiting for capacity: {error.message}", percent=0, queue_position=position
    )
    assert waiting is not None
    return waiting


def is_power(operation: Operation | None, *verbs: Verb) -> bool:
    """Tell whether the operation is one of these verbs and under way."""
    return operation is not None and not operation.state.ended and operation.verb in verbs
