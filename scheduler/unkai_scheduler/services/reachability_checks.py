"""What the store alone says of a question: obstacles that OVN's flows would not show. Pure.

OVN's flows are there whether a machine runs or not, and a guest that knows no router sends nothing
at all. So this comes first. Order: the source, the way out of its network, the destination.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import NamedTuple, Protocol

from unkai_scheduler.domain.addresses import contains, version_of
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.load_balancers import Listener
from unkai_scheduler.domain.networks import Subnet
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.domain.reachability import Hop, Reachability, Verdict
from unkai_scheduler.domain.routers import Router
from unkai_scheduler.domain.security_groups import Protocol as Transport
from unkai_scheduler.services.reachability_routes import (
    hidden_as,
    holder_of,
    is_on_link,
    is_physical,
    next_hop,
    own_subnet,
    router_of,
)
from unkai_scheduler.services.reachability_scene import Scene

POWERED = frozenset({InstanceState.RUNNING, InstanceState.REBOOTING, InstanceState.UNKNOWN})
"""States in which a machine is on its network, or may be."""
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""Nobody outside answers these (RFC 1918, RFC 6598, RFC 4193)."""
_METADATA = frozenset({(Transport.TCP, 80), (Transport.TCP, 53), (Transport.UDP, 53)})
"""What every host answers of metadata and names."""


def obstacle(scene: Scene) -> Reachability | None:
    """Return what stands in the way by what the store says; None: nothing that it knows of."""
    for check in _CHECKS:
        found = check(scene)
        if found is not None:
            return found
    return None


class Named(Protocol):
    """What people know by a name."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...


class Place(NamedTuple):
    """A resource that stands in the way."""

    kind: str
    id: str
    name: str


def at(kind: str, row: Named) -> Place:
    """Return a resource's row as a place."""
    return Place(kind, row.id, row.name)


def blocked(reason: str, summary: str, fix: str, place: Place) -> Reachability:
    """Make the answer that a resource stands in the way."""
    hop = Hop(*place, summary, dropped=True)
    return Reachability(Verdict.UNREACHABLE, summary, reason, fix, hops=(hop,))


def _at_port(scene: Scene, port: Port, reason: str, summary: str, fix: str) -> Reachability:
    return blocked(reason, summary, fix, at("port", port))


def _source_is_live(scene: Scene) -> Reachability | None:
    return _live(scene, scene.source) if scene.source else None


def _end_is_live(scene: Scene) -> Reachability | None:
    return _live(scene, scene.end) if scene.end else None


def _live(scene: Scene, port: Port) -> Reachability | None:
    instance = scene.instance_of(port)
    if instance is None:
        return _at_port(
            scene,
            port,
            "PORT_NOT_PLUGGED",
            f"port {port.name} is plugged into no instance",
            f"unkai port attach {port.name} INSTANCE",
        )
    if instance.state in POWERED:
        return None
    name = instance.spec.name
    state = instance.state.value.lower().replace("_", " ")
    fix = f"unkai instance start {name}" if instance.state is InstanceState.STOPPED else ""
    return blocked(
        "INSTANCE_NOT_RUNNING",
        f"instance {name} is {state}: nothing of it is on the network",
        fix or f"see what it waits for with 'unkai instance events {name}'",
        Place("instance", instance.id, name),
    )


def _source_has_address(scene: Scene) -> Reachability | None:
    port = scene.source
    if port is None or scene.source_address:
        return None
    return _at_port(
        scene,
        port,
        "NO_ADDRESS",
        f"{scene.called(port)} has no IPv{scene.version} address on network "
        f"{scene.network_of(port).name}, and {scene.destination} is one",
        f"add a subnet of IPv{scene.version} to the network, and an address of it with "
        f"'unkai port update {port.name}'",
    )


def _metadata_listens(scene: Scene) -> Reachability | None:
    asked = scene.question
    service = (asked.protocol, asked.port_number)
    if not scene.is_for_metadata or not asked.port_number or service in _METADATA:
        return None
    assert scene.source is not None
    return blocked(
        "NO_LISTENER",
        f"the metadata service does not listen on {asked.service}",
        "it takes tcp/80, and names on udp/53 and tcp/53",
        at("network", scene.network_of(scene.source)),
    )


def _way_off_the_network(scene: Scene) -> Reachability | None:
    """Find out whether the source knows a way to what is not of its own subnet."""
    subnet, port = own_subnet(scene), scene.source
    if subnet is None or port is None or scene.is_own or scene.is_for_metadata:
        return None
    if is_on_link(scene, subnet):
        return _on_link(scene, subnet)
    hop = next_hop(scene, subnet)
    if not hop:
        return blocked(
            "NO_GATEWAY_ADDRESS",
            f"subnet {subnet.name} tells its instances of no router, so {scene.called(port)} "
            f"sends nothing to {scene.destination_said}",
            f"unkai subnet update {subnet.name} --gateway ADDRESS",
            at("subnet", subnet),
        )
    holder = holder_of(scene, port.network_id, hop)
    if holder is None and is_physical(scene, port.network_id):
        return None
    if holder is None:
        return blocked(
            "NO_ROUTER",
            f"no router has {hop}, where {scene.called(port)} sends what is not for subnet "
            f"{subnet.name}",
            f"unkai router add-subnet ROUTER {subnet.name}",
            at("subnet", subnet),
        )
    router = router_of(scene, holder)
    return _beyond(scene, router) if router else None


def _on_link(scene: Scene, subnet: Subnet) -> Reachability | None:
    if scene.target is None:
        return None if is_physical(scene, subnet.network_id) else _not_used(scene, subnet)
    if scene.target.owner is PortOwner.LOAD_BALANCER and not scene.routers_on(subnet.network_id):
        return blocked(
            "NO_ROUTER",
            f"subnet {subnet.name} has no router, which answers for load balancers there",
            f"unkai router add-subnet ROUTER {subnet.name}",
            at("subnet", subnet),
        )
    return None


def _beyond(scene: Scene, router: Router) -> Reachability | None:
    """Find out whether a router knows whither; what it has no answer for, its flows have."""
    static = any(
        version_of(route.destination) == scene.version
        and contains(route.destination, scene.destination)
        for route in router.routes
    )
    if static:
        return None
    if scene.target is None:
        return _nobody(scene, router)
    gateway = router.gateway.network_id if router.gateway else ""
    if scene.target.network_id in {gateway, *_networks_of(scene, router)}:
        return None
    return _not_joined(scene, router, scene.network_of(scene.target).name)


def _networks_of(scene: Scene, router: Router) -> set[str]:
    on = [scene.subnets.get(interface.subnet_id) for interface in router.interfaces]
    return {some.network_id for some in on if some}


def _nobody(scene: Scene, router: Router) -> Reachability | None:
    if scene.target_elsewhere:
        return _not_joined(scene, router, scene.target_elsewhere[0])
    inside = {interface.subnet_id for interface in router.interfaces}
    gateway = router.gateway
    if gateway:
        inside |= {some.id for some in scene.subnets_of(gateway.network_id)}
    subnet = scene.subnet_with(scene.destination)
    if subnet is None or subnet.id not in inside:
        return _leaves(scene, router)
    if gateway is not None and subnet.network_id == gateway.network_id:
        return _leaves(scene, router)
    return None if is_physical(scene, subnet.network_id) else _not_used(scene, subnet)


def _not_used(scene: Scene, subnet: Subnet) -> Reachability:
    return blocked(
        "ADDRESS_NOT_USED",
        f"nothing has the address {scene.destination} on subnet {subnet.name}",
        "see who has which with 'unkai port list'; where an instance shall take it too, allow it "
        f"with 'unkai port update PORT --allow {scene.destination}'",
        at("subnet", subnet),
    )


def _leaves(scene: Scene, router: Router) -> Reachability | None:
    gateway, source = router.gateway, scene.source
    if gateway is None:
        return blocked(
            "NO_GATEWAY",
            f"router {router.name} has no way out to {scene.destination_said}: it has no gateway",
            f"unkai router set-gateway {router.name} NETWORK",
            at("router", router),
        )
    if not any(version_of(a) == scene.version for a in gateway.addresses):
        return blocked(
            "NO_GATEWAY",
            f"router {router.name} has no way out of IPv{scene.version}: its gateway has no such "
            "address",
            f"add a subnet of IPv{scene.version} to the external network, and set the gateway anew",
            at("router", router),
        )
    hidden = hidden_as(scene, router, scene.source_address)
    if source and not hidden and is_private(scene.source_address):
        return blocked(
            "NO_NAT",
            f"router {router.name} lets {scene.called(source)} out with its own address "
            f"{scene.source_address}, to which nobody outside can answer",
            f"unkai router set-gateway {router.name} "
            f"{scene.networks[gateway.network_id].name} --snat, or give it a floating address "
            f"with 'unkai floating-ip create'"
            if scene.version == 4
            else "give the network a subnet of addresses that the outside routes here",
            at("router", router),
        )
    return None


def is_private(address: str) -> bool:
    """Tell whether nobody outside answers an address."""
    return any(
        version_of(cidr) == version_of(address) and ip_address(address) in ip_network(cidr)
        for cidr in _PRIVATE
    )


def _not_joined(scene: Scene, router: Router, network: str) -> Reachability:
    subnet = scene.subnet_with(scene.destination)
    return blocked(
        "NO_ROUTE",
        f"router {router.name} does not lead to network {network}, which {scene.destination} is on",
        f"unkai router add-subnet {router.name} {subnet.name if subnet else 'SUBNET'}",
        at("router", router),
    )


def _comes_from_outside(scene: Scene) -> Reachability | None:
    """Find out whether what comes from outside can be meant for the destination."""
    if scene.source is not None:
        return None
    network = scene.networks[scene.question.source_network_id]
    target = scene.target
    if target is None:
        return blocked(
            "ADDRESS_NOT_USED",
            f"nothing behind network {network.name} has the address {scene.destination}",
            "see who has which with 'unkai port list'",
            at("network", network),
        )
    if target.network_id == network.id or not is_private(scene.destination):
        return None
    return _at_port(
        scene,
        target,
        "NO_FLOATING_IP",
        f"{scene.destination} of {scene.called(target)} is an inside address, which the outside "
        "does not know",
        f"unkai floating-ip create {network.name}, and 'unkai floating-ip associate'",
    )


def _floating_leads_somewhere(scene: Scene) -> Reachability | None:
    floating = scene.floating
    if floating is None or (floating.port_id and floating.router_id):
        return None
    return blocked(
        "FLOATING_IP_UNUSED",
        f"floating address {floating.address} leads nowhere",
        f"unkai floating-ip associate {floating.name} INSTANCE",
        at("floating_ip", floating),
    )


def listener_of(scene: Scene) -> Listener | None:
    """Return the load balancer's listener that the question is about."""
    balancer, asked = scene.balancer, scene.question
    for listener in balancer.listeners if balancer else ():
        wanted = (listener.protocol.value, listener.port_number)
        if wanted == (asked.protocol.value, asked.port_number):
            return listener
    return None


def _balancer_listens(scene: Scene) -> Reachability | None:
    balancer = scene.balancer
    if balancer is None:
        return None
    listener = listener_of(scene)
    where = at("load_balancer", balancer)
    if listener is None and not scene.question.port_number:
        kinds = [f"{some.protocol.value} {some.port_number}" for some in balancer.listeners]
        return blocked(
            "NO_LISTENER",
            f"load balancer {balancer.name} answers no ping",
            f"ask about what it listens on: {', '.join(kinds) or 'nothing yet'}",
            where,
        )
    if listener is None:
        return blocked(
            "NO_LISTENER",
            f"load balancer {balancer.name} does not listen on {scene.question.service}",
            f"unkai load-balancer add-listener {balancer.name} {scene.question.port_number}",
            where,
        )
    if not any(member.address for member in listener.members):
        return blocked(
            "NO_MEMBER",
            f"load balancer {balancer.name} has no member for {scene.question.service}",
            f"unkai load-balancer add-member {balancer.name} {listener.port_number} INSTANCE",
            where,
        )
    return None


_CHECKS: tuple[Callable[[Scene], Reachability | None], ...] = (
    _source_is_live,
    _source_has_address,
    _metadata_listens,
    _way_off_the_network,
    _comes_from_outside,
    _floating_leads_somewhere,
    _balancer_listens,
    _end_is_live,
)
