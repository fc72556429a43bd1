"""Key pairs in the database: public halves alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, select

from unkai_scheduler.domain.resources import KeyPair
from unkai_scheduler.store import rows
from unkai_scheduler.store.tables import key_pairs

_KIND = "key_pair"
_QUERY = select(key_pairs)


def insert(conn: Connection, row: KeyPair) -> None:
    """Insert a key pair; raise `AlreadyExists` when its name is taken in the project."""
    rows.insert_named(conn, key_pairs, _KIND, _values(row))


def get(conn: Connection, ident: str) -> KeyPair | None:
    """Return a key pair by id."""
    return _optional(rows.get_row(conn, _QUERY, key_pairs, ident))


def locked(conn: Connection, ident: str) -> KeyPair | None:
    """Return a key pair that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, key_pairs, ident)
    return get(conn, ident)


def held(conn: Connection, ident: str) -> KeyPair | None:
    """Return a key pair that nobody changes or removes until the transaction ends."""
    rows.hold(conn, key_pairs, ident)
    return get(conn, ident)


def find(conn: Connection, project_id: str, name: str) -> KeyPair | None:
    """Return a project's key pair by name."""
    return _optional(rows.find_row(conn, _QUERY, key_pairs, name, project_id))


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None = None,
    name: str | None = None,
) -> list[KeyPair]:
    """Return a page in the order of (name, id)."""
    where = rows.matches(
        project_id=(key_pairs.c.project_id, project_id), name=(key_pairs.c.name, name)
    )
    page = rows.page_by_name(conn, _QUERY, key_pairs, after=after, limit=limit, where=where)
    return [_key_pair(row) for row in page]


def count_by_project(conn: Connection, project_id: str) -> int:
    """Return how many key pairs a project has."""
    query = select(func.count()).where(key_pairs.c.project_id == project_id)
    return conn.execute(query).scalar_one()


def delete(conn: Connection, ident: str) -> None:
    """Delete a key pair; guests keep what was given to them."""
    rows.delete_row(conn, key_pairs, ident)


def _values(row: KeyPair) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "name": row.name,
        "public_key": row.public_key,
        "fingerprint": row.fingerprint,
        "etag": row.etag,
        "create_time": row.create_time,
        "labels": dict(row.labels),
    }


def _key_pair(row: rows.AnyRow) -> KeyPair:
    return KeyPair(**row._mapping)


def _optional(row: rows.AnyRow | None) -> KeyPair | None:
    return None if row is None else _key_pair(row)
