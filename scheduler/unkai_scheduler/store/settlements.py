"""Settlements: how a writer learns whether a transaction was committed whose answer it never got.

Each writer has a few slots, one row each, and no two of its transactions use one at a time. The
last statement of a transaction writes the transaction's token into its slot. Whoever lost the
answer to a COMMIT reads the slot with a lock: the lock is not to be had while that transaction may
still commit, and afterwards the slot holds its token if and only if it did.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, or_, select, update

from unkai_scheduler.store.failures import DatabaseFailure, Failure
from unkai_scheduler.store.tables import settlements

KEPT = timedelta(days=7)
"""How long a slot that nobody writes is kept: its writer is gone."""


def open_slot(conn: Connection, slot: str, now: datetime) -> None:
    """Make a slot, and drop those of writers that are gone; in a transaction of its own.

    May be done again: whether an earlier try was committed need not be known. One that is being
    committed only now is not seen by the DELETE, and met by the INSERT: that passes (`BUSY`).
    """
    is_old = settlements.c.update_time < now - KEPT
    conn.execute(delete(settlements).where(or_(settlements.c.slot == slot, is_old)))
    try:
        conn.execute(insert(settlements).values(slot=slot, token=0, update_time=now))
    except DatabaseFailure as failure:
        if failure.kind is Failure.UNIQUE:
            raise DatabaseFailure(Failure.BUSY, "the slot is being opened") from failure
        raise


def mark(conn: Connection, slot: str, token: int, now: datetime) -> None:
    """Write a transaction's token as its last statement."""
    statement = update(settlements).where(settlements.c.slot == slot)
    if not conn.execute(statement.values(token=token, update_time=now)).rowcount:
        raise DatabaseFailure(Failure.LOST, "the slot is gone")


def settled(conn: Connection, slot: str) -> int | None:
    """Wait until no transaction holds a slot; return its token, None when the slot is gone."""
    query = select(settlements.c.token).where(settlements.c.slot == slot).with_for_update()
    return conn.execute(query).scalar_one_or_none()


def close_slots(conn: Connection, slots: list[str]) -> None:
    """Drop the slots of a writer that ends."""
    conn.execute(delete(settlements).where(settlements.c.slot.in_(slots)))
