"""Operations in the database. They stay when the resource they worked on is gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, select
from sqlalchemy import insert as sql_insert

from unkai_scheduler.domain.operations import Operation, OperationState, Verb
from unkai_scheduler.store import rows
from unkai_scheduler.store.columns import LONG_TEXT, shortened
from unkai_scheduler.store.failures import unique
from unkai_scheduler.store.tables import operations

_KIND = "operation"
_QUERY = select(operations)
_IDS_AT_ONCE = 500
_tally: ContextVar[list[Operation] | None] = ContextVar("ended_operations", default=None)
_ACTIVE = and_(
    operations.c.state.in_(sorted(s.value for s in OperationState if not s.ended)),
    operations.c.end_time.is_(None),  # says the same, and has an index: most have ended
)


def insert(conn: Connection, row: Operation) -> None:
    """Insert an operation; raise `AlreadyExists` when its id is taken."""
    insert_many(conn, [row])


def insert_many(conn: Connection, made: Sequence[Operation]) -> None:
    """Insert operations; raise `AlreadyExists` when an id is taken."""
    with unique(_KIND, made[0].id):
        conn.execute(sql_insert(operations), [_values(row) for row in made])


def get(conn: Connection, ident: str) -> Operation | None:
    """Return an operation by id."""
    row = rows.get_row(conn, _QUERY, operations, ident)
    return None if row is None else _operation(row)


def locked(conn: Connection, ident: str) -> Operation | None:
    """Return an operation that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, operations, ident)
    return get(conn, ident)


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None = None,
    resource_id: str | None = None,
    active_only: bool = False,
) -> list[Operation]:
    """Return a page, newest first by id; `after` is `[id]` of the last one given."""
    where = rows.matches(
        project_id=(operations.c.project_id, project_id),
        resource_id=(operations.c.resource_id, resource_id),
    )
    if active_only:
        where.append(_ACTIVE)
    if after is not None:
        where.append(operations.c.id < rows.page_key(after, 1)[0])
    query = _QUERY.where(*where).order_by(operations.c.id.desc()).limit(limit)
    return [_operation(row) for row in conn.execute(query)]


def active_for(conn: Connection, resource_id: str) -> Operation | None:
    """Return the newest operation on a resource that has not ended."""
    where = (operations.c.resource_id == resource_id, _ACTIVE)
    query = _QUERY.where(*where).order_by(operations.c.id.desc()).limit(1)
    row = conn.execute(query).one_or_none()
    return None if row is None else _operation(row)


def update_times(conn: Connection, idents: Sequence[str]) -> dict[str, datetime]:
    """Return when each of these operations was last written; those that are gone are left out."""
    columns = select(operations.c.id, operations.c.update_time)
    times: dict[str, datetime] = {}
    for start in range(0, len(idents), _IDS_AT_ONCE):
        some = idents[start : start + _IDS_AT_ONCE]
        found = conn.execute(columns.where(operations.c.id.in_(some)))
        times.update({row.id: row.update_time for row in found})
    return times


def expired(conn: Connection, now: datetime, limit: int) -> list[Operation]:
    """Return operations that have not ended by their deadline, the longest overdue first."""
    query = (
        _QUERY.where(operations.c.deadline_time <= now, _ACTIVE)
        .order_by(operations.c.deadline_time, operations.c.id)
        .limit(limit)
    )
    return [_operation(row) for row in conn.execute(query)]


def replace(conn: Connection, row: Operation, *, etag: str | None = None) -> None:
    """Write all changeable columns. Operations have no etag: it must be None."""
    if etag is not None:
        raise ValueError("operations have no etag")
    rows.replace_row(conn, operations, _KIND, _values(row), None)
    tally = _tally.get()
    if tally is not None and row.state.ended:
        tally.append(row)


@contextmanager
def tallied(ended: list[Operation]) -> Iterator[None]:
    """Put each operation that is written as ended into the list, while this lasts."""
    token = _tally.set(ended)
    try:
        yield
    finally:
        _tally.reset(token)


def prune(conn: Connection, before: datetime, limit: int) -> int:
    """Delete up to `limit` operations that ended before this time; return how many."""
    return rows.delete_oldest(conn, operations, operations.c.end_time, before, limit)


def _values(row: Operation) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "verb": row.verb.value,
        "resource_kind": row.resource_kind,
        "resource_id": row.resource_id,
        "state": row.state.value,
        "progress_message": shortened(row.progress_message, LONG_TEXT),
        "progress_percent": row.progress_percent,
        "error": None if row.error is None else dict(row.error),
        "queue_position": row.queue_position,
        "request_id": row.request_id,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "deadline_time": row.deadline_time,
        "capacity_deadline_time": row.capacity_deadline_time,
        "cancel_requested_time": row.cancel_requested_time,
        "end_time": row.end_time,
        "traceparent": row.traceparent or None,
    }


def _operation(row: rows.AnyRow) -> Operation:
    values = dict(row._mapping)
    values["verb"] = Verb(values["verb"])
    values["state"] = OperationState(values["state"])
    values["traceparent"] = values["traceparent"] or ""
    return Operation(**values)
