"""What a restored database begins with: a new term, a new history, and no request half-done.

What was under way when the backup was made has gone on since, and nobody knows how far. To go on
with it could place an instance that some host has run for long, stop a guest that was started
again, or remove one. So every request but deletions ends here, before any leader reads: creates
with their claims. A machine that some host holds for such a create is offered for adoption.

The trap: the rows say nothing of what hosts hold, and hosts cannot be asked now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import Connection

from unkai_scheduler.domain.events import Event, EventType, Revision
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.operations import Operation, OperationState, Verb, end
from unkai_scheduler.store import claims, events, history, instances, operations, terms, uploads
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import NewId

_OPERATOR = "operator"
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Restored:
    """Where a restored database begins anew, and which requests were ended: their operations."""

    term: int
    revision: Revision
    ended: tuple[Operation, ...] = field(default=())


def begin_anew(conn: Connection, now: datetime, new_id: NewId) -> Restored:
    """End what was under way, and begin a new term and a new epoch of the history."""
    term = terms.take(conn, 0)
    ended = [_end(conn, operation, now, new_id) for operation in _under_way(conn)]
    for row in _provisioning(conn):
        _fail(conn, row, now, new_id)
    uploads.forget_all(conn)
    history.raise_epoch(conn, int(now.timestamp()))
    return Restored(term, history.extent(conn).newest, tuple(ended))


def _under_way(conn: Connection) -> list[Operation]:
    """Return what is to be ended: a deletion, once accepted, is never taken back."""
    found: list[Operation] = []
    after = None
    while page := operations.list_page(conn, after=after, limit=_AT_ONCE, active_only=True):
        found += page
        after = [page[-1].id]
    return [row for row in found if row.resource_kind == "instance" and row.verb is not Verb.DELETE]


def _provisioning(conn: Connection) -> Iterator[Instance]:
    after = None
    states = {InstanceState.PROVISIONING}
    while page := instances.list_page(conn, after=after, limit=_AT_ONCE, states=states):
        yield from (row for row in page if not row.delete_requested)
        after = [page[-1].spec.name, page[-1].id]


def _end(conn: Connection, operation: Operation, now: datetime, new_id: NewId) -> Operation:
    row = instances.get(conn, operation.resource_id)
    fix = f"see 'unkai instance show {operation.resource_id}', then ask again if it is still wanted"
    if operation.verb is Verb.CREATE:
        fix = _fix(operation.resource_id)
    error = FailedPrecondition(
        f"the database was restored from a backup made while operation {operation.id} was under "
        "way; what came of it since is not known",
        reason="DATABASE_RESTORED",
        fix=fix,
        metadata={"operation_id": operation.id, "resource_id": operation.resource_id},
    )
    ended = replace(end(operation, OperationState.FAILED, now, error.to_record()), update_time=now)
    operations.replace(conn, ended)
    if row is not None and row.operation_id == operation.id:
        # The leader takes over what a host has that is ahead of the row. One that is behind it is
        # still told what the row says, whatever became of the request.
        free = replace(row, operation_id="", attempt=0, due_time=now)
        instances.replace(conn, _changed(free, now), etag=None)
    events.insert(
        conn,
        Event(
            id=new_id("event"),
            project_id=operation.project_id,
            resource_kind="operation",
            resource_id=operation.id,
            resource_name=row.spec.name if row else "",
            type=EventType.UPDATED,
            actor=_OPERATOR,
            create_time=now,
            state=ended.state.value,
            reason=error.reason,
            message=error.message,
            attributes={
                "verb": operation.verb.value,
                "resource_kind": operation.resource_kind,
                "resource_id": operation.resource_id,
            },
            request_id=operation.request_id,
        ),
    )
    return ended


def _fail(conn: Connection, row: Instance, now: datetime, new_id: NewId) -> None:
    """Let a create end, with its claim: which host has the machine since is not known."""
    error = FailedPrecondition(
        f"the database was restored from a backup made while instance {row.spec.name} was being "
        "created; whether some host holds a machine of it is not known",
        reason="DATABASE_RESTORED",
        fix=_fix(row.id),
        metadata={"instance_id": row.id, "name": row.spec.name, "host": row.host_name},
    )
    failed = replace(
        row,
        state=InstanceState.FAILED,
        state_reason=error.to_record(),
        operation_id="",
        attempt=0,
        due_time=None,
    )
    claims.delete(conn, row.id, now)
    instances.replace(conn, _changed(failed, now), etag=None)
    events.insert(
        conn,
        Event(
            id=new_id("event"),
            project_id=row.project_id,
            resource_kind="instance",
            resource_id=row.id,
            resource_name=row.spec.name,
            type=EventType.UPDATED,
            actor=_OPERATOR,
            create_time=now,
            state=failed.state.value,
            reason=error.reason,
            message=error.message,
        ),
    )


def _fix(instance_id: str) -> str:
    return (
        f"'unkai instance adopt {instance_id}' if 'unkai audit orphans' lists it, which asks hosts "
        "that are UP; else delete the instance, and create it again if it is still wanted"
    )


def _changed(row: Instance, now: datetime) -> Instance:
    """Return the row with an etag unlike the one it had, drawn from that."""
    etag = hashlib.sha256(f"{row.etag}/{now.isoformat()}".encode()).hexdigest()[:16]
    return replace(row, etag=etag, update_time=now)
