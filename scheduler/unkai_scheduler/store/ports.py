"""Ports in the database, read with their addresses and groups.

Addresses are rows that `addresses` takes and gives back one by one: insert a port, then take its
addresses; `insert` and `replace` write none. A port's state is what was seen of it, and moves
without its etag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy import update as sql_update

from unkai_scheduler.domain.ports import AddressPair, Port, PortOwner, PortState, Qos
from unkai_scheduler.store import addresses, ovn_work, rows
from unkai_scheduler.store.failures import is_of
from unkai_scheduler.store.tables_networks import addresses as address_rows
from unkai_scheduler.store.tables_networks import networks, port_security_groups, ports
from unkai_wire.errors import AlreadyExists

_KIND = "port"
_QUERY = select(ports, ovn_work.pending(_KIND, ports.c.id))
_GROUPS = select(port_security_groups.c.port_id, port_security_groups.c.group_id).order_by(
    port_security_groups.c.port_id, port_security_groups.c.position
)
_QOS = ("egress_bits_per_s", "egress_burst_bits", "ingress_bits_per_s", "ingress_burst_bits")


def insert(conn: Connection, row: Port) -> None:
    """Insert a port without addresses; raise `AlreadyExists` when its name is taken.

    So too, as MAC_ADDRESS_IN_USE, when its MAC address is taken on the network.
    """
    try:
        rows.insert_named(conn, ports, _KIND, _values(row))
    except AlreadyExists as error:
        if is_of(error, "ports", "network_id", "mac_address"):
            raise mac_address_in_use(row.network_id, row.mac_address) from error
        raise
    _make_groups(conn, row)


def mac_address_in_use(network_id: str, mac_address: str, port_id: str = "") -> AlreadyExists:
    """Make the error for a MAC address that a port of the network has; empty: one just made."""
    holder = {"port_id": port_id} if port_id else {}
    return AlreadyExists(
        f"MAC address {mac_address} is in use on network {network_id}",
        reason="MAC_ADDRESS_IN_USE",
        fix="name another MAC address, or none: one that is free is taken then",
        metadata={"mac_address": mac_address, "network_id": network_id, **holder},
        resource_kind="port",
        resource=port_id,
    )


def get(conn: Connection, ident: str) -> Port | None:
    """Return a port by id."""
    return _optional(conn, rows.get_row(conn, _QUERY, ports, ident))


def list_some(conn: Connection, idents: Iterable[str]) -> list[Port]:
    """Return those ports of these ids that there are, in a few statements."""
    return _ports(conn, rows.some(conn, _QUERY, ports, idents))


def of_owners(conn: Connection, owner_ids: Iterable[str]) -> dict[str, list[Port]]:
    """Return the ports of each owner that has some, by their position, in a few statements."""
    query = _QUERY.order_by(ports.c.owner_id, ports.c.position, ports.c.id)
    read: list[rows.AnyRow] = []
    for some in rows.portions(owner_ids):
        read += conn.execute(query.where(ports.c.owner_id.in_(some)))
    found: dict[str, list[Port]] = {}
    for port in _ports(conn, read):
        found.setdefault(port.owner_id, []).append(port)
    return found


def physical_networks(conn: Connection, owner_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return, for each of these owners that has ports, the physical networks that they need.

    None of those is an overlay's; an owner with ports on overlays alone needs no physical network.
    """
    query = select(ports.c.owner_id, func.coalesce(networks.c.physical_network, "")).select_from(
        ports.join(networks, networks.c.id == ports.c.network_id)
    )
    found: dict[str, set[str]] = {}
    for some in rows.portions(owner_ids):
        for owner_id, name in conn.execute(query.where(ports.c.owner_id.in_(some))):
            found.setdefault(owner_id, set()).add(name)
    return {owner_id: tuple(sorted(names - {""})) for owner_id, names in found.items()}


def of_owner(conn: Connection, owner_id: str) -> list[Port]:
    """Return the ports of an instance, router, load balancer or floating address."""
    return of_owners(conn, [owner_id]).get(owner_id, [])


def locked(conn: Connection, ident: str) -> Port | None:
    """Return a port that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, ports, ident)
    return get(conn, ident)


def lock(conn: Connection, *idents: str, held: Iterable[str] = ()) -> None:
    """Keep others from changing these ports until the transaction ends; read them after.

    `held`: others, which are referred to.
    """
    rows.lock_and_hold(conn, ports, idents, held)


def held(conn: Connection, ident: str) -> Port | None:
    """Return a port that nobody changes or removes until the transaction ends."""
    rows.hold(conn, ports, ident)
    return get(conn, ident)


def find(conn: Connection, project_id: str, name: str) -> Port | None:
    """Return a project's port by name."""
    return _optional(conn, rows.find_row(conn, _QUERY, ports, name, project_id))


def by_mac(conn: Connection, network_id: str, mac_address: str) -> Port | None:
    """Return the port that has a MAC address on a network."""
    of_network = ports.c.network_id == network_id
    query = _QUERY.where(of_network, ports.c.mac_address == mac_address)
    return _optional(conn, conn.execute(query).one_or_none())


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None = None,
    name: str | None = None,
    network_id: str | None = None,
    owner_id: str | None = None,
    security_group_id: str | None = None,
) -> list[Port]:
    """Return a page in the order of (name, id)."""
    where = rows.matches(
        project_id=(ports.c.project_id, project_id),
        name=(ports.c.name, name),
        network_id=(ports.c.network_id, network_id),
        owner_id=(ports.c.owner_id, owner_id),
    )
    if security_group_id is not None:
        where.append(ports.c.id.in_(_in_group(security_group_id)))
    page = rows.page_by_name(conn, _QUERY, ports, after=after, limit=limit, where=where)
    return _ports(conn, page)


def ids_on_network(conn: Connection, network_id: str) -> list[str]:
    """Return the ids of all ports on a network."""
    query = select(ports.c.id).where(ports.c.network_id == network_id).order_by(ports.c.id)
    return list(conn.execute(query).scalars())


def on_subnet(conn: Connection, subnet_id: str) -> list[Port]:
    """Return the ports that have an address of a subnet."""
    having = select(address_rows.c.port_id).where(address_rows.c.subnet_id == subnet_id)
    query = _QUERY.where(ports.c.id.in_(having)).order_by(ports.c.id)
    return _ports(conn, conn.execute(query).all())


def of_kind_on_network(conn: Connection, network_id: str, owner: PortOwner | None) -> list[Port]:
    """Return the ports on a network that this kind of owner has; None: that nobody has."""
    kind = ports.c.owner_kind
    of_kind = kind.is_(None) if owner is None else kind == owner.value
    query = _QUERY.where(ports.c.network_id == network_id, of_kind).order_by(ports.c.id)
    return _ports(conn, conn.execute(query).all())


def count_by_owner(conn: Connection, network_id: str) -> dict[PortOwner | None, int]:
    """Return how many ports each kind of owner has on a network; None: those without one."""
    query = select(ports.c.owner_kind, func.count()).where(ports.c.network_id == network_id)
    counts = conn.execute(query.group_by(ports.c.owner_kind))
    return {kind and PortOwner(kind): count for kind, count in counts}


def count_by_project(conn: Connection, project_id: str) -> int:
    """Return how many ports a project owns."""
    return rows.count_where(conn, ports, ports.c.project_id == project_id)


def replace(conn: Connection, row: Port, *, etag: str | None) -> None:
    """Write all changeable columns and the groups, if the stored etag is `etag` (None: any)."""
    rows.replace_row(conn, ports, _KIND, _values(row), etag)
    _make_groups(conn, row)


def set_states(
    conn: Connection, states: Mapping[str, PortState], owner_ids: Mapping[str, str]
) -> None:
    """Write what was seen of ports, in a few statements.

    `owner_ids`: whose each was then. Those that are another's since, or gone, are passed over.
    """
    rows.lock(conn, ports, *states)
    query = select(ports.c.id, ports.c.owner_id)
    found = rows.some(conn, query, ports, states)
    same = {row.id for row in found if row.owner_id == owner_ids[row.id]}
    for state in sorted(set(states.values()), key=lambda state: state.value):
        of_state = [ident for ident in same if states[ident] is state]
        for some in rows.portions(of_state):
            statement = sql_update(ports).where(ports.c.id.in_(some))
            conn.execute(statement.values(state=state.value))


def delete(conn: Connection, ident: str) -> None:
    """Delete a port: its addresses are free then.

    `FailedPrecondition` / REFERENCE_BROKEN while a router, load balancer or floating address has or
    names it.
    """
    rows.delete_row(conn, ports, ident)


def _in_group(group_id: str) -> Any:
    groups = port_security_groups
    return select(groups.c.port_id).where(groups.c.group_id == group_id).order_by(groups.c.port_id)


def _make_groups(conn: Connection, row: Port) -> None:
    wanted = [
        {"group_id": ident, "position": place} for place, ident in enumerate(row.security_group_ids)
    ]
    rows.make_parts(conn, port_security_groups, {"port_id": row.id}, wanted)


def _values(row: Port) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "network_id": row.network_id,
        "name": row.name,
        "mac_address": row.mac_address,
        "pairs": [asdict(pair) for pair in row.pairs],
        "anti_spoofing": row.anti_spoofing,
        **asdict(row.qos),
        "owner_kind": row.owner and row.owner.value,
        "owner_id": row.owner_id,
        "position": row.position,
        "delete_with_owner": row.delete_with_owner,
        "state": row.state.value,
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "labels": dict(row.labels),
    }


def _ports(conn: Connection, read: Sequence[rows.AnyRow]) -> list[Port]:
    """Make ports of rows, with their parts."""
    idents = [row.id for row in read]
    taken = addresses.of_ports(conn, idents)
    groups = rows.parts_of(conn, _GROUPS, port_security_groups.c.port_id, idents)
    made = []
    for row in read:
        values = dict(row._mapping)
        owner = values.pop("owner_kind")
        values["qos"] = Qos(**{name: values.pop(name) for name in _QOS})
        values["owner"] = owner and PortOwner(owner)
        values["pairs"] = tuple(AddressPair(**pair) for pair in values["pairs"])
        values["state"] = PortState(values["state"])
        values["reconciling"] = bool(values["reconciling"])
        values["addresses"] = taken.get(row.id, ())
        values["security_group_ids"] = tuple(part.group_id for part in groups.get(row.id, ()))
        made.append(Port(**values))
    return made


def _optional(conn: Connection, row: rows.AnyRow | None) -> Port | None:
    return None if row is None else _ports(conn, [row])[0]
