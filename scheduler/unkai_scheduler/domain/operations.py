"""Operations: the long work that a mutation starts. One table says how they move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any

from unkai_wire.errors import FailedPrecondition


class OperationState(Enum):
    """Where an operation stands; the last three are final."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Tell whether it will change no more."""
        return self in _ENDED


_ENDED = {OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED}

MOVES: Mapping[OperationState, frozenset[OperationState]] = {
    OperationState.PENDING: frozenset(OperationState) - {OperationState.PENDING},
    OperationState.RUNNING: frozenset(_ENDED),
    OperationState.SUCCEEDED: frozenset(),
    OperationState.FAILED: frozenset(),
    OperationState.CANCELLED: frozenset(),
}
"""Allowed moves."""


class Verb(Enum):
    """What an operation does to its resource."""

    CREATE = "CREATE"
    DELETE = "DELETE"
    START = "START"
    STOP = "STOP"
    REBOOT = "REBOOT"
    ATTACH = "ATTACH"
    DETACH = "DETACH"


PLUGGING = frozenset({Verb.ATTACH, Verb.DETACH})
"""What leaves an instance's power as it is."""


CANCELLABLE = frozenset({Verb.CREATE, Verb.START})
"""What can be given up and undone. A guest that was told to go off cannot be told otherwise, and
what is being removed is already incomplete."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One piece of long work on one resource."""

    id: str
    project_id: str
    verb: Verb
    resource_kind: str
    resource_id: str
    state: OperationState
    create_time: datetime
    update_time: datetime
    deadline_time: datetime
    """When the leader gives it up."""
    capacity_deadline_time: datetime
    """Until when it may wait for capacity; equal to `create_time` when it may not wait."""
    progress_message: str = ""
    progress_percent: int = 0
    error: Mapping[str, Any] | None = None
    """`UnkaiError.to_record()` of why it failed."""
    queue_position: int = 0
    cancel_requested_time: datetime | None = None
    request_id: str = ""
    end_time: datetime | None = None
    traceparent: str = ""
    """The trace of the call that began it, as W3C Trace Context writes it; empty: none."""


def check_move(operation: Operation, state: OperationState) -> None:
    """Raise `FailedPrecondition` when the operation may not enter the state."""
    if state is not operation.state and state not in MOVES[operation.state]:
        raise FailedPrecondition(
            f"operation {operation.id} is {operation.state.value} and cannot become {state.value}",
            reason="OPERATION_ENDED",
            metadata={"operation_id": operation.id, "state": operation.state.value},
        )


def end(
    operation: Operation,
    state: OperationState,
    now: datetime,
    error: Mapping[str, Any] | None = None,
) -> Operation:
    """Return the operation ended; one that has ended already is returned as it is."""
    if operation.state.ended:
        return operation
    check_move(operation, state)
    done = state is OperationState.SUCCEEDED
    return replace(
        operation,
        state=state,
        error=None if done else error,
        progress_message="done" if done else operation.progress_message,
        progress_percent=100 if done else operation.progress_percent,
        queue_position=0,
        end_time=now,
    )
