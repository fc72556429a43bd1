"""A question as packets in OVN's language: there, back, and what a balancer sends on. Pure.

A packet is told as its sender makes it: to the MAC address of the other end on its own subnet, to
the router's otherwise. What is not told is 0, so a time to live must be. ovn-trace(8).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unkai_scheduler.domain.addresses import contains, version_of
from unkai_scheduler.domain.load_balancers import Member
from unkai_scheduler.domain.networks import NetworkType
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.domain.security_groups import Protocol
from unkai_scheduler.ovn.northbound.names import name_of
from unkai_scheduler.ovn.trace import Tracking
from unkai_scheduler.services.reachability_checks import (
    holder_of,
    is_on_link,
    next_hop,
    own_subnet,
    router_of,
)
from unkai_scheduler.services.reachability_scene import Scene, first_of

_OWN_PORT = 52888
"""Port number of whoever connects; one that no rule would name."""
_OUTSIDE_MAC = "02:00:5e:00:53:01"
_SYN, _SYN_ACK = 2, 18
_ECHO = {4: (8, 0), 6: (128, 129)}
"""ICMP's types of an echo's request and reply, by version."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet as it enters OVN."""

    inport: str
    source_mac: str
    destination_mac: str
    source: str
    destination: str
    tracking: Tracking = Tracking.NEW
    port_number: int = 0
    """The service's, whichever way the packet goes."""

    def flow(self, protocol: Protocol) -> str:
        """Write it in OVN's language."""
        version = version_of(self.source)
        parts = [
            f'inport == "{self.inport}"',
            f"eth.src == {self.source_mac}",
            f"eth.dst == {self.destination_mac}",
            f"ip{version}.src == {self.source}",
            f"ip{version}.dst == {self.destination}",
            "ip.ttl == 64",
            *self._service(protocol, version),
        ]
        return " && ".join(parts)

    def _service(self, protocol: Protocol, version: int) -> list[str]:
        answers = self.tracking is Tracking.ANSWER
        if protocol is Protocol.ICMP:
            name = f"icmp{version}"
            return [name, f"{name}.type == {_ECHO[version][answers]}", f"{name}.code == 0"]
        name = protocol.value.lower()
        ends = (self.port_number, _OWN_PORT) if answers else (_OWN_PORT, self.port_number)
        flags = [f"tcp.flags == {_SYN_ACK if answers else _SYN}"] if name == "tcp" else []
        return [name, f"{name}.src == {ends[0]}", f"{name}.dst == {ends[1]}", *flags]


def there(scene: Scene) -> Packet | None:
    """Return the packet that the question is about; None: nothing has a place to send it to."""
    if scene.source is None:
        return _from_outside(scene)
    mac = _mac_for_source(scene, scene.source)
    if not mac:
        return None
    return Packet(
        inport=name_of(scene.source.id),
        source_mac=scene.source.mac_address,
        destination_mac=mac,
        source=scene.source_address,
        destination=scene.destination,
        port_number=scene.question.port_number,
    )


def back(scene: Scene, port: Port, to: str, number: int) -> Packet | None:
    """Return a port's answer to whom it saw; None: the port knows no way there."""
    own = next((a for a in port.addresses if version_of(a.address) == version_of(to)), None)
    if port.id == (scene.end.id if scene.end else ""):
        own = next((a for a in port.addresses if a.address == scene.end_address), own)
    subnet = scene.subnets.get(own.subnet_id) if own else None
    if own is None or subnet is None:
        return None
    hop = to if contains(subnet.cidr, to) else _told_hop(scene, port, to)
    holder = holder_of(scene, port.network_id, hop) if hop else None
    if holder is None:
        return None
    return Packet(
        inport=name_of(port.id),
        source_mac=port.mac_address,
        destination_mac=holder.mac_address,
        source=own.address,
        destination=to,
        tracking=Tracking.ANSWER,
        port_number=number,
    )


def to_member(scene: Scene, member: Member, seen: str) -> Packet | None:
    """Return what a load balancer sends on to a member, as a router brings it into its network.

    It begins at the router's port, behind all that looks at the balancer's own address.
    """
    port = scene.ports[member.port_id]
    number = member.port_number or scene.question.port_number
    for router in scene.routers_on(port.network_id):
        for interface in router.interfaces:
            gate = scene.ports.get(interface.port_id)
            if gate and gate.network_id == port.network_id:
                return Packet(
                    name_of(gate.id),
                    gate.mac_address,
                    port.mac_address,
                    seen,
                    member.address,
                    port_number=number,
                )
    return None


def onward(scene: Scene, packet: Packet, out: Port, hop: str, to: str) -> Packet | None:
    """Return a packet as a router sends it on, once it knows its neighbour's MAC address.

    `out`: the router's port; `hop`: the neighbour; `to`: what it is for by then. OVN learns
    neighbours when they are needed, and a trace ends where one would be asked; who it is that
    answers the store knows. None: nobody here has that address.
    """
    holder = holder_of(scene, out.network_id, hop)
    if holder is None:
        return None
    mac = holder.mac_address
    if floating := scene.floating_of(holder):
        mac = _gateway_mac(scene, floating.router_id)
    elif holder.owner is PortOwner.LOAD_BALANCER:
        mac = _any_router_mac(scene, holder.network_id)
    if not mac:
        return None
    source = packet.source
    if packet.tracking is Tracking.NEW and out.owner is PortOwner.GATEWAY:
        source = _hidden_as(scene, out) or source
    return replace(
        packet,
        inport=name_of(out.id),
        source_mac=out.mac_address,
        destination_mac=mac,
        source=source,
        destination=to,
    )


def _hidden_as(scene: Scene, gateway: Port) -> str:
    """Return the address that a router gives what leaves by its gateway; empty: none."""
    router = scene.routers.get(gateway.owner_id)
    for floating in scene.floating_ips.values():
        is_sources = scene.source is not None and floating.port_id == scene.source.id
        if is_sources and router is not None and floating.router_id == router.id:
            return floating.address
    if scene.version == 6 or router is None or router.gateway is None or not router.gateway.snat:
        return ""
    return first_of(gateway, 4)


def _told_hop(scene: Scene, port: Port, to: str) -> str:
    """Return the router that a port's guest sends by."""
    own = next((a for a in port.addresses if version_of(a.address) == version_of(to)), None)
    subnet = scene.subnets.get(own.subnet_id) if own else None
    for route in subnet.host_routes if subnet else ():
        if version_of(route.destination) == version_of(to) and contains(route.destination, to):
            return route.next_hop
    return subnet.gateway_address if subnet else ""


def _mac_for_source(scene: Scene, source: Port) -> str:
    subnet = own_subnet(scene)
    if subnet is None:
        return _any_router_mac(scene, source.network_id)
    if not is_on_link(scene, subnet):
        holder = holder_of(scene, source.network_id, next_hop(scene, subnet))
        return holder.mac_address if holder else ""
    target = scene.target
    if target is None:
        return ""
    if floating := scene.floating:
        return _gateway_mac(scene, floating.router_id)
    if target.owner is PortOwner.LOAD_BALANCER:
        return _any_router_mac(scene, target.network_id)
    return target.mac_address


def _any_router_mac(scene: Scene, network_id: str) -> str:
    for port in scene.ports.values():
        if port.network_id == network_id and router_of(scene, port):
            return port.mac_address
    return ""


def _gateway_mac(scene: Scene, router_id: str) -> str:
    router = scene.routers.get(router_id)
    port = scene.ports.get(router.gateway.port_id) if router and router.gateway else None
    return port.mac_address if port else ""


def _from_outside(scene: Scene) -> Packet | None:
    network = scene.networks[scene.question.source_network_id]
    target = scene.target
    if target is None or network.type is NetworkType.OVERLAY:
        return None
    if floating := scene.floating:
        mac = _gateway_mac(scene, floating.router_id)
    elif target.network_id == network.id:
        mac = target.mac_address
    else:
        outward = [
            router
            for router in scene.routers_on(target.network_id)
            if router.gateway and router.gateway.network_id == network.id
        ]
        mac = _gateway_mac(scene, outward[0].id) if outward else ""
    if not mac:
        return None
    return Packet(
        inport=f"phys-{name_of(network.id)}",
        source_mac=_OUTSIDE_MAC,
        destination_mac=mac,
        source=scene.source_address,
        destination=scene.destination,
        port_number=scene.question.port_number,
    )
