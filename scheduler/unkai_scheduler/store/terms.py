"""The leader's term: one row, which every write of the leader locks before anything else.

The lock makes the fence hold: a leader that was replaced waits for the new term's transaction and
then reads a term that is not its own. On SQLite BEGIN IMMEDIATE is the lock.
"""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from unkai_scheduler.store.tables import leader_term
from unkai_wire.errors import Conflict

_ROW = 1
LOCK = select(leader_term.c.term).where(leader_term.c.id == _ROW).with_for_update()


def locked(conn: Connection) -> int:
    """Lock the term's row until the transaction ends; return the term."""
    return int(conn.execute(LOCK).scalar_one())


def verify(conn: Connection, term: int) -> None:
    """Lock the term's row; raise `Conflict` / NOT_LEADER when it is not this term."""
    current = locked(conn)
    if current != term:
        raise Conflict(
            f"term {term} is over: the database is at term {current}",
            reason="NOT_LEADER",
            metadata={"term": str(term), "current_term": str(current)},
        )


def take(conn: Connection, at_least: int) -> int:
    """Begin a new term above the stored one and above `at_least`; return it."""
    term = max(locked(conn), at_least) + 1
    conn.execute(update(leader_term).where(leader_term.c.id == _ROW).values(term=term))
    return term
