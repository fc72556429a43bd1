"""Work on OVN: which of its units are not yet as the store says.

Whoever changes a resource marks its units in the same transaction, so a crash forgets nothing. The
leader takes those that are due, brings them to OVN, and settles what it brought: a unit that was
marked again meanwhile has another number by then, and stays.

A unit's key is `kind:id`, such as `port:prt-…`. Removed ones have a tombstone besides: without one
nothing is removed from OVN.

The trap: a number must not come again, or a late settling would take a newer mark away. So a unit's
first is the time in microseconds, not 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Label, Table, bindparam, delete, func, select
from sqlalchemy import update as sql_update
from sqlalchemy.dialects import mysql, postgresql, sqlite

from unkai_scheduler.domain.ovn_work import Work
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.store import rows
from unkai_scheduler.store.columns import TEXT, shortened
from unkai_scheduler.store.tables_networks import networks, ovn_tombstones, ovn_work, ports

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OF_UNIT = (ovn_work.c.kind == bindparam("of_kind"), ovn_work.c.id == bindparam("of_id"))
_OF_NUMBER = ovn_work.c.number == bindparam("of_number")


def mark(conn: Connection, keys: Iterable[str], now: datetime, reason: str) -> None:
    """Put units among what is to be brought to OVN, due now; of those there, the number rises."""
    first = {
        "number": (now - _EPOCH) // timedelta(microseconds=1),
        "due_time": now,
        "attempt": 0,
        "reason": shortened(reason, TEXT),
    }
    raised = {**first, "number": ovn_work.c.number + 1}
    for some in rows.portions(keys):
        _upsert(conn, ovn_work, [{**_named(key), **first} for key in some], raised)


def mark_ports_of(
    conn: Connection, instance_ids: Iterable[str], now: datetime, reason: str
) -> None:
    """Mark the ports of these instances, as their host changes."""
    port = ports.c
    for some in rows.portions(instance_ids):
        of_instances = port.owner_kind == PortOwner.INSTANCE.value, port.owner_id.in_(some)
        found = conn.execute(select(port.id).where(*of_instances)).scalars()
        mark(conn, [f"port:{ident}" for ident in found], now, reason)


def mark_ways_out(
    conn: Connection, physical_networks: Iterable[str], now: datetime, reason: str
) -> None:
    """Mark the routers with a gateway on these, as the hosts that they are reached from change."""
    leads = ports.join(networks, networks.c.id == ports.c.network_id)
    for some in rows.portions(physical_networks):
        out = ports.c.owner_kind == PortOwner.GATEWAY.value, networks.c.physical_network.in_(some)
        found = conn.execute(select(ports.c.owner_id).select_from(leads).where(*out)).scalars()
        mark(conn, [f"router:{ident}" for ident in found], now, reason)


def waiting(conn: Connection, keys: Iterable[str]) -> set[str]:
    """Return those of these units that are among the work."""
    return _named_in(conn, ovn_work, keys)


def oldest(conn: Connection) -> datetime | None:
    """Return since when the unit that has waited longest is among the work."""
    # A unit's first number is its time, and what it rises by is next to nothing.
    first = conn.execute(select(func.min(ovn_work.c.number))).scalar_one()
    return None if first is None else _EPOCH + timedelta(microseconds=first)


def due(conn: Connection, now: datetime, limit: int) -> list[Work]:
    """Return work whose time has come, oldest first."""
    query = (
        select(ovn_work)
        .where(ovn_work.c.due_time <= now)
        .order_by(ovn_work.c.due_time, ovn_work.c.kind, ovn_work.c.id)
        .limit(limit)
    )
    return [_work(row) for row in conn.execute(query)]


def settle(conn: Connection, done: Iterable[tuple[str, int]]) -> None:
    """Take away what OVN has: units by key and number; one that was marked since stays."""
    gone = [_at(key, number) for key, number in _unlocked(conn, done)]
    if gone:
        conn.execute(delete(ovn_work).where(*_OF_UNIT, _OF_NUMBER), gone)


def postpone(conn: Connection, later: Iterable[Work]) -> None:
    """Write anew when work is due, its attempt and reason; what was marked since stays due."""
    known = {(work.key, work.number): work for work in later}
    statement = (
        sql_update(ovn_work)
        .where(*_OF_UNIT, _OF_NUMBER)
        .values(
            due_time=bindparam("new_due_time"),
            attempt=bindparam("new_attempt"),
            reason=bindparam("new_reason"),
        )
    )
    values = [
        {
            **_at(work.key, work.number),
            "new_due_time": work.due_time,
            "new_attempt": work.attempt,
            "new_reason": shortened(work.reason, TEXT),
        }
        for work in (known[at] for at in _unlocked(conn, known))
    ]
    if values:
        conn.execute(statement, values)


def count(conn: Connection) -> int:
    """Return how many units are not yet as they shall be."""
    return rows.count_where(conn, ovn_work)


def pending(kind: str, ident: ColumnElement[str]) -> Label[bool]:
    """Return the column `reconciling` of a query: whether the unit of this id is among the work."""
    return waits(kind, ident).label("reconciling")


def waits(kind: str, ident: ColumnElement[str]) -> ColumnElement[bool]:
    """Return a condition of a query: the unit of this id is among the work."""
    work = select(ovn_work.c.id).where(ovn_work.c.kind == kind, ovn_work.c.id == ident)
    return work.exists()


def entomb(conn: Connection, keys: Iterable[str], now: datetime) -> None:
    """Record that resources were removed, so that their units may be removed from OVN."""
    for some in rows.portions(keys):
        values = [{**_named(key), "remove_time": now} for key in some]
        _upsert(conn, ovn_tombstones, values, {"remove_time": now})


def tombs(conn: Connection, keys: Iterable[str]) -> set[str]:
    """Return those keys that have a tombstone."""
    return _named_in(conn, ovn_tombstones, keys)


def prune(conn: Connection, before: datetime, limit: int) -> int:
    """Delete up to `limit` tombstones of removals before this time; return how many.

    A unit that shows up later is an orphan then: kept and reported, never removed.
    """
    time = ovn_tombstones.c.remove_time
    return rows.delete_oldest(conn, ovn_tombstones, time, before, limit)


def _named_in(conn: Connection, table: Table, keys: Iterable[str]) -> set[str]:
    """Return those keys that have a row in a table."""
    idents: defaultdict[str, list[str]] = defaultdict(list)
    for named in map(_named, keys):
        idents[named["kind"]].append(named["id"])
    found: set[str] = set()
    for kind, of_kind in idents.items():
        for some in rows.portions(of_kind):
            query = select(table.c.id).where(table.c.kind == kind, table.c.id.in_(some))
            found |= {f"{kind}:{ident}" for ident in conn.execute(query).scalars()}
    return found


def _unlocked(conn: Connection, units: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return those of these units, by key and number, that nobody marks anew just now, in order.

    They are locked. Who marks several does so one after the other, in any order: to wait for one of
    them, with others locked, would be to be waited for. What they mark is not to be settled anyway.
    """
    if conn.dialect.name == "sqlite":
        return sorted(units)
    numbers: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for key, number in units:
        named = _named(key)
        numbers[named["kind"]][named["id"]] = number
    found: list[tuple[str, int]] = []
    for kind, of_kind in sorted(numbers.items()):
        for some in rows.portions(of_kind):
            query = select(ovn_work.c.id, ovn_work.c.number).where(
                ovn_work.c.kind == kind, ovn_work.c.id.in_(some)
            )
            for ident, number in conn.execute(query.with_for_update(skip_locked=True)):
                if number == of_kind[ident]:
                    found.append((f"{kind}:{ident}", number))
    return sorted(found)


def _upsert(
    conn: Connection,
    table: Table,
    values: Sequence[Mapping[str, Any]],
    changed: Mapping[str, Any],
) -> None:
    """Insert rows; change those that are there. One statement, so that two callers never race."""
    if conn.dialect.name in {"mysql", "mariadb"}:
        conn.execute(mysql.insert(table).values(values).on_duplicate_key_update(changed))
        return
    insert = sqlite.insert if conn.dialect.name == "sqlite" else postgresql.insert
    statement = insert(table).values(values)
    keys = list(table.primary_key.columns)
    conn.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))


def _named(key: str) -> dict[str, str]:
    kind, _, ident = key.partition(":")
    return {"kind": kind, "id": ident}


def _at(key: str, number: int) -> dict[str, Any]:
    named = _named(key)
    return {"of_kind": named["kind"], "of_id": named["id"], "of_number": number}


def _work(row: rows.AnyRow) -> Work:
    values = dict(row._mapping)
    return Work(key=f"{values.pop('kind')}:{values.pop('id')}", **values)
