"""network.v1.SubnetService."""

from __future__ import annotations

from typing import Any

from unkai.network.v1 import subnet_pb2, subnet_service_pb2, subnet_service_pb2_grpc
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.api.fields import enum_of
from unkai_scheduler.domain.addresses import count_of
from unkai_scheduler.domain.networks import HostRoute, Ipv6Mode, Range, Subnet
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.services.subnet_drafts import SubnetDraft
from unkai_scheduler.services.subnets import SubnetsService

_MOST_COUNTED = 1 << 62
_MODES = {
    int(subnet_pb2.Subnet.IPV6_MODE_UNSPECIFIED): None,
    int(subnet_pb2.Subnet.IPV6_MODE_SLAAC): Ipv6Mode.SLAAC,
    int(subnet_pb2.Subnet.IPV6_MODE_DHCPV6_STATELESS): Ipv6Mode.DHCPV6_STATELESS,
    int(subnet_pb2.Subnet.IPV6_MODE_DHCPV6_STATEFUL): Ipv6Mode.DHCPV6_STATEFUL,
}


class SubnetServicer(subnet_service_pb2_grpc.SubnetServiceServicer):
    """Subnets over gRPC."""

    def __init__(self, subnets: SubnetsService) -> None:
        self._subnets = subnets

    async def CreateSubnet(
        self, request: subnet_service_pb2.CreateSubnetRequest, context: Any
    ) -> subnet_service_pb2.CreateSubnetResponse:
        subnet = await self._subnets.create(
            call_of(request), request.project_id, _draft(request.subnet)
        )
        return subnet_service_pb2.CreateSubnetResponse(subnet=subnet_message(subnet))

    async def GetSubnet(
        self, request: subnet_service_pb2.GetSubnetRequest, context: Any
    ) -> subnet_service_pb2.GetSubnetResponse:
        subnet = await self._subnets.get(request.subnet_id)
        return subnet_service_pb2.GetSubnetResponse(subnet=subnet_message(subnet))

    async def ListSubnets(
        self, request: subnet_service_pb2.ListSubnetsRequest, context: Any
    ) -> subnet_service_pb2.ListSubnetsResponse:
        page = await self._subnets.list(
            Paging(request.page_size, request.page_token),
            project_id=request.project_id,
            name=request.name,
            network_id=request.network_id,
        )
        return subnet_service_pb2.ListSubnetsResponse(
            subnets=map(subnet_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdateSubnet(
        self, request: subnet_service_pb2.UpdateSubnetRequest, context: Any
    ) -> subnet_service_pb2.UpdateSubnetResponse:
        subnet = await self._subnets.update(
            call_of(request),
            request.subnet.id,
            _draft(request.subnet),
            request.update_mask.paths,
            request.subnet.etag,
        )
        return subnet_service_pb2.UpdateSubnetResponse(subnet=subnet_message(subnet))

    async def DeleteSubnet(
        self, request: subnet_service_pb2.DeleteSubnetRequest, context: Any
    ) -> subnet_service_pb2.DeleteSubnetResponse:
        await self._subnets.delete(call_of(request), request.subnet_id, request.etag)
        return subnet_service_pb2.DeleteSubnetResponse()


def subnet_message(subnet: Subnet) -> subnet_pb2.Subnet:
    """Write a subnet."""
    count = count_of(subnet.ranges)
    message = subnet_pb2.Subnet
    mode = subnet.ipv6_mode.value if subnet.ipv6_mode else "UNSPECIFIED"
    return message(
        id=subnet.id,
        project_id=subnet.project_id,
        name=subnet.name,
        labels=dict(subnet.labels),
        etag=subnet.etag,
        network_id=subnet.network_id,
        cidr=subnet.cidr,
        gateway_address=subnet.gateway_address,
        no_gateway=not subnet.gateway_address,
        allocation_ranges=[message.Range(first=r.first, last=r.last) for r in subnet.ranges],
        no_dhcp=not subnet.dhcp,
        ipv6_mode=message.Ipv6Mode.Value(f"IPV6_MODE_{mode}"),
        dns_servers=subnet.dns_servers,
        host_routes=[
            message.HostRoute(destination=route.destination, next_hop=route.next_hop)
            for route in subnet.host_routes
        ],
        address_count=count if count <= _MOST_COUNTED else 0,
        used_address_count=subnet.used_address_count,
        reconciling=subnet.reconciling,
        create_time=timestamp(subnet.create_time),
        update_time=timestamp(subnet.update_time),
    )


def _draft(message: subnet_pb2.Subnet) -> SubnetDraft:
    return SubnetDraft(
        name=message.name,
        network_id=message.network_id,
        cidr=message.cidr,
        gateway_address=message.gateway_address,
        no_gateway=message.no_gateway,
        ranges=[Range(some.first, some.last) for some in message.allocation_ranges],
        no_dhcp=message.no_dhcp,
        ipv6_mode=enum_of(_MODES, message.ipv6_mode, "subnet.ipv6_mode"),
        dns_servers=list(message.dns_servers),
        host_routes=[HostRoute(some.destination, some.next_hop) for some in message.host_routes],
        labels=dict(message.labels),
    )
