"""Events: written unnumbered by any replica, stamped in one order by the leader, then read.

A transaction that commits late would slip behind a number already seen by a watcher, so no event
has one until the leader's sequencer stamps it (`stamp`, under `lead()`), and readers see stamped
events alone. The key of a page is `[str(event.revision)]`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, select
from sqlalchemy import delete as sql_delete
from sqlalchemy import insert as sql_insert
from sqlalchemy import update as sql_update

from unkai_scheduler.domain.events import Event, EventType, Revision
from unkai_scheduler.store import history, rows
from unkai_scheduler.store.columns import LONG_TEXT, TEXT, shortened
from unkai_scheduler.store.failures import unique
from unkai_scheduler.store.tables import events
from unkai_wire.errors import FailedPrecondition, InvalidArgument


def insert(conn: Connection, event: Event) -> None:
    """Insert an event, unnumbered whatever its `revision` says."""
    insert_many(conn, [event])


def insert_many(conn: Connection, some: Sequence[Event]) -> None:
    """Insert events, which get their numbers in this order."""
    with unique("event", some[0].id):
        conn.execute(sql_insert(events), [_values(event) for event in some])


def stamp(conn: Connection, limit: int) -> int:
    """Number up to `limit` events in the order of their insertion; return how many. Fenced."""
    unstamped = (
        select(events.c.sequence)
        .where(events.c.number.is_(None))
        .order_by(events.c.sequence)
        .limit(limit)
    )
    sequences = conn.execute(unstamped).scalars().all()
    if not sequences:
        return 0
    newest = history.extent(conn).newest
    statement = (
        sql_update(events)
        .where(events.c.sequence == bindparam("of_sequence"))
        .values(epoch=newest.epoch, number=bindparam("new_number"))
    )
    conn.execute(
        statement,
        [
            {"of_sequence": sequence, "new_number": newest.number + place}
            for place, sequence in enumerate(sequences, start=1)
        ],
    )
    history.set_newest(conn, newest.number + len(sequences))
    return len(sequences)


def any_unstamped(conn: Connection) -> bool:
    """Tell whether some event waits for its number, without locking anything."""
    query = select(events.c.sequence).where(events.c.number.is_(None)).limit(1)
    return conn.execute(query).first() is not None


def unstamped(conn: Connection) -> tuple[int, datetime | None]:
    """Return how many events wait for their number, and when the oldest was inserted."""
    query = select(func.count(), func.min(events.c.create_time)).where(events.c.number.is_(None))
    count, oldest = conn.execute(query).one()
    return int(count), oldest


def after(
    conn: Connection,
    revision: Revision,
    *,
    project_id: str | None = None,
    kinds: Collection[str] | None = None,
    resource_id: str | None = None,
    limit: int,
) -> list[Event]:
    """Return the stamped events after a revision, oldest first.

    Raises `FailedPrecondition` / REVISION_GONE when the revision is of another epoch, or some
    event after it is no longer kept.
    """
    _check_resumable(revision, history.extent(conn))
    query = (
        select(events)
        .where(events.c.number > revision.number, *_filters(project_id, kinds, resource_id))
        .order_by(events.c.number)
        .limit(limit)
    )
    return [_event(row) for row in conn.execute(query)]


def newest(conn: Connection) -> Revision:
    """Return the newest revision stamped."""
    return history.extent(conn).newest


def list_page(
    conn: Connection,
    *,
    project_id: str | None = None,
    kinds: Collection[str] | None = None,
    resource_id: str | None = None,
    after: Sequence[str] | None,
    limit: int,
) -> list[Event]:
    """Return a page of stamped events, newest first."""
    where = [events.c.number.is_not(None), *_filters(project_id, kinds, resource_id)]
    if after is not None:
        where.append(events.c.number < _page_number(after))
    query = select(events).where(*where).order_by(events.c.number.desc()).limit(limit)
    return [_event(row) for row in conn.execute(query)]


def _page_number(after: Sequence[str]) -> int:
    try:
        return Revision.parse(rows.page_key(after, 1)[0]).number
    except InvalidArgument as error:
        raise rows.foreign_token() from error


def prune(conn: Connection, keep: int, limit: int) -> int:
    """Delete stamped events, the newest `keep` never, `limit` at most; return how many. Fenced."""
    extent = history.extent(conn)
    last_gone = min(extent.newest.number - keep, extent.pruned_number + limit)
    if last_gone <= extent.pruned_number:
        return 0
    gone = conn.execute(sql_delete(events).where(events.c.number <= last_gone)).rowcount
    history.set_pruned(conn, last_gone)
    return gone


def _check_resumable(revision: Revision, extent: history.Extent) -> None:
    kept = extent.pruned_number <= revision.number <= extent.newest.number
    if revision.epoch == extent.newest.epoch and kept:
        return
    raise FailedPrecondition(
        f"the events after revision {revision} are not kept; the newest is {extent.newest}",
        reason="REVISION_GONE",
        fix="list the resources anew, then watch from the revision that the list gives",
        metadata={"revision": str(revision), "newest_revision": str(extent.newest)},
    )


def _filters(
    project_id: str | None, kinds: Collection[str] | None, resource_id: str | None
) -> list[ColumnElement[bool]]:
    where = rows.matches(
        project_id=(events.c.project_id, project_id),
        resource_id=(events.c.resource_id, resource_id),
    )
    if kinds:
        where.append(events.c.resource_kind.in_(sorted(set(kinds))))
    return where


def _values(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "project_id": event.project_id,
        "resource_kind": event.resource_kind,
        "resource_id": event.resource_id,
        "resource_name": shortened(event.resource_name, TEXT),
        "type": event.type.value,
        "actor": shortened(event.actor, TEXT),
        "state": event.state,
        "reason": shortened(event.reason, TEXT),
        "message": shortened(event.message, LONG_TEXT),
        "attributes": dict(event.attributes),
        "request_id": event.request_id,
        "create_time": event.create_time,
    }


def _event(row: rows.AnyRow) -> Event:
    values = dict(row._mapping)
    del values["sequence"]
    values["type"] = EventType(values["type"])
    values["revision"] = Revision(values.pop("epoch"), values.pop("number"))
    return Event(**values)
