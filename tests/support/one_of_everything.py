"""One of everything that networks have, made through the public API: rows in all tables of OVN."""

from __future__ import annotations

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from tests.support.user import User
from unkai.network.v1 import (
    floating_ip_pb2,
    load_balancer_pb2,
    network_pb2,
    port_pb2,
    router_pb2,
    security_group_pb2,
    subnet_pb2,
)
from unkai_lab.spec import EXTERNAL_RANGE, PHYSICAL_NETWORK

Group = security_group_pb2.SecurityGroup
Balancer = load_balancer_pb2.LoadBalancer
Subnet = subnet_pb2.Subnet


def make_one_of_everything(user: User) -> None:
    """Make two networks behind a router that leads out, and what else there is."""
    outside = _make(
        user,
        "Network",
        network_pb2.Network(
            name="outside",
            type=network_pb2.Network.TYPE_FLAT,
            physical_network=PHYSICAL_NETWORK,
            external=True,
        ),
    )
    beyond = Subnet(name="outside", network_id=outside.id, cidr=str(EXTERNAL_RANGE), no_dhcp=True)
    _make(user, "Subnet", beyond)
    group = _make(user, "SecurityGroup", Group(name="web", rules=_rules()))
    gateway = router_pb2.Router.Gateway(network_id=outside.id)
    router = router_pb2.Router(name="edge", gateway=gateway)
    router = _make(user, "Router", router)
    for number in range(2):
        _make_network(user, number, router.id, group.id, outside.id)
    route = router_pb2.Router.Route(destination="10.99.0.0/16", next_hop="10.0.0.200")
    user.client.call(
        "RouterService",
        "UpdateRouter",
        router=router_pb2.Router(id=router.id, routes=[route]),
        update_mask=FieldMask(paths=["routes"]),
    )


def _rules() -> list[Any]:
    return [
        Group.Rule(direction=Group.DIRECTION_INGRESS, protocol=Group.PROTOCOL_TCP, port_first=80),
        Group.Rule(direction=Group.DIRECTION_INGRESS, protocol=Group.PROTOCOL_ICMP),
    ]


def _make_network(user: User, number: int, router_id: str, group_id: str, outside_id: str) -> None:
    network = _make(user, "Network", network_pb2.Network(name=f"n{number}"))
    four = Subnet(name=f"four{number}", network_id=network.id, cidr=f"10.{number}.0.0/24")
    six = Subnet(
        name=f"six{number}",
        network_id=network.id,
        cidr=f"fd00:{number + 1}::/64",
        ipv6_mode=Subnet.IPV6_MODE_DHCPV6_STATEFUL,
    )
    subnets = [_make(user, "Subnet", draft) for draft in (four, six)]
    for subnet in subnets:
        place = router_pb2.Router.Interface(subnet_id=subnet.id)
        user.client.call(
            "RouterService", "AddRouterInterface", router_id=router_id, interface=place
        )
    limits = port_pb2.Port.Qos(egress_bits_per_s=10**7, ingress_bits_per_s=10**7)
    draft = port_pb2.Port(network_id=network.id, security_group_ids=[group_id], qos=limits)
    ports = [_make(user, "Port", draft) for _ in range(2)]
    floating = floating_ip_pb2.FloatingIp(network_id=outside_id, port_id=ports[0].id)
    _make(user, "FloatingIp", floating)
    listener = Balancer.Listener(
        protocol=Balancer.PROTOCOL_TCP,
        port_number=80,
        members=[Balancer.Member(port_id=port.id) for port in ports],
        health_check=Balancer.HealthCheck(),
    )
    balancer = Balancer(name=f"lb{number}", subnet_id=subnets[0].id, listeners=[listener])
    _make(user, "LoadBalancer", balancer)


def _make(user: User, noun: str, draft: Any) -> Any:
    field = "".join(f"_{c.lower()}" if c.isupper() else c for c in noun).lstrip("_")
    made = user.client.call(f"{noun}Service", f"Create{noun}", **{field: draft})
    return getattr(made, field)
