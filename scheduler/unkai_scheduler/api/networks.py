"""network.v1.NetworkService."""

from __future__ import annotations

from typing import Any

from unkai.network.v1 import network_pb2, network_service_pb2, network_service_pb2_grpc
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.api.fields import enum_of
from unkai_scheduler.domain.networks import Network, NetworkType
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.services.networks import NetworkDraft, NetworksService

_TYPES = {
    int(network_pb2.Network.TYPE_UNSPECIFIED): NetworkType.OVERLAY,
    int(network_pb2.Network.TYPE_OVERLAY): NetworkType.OVERLAY,
    int(network_pb2.Network.TYPE_FLAT): NetworkType.FLAT,
    int(network_pb2.Network.TYPE_VLAN): NetworkType.VLAN,
}


class NetworkServicer(network_service_pb2_grpc.NetworkServiceServicer):
    """Networks over gRPC."""

    def __init__(self, networks: NetworksService) -> None:
        self._networks = networks

    async def CreateNetwork(
        self, request: network_service_pb2.CreateNetworkRequest, context: Any
    ) -> network_service_pb2.CreateNetworkResponse:
        network = await self._networks.create(
            call_of(request), request.project_id, _draft(request.network)
        )
        return network_service_pb2.CreateNetworkResponse(network=network_message(network))

    async def GetNetwork(
        self, request: network_service_pb2.GetNetworkRequest, context: Any
    ) -> network_service_pb2.GetNetworkResponse:
        network = await self._networks.get(request.network_id)
        return network_service_pb2.GetNetworkResponse(network=network_message(network))

    async def ListNetworks(
        self, request: network_service_pb2.ListNetworksRequest, context: Any
    ) -> network_service_pb2.ListNetworksResponse:
        page = await self._networks.list(
            Paging(request.page_size, request.page_token),
            project_id=request.project_id,
            name=request.name,
            external=request.external,
        )
        return network_service_pb2.ListNetworksResponse(
            networks=map(network_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdateNetwork(
        self, request: network_service_pb2.UpdateNetworkRequest, context: Any
    ) -> network_service_pb2.UpdateNetworkResponse:
        network = await self._networks.update(
            call_of(request),
            request.network.id,
            _draft(request.network),
            request.update_mask.paths,
            request.network.etag,
        )
        return network_service_pb2.UpdateNetworkResponse(network=network_message(network))

    async def DeleteNetwork(
        self, request: network_service_pb2.DeleteNetworkRequest, context: Any
    ) -> network_service_pb2.DeleteNetworkResponse:
        await self._networks.delete(call_of(request), request.network_id, request.etag)
        return network_service_pb2.DeleteNetworkResponse()


def network_message(network: Network) -> network_pb2.Network:
    """Write a network."""
    return network_pb2.Network(
        id=network.id,
        project_id=network.project_id,
        name=network.name,
        labels=dict(network.labels),
        etag=network.etag,
        type=network_pb2.Network.Type.Value(f"TYPE_{network.type.value}"),
        physical_network=network.physical_network,
        vlan_id=network.vlan_id,
        external=network.external,
        shared=network.shared,
        mtu=network.mtu,
        dns_domain=network.dns_domain,
        is_default=network.is_default,
        reconciling=network.reconciling,
        create_time=timestamp(network.create_time),
        update_time=timestamp(network.update_time),
    )


def _draft(message: network_pb2.Network) -> NetworkDraft:
    return NetworkDraft(
        name=message.name,
        type=enum_of(_TYPES, message.type, "network.type"),
        physical_network=message.physical_network,
        vlan_id=message.vlan_id,
        external=message.external,
        shared=message.shared,
        mtu=message.mtu,
        dns_domain=message.dns_domain,
        labels=dict(message.labels),
    )
