"""Subnets in the database, each with how many of its addresses are in use.

Where the next address is looked for is a column of theirs that `addresses` alone reads and writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, func, select

from unkai_scheduler.domain.networks import HostRoute, Ipv6Mode, Range, Subnet
from unkai_scheduler.store import ovn_work, rows
from unkai_scheduler.store.tables_networks import addresses, subnets

_KIND = "subnet"
_USED = (
    select(func.count())
    .where(addresses.c.subnet_id == subnets.c.id)
    .correlate(subnets)
    .scalar_subquery()
    .label("used_address_count")
)
_QUERY = select(
    *(column for column in subnets.c if column.name != "next_hint"),
    _USED,
    ovn_work.pending(_KIND, subnets.c.id),
)


def insert(conn: Connection, row: Subnet) -> None:
    """Insert a subnet; raise `AlreadyExists` when its name is taken in the project.

    That it overlaps none of its network is for the caller to see to, who has locked the network.
    """
    rows.insert_named(conn, subnets, _KIND, _values(row) | {"next_hint": ""})


def get(conn: Connection, ident: str) -> Subnet | None:
    """Return a subnet by id."""
    return _optional(rows.get_row(conn, _QUERY, subnets, ident))


def list_some(conn: Connection, idents: Iterable[str]) -> list[Subnet]:
    """Return those subnets of these ids that there are, in a few statements."""
    return [_subnet(row) for row in rows.some(conn, _QUERY, subnets, idents)]


def of_networks(conn: Connection, network_ids: Iterable[str]) -> dict[str, list[Subnet]]:
    """Return the subnets of each of these networks that has some, oldest first."""
    query = _QUERY.order_by(subnets.c.id)
    found: dict[str, list[Subnet]] = {}
    for some in rows.portions(network_ids):
        for row in conn.execute(query.where(subnets.c.network_id.in_(some))):
            found.setdefault(row.network_id, []).append(_subnet(row))
    return found


def of_network(conn: Connection, network_id: str) -> list[Subnet]:
    """Return the subnets of a network, oldest first."""
    return of_networks(conn, [network_id]).get(network_id, [])


def locked(conn: Connection, ident: str) -> Subnet | None:
    """Return a subnet that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, subnets, ident)
    return get(conn, ident)


def lock(conn: Connection, *idents: str) -> None:
    """Keep others from changing these subnets, and from taking addresses; read them after."""
    rows.lock(conn, subnets, *idents)


def lock_of(conn: Connection, *network_ids: str) -> None:
    """Keep others from changing the subnets of networks, and from taking addresses there."""
    of_networks = subnets.c.network_id.in_(network_ids)
    rows.lock(conn, subnets, *conn.execute(select(subnets.c.id).where(of_networks)).scalars())


def find(conn: Connection, project_id: str, name: str) -> Subnet | None:
    """Return a project's subnet by name."""
    return _optional(rows.find_row(conn, _QUERY, subnets, name, project_id))


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None = None,
    name: str | None = None,
    network_id: str | None = None,
) -> list[Subnet]:
    """Return a page in the order of (name, id)."""
    where = rows.matches(
        project_id=(subnets.c.project_id, project_id),
        name=(subnets.c.name, name),
        network_id=(subnets.c.network_id, network_id),
    )
    page = rows.page_by_name(conn, _QUERY, subnets, after=after, limit=limit, where=where)
    return [_subnet(row) for row in page]


def count_by_project(conn: Connection, project_id: str) -> int:
    """Return how many subnets a project owns."""
    return rows.count_where(conn, subnets, subnets.c.project_id == project_id)


def replace(conn: Connection, row: Subnet, *, etag: str | None) -> None:
    """Write all changeable columns, if the stored etag is `etag` (None: whatever it is)."""
    rows.replace_row(conn, subnets, _KIND, _values(row), etag)


def delete(conn: Connection, ident: str) -> None:
    """Delete a subnet; `FailedPrecondition` / REFERENCE_BROKEN while an address is in use."""
    rows.delete_row(conn, subnets, ident)


def _values(row: Subnet) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "network_id": row.network_id,
        "name": row.name,
        "cidr": row.cidr,
        "gateway_address": row.gateway_address,
        "ranges": [asdict(some) for some in row.ranges],
        "dhcp": row.dhcp,
        "ipv6_mode": row.ipv6_mode and row.ipv6_mode.value,
        "dns_servers": list(row.dns_servers),
        "host_routes": [asdict(route) for route in row.host_routes],
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "labels": dict(row.labels),
    }


def _subnet(row: rows.AnyRow) -> Subnet:
    values = dict(row._mapping)
    values["ranges"] = tuple(Range(**some) for some in values["ranges"])
    values["ipv6_mode"] = values["ipv6_mode"] and Ipv6Mode(values["ipv6_mode"])
    values["dns_servers"] = tuple(values["dns_servers"])
    values["host_routes"] = tuple(HostRoute(**route) for route in values["host_routes"])
    values["reconciling"] = bool(values["reconciling"])
    return Subnet(**values)


def _optional(row: rows.AnyRow | None) -> Subnet | None:
    return None if row is None else _subnet(row)
