"""What of OVN a change makes stale: marked in the change's own transaction.

One table, from the kind of what changed to the units that are derived from it. It asks the store
for them by a few queries of ids, and never reads a whole cloud: `ovn/northbound/affected.py` says
the same of a view that is read whole, and a unit too many costs one comparison.

Call `touched` after a change that makes or alters; where what depended on the resource is not to be
found any more after it (an address given back, a removal), before it too. `removed` besides for
what is gone: only what has a tombstone is removed from OVN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.ovn.rows import unit_key
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.store import (
    floating_ips,
    load_balancers,
    ovn_work,
    ports,
    routers,
    subnets,
)

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


def touched(
    conn: Connection, context: ServiceContext, kind: str, ident: str, *, reason: str = "changed"
) -> None:
    """Mark a resource's units and all that are derived from it."""
    ovn_work.mark(conn, dependents(conn, kind, ident), context.clock(), reason)


def removed(conn: Connection, context: ServiceContext, kind: str, ident: str) -> None:
    """Mark the unit of what was removed, and let it be removed from OVN."""
    now = context.clock()
    ovn_work.entomb(conn, [unit_key(kind, ident)], now)
    ovn_work.mark(conn, [unit_key(kind, ident)], now, "removed")


def marked(conn: Connection, context: ServiceContext, keys: Iterable[str], reason: str) -> None:
    """Mark these units alone."""
    ovn_work.mark(conn, keys, context.clock(), reason)


def dependents(conn: Connection, kind: str, ident: str) -> frozenset[str]:
    """Return the keys of the units that a resource's change makes stale.

    Kinds: those of units; besides, `instance` when it comes to another host.
    """
    return frozenset(_TABLE[kind](conn, ident))


def has_unit(port: Port) -> bool:
    """Tell whether a port is a unit: those of routers are rows of the router's, others have none.

    Only an instance's port, or one that may become it, has rows of its own.
    """
    return port.owner in {None, PortOwner.INSTANCE}


def _of_itself(kind: str) -> Callable[[Connection, str], Iterator[str]]:
    def keys(_conn: Connection, ident: str) -> Iterator[str]:
        yield unit_key(kind, ident)

    return keys


def _of_network(conn: Connection, ident: str) -> Iterator[str]:
    """Yield those that tell its MTU and domain, too."""
    yield unit_key("network", ident)
    for subnet in subnets.of_network(conn, ident):
        yield unit_key("subnet", subnet.id)
        yield from _keys("router", routers.ids_on_subnet(conn, subnet.id))
    yield from _keys("router", _routers_out_by(conn, ident))


def _of_subnet(conn: Connection, ident: str) -> Iterator[str]:
    """Yield those of what has an address there, too: they name its DHCP row or its prefix."""
    yield unit_key("subnet", ident)
    yield from _keys("router", routers.ids_on_subnet(conn, ident))
    yield from _keys("load_balancer", load_balancers.ids_on_subnet(conn, ident))
    on_subnet = ports.on_subnet(conn, ident)
    yield from _keys("port", (port.id for port in on_subnet if has_unit(port)))
    yield from _keys("router", (port.owner_id for port in on_subnet if _is_routers(port)))
    yield from _keys("load_balancer", load_balancers.naming(conn, [port.id for port in on_subnet]))


def _of_port(conn: Connection, ident: str) -> Iterator[str]:
    """Yield those that say its addresses, too."""
    port = ports.get(conn, ident)
    if port is None:
        return
    if has_unit(port):
        yield unit_key("port", ident)
    if _is_routers(port):
        yield unit_key("router", port.owner_id)
    if port.owner is PortOwner.LOAD_BALANCER:
        yield unit_key("load_balancer", port.owner_id)
    yield from _keys("floating_ip", (some.id for some in floating_ips.of_ports(conn, [ident])))
    yield from _keys("load_balancer", load_balancers.naming(conn, [ident]))


def _of_router(conn: Connection, ident: str) -> Iterator[str]:
    """Yield those of the load balancers that hang on it, too."""
    yield unit_key("router", ident)
    router = routers.get(conn, ident)
    for interface in router.interfaces if router else ():
        yield from _keys("load_balancer", load_balancers.ids_on_subnet(conn, interface.subnet_id))


def _of_floating_ip(conn: Connection, ident: str) -> Iterator[str]:
    """Yield that of the load balancer it leads to, too."""
    yield unit_key("floating_ip", ident)
    floating = floating_ips.get(conn, ident)
    port = ports.get(conn, floating.port_id) if floating and floating.port_id else None
    if port and port.owner is PortOwner.LOAD_BALANCER:
        yield unit_key("load_balancer", port.owner_id)


def _of_instance(conn: Connection, ident: str) -> Iterator[str]:
    """Yield those of its ports: they say on which host it is."""
    yield from _keys("port", (port.id for port in ports.of_owner(conn, ident)))


def _is_routers(port: Port) -> bool:
    return port.owner in {PortOwner.ROUTER, PortOwner.GATEWAY}


def _routers_out_by(conn: Connection, network_id: str) -> list[str]:
    gateways = ports.of_kind_on_network(conn, network_id, PortOwner.GATEWAY)
    return [port.owner_id for port in gateways]


def _keys(kind: str, idents: Iterable[str]) -> Iterator[str]:
    return (unit_key(kind, ident) for ident in idents)


_TABLE: Mapping[str, Callable[[Connection, str], Iterator[str]]] = {
    "network": _of_network,
    "subnet": _of_subnet,
    "port": _of_port,
    "security_group": _of_itself("security_group"),
    "router": _of_router,
    "floating_ip": _of_floating_ip,
    "load_balancer": _of_itself("load_balancer"),
    "instance": _of_instance,
}
