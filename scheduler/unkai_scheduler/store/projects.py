"""Projects in the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, select

from unkai_scheduler.domain.resources import Project
from unkai_scheduler.store import rows
from unkai_scheduler.store.tables import projects

_KIND = "project"
_QUERY = select(projects)


def insert(conn: Connection, row: Project) -> None:
    """Insert a project; raise `AlreadyExists` when its name is taken."""
    rows.insert_named(conn, projects, _KIND, _values(row))


def get(conn: Connection, ident: str) -> Project | None:
    """Return a project by id."""
    return _optional(rows.get_row(conn, _QUERY, projects, ident))


def locked(conn: Connection, ident: str) -> Project | None:
    """Return a project that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, projects, ident)
    return get(conn, ident)


def lock(conn: Connection, ident: str, held: Iterable[str]) -> None:
    """Lock a project and hold others, in which rows are made too; read them after."""
    rows.lock_and_hold(conn, projects, [ident], held)


def hold(conn: Connection, idents: Iterable[str]) -> None:
    """Keep projects, which are about to be referred to, from being removed; read them after."""
    rows.hold(conn, projects, *idents)


def find(conn: Connection, name: str) -> Project | None:
    """Return a project by name."""
    return _optional(rows.find_row(conn, _QUERY, projects, name))


def list_page(
    conn: Connection, *, after: Sequence[str] | None, limit: int, name: str | None = None
) -> list[Project]:
    """Return a page in the order of (name, id)."""
    where = rows.matches(name=(projects.c.name, name))
    page = rows.page_by_name(conn, _QUERY, projects, after=after, limit=limit, where=where)
    return [_project(row) for row in page]


def replace(conn: Connection, row: Project, *, etag: str | None) -> None:
    """Write all changeable columns, if the stored etag is `etag` (None: whatever it is)."""
    rows.replace_row(conn, projects, _KIND, _values(row), etag)


def delete(conn: Connection, ident: str) -> None:
    """Delete a project; `FailedPrecondition` / REFERENCE_BROKEN while it owns anything."""
    rows.delete_row(conn, projects, ident)


def _values(row: Project) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "labels": dict(row.labels),
    }


def _project(row: rows.AnyRow) -> Project:
    return Project(**row._mapping)


def _optional(row: rows.AnyRow | None) -> Project | None:
    return None if row is None else _project(row)
