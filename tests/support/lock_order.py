"""Watches in which order transactions lock rows, and says where one breaks the order of ours.

A database that finds two transactions waiting for each other gives one of them up, and it is tried
again: nothing is wrong then but slow, so no test that looks at outcomes sees it. This sees it on
any database, SQLite too, in one transaction alone. What is locked by `rows.lock` and `rows.hold`,
by writing a row, and by a foreign key to it, comes later in `ORDER` than all before it did, and of
one table in the order of ids.

Not watched: hosts, claims and decisions, which the leader writes alone, one transaction after the
other; events and marks, which nobody holds while waiting for a row of these tables.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from sqlalchemy import Connection, Engine, Insert, Table, event

from unkai_scheduler.store import addresses, rows
from unkai_scheduler.store.tables_networks import subnets

ORDER = (
    "projects",
    "aggregates",
    "instances",
    "flavors",
    "images",
    "key_pairs",
    "placement_groups",
    "routers",
    "networks",
    "subnets",
    "ports",
    "security_groups",
    "load_balancers",
    "floating_ips",
    "operations",
)
"""As CONTRIBUTING.md has it."""
_RANK = {name: rank for rank, name in enumerate(ORDER)}
_GUARDED = _RANK["operations"]
"""Each of these is locked by those alone who have locked its resource: their ids have no order."""
_OURS = ("/unkai_scheduler/services/", "/unkai_scheduler/reconcile/")
_SHOWN = 9

Key = tuple[int, str]


@dataclass(slots=True)
class _Taken:
    """What one transaction has locked: alone, or as one of several who keep a row from changing."""

    alone: dict[Key, bool] = field(default_factory=dict)
    made: set[Key] = field(default_factory=set)


@dataclass
class LockOrder:
    """What was seen of transactions."""

    broken: list[str] = field(default_factory=list)
    """What was locked too late, and by whom."""
    locked: set[str] = field(default_factory=set)
    """Tables of which a row was locked that others see."""
    _taken: WeakKeyDictionary[Any, _Taken] = field(default_factory=WeakKeyDictionary)

    def took(self, conn: Connection, table: Table, ident: Any, *, alone: bool, by: str) -> None:
        """Note a lock of a row."""
        taken = self._of(conn)
        if taken is None or table.name not in _RANK or ident is None:
            return
        key = (_RANK[table.name], str(ident))
        if key in taken.made:
            return
        self.locked.add(table.name)
        if key in taken.alone:
            if alone and not taken.alone[key]:
                self._break(f"{table.name} {ident} is {by} after it was held")
                taken.alone[key] = True
            return
        later = [some for some in taken.alone if some > key and key[0] != _GUARDED]
        if later:
            rank, other = max(later)
            self._break(f"{table.name} {ident} is {by} after {ORDER[rank]} {other}")
        taken.alone[key] = alone

    def made(self, conn: Connection, table: Table, ident: Any) -> None:
        """Note a new row, which nobody else sees."""
        taken = self._of(conn)
        if taken is not None and table.name in _RANK:
            taken.made.add((_RANK[table.name], str(ident)))

    def inserts(self, conn: Connection, table: Table, values: Mapping[str, Any]) -> None:
        """Note a row that is about to be inserted: it holds what it refers to."""
        for column in table.columns:
            for key in column.foreign_keys:
                if key.column.table is not table:
                    ident = values.get(column.name)
                    self.took(conn, key.column.table, ident, alone=False, by=f"named by {table}")
        if "id" in table.c:
            self.made(conn, table, values.get("id"))

    def _of(self, conn: Connection) -> _Taken | None:
        transaction = conn.get_nested_transaction() or conn.get_transaction()
        return None if transaction is None else self._taken.setdefault(transaction, _Taken())

    def _break(self, what: str) -> None:
        stack = [frame for frame in traceback.extract_stack() if "/unkai_scheduler/" in frame[0]]
        if any(ours in frame.filename for frame in stack for ours in _OURS):
            places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in stack[-_SHOWN:]]
            self.broken.append("\n    ".join([what, *reversed(places)]))


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[LockOrder]:
    """Watch all transactions of the process."""
    order = LockOrder()
    lock, hold, replace, delete = rows.lock, rows.hold, rows.replace_row, rows.delete_row
    take = addresses._locked

    def watched_lock(conn: Connection, table: Table, *idents: str) -> None:
        for ident in sorted(idents):
            order.took(conn, table, ident, alone=True, by="locked")
        lock(conn, table, *idents)

    def watched_hold(conn: Connection, table: Table, *idents: str) -> None:
        for ident in sorted(idents):
            order.took(conn, table, ident, alone=False, by="held")
        hold(conn, table, *idents)

    def watched_replace(
        conn: Connection, table: Table, kind: str, values: Mapping[str, Any], etag: str | None
    ) -> None:
        order.took(conn, table, values["id"], alone=True, by="written")
        replace(conn, table, kind, values, etag)

    def watched_delete(conn: Connection, table: Table, ident: str) -> None:
        order.took(conn, table, ident, alone=True, by="deleted")
        delete(conn, table, ident)

    def watched_take(conn: Connection, subnet_id: str) -> Any:
        order.took(conn, subnets, subnet_id, alone=True, by="locked")
        return take(conn, subnet_id)

    def before_execute(conn: Connection, clause: Any, many: Any, one: Any, _options: Any) -> None:
        if isinstance(clause, Insert) and isinstance(clause.table, Table):
            for values in [*many, *([one] if one else [])]:
                order.inserts(conn, clause.table, values)

    for module, name, function in (
        (rows, "lock", watched_lock),
        (rows, "hold", watched_hold),
        (rows, "replace_row", watched_replace),
        (rows, "delete_row", watched_delete),
        (addresses, "_locked", watched_take),
    ):
        monkeypatch.setattr(module, name, function)
    event.listen(Engine, "before_execute", before_execute)
    try:
        yield order
    finally:
        event.remove(Engine, "before_execute", before_execute)
