"""Routers in the database, read with their gateways and interfaces.

Where a router is, and with which addresses, its ports say: take them first (`ports`, `addresses`),
then name them here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, and_, select

from unkai_scheduler.domain.addresses import address_of
from unkai_scheduler.domain.routers import Gateway, Route, Router, RouterInterface
from unkai_scheduler.store import addresses, ovn_work, rows
from unkai_scheduler.store.tables_networks import addresses as address_rows
from unkai_scheduler.store.tables_networks import ports, router_interfaces, routers

_KIND = "router"
_QUERY = select(
    routers,
    ports.c.network_id.label("gateway_network_id"),
    ovn_work.pending(_KIND, routers.c.id),
).select_from(routers.outerjoin(ports, ports.c.id == routers.c.gateway_port_id))
_INTERFACES = (
    select(
        router_interfaces.c.router_id,
        router_interfaces.c.subnet_id,
        router_interfaces.c.port_id,
        address_rows.c.address,
    )
    .select_from(
        router_interfaces.outerjoin(
            address_rows,
            and_(
                address_rows.c.port_id == router_interfaces.c.port_id,
                address_rows.c.subnet_id == router_interfaces.c.subnet_id,
            ),
        )
    )
    .order_by(router_interfaces.c.router_id, router_interfaces.c.position)
)


def insert(conn: Connection, row: Router) -> None:
    """Insert a router; raise `AlreadyExists` when its name is taken in the project."""
    rows.insert_named(conn, routers, _KIND, _values(row))
    _make_interfaces(conn, row)


def get(conn: Connection, ident: str) -> Router | None:
    """Return a router by id."""
    return _optional(conn, rows.get_row(conn, _QUERY, routers, ident))


def list_some(conn: Connection, idents: Iterable[str]) -> list[Router]:
    """Return those routers of these ids that there are, in a few statements."""
    return _routers(conn, rows.some(conn, _QUERY, routers, idents))


def locked(conn: Connection, ident: str) -> Router | None:
    """Return a router that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, routers, ident)
    return get(conn, ident)


def held(conn: Connection, ident: str) -> Router | None:
    """Return a router that nobody changes or removes until the transaction ends."""
    rows.hold(conn, routers, ident)
    return get(conn, ident)


def find(conn: Connection, project_id: str, name: str) -> Router | None:
    """Return a project's router by name."""
    return _optional(conn, rows.find_row(conn, _QUERY, routers, name, project_id))


def ids_on_subnet(conn: Connection, subnet_id: str) -> list[str]:
    """Return the ids of the routers that have a place on a subnet."""
    query = select(router_interfaces.c.router_id).where(router_interfaces.c.subnet_id == subnet_id)
    return list(conn.execute(query.order_by(router_interfaces.c.router_id)).scalars())


def ids_on_subnets(conn: Connection, subnet_ids: Iterable[str]) -> list[str]:
    """Return the ids of routers with an interface on one of these subnets, in a few statements."""
    interface = router_interfaces.c
    found: set[str] = set()
    for some in rows.portions(subnet_ids):
        query = select(interface.router_id).where(interface.subnet_id.in_(some)).distinct()
        found |= set(conn.execute(query).scalars())
    return sorted(found)


def leading_out(conn: Connection, subnet_id: str, external_network_id: str) -> list[Router]:
    """Return the routers from a subnet to an external network, oldest first."""
    on_subnet = select(router_interfaces.c.router_id).where(
        router_interfaces.c.subnet_id == subnet_id
    )
    query = _QUERY.where(
        routers.c.id.in_(on_subnet), ports.c.network_id == external_network_id
    ).order_by(routers.c.id)
    return _routers(conn, conn.execute(query).all())


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None = None,
    name: str | None = None,
) -> list[Router]:
    """Return a page in the order of (name, id)."""
    where = rows.matches(project_id=(routers.c.project_id, project_id), name=(routers.c.name, name))
    page = rows.page_by_name(conn, _QUERY, routers, after=after, limit=limit, where=where)
    return _routers(conn, page)


def count_by_project(conn: Connection, project_id: str) -> int:
    """Return how many routers a project owns."""
    return rows.count_where(conn, routers, routers.c.project_id == project_id)


def replace(conn: Connection, row: Router, *, etag: str | None) -> None:
    """Write all changeable columns and the interfaces, if the stored etag is `etag` (None: any)."""
    rows.replace_row(conn, routers, _KIND, _values(row), etag)
    _make_interfaces(conn, row)


def delete(conn: Connection, ident: str) -> None:
    """Delete a router with its interfaces; its ports are to be deleted after.

    `FailedPrecondition` / REFERENCE_BROKEN while floating addresses pass by it.
    """
    rows.delete_row(conn, routers, ident)


def _make_interfaces(conn: Connection, row: Router) -> None:
    wanted = [
        {"subnet_id": some.subnet_id, "port_id": some.port_id, "position": place}
        for place, some in enumerate(row.interfaces)
    ]
    rows.make_parts(conn, router_interfaces, {"router_id": row.id}, wanted)


def _values(row: Router) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "name": row.name,
        "gateway_port_id": row.gateway and row.gateway.port_id,
        "snat": row.gateway is not None and row.gateway.snat,
        "routes": [asdict(route) for route in row.routes],
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "labels": dict(row.labels),
    }


def _routers(conn: Connection, read: Sequence[rows.AnyRow]) -> list[Router]:
    """Make routers of rows, with their places."""
    of_router = router_interfaces.c.router_id
    places = rows.parts_of(conn, _INTERFACES, of_router, [row.id for row in read])
    gateways = addresses.of_ports(conn, filter(None, (row.gateway_port_id for row in read)))
    made = []
    for row in read:
        values = dict(row._mapping)
        port_id, network_id = values.pop("gateway_port_id"), values.pop("gateway_network_id")
        snat = values.pop("snat")
        if port_id is not None:
            taken = tuple(one.address for one in gateways.get(port_id, ()))
            values["gateway"] = Gateway(network_id, port_id, taken, snat)
        values["interfaces"] = tuple(_interface(part) for part in places.get(row.id, ()))
        values["routes"] = tuple(Route(**route) for route in values["routes"])
        values["reconciling"] = bool(values["reconciling"])
        made.append(Router(**values))
    return made


def _interface(row: rows.AnyRow) -> RouterInterface:
    # Empty only between naming the port here and taking its address.
    address = address_of(row.address) if row.address else ""
    return RouterInterface(row.subnet_id, row.port_id, address)


def _optional(conn: Connection, row: rows.AnyRow | None) -> Router | None:
    return None if row is None else _routers(conn, [row])[0]
