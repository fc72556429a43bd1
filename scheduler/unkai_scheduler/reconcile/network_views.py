"""What the derivation of some units must be told, read from the store in one transaction.

`ovn/northbound/view.py` says what each kind of unit looks at; here it is fetched by a few
statements a kind, however many units there are, and never more of the cloud than they need.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from unkai_scheduler.domain.load_balancers import LoadBalancer
from unkai_scheduler.domain.networks import Subnet
from unkai_scheduler.domain.port_orders import NETWORKS
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.domain.routers import FloatingIp, Router
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.store import (
    claims,
    floating_ips,
    hosts,
    load_balancers,
    networks,
    ports,
    routers,
    security_groups,
    subnets,
)

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


def view_of(conn: Connection, keys: Iterable[str], dns_servers: tuple[str, ...] = ()) -> View:
    """Read what the units of these keys are derived from; `dns_servers`: see `View`."""
    asked: defaultdict[str, set[str]] = defaultdict(set)
    for key in keys:
        kind, _, ident = key.partition(":")
        asked[kind].add(ident)
    balancers = load_balancers.list_some(conn, asked["load_balancer"])
    on_subnets = {some.subnet_id for some in balancers}
    router_ids = asked["router"] | set(routers.ids_on_subnets(conn, on_subnets))
    there = routers.list_some(conn, router_ids)
    floating = _floating(conn, asked["floating_ip"], balancers)
    known_ports = ports.list_some(conn, asked["port"] | _ports_of(there, floating, balancers))
    known_subnets = subnets.list_some(
        conn, asked["subnet"] | on_subnets | _subnets_of(there, known_ports)
    )
    sources = {subnet.id for subnet in known_subnets} if balancers else set()
    return View.of(
        networks=networks.list_some(
            conn, asked["network"] | _networks_of(known_subnets, known_ports)
        ),
        subnets=known_subnets,
        ports=known_ports,
        routers=there,
        floating_ips=floating,
        security_groups=security_groups.list_some(conn, asked["security_group"]),
        load_balancers=balancers,
        claims=claims.hosts_of(conn, _instances_of(known_ports)),
        gateway_hosts=_gateway_hosts(conn, there),
        probe_sources=load_balancers.probe_sources(conn, sources),
        dns_servers=dns_servers,
    )


def _gateway_hosts(conn: Connection, there: Iterable[Router]) -> dict[str, frozenset[str]]:
    """Return the hosts that each physical network is reached from, silent ones too."""
    if not any(router.gateway for router in there):
        return {}
    reached: defaultdict[str, set[str]] = defaultdict(set)
    for host in hosts.list_all(conn):
        for name in host.physical_networks if NETWORKS in host.features else ():
            reached[name].add(host.id)
    return {name: frozenset(ids) for name, ids in reached.items()}


def _floating(
    conn: Connection, idents: set[str], balancers: Sequence[LoadBalancer]
) -> list[FloatingIp]:
    asked = {some.id: some for some in floating_ips.list_some(conn, idents)}
    leading = floating_ips.of_ports(conn, [some.port_id for some in balancers])
    return list((asked | {some.id: some for some in leading}).values())


def _ports_of(
    there: Iterable[Router], floating: Iterable[FloatingIp], balancers: Iterable[LoadBalancer]
) -> set[str]:
    found = {some.port_id for some in floating if some.port_id}
    for router in there:
        found |= {interface.port_id for interface in router.interfaces}
        found |= {router.gateway.port_id} if router.gateway else set()
    for balancer in balancers:
        found.add(balancer.port_id)
        found |= {member.port_id for some in balancer.listeners for member in some.members}
    return found


def _subnets_of(there: Iterable[Router], known_ports: Iterable[Port]) -> set[str]:
    found = {interface.subnet_id for router in there for interface in router.interfaces}
    return found | {fixed.subnet_id for port in known_ports for fixed in port.addresses}


def _networks_of(known_subnets: Iterable[Subnet], known_ports: Iterable[Port]) -> set[str]:
    found = {subnet.network_id for subnet in known_subnets}
    return found | {port.network_id for port in known_ports}


def _instances_of(known_ports: Iterable[Port]) -> set[str]:
    return {port.owner_id for port in known_ports if port.owner is PortOwner.INSTANCE}
