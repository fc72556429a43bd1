"""The statements that every noun shares: insert, find, page, replace under an etag, delete.

And those for a noun's parts that have a table of their own: read for many at once, made as wanted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, NoReturn

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    tuple_,
)
from sqlalchemy import update as sql_update

from unkai_scheduler.store.failures import unique
from unkai_wire.errors import Conflict, InvalidArgument, NotFound

_ETAG = re.compile(r"[!-~]+")
_NAMED_AT_ONCE = 500
AnyRow = Row[*tuple[Any, ...]]


def insert_named(conn: Connection, table: Table, kind: str, values: Mapping[str, Any]) -> None:
    """Insert a row; raise `AlreadyExists` with its name when name or id is taken."""
    with unique(kind, str(values.get("name", values["id"]))):
        conn.execute(insert(table), values)


def get_row(conn: Connection, query: Select[Any], table: Table, ident: str) -> AnyRow | None:
    """Return the row of this id that a query gives."""
    return conn.execute(query.where(table.c.id == ident)).one_or_none()


def portions(idents: Iterable[str]) -> Iterator[list[str]]:
    """Give ids by hundreds, each once: so many a statement may name."""
    ordered = sorted(set(idents))
    for start in range(0, len(ordered), _NAMED_AT_ONCE):
        yield ordered[start : start + _NAMED_AT_ONCE]


def lock(conn: Connection, table: Table, *idents: str) -> None:
    """Keep others from changing, holding or removing these rows until the transaction ends.

    They are locked in the order of their ids, whatever order they are given in.
    What was read of them before may be old: read after. SQLite's writer is alone anyway.
    """
    if conn.dialect.name != "sqlite":
        query = select(table.c.id).order_by(table.c.id).with_for_update()
        for some in portions(idents):
            conn.execute(query.where(table.c.id.in_(some))).all()


def hold(conn: Connection, table: Table, *idents: str) -> None:
    """Keep others from changing or removing rows that are about to be referred to."""
    if conn.dialect.name != "sqlite":
        query = select(table.c.id).order_by(table.c.id).with_for_update(read=True)
        for some in portions(idents):
            conn.execute(query.where(table.c.id.in_(some))).all()


def lock_and_hold(
    conn: Connection, table: Table, locked: Iterable[str], held: Iterable[str]
) -> None:
    """Lock some rows and hold others of one table, all in the order of their ids."""
    alone = set(locked)
    for is_alone, run in groupby(sorted(alone.union(held)), alone.__contains__):
        if is_alone:
            lock(conn, table, *run)
        else:
            hold(conn, table, *run)


def find_row(
    conn: Connection, query: Select[Any], table: Table, name: str, project_id: str | None = None
) -> AnyRow | None:
    """Return the row of this name, in the project where the kind has one."""
    query = query.where(table.c.name == name)
    if project_id is not None:
        query = query.where(table.c.project_id == project_id)
    return conn.execute(query).one_or_none()


def page_by_name(
    conn: Connection,
    query: Select[Any],
    table: Table,
    *,
    after: Sequence[str] | None,
    limit: int,
    where: Sequence[ColumnElement[bool]] = (),
) -> Sequence[AnyRow]:
    """Return rows in the order of (name, id); `after` is that pair of the last row given."""
    query = query.where(*where)
    if after is not None:
        name, ident = page_key(after, 2)
        query = query.where(tuple_(table.c.name, table.c.id) > tuple_(name, ident))
    return conn.execute(query.order_by(table.c.name, table.c.id).limit(limit)).all()


def page_key(after: Sequence[str], length: int) -> Sequence[str]:
    """Return the key of the last row given; raise `InvalidArgument` when it cannot be one."""
    if len(after) != length:
        raise foreign_token()
    return after


def foreign_token() -> InvalidArgument:
    """Make the error for a page token that some other list has given, or nobody."""
    return InvalidArgument.field(
        "page_token", "belongs to another request", reason="INVALID_PAGE_TOKEN"
    )


def matches(**filters: tuple[ColumnElement[Any], Any]) -> list[ColumnElement[bool]]:
    """Return a condition for each filter whose value is not None."""
    return [column == value for column, value in filters.values() if value is not None]


def replace_row(
    conn: Connection, table: Table, kind: str, values: Mapping[str, Any], etag: str | None
) -> None:
    """Write a row's columns; raise `NotFound`, or `Conflict` / ETAG_MISMATCH when it moved."""
    ident = str(values["id"])
    changed = {k: v for k, v in values.items() if k not in {"id", "project_id", "create_time"}}
    statement = sql_update(table).where(table.c.id == ident).values(changed)
    if etag is not None:
        if not _ETAG.fullmatch(etag):
            # PostgreSQL refuses some texts, and to MariaDB one with a space at its end is the same.
            _raise_not_replaced(conn, table, kind, ident)
        statement = statement.where(table.c.etag == etag)
    with unique(kind, str(values.get("name", ident))):
        replaced = conn.execute(statement).rowcount
    if not replaced:
        _raise_not_replaced(conn, table, kind, ident)


def _raise_not_replaced(conn: Connection, table: Table, kind: str, ident: str) -> NoReturn:
    if conn.execute(select(table.c.id).where(table.c.id == ident)).one_or_none() is None:
        raise NotFound.of(kind, ident)
    raise Conflict(
        f"{kind.replace('_', ' ')} {ident} was changed by somebody else",
        reason="ETAG_MISMATCH",
        fix="read it again, then repeat the change with its new etag",
        metadata={"resource_kind": kind, "resource": ident},
    )


def some(conn: Connection, query: Select[Any], table: Table, idents: Iterable[str]) -> list[AnyRow]:
    """Return those rows of these ids that there are, in a few statements."""
    found: list[AnyRow] = []
    for portion in portions(idents):
        found += conn.execute(query.where(table.c.id.in_(portion)))
    return found


def parts_of(
    conn: Connection, query: Select[Any], parent: ColumnElement[Any], idents: Iterable[str]
) -> dict[str, list[AnyRow]]:
    """Return the rows of each parent in the query's order, in a few statements.

    The query's first column is the parent's id.
    """
    found: defaultdict[str, list[AnyRow]] = defaultdict(list)
    for some in portions(idents):
        for row in conn.execute(query.where(parent.in_(some))):
            found[row[0]].append(row)
    return found


def make_parts(
    conn: Connection, table: Table, parent: Mapping[str, Any], wanted: Sequence[Mapping[str, Any]]
) -> None:
    """Make the parts of a parent those wanted: what is there and the same is not touched.

    `parent`: the columns that say whose they are; `wanted` has all others.
    """
    keys = [c.name for c in table.primary_key.columns if c.name not in parent]
    of_parent = [table.c[name] == value for name, value in parent.items()]
    there = {
        tuple(row[name] for name in keys): dict(row)
        for row in conn.execute(select(table).where(*of_parent)).mappings()
    }
    new, changed = [], []
    for part in wanted:
        values = {**parent, **part}
        known = there.pop(tuple(values[name] for name in keys), None)
        if known is None:
            new.append(values)
        elif known != values:
            changed.append(values)
    of_part = [*of_parent, *(table.c[name] == bindparam(f"key_{name}") for name in keys)]
    if there:
        gone = [{f"key_{name}": part[name] for name in keys} for part in there.values()]
        conn.execute(delete(table).where(*of_part), gone)
    for values in changed:
        key = {f"key_{name}": values[name] for name in keys}
        conn.execute(sql_update(table).where(*of_part).values(values), key)
    if new:
        conn.execute(insert(table), new)


def count_where(conn: Connection, table: Table, *where: ColumnElement[bool]) -> int:
    """Return how many rows of a table fit all conditions."""
    return conn.execute(select(func.count()).select_from(table).where(*where)).scalar_one()


def delete_oldest(
    conn: Connection, table: Table, time: Column[Any], before: datetime, limit: int
) -> int:
    """Delete at most `limit` rows whose `time` is before this one, oldest first; return how many.

    Keys are read first: MariaDB knows no LIMIT in a subquery.
    """
    keys = tuple(table.primary_key.columns)
    oldest = select(*keys).where(time < before).order_by(time).limit(limit)
    gone = [
        {f"key_{column.name}": value for column, value in zip(keys, row, strict=True)}
        for row in conn.execute(oldest)
    ]
    if gone:
        of_row = [column == bindparam(f"key_{column.name}") for column in keys]
        conn.execute(delete(table).where(*of_row), gone)
    return len(gone)


def delete_row(conn: Connection, table: Table, ident: str) -> None:
    """Delete a row; deleting what is not there is fine."""
    conn.execute(delete(table).where(table.c.id == ident))
