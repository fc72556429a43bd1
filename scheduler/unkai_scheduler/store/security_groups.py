"""Security groups in the database, read with their rules and how many ports are in each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy import delete as sql_delete

from unkai_scheduler.domain.security_groups import Direction, Protocol, Rule, SecurityGroup
from unkai_scheduler.store import ovn_work, rows
from unkai_scheduler.store.tables_networks import (
    port_security_groups,
    security_group_rules,
    security_groups,
)

_KIND = "security_group"
_PORTS = (
    select(func.count())
    .where(port_security_groups.c.group_id == security_groups.c.id)
    .correlate(security_groups)
    .scalar_subquery()
    .label("port_count")
)
_QUERY = select(security_groups, _PORTS, ovn_work.pending(_KIND, security_groups.c.id))
_RULES = select(
    security_group_rules.c.group_id,
    *(column for column in security_group_rules.c if column.name not in {"group_id", "position"}),
).order_by(security_group_rules.c.group_id, security_group_rules.c.position)


def insert(conn: Connection, row: SecurityGroup) -> None:
    """Insert a group with its rules; raise `AlreadyExists` when its name is taken."""
    rows.insert_named(conn, security_groups, _KIND, _values(row))
    _make_rules(conn, row)


def get(conn: Connection, ident: str) -> SecurityGroup | None:
    """Return a group by id."""
    return _optional(conn, rows.get_row(conn, _QUERY, security_groups, ident))


def list_some(conn: Connection, idents: Iterable[str]) -> list[SecurityGroup]:
    """Return those groups of these ids that there are, in a few statements."""
    return _groups(conn, rows.some(conn, _QUERY, security_groups, idents))


def locked(conn: Connection, ident: str) -> SecurityGroup | None:
    """Return a group that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, security_groups, ident)
    return get(conn, ident)


def held(conn: Connection, ident: str) -> SecurityGroup | None:
    """Return a group that nobody changes or removes until the transaction ends."""
    rows.hold(conn, security_groups, ident)
    return get(conn, ident)


def lock(conn: Connection, locked: Iterable[str], held: Iterable[str]) -> None:
    """Lock groups that change and hold others, which are referred to; read them after."""
    rows.lock_and_hold(conn, security_groups, locked, held)


def find(conn: Connection, project_id: str, name: str) -> SecurityGroup | None:
    """Return a project's group by name."""
    return _optional(conn, rows.find_row(conn, _QUERY, security_groups, name, project_id))


def of_rule(conn: Connection, rule_id: str) -> str | None:
    """Return the id of the group that has a rule."""
    query = select(security_group_rules.c.group_id).where(security_group_rules.c.id == rule_id)
    return conn.execute(query).scalar_one_or_none()


def naming(conn: Connection, ident: str) -> list[str]:
    """Return the ids of other groups with a rule that names this one."""
    rule = security_group_rules.c
    query = select(rule.group_id).where(rule.remote_group_id == ident, rule.group_id != ident)
    return list(conn.execute(query.distinct().order_by(rule.group_id)).scalars())


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None = None,
    name: str | None = None,
) -> list[SecurityGroup]:
    """Return a page in the order of (name, id)."""
    where = rows.matches(
        project_id=(security_groups.c.project_id, project_id), name=(security_groups.c.name, name)
    )
    page = rows.page_by_name(conn, _QUERY, security_groups, after=after, limit=limit, where=where)
    return _groups(conn, page)


def count_by_project(conn: Connection, project_id: str) -> int:
    """Return how many groups a project owns."""
    return rows.count_where(conn, security_groups, security_groups.c.project_id == project_id)


def replace(conn: Connection, row: SecurityGroup, *, etag: str | None) -> None:
    """Write all changeable columns and the rules, if the stored etag is `etag` (None: any)."""
    rows.replace_row(conn, security_groups, _KIND, _values(row), etag)
    _make_rules(conn, row)


def delete(conn: Connection, ident: str) -> None:
    """Delete a group with its rules.

    `FailedPrecondition` / REFERENCE_BROKEN while ports are in it or a rule of another names it.
    """
    # First its rules: one may name the group itself, and MariaDB looks at that before it cascades.
    of_group = security_group_rules.c.group_id == ident
    conn.execute(sql_delete(security_group_rules).where(of_group))
    rows.delete_row(conn, security_groups, ident)


def _make_rules(conn: Connection, row: SecurityGroup) -> None:
    wanted = [_rule_values(rule, place) for place, rule in enumerate(row.rules)]
    rows.make_parts(conn, security_group_rules, {"group_id": row.id}, wanted)


def _values(row: SecurityGroup) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "name": row.name,
        "description": row.description,
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "labels": dict(row.labels),
    }


def _rule_values(rule: Rule, position: int) -> dict[str, Any]:
    return {
        "id": rule.id,
        "position": position,
        "direction": rule.direction.value,
        "ip_version": rule.ip_version,
        "protocol": rule.protocol and rule.protocol.value,
        "port_first": rule.port_first,
        "port_last": rule.port_last,
        "icmp_type": rule.icmp_type,
        "icmp_code": rule.icmp_code,
        "remote_cidr": rule.remote_cidr,
        "remote_group_id": rule.remote_group_id or None,
        "description": rule.description,
    }


def _rule(row: rows.AnyRow) -> Rule:
    values = dict(row._mapping)
    del values["group_id"]
    values["direction"] = Direction(values["direction"])
    values["protocol"] = values["protocol"] and Protocol(values["protocol"])
    values["remote_group_id"] = values["remote_group_id"] or ""
    return Rule(**values)


def _groups(conn: Connection, read: Sequence[rows.AnyRow]) -> list[SecurityGroup]:
    """Make groups of rows, with their rules."""
    idents = [row.id for row in read]
    rules = rows.parts_of(conn, _RULES, security_group_rules.c.group_id, idents)
    made = []
    for row in read:
        values = dict(row._mapping)
        values["reconciling"] = bool(values["reconciling"])
        values["rules"] = tuple(_rule(part) for part in rules.get(row.id, ()))
        made.append(SecurityGroup(**values))
    return made


def _optional(conn: Connection, row: rows.AnyRow | None) -> SecurityGroup | None:
    return None if row is None else _groups(conn, [row])[0]
