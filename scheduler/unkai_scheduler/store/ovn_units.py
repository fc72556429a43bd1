"""What units of OVN are made of: ids in pages, whether they are there, what people call them.

A unit's key is `kind:id`. Ports of routers, load balancers and floating addresses are no units of
their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, or_, select

from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.store import ovn_work, rows
from unkai_scheduler.store import tables_networks as tables

_TABLES: Mapping[str, Table] = {
    "network": tables.networks,
    "security_group": tables.security_groups,
    "subnet": tables.subnets,
    "router": tables.routers,
    "port": tables.ports,
    "floating_ip": tables.floating_ips,
    "load_balancer": tables.load_balancers,
}
KINDS = tuple(_TABLES)
"""In an order in which what is referred to comes first."""


class Called(NamedTuple):
    """What people know a resource by."""

    name: str
    project_id: str


def page(conn: Connection, kind: str, after: str, limit: int) -> list[str]:
    """Return ids of resources of a kind that are units, in their order, after this one."""
    table = _TABLES[kind]
    query = select(table.c.id).where(table.c.id > after, *_is_unit(kind))
    return list(conn.execute(query.order_by(table.c.id).limit(limit)).scalars())


def called(conn: Connection, keys: Iterable[str]) -> dict[str, Called]:
    """Return the names of those units whose resource is there, by key."""
    idents: defaultdict[str, list[str]] = defaultdict(list)
    for key in keys:
        kind, _, ident = key.partition(":")
        idents[kind].append(ident)
    found: dict[str, Called] = {}
    for kind, of_kind in idents.items():
        table = _TABLES.get(kind)
        if table is not None:
            query = select(table.c.id, table.c.name, table.c.project_id)
            for row in rows.some(conn, query, table, of_kind):
                found[f"{kind}:{row.id}"] = Called(row.name, row.project_id)
    return found


def is_any_brought(conn: Connection) -> bool:
    """Tell whether OVN has been told of any unit there is: one that is not among the work."""
    for kind, table in _TABLES.items():
        waits = ovn_work.waits(kind, table.c.id)
        if conn.execute(select(table.c.id).where(~waits, *_is_unit(kind)).limit(1)).first():
            return True
    return False


def _is_unit(kind: str) -> list[ColumnElement[bool]]:
    if kind != "port":
        return []
    owner = tables.ports.c.owner_kind
    return [or_(owner.is_(None), owner == PortOwner.INSTANCE.value)]
