"""A question as packets in OVN's language: there, back, and what a balancer sends on. Pure.

A packet is told as its sender makes it: to the MAC address of the other end on its own subnet, to
the router's otherwise. What is not told is 0, so a time to live must be. ovn-trace(8).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.load_balancers import Member
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.domain.security_groups import Protocol
from unkai_scheduler.ovn.northbound.names import metadata_mac, name_of
from unkai_scheduler.ovn.trace import Tracking
from unkai_scheduler.services.reachability_routes import (
    Sending,
    hidden_as,
    holder_of,
    is_on_link,
    is_physical,
    next_hop,
    own_subnet,
    router_of,
)
from unkai_scheduler.services.reachability_scene import Scene

_OWN_PORT = 52888
"""Port number of whoever connects; one that no rule would name."""
_OUTSIDE_MAC = "02:00:5e:00:53:01"
"""Of whoever is on the operator's network and is nobody of ours."""
_FLAGS = {Tracking.NEW: 2, Tracking.LATER: 16, Tracking.ANSWER: 18}
"""SYN, ACK, SYN and ACK (RFC 9293)."""
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
        flags = [f"tcp.flags == {_FLAGS[self.tracking]}"] if name == "tcp" else []
        return [name, f"{name}.src == {ends[0]}", f"{name}.dst == {ends[1]}", *flags]


def there(scene: Scene) -> Packet | None:
    """Return the packet that the question is about; None: nothing has a place to send it to."""
    if scene.source is None:
        return _from_outside(scene)
    mac = metadata_mac(scene.source.network_id)
    if not scene.is_for_metadata:
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


def back(scene: Scene, source: str, to: str, number: int, by: Sending) -> Packet | None:
    """Return a guest's answer to whom it saw; None: nobody has the address that it sends to.

    `source`: the address that was asked; `by`: how the guest sends there.
    """
    port = by.port
    holder = holder_of(scene, port.network_id, by.hop or to)
    if holder is None and not is_physical(scene, port.network_id):
        return None
    return Packet(
        inport=name_of(port.id),
        source_mac=port.mac_address,
        destination_mac=holder.mac_address if holder else _OUTSIDE_MAC,
        source=source,
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
    mac = scene.mac_of(holder)
    if floating := scene.floating_of(holder):
        mac = _gateway_mac(scene, floating.router_id)
    elif holder.owner is PortOwner.LOAD_BALANCER:
        mac = _any_router_mac(scene, holder.network_id)
    if not mac:
        return None
    source = packet.source
    router = scene.routers.get(out.owner_id)
    if packet.tracking is Tracking.NEW and out.owner is PortOwner.GATEWAY and router:
        source = hidden_as(scene, router, source) or source
    return replace(
        packet,
        inport=name_of(out.id),
        source_mac=out.mac_address,
        destination_mac=mac,
        source=source,
        destination=to,
    )


def _mac_for_source(scene: Scene, source: Port) -> str:
    subnet = own_subnet(scene)
    if subnet is None:
        return _any_router_mac(scene, source.network_id)
    unknown = _OUTSIDE_MAC if is_physical(scene, source.network_id) else ""
    if not is_on_link(scene, subnet):
        holder = holder_of(scene, source.network_id, next_hop(scene, subnet))
        return holder.mac_address if holder else unknown
    target = scene.target
    if target is None:
        return unknown
    if floating := scene.floating:
        return _gateway_mac(scene, floating.router_id)
    if target.owner is PortOwner.LOAD_BALANCER:
        return _any_router_mac(scene, target.network_id)
    return scene.mac_of(target)


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
    if target is None or not is_physical(scene, network.id):
        return None
    if floating := scene.floating:
        mac = _gateway_mac(scene, floating.router_id)
    elif target.network_id == network.id:
        mac = scene.mac_of(target)
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
