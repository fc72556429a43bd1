"""A router's rows: its ports and their peers, its way out, its routes, what hides behind it. Pure.

It has one port on each network, with its addresses of all subnets there. The way out is one
distributed gateway port, on the best of a few hosts; OVN moves it when that one is silent. While no
host may have it, it is left out: OVN would take it for a port that is everywhere.

Traps: `gateway_mtu` is on the gateway port alone, or ICMP errors come from the wrong address; two
routes to one destination share the load, so the own default route yields to the user's.
ovn-nb(5), Logical_Router and Logical_Router_Port.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from ipaddress import ip_network

from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.networks import Ipv6Mode, Network, NetworkType, Subnet
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.domain.routers import Gateway, Router
from unkai_scheduler.ovn.northbound.names import (
    in_router,
    name_of,
    router_port_name,
    row_uuid,
)
from unkai_scheduler.ovn.northbound.networks import METADATA_V6
from unkai_scheduler.ovn.northbound.switch_ports import switch_port
from unkai_scheduler.ovn.northbound.translations import translation
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Place, Row, Value
from unkai_wire.ids import uuid_of

MAX_GATEWAY_HOSTS = 5
"""Hosts of one gateway; each watches the tunnels to the others."""
RA_MIN_INTERVAL_S, RA_MAX_INTERVAL_S = 30, 60
"""Between unasked advertisements. OVN 23.03 answers a guest that has no address yet at `::`, which
it never hears, so these are what it gets its address by."""
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
_LEAST_MTU_V6 = 1280
"""RFC 8200 section 5."""
_RA_MODES = {
    Ipv6Mode.SLAAC: "slaac",
    Ipv6Mode.DHCPV6_STATELESS: "dhcpv6_stateless",
    Ipv6Mode.DHCPV6_STATEFUL: "dhcpv6_stateful",
}


def rows(view: View, ident: str) -> Iterator[Row]:
    """Yield a router's rows."""
    router = view.routers.get(ident)
    if router is None:
        return
    hosts = _gateway_hosts(view, router)
    yield Row(
        "Logical_Router",
        in_router(ident, "ports").uuid,
        {
            "name": name_of(ident),
            "enabled": True,
            "options": {
                # Neighbours are learned when they are needed, and forgotten, or a machine outside
                # that changes its MAC address would never be found again.
                "always_learn_from_arp_request": "false",
                "dynamic_neigh_routers": "true",
                "mac_binding_age_threshold": "300",
            },
        },
    )
    for port_id in dict.fromkeys(interface.port_id for interface in router.interfaces):
        yield from _interface(view, router, port_id, has_way_out=bool(hosts))
    if router.gateway and hosts:
        yield from _way_out(view, router, router.gateway, hosts)
    for route in router.routes:
        yield _route(router, route.destination, route.next_hop)


def _interface(view: View, router: Router, port_id: str, *, has_way_out: bool) -> Iterator[Row]:
    port = view.ports.get(port_id)
    network = view.networks.get(port.network_id) if port else None
    if port is None or network is None or not _networks(view, port):
        return
    # What goes by the operator's network passes one host both ways, else switches there would see
    # the router's MAC address in many places.
    resides = has_way_out and network.type is not NetworkType.OVERLAY
    yield _router_port(
        view,
        router,
        port,
        options={"reside-on-redirect-chassis": "true"} if resides else {},
        advertised=_advertised(view, port, network),
    )
    yield _peer(port)


def _router_port(
    view: View,
    router: Router,
    port: Port,
    *,
    options: Mapping[str, str],
    advertised: Mapping[str, str],
    hosts: Value = (),
) -> Row:
    return Row(
        "Logical_Router_Port",
        row_uuid(router.id, f"port:{port.id}"),
        {
            "name": router_port_name(port.id),
            "mac": port.mac_address,
            "networks": _networks(view, port),
            "enabled": True,
            "options": options,
            "ipv6_ra_configs": advertised,
            "ha_chassis_group": hosts,
            "peer": (),
        },
        parent=in_router(router.id, "ports"),
    )


def _peer(port: Port, **options: str) -> Row:
    return switch_port(
        uuid_of(port.id),
        port.network_id,
        {
            "name": name_of(port.id),
            "type": "router",
            "addresses": frozenset(["router"]),
            "options": {"router-port": router_port_name(port.id), **options},
        },
    )


def _networks(view: View, port: Port) -> frozenset[str]:
    return frozenset(
        f"{some.address}/{ip_network(subnet.cidr).prefixlen}"
        for some in port.addresses
        if (subnet := view.subnets.get(some.subnet_id))
    )


def _advertised(view: View, port: Port, network: Network) -> dict[str, str]:
    """Return what a network's guests are told of IPv6; all its subnets share one mode."""
    modes = [
        subnet.ipv6_mode for subnet in _subnets(view, port) if subnet.dhcp and subnet.ipv6_mode
    ]
    if not modes:
        return {}
    told = {
        "address_mode": _RA_MODES[modes[0]],
        "send_periodic": "true",
        "min_interval": str(RA_MIN_INTERVAL_S),
        "max_interval": str(RA_MAX_INTERVAL_S),
        "rdnss": METADATA_V6,
    }
    if network.dns_domain:
        told["dnssl"] = network.dns_domain
    if network.mtu >= _LEAST_MTU_V6:
        told["mtu"] = str(network.mtu)
    return told


def _subnets(view: View, port: Port) -> list[Subnet]:
    """Return the subnets that a port has addresses on, oldest first."""
    known = {some.subnet_id for some in port.addresses} & view.subnets.keys()
    return [view.subnets[ident] for ident in sorted(known)]


def _gateway_hosts(view: View, router: Router) -> list[str]:
    """Return the hosts that the way out may be on, best first; none without a way out.

    Each router ranks all hosts by itself (rendezvous hashing, Thaler and Ravishankar 1998), so
    routers spread over hosts, and one that comes or goes moves few of them.
    """
    gateway = router.gateway
    network = view.networks.get(gateway.network_id) if gateway else None
    port = view.ports.get(gateway.port_id) if gateway else None
    if network is None or port is None or not _networks(view, port):
        return []
    candidates = view.gateway_hosts.get(network.physical_network, frozenset())

    def rank(host: str) -> bytes:
        return hashlib.sha256(f"{router.id} {host}".encode()).digest()

    return sorted(candidates, key=rank)[:MAX_GATEWAY_HOSTS]


def _way_out(view: View, router: Router, gateway: Gateway, hosts: list[str]) -> Iterator[Row]:
    port = view.ports[gateway.port_id]
    group = Place("HA_Chassis_Group", row_uuid(router.id, "gateway"), "ha_chassis")
    yield Row(group.table, group.uuid, {"name": name_of(router.id)})
    for place, host in enumerate(hosts):
        columns: dict[str, Value] = {"chassis_name": host, "priority": 100 - place}
        yield Row("HA_Chassis", row_uuid(router.id, f"gateway:{host}"), columns, parent=group)
    yield _router_port(
        view, router, port, options=_gateway_mtu(view, router), advertised={}, hosts=group.uuid
    )
    yield _peer(port, **{"nat-addresses": "router"})
    yield from _default_routes(view, router, port)
    if gateway.snat:
        yield from _hidden(view, router, port)


def _gateway_mtu(view: View, router: Router) -> dict[str, str]:
    """Return the option that makes OVN tell senders what passes, where not all networks agree."""
    ports = [view.ports.get(interface.port_id) for interface in router.interfaces]
    ids = {port.network_id for port in ports if port}
    ids |= {router.gateway.network_id} if router.gateway else set()
    mtus = {view.networks[ident].mtu for ident in ids & view.networks.keys()}
    return {"gateway_mtu": str(min(mtus))} if len(mtus) > 1 else {}


def _default_routes(view: View, router: Router, port: Port) -> Iterator[Row]:
    users = {route.destination for route in router.routes}
    hops: dict[int, str] = {}
    for subnet in _subnets(view, port):
        if subnet.gateway_address:
            hops.setdefault(subnet.version, subnet.gateway_address)
    for version, hop in sorted(hops.items()):
        if _ANYWHERE[version] not in users:
            yield _route(router, _ANYWHERE[version], hop, output_port=router_port_name(port.id))


def _route(router: Router, destination: str, next_hop: str, output_port: Value = ()) -> Row:
    return Row(
        "Logical_Router_Static_Route",
        row_uuid(router.id, f"route:{destination}:{next_hop}"),
        {
            "ip_prefix": destination,
            "nexthop": next_hop,
            "output_port": output_port,
            "route_table": "",
            "policy": (),
        },
        parent=in_router(router.id, "static_routes"),
    )


def _hidden(view: View, router: Router, port: Port) -> Iterator[Row]:
    """Yield a row for each subnet whose traffic goes out with the router's address."""
    outside = [some.address for some in port.addresses if version_of(some.address) == 4]
    behind = [view.subnets.get(interface.subnet_id) for interface in router.interfaces]
    for subnet in behind if outside else []:
        if subnet and subnet.version == 4:
            yield translation(
                row_uuid(router.id, f"snat:{subnet.id}"), router.id, "snat", outside[0], subnet.cidr
            )
