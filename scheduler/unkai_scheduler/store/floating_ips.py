"""Floating addresses in the database.

The address itself is one of the holder, a port on the external network, which is inserted first.
Which instance is behind one, the port that it leads to says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, case, select

from unkai_scheduler.domain.addresses import address_of, key_of
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.domain.routers import FloatingIp
from unkai_scheduler.store import ovn_work, rows
from unkai_scheduler.store.tables_networks import addresses, floating_ips, ports

_KIND = "floating_ip"
_HOLDERS = ports.alias("holders")
_INSTANCE_ID = case((ports.c.owner_kind == PortOwner.INSTANCE.value, ports.c.owner_id), else_="")
_QUERY = select(
    floating_ips,
    _HOLDERS.c.network_id,
    addresses.c.address,
    _INSTANCE_ID.label("instance_id"),
    ovn_work.pending(_KIND, floating_ips.c.id),
).select_from(
    floating_ips.join(_HOLDERS, _HOLDERS.c.id == floating_ips.c.holder_port_id)
    .outerjoin(
        addresses,
        and_(addresses.c.port_id == floating_ips.c.holder_port_id, addresses.c.position == 0),
    )
    .outerjoin(ports, ports.c.id == floating_ips.c.port_id)
)


def insert(conn: Connection, row: FloatingIp) -> None:
    """Insert a floating address; raise `AlreadyExists` when its name is taken in the project.

    So too when another leads to the same address of the same port.
    """
    rows.insert_named(conn, floating_ips, _KIND, _values(row))


def get(conn: Connection, ident: str) -> FloatingIp | None:
    """Return a floating address by id."""
    return _optional(rows.get_row(conn, _QUERY, floating_ips, ident))


def list_some(conn: Connection, idents: Iterable[str]) -> list[FloatingIp]:
    """Return those floating addresses of these ids that there are, in a few statements."""
    return [_floating_ip(row) for row in rows.some(conn, _QUERY, floating_ips, idents)]


def of_ports(conn: Connection, port_ids: Iterable[str]) -> list[FloatingIp]:
    """Return the floating addresses that lead to any of these ports, in a few statements."""
    query = _QUERY.order_by(floating_ips.c.id)
    found: list[FloatingIp] = []
    for some in rows.portions(port_ids):
        read = conn.execute(query.where(floating_ips.c.port_id.in_(some)))
        found += [_floating_ip(row) for row in read]
    return found


def by_router(conn: Connection, router_id: str, subnet_id: str | None = None) -> list[FloatingIp]:
    """Return the floating addresses that pass by a router, or those of them into one subnet."""
    query = _QUERY.where(floating_ips.c.router_id == router_id).order_by(floating_ips.c.id)
    if subnet_id is not None:
        fixed = addresses.alias("fixed")
        of_subnet = select(fixed.c.port_id).where(
            fixed.c.port_id == floating_ips.c.port_id,
            fixed.c.address == floating_ips.c.fixed_address,
            fixed.c.subnet_id == subnet_id,
        )
        query = query.where(of_subnet.exists())
    return [_floating_ip(row) for row in conn.execute(query)]


def locked(conn: Connection, ident: str) -> FloatingIp | None:
    """Return a floating address that nobody else changes until the transaction ends."""
    rows.lock(conn, floating_ips, ident)
    return get(conn, ident)


def lock(conn: Connection, *idents: str) -> None:
    """Keep others from changing floating addresses until the transaction ends; read them after."""
    rows.lock(conn, floating_ips, *idents)


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None = None,
    name: str | None = None,
    port_id: str | None = None,
    instance_id: str | None = None,
) -> list[FloatingIp]:
    """Return a page in the order of (name, id)."""
    where = rows.matches(
        project_id=(floating_ips.c.project_id, project_id),
        name=(floating_ips.c.name, name),
        port_id=(floating_ips.c.port_id, port_id),
        instance_id=(ports.c.owner_id, instance_id),
    )
    if instance_id is not None:
        where.append(ports.c.owner_kind == PortOwner.INSTANCE.value)
    page = rows.page_by_name(conn, _QUERY, floating_ips, after=after, limit=limit, where=where)
    return [_floating_ip(row) for row in page]


def count_by_project(conn: Connection, project_id: str) -> int:
    """Return how many floating addresses a project owns."""
    return rows.count_where(conn, floating_ips, floating_ips.c.project_id == project_id)


def replace(conn: Connection, row: FloatingIp, *, etag: str | None) -> None:
    """Write all changeable columns, if the stored etag is `etag` (None: whatever it is)."""
    rows.replace_row(conn, floating_ips, _KIND, _values(row), etag)


def delete(conn: Connection, ident: str) -> None:
    """Delete a floating address; its holder is to be deleted after."""
    rows.delete_row(conn, floating_ips, ident)


def _values(row: FloatingIp) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "name": row.name,
        "holder_port_id": row.holder_port_id,
        "port_id": row.port_id or None,
        "fixed_address": key_of(row.fixed_address) if row.fixed_address else "",
        "router_id": row.router_id or None,
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "labels": dict(row.labels),
    }


def _floating_ip(row: rows.AnyRow) -> FloatingIp:
    values = dict(row._mapping)
    for name in ("address", "fixed_address"):
        values[name] = address_of(values[name]) if values[name] else ""
    for name in ("port_id", "router_id"):
        values[name] = values[name] or ""
    values["reconciling"] = bool(values["reconciling"])
    return FloatingIp(**values)


def _optional(row: rows.AnyRow | None) -> FloatingIp | None:
    return None if row is None else _floating_ip(row)
