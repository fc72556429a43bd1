"""Aggregates in the database, each with its hosts and the projects that they are dedicated to.

A host's row is read with what its aggregates say of it (`memberships`). Whoever changes that moves
the hosts' etags too (`hosts.touch`), or no leader would look at them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy import delete as sql_delete

from unkai_scheduler.domain.aggregates import Aggregate, Membership, OwnRatios
from unkai_scheduler.store import rows
from unkai_scheduler.store.tables import aggregate_hosts, aggregate_projects, aggregates

_KIND = "aggregate"
_QUERY = select(aggregates)
_HOSTS = select(aggregate_hosts.c.aggregate_id, aggregate_hosts.c.host_id).order_by(
    aggregate_hosts.c.aggregate_id, aggregate_hosts.c.host_id
)
_PROJECTS = select(aggregate_projects.c.aggregate_id, aggregate_projects.c.project_id).order_by(
    aggregate_projects.c.aggregate_id, aggregate_projects.c.project_id
)
_OF_HOSTS = select(aggregate_hosts.c.host_id, aggregate_hosts.c.aggregate_id).order_by(
    aggregate_hosts.c.host_id, aggregate_hosts.c.aggregate_id
)
_RATIOS = {"cpu": "cpu_ratio", "memory": "memory_ratio", "disk": "disk_ratio"}


def insert(conn: Connection, row: Aggregate) -> None:
    """Insert an aggregate; raise `AlreadyExists` when its name is taken."""
    rows.insert_named(conn, aggregates, _KIND, _values(row))
    _make_parts(conn, row)


def get(conn: Connection, ident: str) -> Aggregate | None:
    """Return an aggregate by id."""
    return _optional(conn, rows.get_row(conn, _QUERY, aggregates, ident))


def locked(conn: Connection, ident: str) -> Aggregate | None:
    """Return an aggregate that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, aggregates, ident)
    return get(conn, ident)


def held(conn: Connection, ident: str) -> Aggregate | None:
    """Return an aggregate that nobody changes or removes until the transaction ends."""
    rows.hold(conn, aggregates, ident)
    return get(conn, ident)


def list_page(
    conn: Connection, *, after: Sequence[str] | None, limit: int, name: str | None = None
) -> list[Aggregate]:
    """Return a page in the order of (name, id)."""
    where = rows.matches(name=(aggregates.c.name, name))
    page = rows.page_by_name(conn, _QUERY, aggregates, after=after, limit=limit, where=where)
    return _aggregates(conn, page)


def locked_of_host(conn: Connection, host_id: str) -> list[Aggregate]:
    """Return those that a host is in, locked; called before the host itself is locked."""
    of_host = aggregate_hosts.c.host_id == host_id
    idents = list(conn.execute(select(aggregate_hosts.c.aggregate_id).where(of_host)).scalars())
    rows.lock(conn, aggregates, *idents)
    found = _aggregates(conn, rows.some(conn, _QUERY, aggregates, idents))
    return [row for row in found if host_id in row.host_ids]


def memberships(conn: Connection, host_ids: Iterable[str]) -> Mapping[str, tuple[Membership, ...]]:
    """Return of each host that is in an aggregate what those it is in say, in a few statements."""
    of_hosts = rows.parts_of(conn, _OF_HOSTS, aggregate_hosts.c.host_id, host_ids)
    if not of_hosts:
        return {}
    idents = {row.aggregate_id for found in of_hosts.values() for row in found}
    projects = _ids(conn, _PROJECTS, aggregate_projects.c.aggregate_id, idents)
    known = {
        row.id: Membership(
            row.id,
            row.name,
            tuple(row.traits),
            projects.get(row.id, ()),
            _ratios(dict(row._mapping)),
        )
        for row in rows.some(conn, _QUERY, aggregates, idents)
    }
    return {
        # One may be gone since the statement before; then the host's etag has moved, too.
        host_id: tuple(known[row.aggregate_id] for row in found if row.aggregate_id in known)
        for host_id, found in of_hosts.items()
    }


def count_by_project(conn: Connection, project_id: str) -> int:
    """Return how many aggregates are dedicated to a project."""
    of_project = aggregate_projects.c.project_id == project_id
    return rows.count_where(conn, aggregate_projects, of_project)


def replace(conn: Connection, row: Aggregate, *, etag: str | None) -> None:
    """Write all changeable columns and the parts, if the stored etag is `etag` (None: any)."""
    rows.replace_row(conn, aggregates, _KIND, _values(row), etag)
    _make_parts(conn, row)


def delete(conn: Connection, ident: str) -> None:
    """Delete an aggregate; its hosts and projects stay."""
    for part in (aggregate_hosts, aggregate_projects):
        conn.execute(sql_delete(part).where(part.c.aggregate_id == ident))
    rows.delete_row(conn, aggregates, ident)


def _make_parts(conn: Connection, row: Aggregate) -> None:
    parent = {"aggregate_id": row.id}
    hosts = [{"host_id": ident} for ident in row.host_ids]
    rows.make_parts(conn, aggregate_hosts, parent, hosts)
    projects = [{"project_id": ident} for ident in row.project_ids]
    rows.make_parts(conn, aggregate_projects, parent, projects)


def _values(row: Aggregate) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "traits": list(row.traits),
        **{column: getattr(row.ratios, name) for name, column in _RATIOS.items()},
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "labels": dict(row.labels),
    }


def _aggregates(conn: Connection, found: Sequence[rows.AnyRow]) -> list[Aggregate]:
    idents = [row.id for row in found]
    hosts = _ids(conn, _HOSTS, aggregate_hosts.c.aggregate_id, idents)
    projects = _ids(conn, _PROJECTS, aggregate_projects.c.aggregate_id, idents)
    made = []
    for row in found:
        values = dict(row._mapping)
        ratios = _ratios(values)
        for column in _RATIOS.values():
            del values[column]
        values["traits"] = tuple(values["traits"])
        values["host_ids"] = hosts.get(row.id, ())
        values["project_ids"] = projects.get(row.id, ())
        made.append(Aggregate(**values, ratios=ratios))
    return made


def _ratios(values: Mapping[str, Any]) -> OwnRatios:
    return OwnRatios(**{name: values[column] for name, column in _RATIOS.items()})


def _ids(
    conn: Connection, query: Any, parent: Any, idents: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Return the second column of each parent's rows."""
    found = rows.parts_of(conn, query, parent, idents)
    return {ident: tuple(row[1] for row in parts) for ident, parts in found.items()}


def _optional(conn: Connection, row: rows.AnyRow | None) -> Aggregate | None:
    return None if row is None else _aggregates(conn, [row])[0]
