"""Which units must be derived anew when a resource changes. Pure.

Ask it of the view before the change and of the one after, and take both answers: what a port was
in, and what it is in. A property test holds it against the derivation: no other unit differs.

Each answer follows from what a derivation looks at (`view.py`). A group's ports, say, are not
among them, for they say themselves which groups they are in. The view must hold what refers to the
resource: of a network its subnets and the routers there, of a subnet the ports with an address
there, of a port its routers, load balancers and floating addresses, of a router the load balancers
on its subnets, of a floating address the load balancer it leads to, of an instance its ports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.domain.routers import Router
from unkai_scheduler.ovn.northbound.ports import is_for_instances
from unkai_scheduler.ovn.northbound.view import Identified, View
from unkai_scheduler.ovn.rows import unit_key


def affected(view: View, kind: str, ident: str) -> frozenset[str]:
    """Return the keys of the units that are derived from a resource.

    Kinds: those of units; besides, `instance` when it comes to another host, and
    `physical_network` when other hosts may have its gateways.
    """
    return frozenset(_DEPENDENTS[kind](view, ident))


def _of_itself(kind: str) -> Callable[[View, str], Iterator[str]]:
    def dependents(_view: View, ident: str) -> Iterator[str]:
        yield unit_key(kind, ident)

    return dependents


def _of_network(view: View, ident: str) -> Iterator[str]:
    """Yield its own unit, and those that tell its MTU, its domain or its kind."""
    yield unit_key("network", ident)
    for subnet in view.subnets_of_network.get(ident, []):
        yield unit_key("subnet", subnet.id)
        yield from _keys("router", view.routers_on_subnet.get(subnet.id, []))
    yield from _keys("router", view.routers_out_by.get(ident, []))


def _of_subnet(view: View, ident: str) -> Iterator[str]:
    """Yield its own unit, and those of what has an address there.

    The rest of what looks at a subnet sees only which network it is of, which never changes.
    """
    yield unit_key("subnet", ident)
    for port in view.ports_on_subnet.get(ident, []):
        if is_for_instances(port):
            yield unit_key("port", port.id)
        yield from _keys("router", view.routers_of_port.get(port.id, []))
        yield from _keys("load_balancer", view.load_balancers_of_port.get(port.id, []))


def _of_port(view: View, ident: str) -> Iterator[str]:
    """Yield its own unit, if it has one, and those that say its addresses."""
    port = view.ports.get(ident)
    if port and is_for_instances(port):
        yield unit_key("port", ident)
    if port and port.owner is PortOwner.FLOATING_IP:
        return
    yield from _keys("router", view.routers_of_port.get(ident, []))
    yield from _keys("floating_ip", view.floating_ips_of_port.get(ident, []))
    yield from _keys("load_balancer", view.load_balancers_of_port.get(ident, []))


def _of_router(view: View, ident: str) -> Iterator[str]:
    """Yield its own unit, and those of the load balancers that hang on it."""
    yield unit_key("router", ident)
    router: Router | None = view.routers.get(ident)
    for interface in router.interfaces if router else ():
        on = view.load_balancers_on_subnet.get(interface.subnet_id, [])
        yield from _keys("load_balancer", on)


def _of_floating_ip(view: View, ident: str) -> Iterator[str]:
    """Yield its own unit, and that of the load balancer it leads to."""
    yield unit_key("floating_ip", ident)
    floating = view.floating_ips.get(ident)
    for balancer in view.load_balancers_of_port.get(floating.port_id, []) if floating else []:
        if floating and balancer.port_id == floating.port_id:
            yield unit_key("load_balancer", balancer.id)


def _of_instance(view: View, ident: str) -> Iterator[str]:
    yield from _keys("port", view.ports_of_instance.get(ident, []))


def _of_physical_network(view: View, name: str) -> Iterator[str]:
    for network in view.networks.values():
        if network.physical_network == name:
            yield from _keys("router", view.routers_out_by.get(network.id, []))


def _keys(kind: str, resources: Iterable[Identified]) -> Iterator[str]:
    return (unit_key(kind, some.id) for some in resources)


_DEPENDENTS: Mapping[str, Callable[[View, str], Iterator[str]]] = {
    "cloud": _of_itself("cloud"),
    "network": _of_network,
    "subnet": _of_subnet,
    "port": _of_port,
    "security_group": _of_itself("security_group"),
    "router": _of_router,
    "floating_ip": _of_floating_ip,
    "load_balancer": _of_itself("load_balancer"),
    "instance": _of_instance,
    "physical_network": _of_physical_network,
}
