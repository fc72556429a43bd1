"""Placement groups in the database. Who is in one is said by the instances' rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, select

from unkai_scheduler.domain.placement_groups import (
    GroupPolicy,
    GroupScope,
    PlacementGroup,
    Strictness,
)
from unkai_scheduler.store import rows
from unkai_scheduler.store.tables import claims, instances, placement_groups

_KIND = "placement_group"
_QUERY = select(placement_groups)
_NAMING = select(instances.c.placement_group_id, instances.c.id).order_by(instances.c.id)


def insert(conn: Connection, row: PlacementGroup) -> None:
    """Insert a group; raise `AlreadyExists` when its name is taken in the project."""
    rows.insert_named(conn, placement_groups, _KIND, _values(row))


def get(conn: Connection, ident: str) -> PlacementGroup | None:
    """Return a group by id, without who names it."""
    return _optional(rows.get_row(conn, _QUERY, placement_groups, ident))


def locked(conn: Connection, ident: str) -> PlacementGroup | None:
    """Return a group that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, placement_groups, ident)
    return get(conn, ident)


def held(conn: Connection, ident: str) -> PlacementGroup | None:
    """Return a group that nobody changes or removes until the transaction ends."""
    rows.hold(conn, placement_groups, ident)
    return get(conn, ident)


def find(conn: Connection, project_id: str, name: str) -> PlacementGroup | None:
    """Return a project's group by name, without who names it."""
    return _optional(rows.find_row(conn, _QUERY, placement_groups, name, project_id))


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None = None,
    name: str | None = None,
) -> list[PlacementGroup]:
    """Return a page in the order of (name, id), without who names them."""
    table = placement_groups
    where = rows.matches(project_id=(table.c.project_id, project_id), name=(table.c.name, name))
    page = rows.page_by_name(conn, _QUERY, table, after=after, limit=limit, where=where)
    return [_group(row) for row in page]


def list_some(conn: Connection, idents: Iterable[str]) -> list[PlacementGroup]:
    """Return those of these groups that there are, without who names them."""
    return [_group(row) for row in rows.some(conn, _QUERY, placement_groups, idents)]


def naming(conn: Connection, idents: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the ids of the instances that name each of these groups, in a few statements."""
    found = rows.parts_of(conn, _NAMING, instances.c.placement_group_id, idents)
    return {ident: tuple(row.id for row in parts) for ident, parts in found.items()}


def claimed_on(conn: Connection, host_ids: Collection[str]) -> dict[str, dict[str, str]]:
    """Return the instances of groups that each of these hosts holds, with their groups, by id."""
    query = (
        select(claims.c.host_id, claims.c.instance_id, instances.c.placement_group_id)
        .select_from(claims.join(instances, instances.c.id == claims.c.instance_id))
        .where(instances.c.placement_group_id.is_not(None))
    )
    found = rows.parts_of(conn, query, claims.c.host_id, host_ids)
    return {
        host_id: {row.instance_id: row.placement_group_id for row in parts}
        for host_id, parts in found.items()
    }


def count_by_project(conn: Connection, project_id: str) -> int:
    """Return how many groups a project has."""
    return rows.count_where(conn, placement_groups, placement_groups.c.project_id == project_id)


def replace(conn: Connection, row: PlacementGroup, *, etag: str | None) -> None:
    """Write all changeable columns, if the stored etag is `etag` (None: whatever it is)."""
    rows.replace_row(conn, placement_groups, _KIND, _values(row), etag)


def delete(conn: Connection, ident: str) -> None:
    """Delete a group that no instance names."""
    rows.delete_row(conn, placement_groups, ident)


def _values(row: PlacementGroup) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "name": row.name,
        "policy": row.policy.value,
        "strictness": row.strictness.value,
        "scope": row.scope.value,
        "max_per_place": row.max_per_place,
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "labels": dict(row.labels),
    }


def _group(row: rows.AnyRow) -> PlacementGroup:
    values = dict(row._mapping)
    values["policy"] = GroupPolicy(values["policy"])
    values["strictness"] = Strictness(values["strictness"])
    values["scope"] = GroupScope(values["scope"])
    return PlacementGroup(**values)


def _optional(row: rows.AnyRow | None) -> PlacementGroup | None:
    return None if row is None else _group(row)
