"""Why a packet's way ended where it did: what stands in the way, and what would mend it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unkai_scheduler.domain.addresses import contains, version_of
from unkai_scheduler.domain.networks import Network
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.domain.reachability import Question
from unkai_scheduler.domain.security_groups import Direction, Protocol
from unkai_scheduler.ovn.trace_tree import End
from unkai_scheduler.services.reachability_checks import Place, at, is_private
from unkai_scheduler.services.reachability_reading import Reading
from unkai_scheduler.services.reachability_routes import Sending, hidden_as
from unkai_scheduler.services.reachability_rules import OtherEnd, nearest, said
from unkai_scheduler.services.reachability_scene import ANYWHERE, Scene

_NO_DHCP_SERVER = 2020
"""Flow priority of what forbids DHCP servers; `ovn/northbound/base.py`, with OVN's 1000 added."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What stands in the way."""

    reason: str
    summary: str
    fix: str
    place: Place


def cause_of(reading: Reading) -> Cause | None:
    """Return why a packet did not arrive; None: it did, or it waits outside for its next hop."""
    way, step = reading.way, reading.last
    if way.end is End.ARRIVED:
        return None
    if way.end is End.NEIGHBOUR_ASKED:
        return None if _asks_outside(reading) else _nobody_answers(reading)
    if way.end is End.REFUSED:
        return _refused(reading)
    if way.end is End.FLOODED:
        return None if _floods_outside(reading) else _unknown_mac(reading)
    for prefix, tell in _BY_STAGE.items():
        if step.stage.startswith(prefix):
            return tell(reading)
    return _otherwise(reading)


def leaves(reading: Reading) -> bool:
    """Tell whether a packet goes out of the cloud."""
    if reading.way.end is End.NEIGHBOUR_ASKED:
        return _asks_outside(reading)
    if reading.way.end is End.FLOODED:
        return _floods_outside(reading)
    return reading.way.end is End.ARRIVED and reading.way.port_type == "localnet"


def unanswerable(reading: Reading) -> Cause | None:
    """Return why nobody outside can answer what leaves by a router; None: somebody can.

    A store's look at the first router alone has found nothing: this is of one behind it.
    """
    router, source = reading.leaving_by, reading.last_source
    if router is None or router.gateway is None or not is_private(source):
        return None
    if hidden_as(reading.scene, router, source):
        return None
    first = next(
        (some for s in reading.way.steps if (some := reading.routers.get(s.datapath))), router
    )
    network = reading.scene.networks[router.gateway.network_id].name
    return Cause(
        "NO_NAT",
        f"router {router.name} lets it out with the address {source}, to which nobody outside can "
        "answer: it hides its own subnets alone",
        f"unkai router set-gateway {first.name} {network}, or join the subnet itself to router "
        f"{router.name} with 'unkai router add-subnet'",
        at("router", router),
    )


def answer_hidden(reading: Reading, asked: str) -> Cause | None:
    """Return that an answer leaves with another address than was asked; None: it does not."""
    router = reading.leaving_by
    if router is None or router.gateway is None:
        return None
    seen = hidden_as(reading.scene, router, asked)
    if not seen:
        return None
    return Cause(
        "ANSWER_HIDDEN",
        f"router {router.name} gives it the address {seen} on the way out, and whoever asked "
        f"{asked} waits for another",
        "unkai floating-ip create, and ask for that address; or 'unkai router set-gateway "
        f"{router.name} {reading.scene.networks[router.gateway.network_id].name} --no-snat'",
        at("router", router),
    )


def other_port(scene: Scene, port: Port, by: Sending, source: str) -> Cause | None:
    """Return that a guest answers by another port, which drops it; None: it does not."""
    if by.port.id == port.id or not by.port.anti_spoofing or _may_send(by.port, source):
        return None
    near = [a.address for a in by.port.addresses if version_of(a.address) == version_of(source)]
    return Cause(
        "ANSWER_BY_OTHER_PORT",
        f"it arrives, but {scene.called(port)} answers by its other port {by.port.name}, as its "
        f"routes tell it, and from that {source} is dropped",
        f"ask for its address there, {near[0]}, or let the guest answer from where it was asked "
        f"(routes by source), or 'unkai port update {by.port.name} --allow {source}'",
        at("port", by.port),
    )


def _may_send(port: Port, address: str) -> bool:
    return any(some.address == address for some in port.addresses) or any(
        contains(pair.cidr, address) for pair in port.pairs
    )


def _floods_outside(reading: Reading) -> bool:
    """Tell whether it goes to whoever has the address on the operator's network."""
    network = reading.networks.get(reading.last.datapath)
    return network is not None and bool(network.physical_network)


def _out_network(reading: Reading) -> Network | None:
    """Return the network that a router sends by at the end of the way."""
    hop = reading.next_hop
    return reading.scene.networks.get(hop[0].network_id) if hop else None


def _asks_outside(reading: Reading) -> bool:
    network = _out_network(reading)
    return network is not None and bool(network.physical_network)


def _nobody_answers(reading: Reading) -> Cause:
    place = reading.place_of(reading.last)
    hop, network = reading.next_hop, _out_network(reading)
    where = f" on network {network.name}" if network else ""
    return Cause(
        "NEXT_HOP_UNKNOWN",
        f"router {place.name} sends it to {hop[1] if hop else 'an address'}, which nothing{where} "
        "has",
        f"see the router's routes with 'unkai router show {place.name}'",
        place,
    )


def _refused(reading: Reading) -> Cause:
    step = reading.last
    balancer = reading.scene.balancer
    if balancer is not None and ("_lb" in step.stage or "dnat" in step.stage):
        return Cause(
            "NO_HEALTHY_MEMBER",
            f"no member of load balancer {balancer.name} is well: it refuses the connection",
            f"see its members with 'unkai load-balancer show {balancer.name}'",
            at("load_balancer", balancer),
        )
    place = reading.place_of(step)
    return Cause(
        "ROUTER_REFUSES",
        f"{reading.scene.destination} is an address of router {place.name}, which answers to ping "
        "alone",
        "name the instance's own address, or its floating address",
        place,
    )


def _unknown_mac(reading: Reading) -> Cause:
    place = reading.place_of(reading.last)
    return Cause(
        "NOT_IN_OVN",
        f"OVN knows no port on network {place.name} that this is for",
        "see whether the port is reconciling with 'unkai port list'; it may be there in seconds",
        place,
    )


def _spoofed(reading: Reading) -> Cause:
    port = reading.ports.get(reading.last.inport)
    scene = reading.scene
    name, called = (port.name, scene.called(port)) if port else ("PORT", "the port")
    return Cause(
        "ANTI_SPOOFING",
        f"{reading.source} is not an address of {called}: what it sends with another is dropped",
        f"unkai port update {name} --allow {reading.source}",
        at("port", port) if port else reading.place_of(reading.last),
    )


def _not_taken(reading: Reading) -> Cause:
    port, to = reading.ports.get(reading.last.outport), reading.seen_destination
    name = port.name if port else "PORT"
    return Cause(
        "ANTI_SPOOFING",
        f"{to} is not an address of port {name}, which takes nothing else",
        f"unkai port update {name} --allow {to}",
        at("port", port) if port else reading.place_of(reading.last),
    )


def _no_rule_out(reading: Reading) -> Cause:
    port = reading.ports.get(reading.last.inport)
    if reading.last.priority >= _NO_DHCP_SERVER and port:
        return Cause(
            "DHCP_SERVER_FORBIDDEN",
            f"{reading.scene.called(port)} may not answer DHCP: the network itself does",
            "use the network's own DHCP, or a port without anti-spoofing",
            at("port", port),
        )
    return _no_rule(reading, port, "NO_EGRESS_RULE", "out")


def _no_rule_in(reading: Reading) -> Cause:
    return _no_rule(reading, reading.ports.get(reading.last.outport), "NO_INGRESS_RULE", "in")


def _no_rule(reading: Reading, port: Port | None, reason: str, way: str) -> Cause:
    scene, asked = reading.scene, reading.scene.question
    if port is None:
        return _otherwise(reading)
    known = [scene.groups[i] for i in port.security_group_ids if i in scene.groups]
    if not known:
        return Cause(
            reason,
            f"{scene.called(port)} is in no security group, so nothing may go {way}",
            f"unkai port update {port.name} --security-group default",
            at("port", port),
        )
    names = " or ".join(some.name for some in known)
    service, other = service_at(asked, port, reading), _other_end(reading, way)
    direction = Direction.INGRESS if way == "in" else Direction.EGRESS
    towards = "from" if way == "in" else "to"
    anywhere = scene.is_from_anywhere if way == "in" else scene.is_to_anywhere
    whom = f"{towards} {ANYWHERE if anywhere else other}"
    if way == "in" and reading.seen_source:
        whom += f" (as which {_source_called(reading)} is seen)"
    seen = OtherEnd(other, _groups_of(reading, way, other))
    close = nearest(known, direction, asked, _number_at(asked, port, reading), seen)
    beside = f"; rule {close.id} lets {said(close, scene)} {way}" if close else ""
    allowed = "" if anywhere else f" {towards} {_as_network(other)}"
    return Cause(
        reason,
        f"no rule of group {names} lets {service} {whom} {way}{beside}",
        f"unkai security-group rule add {known[0].name} {direction.value.lower()} "
        f"{words_of(asked, port, reading)}{allowed}",
        at("security_group", known[0]),
    )


def _other_end(reading: Reading, way: str) -> str:
    if way == "out":
        return reading.scene.destination
    return reading.seen_source or reading.scene.source_address


def _groups_of(reading: Reading, way: str, address: str) -> frozenset[str]:
    """Return the groups of the other end, if it is known there by its own address."""
    port = reading.scene.source if way == "in" else reading.scene.end
    if port is None or all(fixed.address != address for fixed in port.addresses):
        return frozenset()
    return frozenset(port.security_group_ids)


def _source_called(reading: Reading) -> str:
    source = reading.scene.source
    return reading.scene.called(source) if source else reading.scene.source_address


def _as_network(address: str) -> str:
    return f"{address}/{32 if version_of(address) == 4 else 128}"


def _number_at(asked: Question, port: Port, reading: Reading) -> int:
    """Return the port number that a port is asked on: a member's may differ from the balancer's."""
    balancer = reading.scene.balancer
    for listener in balancer.listeners if balancer else ():
        if listener.port_number == asked.port_number:
            for member in listener.members:
                if member.port_id == port.id:
                    return member.port_number or asked.port_number
    return asked.port_number


def service_at(asked: Question, port: Port, reading: Reading) -> str:
    """Say what a port is asked for: `tcp/443`."""
    number = _number_at(asked, port, reading)
    return f"{asked.protocol.value.lower()}/{number}" if number else "icmp"


def words_of(asked: Question, port: Port, reading: Reading) -> str:
    """Say the same as a rule's words: `tcp 443`."""
    if asked.protocol is Protocol.ICMP:
        return "icmp"
    return f"{asked.protocol.value.lower()} {_number_at(asked, port, reading)}"


def _no_route(reading: Reading) -> Cause:
    place = reading.place_of(reading.last)
    scene = reading.scene
    to = scene.source_address if reading.answer else scene.destination
    anywhere = scene.is_from_anywhere if reading.answer else scene.is_to_anywhere
    return Cause(
        "NO_ROUTE",
        f"router {place.name} has no route to {ANYWHERE if anywhere else to}",
        _route_fix(reading, to, anywhere=anywhere),
        place,
    )


def _route_fix(reading: Reading, to: str, *, anywhere: bool) -> str:
    """Say how a router would learn of an address, inside or out."""
    scene, router = reading.scene, reading.routers.get(reading.last.datapath)
    name = router.name if router else "ROUTER"
    known = scene.subnet_with(to)
    if router and router.gateway and known is None:
        for subnet in scene.subnets_of(router.gateway.network_id):
            if subnet.version == version_of(to) and not subnet.gateway_address:
                return (
                    f"unkai subnet update {subnet.name} --gateway ADDRESS, which tells its routers "
                    "who leads on outside"
                )
    way_out = f"'unkai router set-gateway {name} NETWORK'"
    where = ("0.0.0.0/0" if version_of(to) == 4 else "::/0") if anywhere else _as_network(to)
    route = f"unkai router add-route {name} {where}=NEXT-HOP"
    if anywhere:
        return f"{route}, or give it a way out with {way_out}"
    subnet_name = known.name if known else "SUBNET"
    fix = f"{route}, or add the subnet with 'unkai router add-subnet {name} {subnet_name}'"
    return fix if known or (router and router.gateway) else f"{fix}, or a way out with {way_out}"


def _routers_own(reading: Reading) -> Cause:
    place = reading.place_of(reading.last)
    return Cause(
        "ROUTER_REFUSES",
        f"{reading.scene.destination} is an address of router {place.name}, which answers to ping "
        "alone",
        "name the instance's own address, or its floating address",
        place,
    )


def _unresolved(reading: Reading) -> Cause:
    """Tell of a packet for an address that the router has for what it hides."""
    place = reading.place_of(reading.last)
    return Cause(
        "ROUTER_REFUSES",
        f"{reading.scene.destination} is the address of router {place.name}, behind which it hides "
        "others: it answers to ping alone, and lets nothing in that nobody inside has asked for",
        "give the instance a floating address with 'unkai floating-ip create'",
        place,
    )


def _otherwise(reading: Reading) -> Cause:
    place = reading.place_of(reading.last)
    return Cause(
        "DROPPED",
        f"{place.kind} {place.name} drops it, at OVN's stage {reading.last.stage or 'unknown'}",
        "see OVN's own words with '-o wide', and whether anything here is reconciling",
        place,
    )


_BY_STAGE: Mapping[str, Callable[[Reading], Cause]] = {
    "ls_in_check_port_sec": _spoofed,
    "ls_in_apply_port_sec": _spoofed,
    "ls_in_acl": _no_rule_out,
    "ls_in_l2": _unknown_mac,
    "ls_out_acl": _no_rule_in,
    "ls_out_check_port_sec": _not_taken,
    "ls_out_apply_port_sec": _not_taken,
    "lr_in_ip_input": _routers_own,
    "lr_in_ip_routing": _no_route,
    "lr_in_arp_resolve": _unresolved,
}
"""By the beginning of the stage's name where the way ended; numbers of stages change."""
