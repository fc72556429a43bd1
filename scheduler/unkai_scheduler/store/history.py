"""The event history's one row: its epoch, how far it is stamped, how far it is pruned."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from unkai_scheduler.domain.events import Revision
from unkai_scheduler.store.tables import history

_ROW = 1
_FIRST_EPOCH = 1


@dataclass(frozen=True, slots=True)
class Extent:
    """What of the history there is: numbers above `pruned_number` up to the newest."""

    newest: Revision
    pruned_number: int


def extent(conn: Connection) -> Extent:
    """Return how far the history reaches."""
    row = conn.execute(select(history).where(history.c.id == _ROW)).one()
    return Extent(Revision(row.epoch, row.newest_number), row.pruned_number)


def epoch(conn: Connection) -> int:
    """Return the epoch; revisions of another one cannot be resumed from."""
    return extent(conn).newest.epoch


def raise_epoch(conn: Connection, at_least: int = 0) -> int:
    """Begin a new epoch, after the database was restored from a backup; return it.

    `at_least`: the same backup may be restored twice, and the epoch that began the first time is
    not in it; seconds since 1970 are above any that was.
    """
    raised = max(epoch(conn) + 1, at_least)
    conn.execute(update(history).where(history.c.id == _ROW).values(epoch=raised))
    return raised


def set_newest(conn: Connection, number: int) -> None:
    """Record the newest number stamped."""
    conn.execute(update(history).where(history.c.id == _ROW).values(newest_number=number))


def set_pruned(conn: Connection, number: int) -> None:
    """Record the newest number that is no longer kept."""
    conn.execute(update(history).where(history.c.id == _ROW).values(pruned_number=number))


def begin(conn: Connection) -> bool:
    """Insert the row of a new database; False when there is one, so the database is not new."""
    if conn.execute(select(history.c.id).where(history.c.id == _ROW)).one_or_none() is not None:
        return False
    values = {"id": _ROW, "epoch": _FIRST_EPOCH, "newest_number": 0, "pruned_number": 0}
    conn.execute(insert(history).values(values))
    return True
