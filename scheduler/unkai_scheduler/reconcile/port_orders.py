"""Orders of ports: what a host is told of the ports of a machine, read from the store.

A guest is told the same as OVN's DHCP tells it (`ovn/northbound/subnets.py`): the network's own
address for metadata and names comes first among its name servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network

from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.networks import HostRoute, Ipv6Mode, Network, Subnet
from unkai_scheduler.domain.port_orders import (
    MOST_DNS_SERVERS,
    MOST_ROUTES,
    AddressOrder,
    PortOrder,
)
from unkai_scheduler.domain.ports import FixedAddress, Port
from unkai_scheduler.ovn.northbound.names import metadata_mac, metadata_name
from unkai_scheduler.ovn.northbound.networks import METADATA_V4
from unkai_scheduler.store import networks, ports, subnets
from unkai_scheduler.store.unit_of_work import Connection


def read(
    conn: Connection, instance_id: str, dns_servers: Sequence[str] = ()
) -> tuple[PortOrder, ...]:
    """Return the ports that an instance's machine shall have, by position.

    `dns_servers`: those that guests are told on subnets that name none.
    """
    plugged = ports.of_owner(conn, instance_id)
    if not plugged:
        return ()
    on = {one.id: one for one in networks.list_some(conn, {p.network_id for p in plugged})}
    named = {some.subnet_id for port in plugged for some in port.addresses}
    there = {subnet.id: subnet for subnet in subnets.list_some(conn, named)}
    return tuple(order(port, on[port.network_id], there, dns_servers) for port in plugged)


def order(
    port: Port, network: Network, there: Mapping[str, Subnet], dns_servers: Sequence[str]
) -> PortOrder:
    """Return the order of a port; `there`: the subnets of its addresses, by id."""
    own = [there[some.subnet_id] for some in port.addresses]
    return PortOrder(
        port_id=port.id,
        network_id=port.network_id,
        mac_address=port.mac_address,
        mtu=network.mtu,
        position=port.position,
        addresses=tuple(map(_address, port.addresses, own)),
        dns_servers=tuple(_dns_servers(own, dns_servers))[:MOST_DNS_SERVERS],
        dns_domain=network.dns_domain,
        host_routes=_host_routes(own)[:MOST_ROUTES],
        metadata_name=metadata_name(network.id),
        metadata_mac=metadata_mac(network.id),
    )


def _address(some: FixedAddress, subnet: Subnet) -> AddressOrder:
    is_v6 = subnet.version == 6
    return AddressOrder(
        address=some.address,
        prefix_length=ip_network(subnet.cidr).prefixlen,
        gateway_address=subnet.gateway_address,
        dhcp=subnet.dhcp,
        ipv6_mode=(subnet.ipv6_mode or Ipv6Mode.SLAAC) if is_v6 else None,
    )


def _dns_servers(own: Iterable[Subnet], others: Sequence[str]) -> Iterable[str]:
    told: dict[str, None] = {}
    for subnet in own:
        if subnet.version == 4:
            told.setdefault(METADATA_V4)
        for server in subnet.dns_servers or others:
            if version_of(server) == subnet.version:
                told.setdefault(server)
    return sorted(told, key=lambda server: server != METADATA_V4)


def _host_routes(own: Iterable[Subnet]) -> tuple[HostRoute, ...]:
    return tuple(dict.fromkeys(route for subnet in own for route in subnet.host_routes))
