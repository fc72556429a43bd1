"""Builders of what networks are made of: a test names only what matters to it.

What others refer to must be there first: `planted_…` inserts what a row needs and returns the row,
ready to be inserted.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, insert

from tests.support.builders import DEFAULT_PROJECT_ID, NOON, an_etag, an_id
from unkai_scheduler.domain.addresses import default_gateway, default_ranges, key_of, make_mac
from unkai_scheduler.domain.load_balancers import LoadBalancer
from unkai_scheduler.domain.networks import Network, NetworkType, Subnet
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.domain.routers import FloatingIp, Router
from unkai_scheduler.domain.security_groups import Direction, Rule, SecurityGroup
from unkai_scheduler.store import addresses, networks, ports, subnets
from unkai_scheduler.store.tables_networks import addresses as address_rows

_numbers = itertools.count(1)


def _named(kind: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Return what all of these have, with a name of its own."""
    ident = changes.pop("id", "") or an_id(kind)
    return {
        "id": ident,
        "project_id": DEFAULT_PROJECT_ID,
        "name": f"{kind.replace('_', '-')}-{ident[-6:]}",
        "etag": an_etag(),
        "create_time": NOON,
        "update_time": NOON,
    }


def a_network(**changes: Any) -> Network:
    """Make an overlay network of the default project."""
    base = Network(
        **_named("network", changes), type=NetworkType.OVERLAY, mtu=1442, dns_domain="internal"
    )
    return replace(base, **changes)


def a_subnet(network: Network, cidr: str = "10.0.0.0/24", **changes: Any) -> Subnet:
    """Make a subnet with the ranges that it has by default."""
    gateway = changes.pop("gateway_address", default_gateway(cidr))
    base = Subnet(
        **_named("subnet", changes),
        network_id=network.id,
        cidr=cidr,
        gateway_address=gateway,
        ranges=default_ranges(cidr, gateway),
    )
    return replace(base, **changes)


def a_port(network: Network, **changes: Any) -> Port:
    """Make a port that nobody owns, with a MAC address of its own."""
    mac = make_mac(lambda _bits: next(_numbers))
    base = Port(**_named("port", changes), network_id=network.id, mac_address=mac)
    return replace(base, **changes)


def a_group(**changes: Any) -> SecurityGroup:
    """Make a security group without rules."""
    return replace(SecurityGroup(**_named("security_group", changes)), **changes)


def a_rule(**changes: Any) -> Rule:
    """Make a rule that lets everything in."""
    return replace(Rule(an_id("security_group_rule"), Direction.INGRESS), **changes)


def a_router(**changes: Any) -> Router:
    """Make a router that is nowhere."""
    return replace(Router(**_named("router", changes)), **changes)


def a_floating_ip(holder: Port, **changes: Any) -> FloatingIp:
    """Make a floating address that leads nowhere; the holder has its address."""
    base = FloatingIp(
        **_named("floating_ip", changes),
        network_id=holder.network_id,
        address=holder.addresses[0].address,
        holder_port_id=holder.id,
    )
    return replace(base, **changes)


def a_load_balancer(port: Port, **changes: Any) -> LoadBalancer:
    """Make a load balancer without listeners; the port has its address."""
    base = LoadBalancer(
        **_named("load_balancer", changes),
        subnet_id=port.addresses[0].subnet_id,
        port_id=port.id,
        address=port.addresses[0].address,
    )
    return replace(base, **changes)


def add_network(conn: Connection, cidr: str = "10.0.0.0/24", **changes: Any) -> tuple[Network, str]:
    """Insert a network with a subnet; return it and the subnet's id."""
    network = a_network(**changes)
    subnet = a_subnet(network, cidr)
    networks.insert(conn, network)
    subnets.insert(conn, subnet)
    return network, subnet.id


def add_port(conn: Connection, network: Network, *subnet_ids: str, **changes: Any) -> Port:
    """Insert a port with an address of each of these subnets; return it."""
    port = a_port(network, **changes)
    ports.insert(conn, port)
    taken = [
        addresses.take(conn, subnet_id, port.id, position=place)
        for place, subnet_id in enumerate(subnet_ids)
    ]
    return replace(port, addresses=tuple(address for address in taken if address))


def use_all(conn: Connection, network: Network, subnet: Subnet, port: Port) -> None:
    """Let a port have all addresses that an IPv4 subnet may give out."""
    rows = [
        {
            "network_id": network.id,
            "address": f"{number:08x}",
            "subnet_id": subnet.id,
            "port_id": port.id,
            "position": 0,
        }
        for some in subnet.ranges
        for number in range(int(key_of(some.first), 16), int(key_of(some.last), 16) + 1)
    ]
    conn.execute(insert(address_rows), rows)


def planted_network(_conn: Connection, **changes: Any) -> Network:
    return a_network(**changes)


def planted_subnet(conn: Connection, **changes: Any) -> Subnet:
    network = a_network()
    networks.insert(conn, network)
    return a_subnet(network, **changes)


def planted_port(conn: Connection, **changes: Any) -> Port:
    network = a_network()
    networks.insert(conn, network)
    return a_port(network, **changes)


def planted_group(_conn: Connection, **changes: Any) -> SecurityGroup:
    return a_group(**changes)


def planted_router(_conn: Connection, **changes: Any) -> Router:
    return a_router(**changes)


def planted_floating_ip(conn: Connection, **changes: Any) -> FloatingIp:
    network, subnet_id = add_network(conn)
    return a_floating_ip(add_port(conn, network, subnet_id), **changes)


def planted_load_balancer(conn: Connection, **changes: Any) -> LoadBalancer:
    network, subnet_id = add_network(conn)
    return a_load_balancer(add_port(conn, network, subnet_id), **changes)
