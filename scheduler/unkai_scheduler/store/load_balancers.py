"""Load balancers in the database, read with their members and everybody's address.

A listener is an element of its row's list; its members are rows, so that who names a port is found.
The load balancer's port is inserted first, and has its address.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy import delete as sql_delete

from unkai_scheduler.domain.addresses import address_of, version_of
from unkai_scheduler.domain.load_balancers import (
    BalancedProtocol,
    HealthCheck,
    Listener,
    LoadBalancer,
    Member,
)
from unkai_scheduler.domain.ports import FixedAddress, PortOwner
from unkai_scheduler.store import addresses, ovn_work, rows
from unkai_scheduler.store.tables_networks import addresses as address_rows
from unkai_scheduler.store.tables_networks import load_balancer_members, load_balancers, ports

_KIND = "load_balancer"
_QUERY = select(load_balancers, ovn_work.pending(_KIND, load_balancers.c.id))
_MEMBERS = select(load_balancer_members).order_by(
    load_balancer_members.c.load_balancer_id, load_balancer_members.c.position
)
_Addresses = dict[str, tuple[FixedAddress, ...]]


def insert(conn: Connection, row: LoadBalancer) -> None:
    """Insert a load balancer; raise `AlreadyExists` when its name is taken in the project."""
    rows.insert_named(conn, load_balancers, _KIND, _values(row))
    _make_members(conn, row)


def get(conn: Connection, ident: str) -> LoadBalancer | None:
    """Return a load balancer by id."""
    return _optional(conn, rows.get_row(conn, _QUERY, load_balancers, ident))


def list_some(conn: Connection, idents: Iterable[str]) -> list[LoadBalancer]:
    """Return those load balancers of these ids that there are, in a few statements."""
    return _load_balancers(conn, rows.some(conn, _QUERY, load_balancers, idents))


def naming(conn: Connection, port_ids: Iterable[str]) -> list[str]:
    """Return the ids of load balancers that have one of these ports as a member."""
    member = load_balancer_members.c
    found: set[str] = set()
    for some in rows.portions(port_ids):
        query = select(member.load_balancer_id).where(member.port_id.in_(some)).distinct()
        found |= set(conn.execute(query).scalars())
    return sorted(found)


def ids_on_subnet(conn: Connection, subnet_id: str) -> list[str]:
    """Return the ids of load balancers whose address is of a subnet."""
    query = select(load_balancers.c.id).where(load_balancers.c.subnet_id == subnet_id)
    return list(conn.execute(query.order_by(load_balancers.c.id)).scalars())


def probe_sources(conn: Connection, subnet_ids: Iterable[str]) -> dict[str, str]:
    """Return the address that health checks come from, for each of these subnets that has one.

    It is of a port of its own, whose owner is the subnet in the load balancers' stead.
    """
    query = (
        select(ports.c.owner_id, address_rows.c.address)
        .select_from(ports.join(address_rows, address_rows.c.port_id == ports.c.id))
        .where(ports.c.owner_kind == PortOwner.LOAD_BALANCER.value)
    )
    found = rows.parts_of(conn, query, ports.c.owner_id, subnet_ids)
    return {subnet_id: address_of(some[0].address) for subnet_id, some in found.items()}


def locked(conn: Connection, ident: str) -> LoadBalancer | None:
    """Return a load balancer that nobody else changes until the transaction ends."""
    rows.lock(conn, load_balancers, ident)
    return get(conn, ident)


def lock(conn: Connection, *idents: str) -> None:
    """Keep others from changing load balancers until the transaction ends; read them after."""
    rows.lock(conn, load_balancers, *idents)


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None = None,
    name: str | None = None,
    subnet_id: str | None = None,
) -> list[LoadBalancer]:
    """Return a page in the order of (name, id)."""
    where = rows.matches(
        project_id=(load_balancers.c.project_id, project_id),
        name=(load_balancers.c.name, name),
        subnet_id=(load_balancers.c.subnet_id, subnet_id),
    )
    page = rows.page_by_name(conn, _QUERY, load_balancers, after=after, limit=limit, where=where)
    return _load_balancers(conn, page)


def count_by_project(conn: Connection, project_id: str) -> int:
    """Return how many load balancers a project owns."""
    return rows.count_where(conn, load_balancers, load_balancers.c.project_id == project_id)


def replace(conn: Connection, row: LoadBalancer, *, etag: str | None) -> None:
    """Write all changeable columns and the members, if the stored etag is `etag` (None: any)."""
    rows.replace_row(conn, load_balancers, _KIND, _values(row), etag)
    _make_members(conn, row)


def drop_members(conn: Connection, port_id: str) -> list[str]:
    """Take a port out of all load balancers; return their ids."""
    found = naming(conn, [port_id])
    of_port = load_balancer_members.c.port_id == port_id
    conn.execute(sql_delete(load_balancer_members).where(of_port))
    return found


def delete(conn: Connection, ident: str) -> None:
    """Delete a load balancer with its members; its port is to be deleted after."""
    rows.delete_row(conn, load_balancers, ident)


def _make_members(conn: Connection, row: LoadBalancer) -> None:
    wanted = [
        {
            "protocol": listener.protocol.value,
            "listener_port_number": listener.port_number,
            "port_id": member.port_id,
            "port_number": member.port_number,
            "position": place,
        }
        for listener in row.listeners
        for place, member in enumerate(listener.members)
    ]
    rows.make_parts(conn, load_balancer_members, {"load_balancer_id": row.id}, wanted)


def _values(row: LoadBalancer) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "name": row.name,
        "subnet_id": row.subnet_id,
        "port_id": row.port_id,
        "listeners": [_listener_values(listener) for listener in row.listeners],
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "labels": dict(row.labels),
    }


def _listener_values(listener: Listener) -> dict[str, Any]:
    check = listener.health_check
    return {
        "protocol": listener.protocol.value,
        "port_number": listener.port_number,
        "health_check": None if check is None else asdict(check),
    }


def _load_balancers(conn: Connection, read: Sequence[rows.AnyRow]) -> list[LoadBalancer]:
    """Make load balancers of rows, with their members."""
    of_one = load_balancer_members.c.load_balancer_id
    parts = rows.parts_of(conn, _MEMBERS, of_one, [row.id for row in read])
    named = {row.port_id for row in read}
    named |= {part.port_id for some in parts.values() for part in some}
    taken = addresses.of_ports(conn, named)
    return [_load_balancer(row, parts.get(row.id, []), taken) for row in read]


def _load_balancer(
    row: rows.AnyRow, parts: Sequence[rows.AnyRow], taken: _Addresses
) -> LoadBalancer:
    values = dict(row._mapping)
    own = taken.get(row.port_id, ())
    values["address"] = own[0].address if own else ""
    values["reconciling"] = bool(values["reconciling"])
    members = defaultdict(list)
    for part in parts:
        address = _first_like(values["address"], taken.get(part.port_id, ()))
        member = Member(part.port_id, part.port_number, address)
        members[part.protocol, part.listener_port_number].append(member)
    values["listeners"] = tuple(
        _listener(some, members[some["protocol"], some["port_number"]])
        for some in values["listeners"]
    )
    return LoadBalancer(**values)


def _first_like(address: str, taken: Sequence[FixedAddress]) -> str:
    """Return the first of a port's addresses that is of the same version; empty without one."""
    version = version_of(address)
    return next((one.address for one in taken if version_of(one.address) == version), "")


def _listener(values: dict[str, Any], members: Sequence[Member]) -> Listener:
    check = values["health_check"]
    return Listener(
        protocol=BalancedProtocol(values["protocol"]),
        port_number=values["port_number"],
        members=tuple(members),
        health_check=None if check is None else HealthCheck(**check),
    )


def _optional(conn: Connection, row: rows.AnyRow | None) -> LoadBalancer | None:
    return None if row is None else _load_balancers(conn, [row])[0]
