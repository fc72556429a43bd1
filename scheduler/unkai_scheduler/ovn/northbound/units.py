"""Each kind of unit, and how it is derived. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from unkai_scheduler.ovn.northbound import (
    base,
    floating_ips,
    load_balancers,
    networks,
    ports,
    routers,
    security_groups,
    subnets,
)
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Row, Unit, unit_key

BASE = unit_key("cloud", base.BASE_ID)
"""The unit of what belongs to no resource."""
_DERIVATIONS: Mapping[str, Callable[[View, str], Iterator[Row]]] = {
    "cloud": base.rows,
    "network": networks.rows,
    "security_group": security_groups.rows,
    "subnet": subnets.rows,
    "router": routers.rows,
    "port": ports.rows,
    "floating_ip": floating_ips.rows,
    "load_balancer": load_balancers.rows,
}
KINDS = tuple(_DERIVATIONS)
"""In an order in which what is referred to comes first."""


def unit_of(view: View, kind: str, ident: str) -> Unit:
    """Return the unit of a resource; without rows when there is no such resource."""
    return Unit(unit_key(kind, ident), tuple(_DERIVATIONS[kind](view, ident)))


def unit_of_key(view: View, key: str) -> Unit:
    """Return the unit that a key names."""
    kind, _, ident = key.partition(":")
    return unit_of(view, kind, ident)


def keys_of(view: View) -> Iterator[str]:
    """Yield the keys of all units of a view, in the order of `KINDS`; some may have no rows."""
    yield BASE
    resources: Mapping[str, Iterator[str]] = {
        "network": iter(view.networks),
        "security_group": iter(view.security_groups),
        "subnet": iter(view.subnets),
        "router": iter(view.routers),
        "port": (some.id for some in view.ports.values() if ports.is_for_instances(some)),
        "floating_ip": iter(view.floating_ips),
        "load_balancer": iter(view.load_balancers),
    }
    for kind, idents in resources.items():
        yield from (unit_key(kind, ident) for ident in idents)
