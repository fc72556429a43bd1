"""How packets of a scene find their way: what guests are told of routes, who has an address. Pure.

A guest has one table for all its ports: what their subnets are, their host routes, and the gateway
of the first port that has one. The most exact entry counts, and of equal ones the first port's.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import NamedTuple

from unkai_scheduler.domain.addresses import contains, version_of
from unkai_scheduler.domain.networks import NetworkType, Subnet
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.domain.routers import Router
from unkai_scheduler.services.reachability_scene import Scene, first_of


class Sending(NamedTuple):
    """What a guest does with a packet."""

    port: Port
    subnet: Subnet
    hop: str
    """The router that it sends to; empty: it asks for the address itself."""


def sending(scene: Scene, guest: Port, to: str) -> Sending | None:
    """Return how the guest behind a port sends to an address; None: it knows no way."""
    fitting: list[tuple[int, int, Sending]] = []
    for order, port in enumerate(scene.ports_beside(guest)):
        for fixed in port.addresses:
            subnet = scene.subnets.get(fixed.subnet_id)
            if subnet is None or subnet.version != version_of(to):
                continue
            for place, (destination, hop) in enumerate(_entries(subnet)):
                if contains(destination, to):
                    exact = ip_network(destination).prefixlen
                    fitting.append((exact, -order * 1000 - place, Sending(port, subnet, hop)))
    return max(fitting, key=lambda entry: entry[:2])[2] if fitting else None


def _entries(subnet: Subnet) -> list[tuple[str, str]]:
    anywhere = "::/0" if subnet.version == 6 else "0.0.0.0/0"
    routes = [(route.destination, route.next_hop) for route in subnet.host_routes]
    last = [(anywhere, subnet.gateway_address)] if subnet.gateway_address else []
    return [(subnet.cidr, ""), *routes, *last]


def own_subnet(scene: Scene) -> Subnet | None:
    """Return the source's subnet, as far as its address is of one."""
    port = scene.source
    if port is None:
        return None
    fixed = next((a for a in port.addresses if a.address == scene.source_address), None)
    if fixed is not None:
        return scene.subnets.get(fixed.subnet_id)
    return scene.subnet_with(scene.source_address, port.network_id)


def next_hop(scene: Scene, subnet: Subnet) -> str:
    """Return where a guest sends what is not of its subnet; empty: it knows nowhere."""
    fitting = [
        (ip_network(destination).prefixlen, -place, hop)
        for place, (destination, hop) in enumerate(_entries(subnet)[1:])
        if version_of(destination) == scene.version and contains(destination, scene.destination)
    ]
    return max(fitting)[2] if fitting else ""


def is_on_link(scene: Scene, subnet: Subnet) -> bool:
    """Tell whether a guest asks for the destination itself, not for a router."""
    return contains(subnet.cidr, scene.destination)


def router_of(scene: Scene, port: Port) -> Router | None:
    """Return the router that a port is of."""
    return scene.routers.get(port.owner_id) if port.owner is PortOwner.ROUTER else None


def holder_of(scene: Scene, network_id: str, address: str) -> Port | None:
    """Return the port that has an address on a network, or uses it, as far as the scene knows."""
    target = scene.target
    if target and scene.takers and (target.network_id, scene.destination) == (network_id, address):
        return target
    for port in scene.ports.values():
        if port.network_id == network_id and any(a.address == address for a in port.addresses):
            return port
    source = scene.source
    if source and (source.network_id, scene.source_address) == (network_id, address):
        return source
    return None


def is_physical(scene: Scene, network_id: str) -> bool:
    """Tell whether others than the cloud's may be on a network: it is the operator's own."""
    network = scene.networks.get(network_id)
    return network is not None and network.type is not NetworkType.OVERLAY


def hidden_as(scene: Scene, router: Router, address: str) -> str:
    """Return the address that a router gives what leaves by its gateway; empty: it keeps its own.

    A router hides its own subnets alone, not what another router sends it.
    """
    for floating in scene.floating_ips.values():
        port = scene.ports.get(floating.port_id)
        leads = port and address == (floating.fixed_address or first_of(port, 4))
        if leads and floating.router_id == router.id:
            return floating.address
    gateway = router.gateway
    if gateway is None or not gateway.snat or version_of(address) == 6:
        return ""
    behind = [scene.subnets.get(interface.subnet_id) for interface in router.interfaces]
    if not any(some and contains(some.cidr, address) for some in behind):
        return ""
    return next((some for some in gateway.addresses if version_of(some) == 4), "")
