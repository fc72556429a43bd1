"""Networks over gRPC: what tests make by one call each, and what OVN is then told of."""

from __future__ import annotations

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from tests.support.api import Api
from tests.support.store import noon
from unkai.network.v1 import (
    network_pb2,
    network_service_pb2,
    port_pb2,
    port_service_pb2,
    security_group_pb2,
    security_group_service_pb2,
    subnet_pb2,
    subnet_service_pb2,
)
from unkai_scheduler.store import ovn_work
from unkai_scheduler.store.tables_networks import ovn_tombstones

networks_pb, subnets_pb = network_service_pb2, subnet_service_pb2
ports_pb, groups_pb = port_service_pb2, security_group_service_pb2
Group = security_group_pb2.SecurityGroup


async def a_network(api: Api, name: str = "blue", **changes: Any) -> network_pb2.Network:
    """Make a network."""
    request = {key: changes.pop(key) for key in ("project_id", "request_id") if key in changes}
    network = network_pb2.Network(name=name, **changes)
    made = networks_pb.CreateNetworkRequest(network=network, **request)
    return (await api.networks.CreateNetwork(made)).network


async def a_subnet(
    api: Api, network_id: str, cidr: str = "10.0.0.0/24", **changes: Any
) -> subnet_pb2.Subnet:
    """Make a subnet, named after its addresses."""
    request = {key: changes.pop(key) for key in ("project_id", "request_id") if key in changes}
    name = changes.pop("name", "s-" + cidr.translate(str.maketrans("./:", "---")))
    subnet = subnet_pb2.Subnet(name=name, network_id=network_id, cidr=cidr, **changes)
    made = subnets_pb.CreateSubnetRequest(subnet=subnet, **request)
    return (await api.subnets.CreateSubnet(made)).subnet


async def a_port(api: Api, network_id: str, **changes: Any) -> port_pb2.Port:
    """Make a port. `addresses`: of which subnet and address each, either may be empty."""
    request = {key: changes.pop(key) for key in ("project_id", "request_id") if key in changes}
    fixed = [
        port_pb2.FixedAddress(subnet_id=subnet_id, address=address)
        for subnet_id, address in changes.pop("addresses", [])
    ]
    port = port_pb2.Port(network_id=network_id, fixed_addresses=fixed, **changes)
    made = ports_pb.CreatePortRequest(port=port, **request)
    return (await api.ports.CreatePort(made)).port


async def a_group(api: Api, name: str = "web", **changes: Any) -> security_group_pb2.SecurityGroup:
    """Make a security group."""
    request = {key: changes.pop(key) for key in ("project_id", "request_id") if key in changes}
    made = groups_pb.CreateSecurityGroupRequest(
        security_group=Group(name=name, **changes), **request
    )
    return (await api.security_groups.CreateSecurityGroup(made)).security_group


def a_rule(**changes: Any) -> security_group_pb2.SecurityGroup.Rule:
    """Make a rule: TCP to port 22 from anywhere, but for what is said."""
    base: dict[str, Any] = {
        "direction": Group.DIRECTION_INGRESS,
        "protocol": Group.PROTOCOL_TCP,
        "port_first": 22,
    }
    return Group.Rule(**(base | changes))


def addresses_of(port: port_pb2.Port) -> list[str]:
    """Return a port's addresses in their order."""
    return [some.address for some in port.fixed_addresses]


async def change_network(
    api: Api, network: network_pb2.Network, *paths: str, **changes: Any
) -> network_pb2.Network:
    """Change a network; without paths, the fields that are given."""
    changed = network_pb2.Network(id=network.id, **changes)
    mask = FieldMask(paths=paths or list(changes))
    request = networks_pb.UpdateNetworkRequest(network=changed, update_mask=mask)
    return (await api.networks.UpdateNetwork(request)).network


async def change_subnet(
    api: Api, subnet: subnet_pb2.Subnet, *paths: str, **changes: Any
) -> subnet_pb2.Subnet:
    """Change a subnet; without paths, the fields that are given."""
    changed = subnet_pb2.Subnet(id=subnet.id, **changes)
    mask = FieldMask(paths=paths or list(changes))
    request = subnets_pb.UpdateSubnetRequest(subnet=changed, update_mask=mask)
    return (await api.subnets.UpdateSubnet(request)).subnet


async def change_port(api: Api, port: port_pb2.Port, *paths: str, **changes: Any) -> port_pb2.Port:
    """Change a port; without paths, the fields that are given."""
    changed = port_pb2.Port(id=port.id, **changes)
    mask = FieldMask(paths=paths or list(changes))
    request = ports_pb.UpdatePortRequest(port=changed, update_mask=mask)
    return (await api.ports.UpdatePort(request)).port


async def change_group(
    api: Api, group: security_group_pb2.SecurityGroup, *paths: str, **changes: Any
) -> security_group_pb2.SecurityGroup:
    """Change a security group; without paths, the fields that are given."""
    changed = Group(id=group.id, **changes)
    mask = FieldMask(paths=paths or list(changes))
    request = groups_pb.UpdateSecurityGroupRequest(security_group=changed, update_mask=mask)
    return (await api.security_groups.UpdateSecurityGroup(request)).security_group


async def take_work(api: Api) -> set[str]:
    """Return the units that OVN is to be told of, and settle them."""

    def work(conn: Any) -> set[str]:
        due = ovn_work.due(conn, noon(), 1000)
        ovn_work.settle(conn, [(some.key, some.number) for some in due])
        return {some.key for some in due}

    return await api.uow.write(work)


async def tombstones(api: Api) -> set[str]:
    """Return the units that may be removed from OVN."""

    def read(conn: Any) -> set[str]:
        return {f"{row.kind}:{row.id}" for row in conn.execute(ovn_tombstones.select())}

    return await api.uow.read(read)
