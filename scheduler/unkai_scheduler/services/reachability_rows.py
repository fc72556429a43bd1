"""A question's scene, as the store has it.

From the source's network the scene reaches as far as routers do. What is found there by address is
what a packet would find: the same address on a network that no router leads to is somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from unkai_scheduler.domain.addresses import contains, eui64, version_of
from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.domain.load_balancers import LoadBalancer
from unkai_scheduler.domain.networks import Network, Subnet
from unkai_scheduler.domain.ports import Port, PortOwner, PortState
from unkai_scheduler.domain.reachability import EXTERNAL, Question
from unkai_scheduler.domain.routers import FloatingIp, Router
from unkai_scheduler.domain.security_groups import SecurityGroup
from unkai_scheduler.ovn.northbound.networks import METADATA_V6
from unkai_scheduler.services.checks import fetch
from unkai_scheduler.services.reachability_scene import Scene, first_of
from unkai_scheduler.store import (
    addresses,
    floating_ips,
    instances,
    load_balancers,
    networks,
    ports,
    routers,
    security_groups,
    subnets,
)

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

MAX_NETWORKS = 256
"""Networks that a scene holds: what is farther away is not looked at."""
_LINK_LOCAL = "fe80::/64"
_SOMEWHERE = {
    4: ("198.51.100.1", "203.0.113.1", "192.0.2.1"),
    6: ("2001:db8:ffff::1", "3fff:ffff::1"),
}
"""Addresses that stand for all those outside; of documentation (RFC 5737, RFC 3849, RFC 9637), and
the first that no subnet here has."""


def read_scene(conn: Connection, question: Question) -> Scene:
    """Read what a question is about. Raises `NotFound` for ends that are not there."""
    source, begin = _source(conn, question)
    reach = _Reach(conn, begin)
    destination = _destination(question, source, reach.subnets.values())
    version = version_of(destination)
    target, elsewhere = _target(conn, reach, question, destination, source)
    takers = () if target or elsewhere else _takers(conn, reach, question)
    target = target or (takers[0] if takers else None)
    known = _Known(conn)
    known.add_ports([port for port in (source, target) if port])
    known.follow(target)
    reach.add_router_of(target)
    reach.add([port.network_id for port in known.ports.values()])
    known.add_ports(
        ports.list_some(
            conn,
            {i.port_id for router in reach.routers.values() for i in router.interfaces}
            | {router.gateway.port_id for router in reach.routers.values() if router.gateway},
        )
    )
    known.add_beside()
    ends = known.ends()
    known.add_leading_to(ends)
    reach.add([port.network_id for port in known.ports.values()])
    for port in ends:
        known.add_ports(_next_hops(conn, port, reach.subnets))
    return Scene(
        question=question,
        source=source,
        source_address=_source_address(question, source, version, destination),
        destination=destination,
        networks=reach.networks,
        subnets=reach.subnets,
        routers=reach.routers,
        ports=known.ports,
        instances=known.instances(),
        groups=known.groups(),
        floating_ips=known.floating_ips,
        load_balancers=known.load_balancers,
        target=target,
        takers=takers,
        target_elsewhere=elsewhere,
    )


def _source(conn: Connection, question: Question) -> tuple[Port | None, str]:
    """Return the port that a packet comes from, if any, and the network."""
    if question.source_port_id:
        port = fetch(
            "port", question.source_port_id, "source_port_id", lambda i: ports.get(conn, i)
        )
        return port, port.network_id
    ident = question.source_network_id
    network = fetch("network", ident, "source_network_id", lambda i: networks.get(conn, i))
    return None, network.id


def _destination(question: Question, source: Port | None, known: Iterable[Subnet]) -> str:
    if question.destination_address != EXTERNAL:
        return question.destination_address
    version = 4
    if question.source_address:
        version = version_of(question.source_address)
    elif source and not first_of(source, 4) and first_of(source, 6):
        version = 6
    cidrs = [some.cidr for some in known if some.version == version]
    free = [a for a in _SOMEWHERE[version] if not any(contains(cidr, a) for cidr in cidrs)]
    return free[0] if free else _SOMEWHERE[version][0]


def _source_address(question: Question, source: Port | None, version: int, destination: str) -> str:
    if question.source_address:
        return question.source_address
    if source is None:
        return next(a for a in _SOMEWHERE[version] if a != destination)
    if destination == METADATA_V6:
        return eui64(source.mac_address, _LINK_LOCAL)
    return first_of(source, version)


def _target(
    conn: Connection, reach: _Reach, question: Question, destination: str, source: Port | None
) -> tuple[Port | None, tuple[str, ...]]:
    """Return the port in reach that has an address, else the networks that have it elsewhere."""
    if question.destination_address == EXTERNAL:
        return None, ()
    for network_id in list(reach.networks):
        holder = addresses.holder(conn, network_id, destination)
        if holder is not None:
            return ports.get(conn, holder), ()
    others = ports.list_some(conn, addresses.holders(conn, destination))
    if source is None:
        # From outside all that a router leads to is in reach, by its own address.
        for port in others:
            reach.add([port.network_id])
            behind = {some.id for some in reach.routers_with(port.network_id)}
            if behind & {some.id for some in reach.routers_out_by(question.source_network_id)}:
                return port, ()
    own = [port for port in others if source is None or port.project_id == source.project_id]
    found = networks.list_some(conn, {port.network_id for port in own})
    return None, tuple(sorted(some.name for some in found))


def _takers(conn: Connection, reach: _Reach, question: Question) -> tuple[Port, ...]:
    """Return the instances' ports that may use an address which nothing has; those up first."""
    address = question.destination_address
    if address == EXTERNAL:
        return ()
    on = {some.network_id for some in reach.subnets.values() if contains(some.cidr, address)}
    found = [
        port
        for network_id in sorted(on & reach.networks.keys())
        for port in ports.of_kind_on_network(conn, network_id, PortOwner.INSTANCE)
        if any(contains(pair.cidr, address) for pair in port.pairs)
    ]
    return tuple(sorted(found, key=lambda port: (port.state is not PortState.ACTIVE, port.name)))


def _next_hops(conn: Connection, port: Port, known: Mapping[str, Subnet]) -> list[Port]:
    """Return the ports that a port's subnets tell its guest to send by."""
    own = [known[some.subnet_id] for some in port.addresses if some.subnet_id in known]
    hops = {some.gateway_address for some in own} | {
        route.next_hop for some in own for route in some.host_routes
    }
    holders = [addresses.holder(conn, port.network_id, hop) for hop in sorted(hops - {""})]
    return ports.list_some(conn, [holder for holder in holders if holder])


class _Reach:
    """Networks, with their subnets and routers, as far as routers lead."""

    def __init__(self, conn: Connection, network_id: str) -> None:
        self._conn = conn
        self.networks: dict[str, Network] = {}
        self.subnets: dict[str, Subnet] = {}
        self.routers: dict[str, Router] = {}
        self.add([network_id])

    def add(self, network_ids: Iterable[str]) -> None:
        """Take these networks in, and those that routers lead to from there."""
        waiting = [ident for ident in dict.fromkeys(network_ids) if ident not in self.networks]
        while waiting and len(self.networks) < MAX_NETWORKS:
            known = {some.id: some for some in networks.list_some(self._conn, waiting)}
            self.networks |= {ident: known[ident] for ident in waiting if ident in known}
            of_networks = subnets.of_networks(self._conn, known)
            fresh = [subnet for some in of_networks.values() for subnet in some]
            self.subnets |= {subnet.id: subnet for subnet in fresh}
            waiting = list(dict.fromkeys(self._beyond(fresh)))

    def add_router_of(self, port: Port | None) -> None:
        """Take in the router whose gateway a port is: nothing that is in reach may lead to it."""
        if port is None or port.owner is not PortOwner.GATEWAY or port.owner_id in self.routers:
            return
        for router in routers.list_some(self._conn, [port.owner_id]):
            self.routers[router.id] = router
            inside = subnets.list_some(self._conn, {i.subnet_id for i in router.interfaces})
            self.add([*(some.network_id for some in inside), port.network_id])

    def _beyond(self, fresh: Sequence[Subnet]) -> Iterator[str]:
        ids = [i for some in fresh for i in routers.ids_on_subnet(self._conn, some.id)]
        new = [ident for ident in dict.fromkeys(ids) if ident not in self.routers]
        for router in routers.list_some(self._conn, new):
            self.routers[router.id] = router
            wanted = {interface.subnet_id for interface in router.interfaces}
            for subnet in subnets.list_some(self._conn, wanted - self.subnets.keys()):
                if subnet.network_id not in self.networks:
                    yield subnet.network_id
            if router.gateway and router.gateway.network_id not in self.networks:
                yield router.gateway.network_id

    def routers_with(self, network_id: str) -> list[Router]:
        """Return the routers that have an interface on a network."""
        own = {some.id for some in self.subnets.values() if some.network_id == network_id}
        return [
            router
            for router in self.routers.values()
            if own & {interface.subnet_id for interface in router.interfaces}
        ]

    def routers_out_by(self, network_id: str) -> list[Router]:
        """Return the routers whose gateway is on a network."""
        return [
            router
            for router in self.routers.values()
            if router.gateway and router.gateway.network_id == network_id
        ]


class _Known:
    """Ports, and what is plugged into them or leads to them."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self.ports: dict[str, Port] = {}
        self.floating_ips: dict[str, FloatingIp] = {}
        self.load_balancers: dict[str, LoadBalancer] = {}

    def add_ports(self, some: Iterable[Port]) -> None:
        """Take ports in."""
        self.ports |= {port.id: port for port in some}

    def add_beside(self) -> None:
        """Take in the other ports of the instances that have some of these."""
        owners = {p.owner_id for p in self.ports.values() if p.owner is PortOwner.INSTANCE}
        for some in ports.of_owners(self._conn, owners).values():
            self.add_ports(some)

    def ends(self) -> list[Port]:
        """Return the ports that instances have or may get."""
        return [p for p in self.ports.values() if p.owner in {None, PortOwner.INSTANCE}]

    def follow(self, target: Port | None) -> None:
        """Take in what a floating address or load balancer leads to."""
        if target is not None and target.owner is PortOwner.FLOATING_IP:
            floating = floating_ips.get(self._conn, target.owner_id)
            if floating is not None:
                self.floating_ips[floating.id] = floating
                target = ports.get(self._conn, floating.port_id) if floating.port_id else None
                self.add_ports([target] if target else [])
        if target is not None and target.owner is PortOwner.LOAD_BALANCER:
            for balancer in load_balancers.list_some(self._conn, [target.owner_id]):
                self.load_balancers[balancer.id] = balancer
                members = {m.port_id for some in balancer.listeners for m in some.members}
                self.add_ports(ports.list_some(self._conn, members))

    def add_leading_to(self, some: Iterable[Port]) -> None:
        """Take in the floating addresses that lead to ports."""
        for floating in floating_ips.of_ports(self._conn, {port.id for port in some}):
            self.floating_ips[floating.id] = floating

    def instances(self) -> dict[str, Instance]:
        """Return the instances that the ports are plugged into."""
        owners = {p.owner_id for p in self.ports.values() if p.owner is PortOwner.INSTANCE}
        return {some.id: some for some in instances.list_some(self._conn, owners)}

    def groups(self) -> dict[str, SecurityGroup]:
        """Return the groups of the ports, and those that their rules name."""
        ids = {ident for port in self.ports.values() for ident in port.security_group_ids}
        found = {some.id: some for some in security_groups.list_some(self._conn, ids)}
        named = {r.remote_group_id for some in found.values() for r in some.rules} - {""}
        others = security_groups.list_some(self._conn, named - found.keys())
        return found | {some.id: some for some in others}
