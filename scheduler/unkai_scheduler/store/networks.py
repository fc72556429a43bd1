"""Networks in the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, or_, select

from unkai_scheduler.domain.networks import Network, NetworkType
from unkai_scheduler.store import ovn_work, rows
from unkai_scheduler.store.failures import is_of
from unkai_scheduler.store.tables_networks import networks
from unkai_wire.errors import AlreadyExists

_KIND = "network"
_QUERY = select(networks, ovn_work.pending(_KIND, networks.c.id))


def insert(conn: Connection, row: Network) -> None:
    """Insert a network; raise `AlreadyExists` when its name is taken in the project.

    So too when the project has a default one already and this shall be it, and, as
    PHYSICAL_NETWORK_TAKEN, when another is on the same network of the operator's.
    """
    try:
        rows.insert_named(conn, networks, _KIND, _values(row))
    except AlreadyExists as error:
        if is_of(error, "networks", "physical_network", "vlan_id"):
            raise physical_network_taken(row.physical_network, row.vlan_id) from error
        raise


def physical_network_taken(
    physical_network: str, vlan_id: int, other: Network | None = None
) -> AlreadyExists:
    """Make the error for a network of the operator's that is one here; None: one just made."""
    vlan = f", VLAN {vlan_id}," if vlan_id else ""
    holder = {"network_id": other.id} if other else {}
    return AlreadyExists(
        f"physical network {physical_network}{vlan} is "
        f"{f'network {other.name}' if other else 'another network'} already",
        reason="PHYSICAL_NETWORK_TAKEN",
        fix="use that network; it can be external or shared",
        metadata={"physical_network": physical_network, "vlan_id": str(vlan_id), **holder},
        resource_kind="network",
        resource=other.id if other else "",
    )


def get(conn: Connection, ident: str) -> Network | None:
    """Return a network by id."""
    return _optional(rows.get_row(conn, _QUERY, networks, ident))


def list_some(conn: Connection, idents: Iterable[str]) -> list[Network]:
    """Return those networks of these ids that there are, in a few statements."""
    return [_network(row) for row in rows.some(conn, _QUERY, networks, idents)]


def locked(conn: Connection, ident: str) -> Network | None:
    """Return a network that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, networks, ident)
    return get(conn, ident)


def held(conn: Connection, ident: str) -> Network | None:
    """Return a network that nobody changes or removes until the transaction ends."""
    rows.hold(conn, networks, ident)
    return get(conn, ident)


def lock(conn: Connection, locked: Iterable[str], held: Iterable[str]) -> None:
    """Lock networks that change and hold others, which are referred to; read them after."""
    rows.lock_and_hold(conn, networks, locked, held)


def find(conn: Connection, project_id: str, name: str) -> Network | None:
    """Return a project's own network by name."""
    return _optional(rows.find_row(conn, _QUERY, networks, name, project_id))


def default_of(conn: Connection, project_id: str) -> Network | None:
    """Return the network that a project's instances get a port on when they name none."""
    query = _QUERY.where(networks.c.default_of == project_id)
    return _optional(conn.execute(query).one_or_none())


def on_provider(conn: Connection, physical_network: str, vlan_id: int) -> Network | None:
    """Return the network that is on a network of the operator's; `vlan_id` 0: untagged."""
    of_operator = networks.c.physical_network == physical_network
    query = _QUERY.where(of_operator, networks.c.vlan_id == vlan_id)
    return _optional(conn.execute(query).one_or_none())


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None = None,
    usable_by: str | None = None,
    name: str | None = None,
    external: bool | None = None,
) -> list[Network]:
    """Return a page in the order of (name, id).

    `project_id`: the project's own; `usable_by`: a project's own, all shared and external ones.
    """
    where = rows.matches(
        project_id=(networks.c.project_id, project_id),
        name=(networks.c.name, name),
        external=(networks.c.external, external),
    )
    if usable_by is not None:
        of_all = or_(networks.c.shared, networks.c.external)
        where.append(or_(networks.c.project_id == usable_by, of_all))
    page = rows.page_by_name(conn, _QUERY, networks, after=after, limit=limit, where=where)
    return [_network(row) for row in page]


def count_by_project(conn: Connection, project_id: str) -> int:
    """Return how many networks a project owns."""
    return rows.count_where(conn, networks, networks.c.project_id == project_id)


def replace(conn: Connection, row: Network, *, etag: str | None) -> None:
    """Write all changeable columns, if the stored etag is `etag` (None: whatever it is)."""
    rows.replace_row(conn, networks, _KIND, _values(row), etag)


def delete(conn: Connection, ident: str) -> None:
    """Delete a network; `FailedPrecondition` / REFERENCE_BROKEN while it has subnets or ports."""
    rows.delete_row(conn, networks, ident)


def _values(row: Network) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "name": row.name,
        "type": row.type.value,
        "mtu": row.mtu,
        "dns_domain": row.dns_domain,
        "physical_network": row.physical_network or None,
        "vlan_id": row.vlan_id,
        "external": row.external,
        "shared": row.shared,
        "default_of": row.project_id if row.is_default else None,
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "labels": dict(row.labels),
    }


def _network(row: rows.AnyRow) -> Network:
    values = dict(row._mapping)
    values["type"] = NetworkType(values["type"])
    values["physical_network"] = values["physical_network"] or ""
    values["is_default"] = values.pop("default_of") is not None
    values["reconciling"] = bool(values["reconciling"])
    return Network(**values)


def _optional(row: rows.AnyRow | None) -> Network | None:
    return None if row is None else _network(row)
