"""Changes of instances within a transaction: the row a generation later, its operation, its event.

Called by the instances' own use cases, and by those that plug ports in and take them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.operations import Operation, OperationState, Verb
from unkai_scheduler.services.checks import fetch
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.mutations import Subject, event_of, record
from unkai_scheduler.store import events, instances, operations, ports
from unkai_wire.errors import Cancelled, Conflict, FailedPrecondition

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

OPERATION_DEADLINE_S = 30 * 60
"""Seconds an operation may take beside what it waits for; the slowest is fetching an image."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted change: the instance as it is now, and the work under way."""

    instance: Instance
    operation: Operation


@dataclass(frozen=True, slots=True)
class Why:
    """Why work under way is cancelled by another act."""

    reason: str
    what: str
    """What became of the instance."""


DELETED = Why("INSTANCE_DELETED", "was deleted meanwhile")


class InstanceChanges:
    """What one call does to instances."""

    def __init__(self, conn: Connection, context: ServiceContext, call: Call) -> None:
        self._conn = conn
        self._context = context
        self._call = call

    def locked(self, instance_id: str, path: str = "instance_id") -> Instance:
        """Return the instance, locked."""
        return fetch("instance", instance_id, path, lambda i: instances.locked(self._conn, i))

    def idle(self, instance_id: str, states: frozenset[InstanceState], verb: str) -> Instance:
        """Return the instance, locked, if no other work is under way and its state allows it."""
        instance = self.locked(instance_id)
        check_not_deleting(instance)
        active = operations.active_for(self._conn, instance_id)
        if active is not None:
            raise under_way(active)
        check_state(instance, states, verb)
        return instance

    def changed(self, old: Instance, **changes: object) -> Instance:
        """Return the row with something else desired: due now, a generation later."""
        now = self._context.clock()
        changed: Instance = replace(
            old,
            generation=old.generation + 1,
            etag=self._context.new_etag(),
            update_time=now,
            due_time=now,
            attempt=0,
            **changes,  # type: ignore[arg-type] # callers name fields of Instance
        )
        return changed

    def accept(
        self,
        instance: Instance,
        verb: Verb,
        what: str,
        *,
        wait_s: float = 0.0,
        longest_s: float = OPERATION_DEADLINE_S,
    ) -> Accepted:
        """Write a changed row, the operation that it names, and the event."""
        now = instance.update_time
        operation = self.operation(instance, verb, now, grace_s=wait_s, longest_s=longest_s)
        instances.replace(self._conn, instance, etag=None)
        operations.insert(self._conn, operation)
        self.record(instance, EventType.UPDATED, what)
        return Accepted(shown(self._conn, instance), operation)

    def operation(
        self,
        instance: Instance,
        verb: Verb,
        now: datetime,
        *,
        wait_s: float = 0.0,
        grace_s: float = 0.0,
        longest_s: float = OPERATION_DEADLINE_S,
    ) -> Operation:
        """Return the operation that an instance's row names; it may wait so long for capacity."""
        return Operation(
            id=instance.operation_id,
            project_id=instance.project_id,
            verb=verb,
            resource_kind="instance",
            resource_id=instance.id,
            state=OperationState.PENDING,
            create_time=now,
            update_time=now,
            deadline_time=now + timedelta(seconds=longest_s + wait_s + grace_s),
            capacity_deadline_time=now + timedelta(seconds=wait_s),
            request_id=self._call.request_id,
            traceparent=self._call.traceparent,
        )

    def cancel(self, operation: Operation, name: str, why: Why) -> None:
        """End the work under way on an instance of this name: another act overtakes it."""
        now = self._context.clock()
        reason = Cancelled(
            f"instance {operation.resource_id} {why.what}",
            reason=why.reason,
            metadata={"instance_id": operation.resource_id, "actor": self._call.actor},
        )
        operations.replace(
            self._conn,
            replace(
                operation,
                state=OperationState.CANCELLED,
                error=reason.to_record(),
                cancel_requested_time=operation.cancel_requested_time or now,
                queue_position=0,
                update_time=now,
                end_time=now,
            ),
        )
        state = OperationState.CANCELLED.value
        record(
            self._conn,
            self._context,
            self._call,
            Subject("operation", operation.id, name, operation.project_id, state),
            EventType.UPDATED,
            message=reason.message,
            reason=reason.reason,
            attributes={
                "verb": operation.verb.value,
                "resource_kind": operation.resource_kind,
                "resource_id": operation.resource_id,
            },
        )

    def record(self, row: Instance, change: EventType, what: str) -> None:
        """Write the event of an instance that something happened to."""
        self.record_many([row], change, what)

    def record_many(self, some: Sequence[Instance], change: EventType, what: str) -> None:
        """Write the events of instances to which the same happened, in this order."""
        told = [
            event_of(
                self._context,
                self._call,
                Subject("instance", row.id, row.spec.name, row.project_id, row.state.value),
                change,
                message=f"instance {row.spec.name} {what}",
                attributes={"generation": str(row.generation), "operation_id": row.operation_id},
            )
            for row in some
        ]
        events.insert_many(self._conn, told)


def shown(conn: Connection, row: Instance) -> Instance:
    """Return an instance as its user sees it: with its ports."""
    return all_shown(conn, [row])[0]


def all_shown(conn: Connection, some: Sequence[Instance]) -> list[Instance]:
    """Return instances with their ports, read in a few statements."""
    plugged = ports.of_owners(conn, [row.id for row in some])
    return [replace(row, ports=tuple(plugged.get(row.id, ()))) for row in some]


def under_way(active: Operation) -> Conflict:
    """Return the error of an act that must wait for an operation."""
    return Conflict(
        f"operation {active.id} ({active.verb.value}) is under way on "
        f"instance {active.resource_id}",
        reason="OPERATION_IN_PROGRESS",
        fix=f"wait for it with 'unkai operation wait {active.id}', or cancel it",
        metadata={
            "instance_id": active.resource_id,
            "operation_id": active.id,
            "verb": active.verb.value,
        },
    )


def check_state(instance: Instance, states: frozenset[InstanceState], verb: str) -> None:
    """Raise unless an instance is in one of these states."""
    if instance.state not in states:
        allowed = ", ".join(sorted(state.value for state in states))
        raise FailedPrecondition(
            f"instance {instance.spec.name} is {instance.state.value} and cannot be {verb}",
            reason="INSTANCE_STATE",
            fix=f"it can be {verb} when it is {allowed}",
            metadata={"instance_id": instance.id, "state": instance.state.value},
        )


def check_not_deleting(instance: Instance) -> None:
    """Raise for an instance that is being removed."""
    if instance.delete_requested:
        raise FailedPrecondition(
            f"instance {instance.spec.name} is being removed",
            reason="INSTANCE_DELETING",
            metadata={"instance_id": instance.id},
        )
