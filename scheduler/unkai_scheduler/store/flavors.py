"""Flavors in the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select

from unkai_scheduler.domain.resources import Flavor
from unkai_scheduler.store import rows
from unkai_scheduler.store.tables import flavors

_KIND = "flavor"
_QUERY = select(flavors)


def insert(conn: Connection, row: Flavor) -> None:
    """Insert a flavor; raise `AlreadyExists` when its name is taken."""
    rows.insert_named(conn, flavors, _KIND, _values(row))


def get(conn: Connection, ident: str) -> Flavor | None:
    """Return a flavor by id."""
    return _optional(rows.get_row(conn, _QUERY, flavors, ident))


def locked(conn: Connection, ident: str) -> Flavor | None:
    """Return a flavor that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, flavors, ident)
    return get(conn, ident)


def held(conn: Connection, ident: str) -> Flavor | None:
    """Return a flavor that nobody changes or removes until the transaction ends."""
    rows.hold(conn, flavors, ident)
    return get(conn, ident)


def list_page(
    conn: Connection, *, after: Sequence[str] | None, limit: int, name: str | None = None
) -> list[Flavor]:
    """Return a page in the order of (name, id)."""
    where = rows.matches(name=(flavors.c.name, name))
    page = rows.page_by_name(conn, _QUERY, flavors, after=after, limit=limit, where=where)
    return [_flavor(row) for row in page]


def replace(conn: Connection, row: Flavor, *, etag: str | None) -> None:
    """Write all changeable columns, if the stored etag is `etag` (None: whatever it is)."""
    rows.replace_row(conn, flavors, _KIND, _values(row), etag)


def delete(conn: Connection, ident: str) -> None:
    """Delete a flavor; instances keep the figures they copied from it."""
    rows.delete_row(conn, flavors, ident)


def _values(row: Flavor) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "vcpus": row.vcpus,
        "memory_bytes": row.memory_bytes,
        "disk_bytes": row.disk_bytes,
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "labels": dict(row.labels),
    }


def _flavor(row: rows.AnyRow) -> Flavor:
    return Flavor(**row._mapping)


def _optional(row: rows.AnyRow | None) -> Flavor | None:
    return None if row is None else _flavor(row)
