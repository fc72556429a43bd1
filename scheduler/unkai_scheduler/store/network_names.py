"""The names on all networks, read at once: the instances that have ports, and their addresses.

Reads narrow rows and makes nothing of them that is not asked for: with tens of thousands of ports
this is read each second in which something changes.
"""

from __future__ import annotations

from sqlalchemy import Connection, select

from unkai_scheduler.domain.addresses import address_of
from unkai_scheduler.domain.network_names import NamedAddress, Naming
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.store.tables import instances
from unkai_scheduler.store.tables_networks import addresses, networks, ports

_NAMED = (
    select(
        ports.c.network_id,
        instances.c.id,
        instances.c.name,
        instances.c.project_id,
        addresses.c.address,
    )
    .join(instances, ports.c.owner_id == instances.c.id)
    .join(addresses, addresses.c.port_id == ports.c.id)
    .where(ports.c.owner_kind == PortOwner.INSTANCE.value)
)
_NAMINGS = select(networks.c.id, networks.c.project_id, networks.c.dns_domain)


def named_addresses(conn: Connection) -> list[NamedAddress]:
    """Return each address that an instance has, with the instance's name."""
    return [
        NamedAddress(network_id, ident, name, project_id, address_of(key))
        for network_id, ident, name, project_id, key in conn.execute(_NAMED)
    ]


def namings(conn: Connection) -> dict[str, Naming]:
    """Return what each network says of names on it."""
    return {ident: Naming(project, domain) for ident, project, domain in conn.execute(_NAMINGS)}
