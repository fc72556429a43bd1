"""What `db check` finds in a database of any kind: its revision, and its one-row tables.

A finding that is wrong says the fix. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, func, inspect, select

from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.store import migrations, times
from unkai_scheduler.store.tables import events, history, leader_term


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `fix` is empty where nothing is wrong."""

    what: str
    text: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether nothing is wrong."""
        return not self.fix


CLOCK_S = 2.0
"""Seconds that the clocks of two machines may differ."""
RESTORE = "restore the newest good backup, then run 'unkai-scheduler db restored'"


def of_schema(conn: Connection) -> list[Finding]:
    """Return what is found of revision, term and history; reads a handful of rows."""
    current, head = migrations.revision_on(conn), migrations.head_revision()
    if current is None:
        return [_no_schema(conn, head)]
    found = [_of_revision(current, head)]
    if not migrations.knows(current):
        return found
    return [*found, _of_term(conn), _of_history(conn)]


def of_clock(conn: Connection, clock: Clock) -> Finding:
    """Return what is found of the server's clock: the cloud's times are its."""
    ahead_s = (times.now(conn) - clock()).total_seconds()
    if abs(ahead_s) <= CLOCK_S:
        return Finding("clock", "agrees with this machine's")
    return Finding(
        "clock",
        f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's",
        "on the machine that is wrong (date -u): apt install chrony; chronyc makestep",
    )


def integrity(problems: Iterable[str]) -> Finding:
    """Return the finding of what the database itself says is broken."""
    listed = list(problems)
    if not listed:
        return Finding("integrity", "whole")
    shown = "; ".join(listed[:3]) + (f"; {len(listed) - 3} more" if len(listed) > 3 else "")
    return Finding("integrity", shown, RESTORE)


def _no_schema(conn: Connection, head: str) -> Finding:
    foreign = inspect(conn).get_table_names()
    if foreign:
        return Finding(
            "revision", f"none, and {len(foreign)} tables of something else", "name an empty one"
        )
    return Finding(
        "revision", f"none: empty; this version needs {head}", "run 'unkai-scheduler db upgrade'"
    )


def _of_revision(current: str, head: str) -> Finding:
    if current == head:
        return Finding("revision", current)
    if migrations.knows(current):
        return Finding(
            "revision", f"{current}; this version needs {head}", "run 'unkai-scheduler db upgrade'"
        )
    return Finding(
        "revision",
        f"{current}, which this version does not know",
        "run the version of unkai-scheduler that last used it, or a later one",
    )


def _of_term(conn: Connection) -> Finding:
    found = list(conn.execute(select(leader_term.c.term)).scalars())
    if len(found) != 1:
        return Finding("term", f"{len(found)} rows where one must be", RESTORE)
    return Finding("term", str(found[0]))


def _of_history(conn: Connection) -> Finding:
    found = conn.execute(select(history)).all()
    if len(found) != 1:
        return Finding("history", f"{len(found)} rows where one must be", RESTORE)
    (row,) = found
    unstamped = events.c.number.is_(None)
    waiting = conn.execute(select(func.count()).where(unstamped)).scalar_one()
    newest = conn.execute(select(func.max(events.c.number))).scalar_one() or 0
    text = f"newest revision {row.epoch}.{row.newest_number}, {waiting} events without one yet"
    if newest > row.newest_number:
        return Finding("history", f"{text}; but event {newest} has one", RESTORE)
    return Finding("history", text)
