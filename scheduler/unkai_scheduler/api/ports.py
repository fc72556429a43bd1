"""network.v1.PortService."""

from __future__ import annotations

from typing import Any

from unkai.network.v1 import port_pb2, port_service_pb2, port_service_pb2_grpc
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.api.operations import operation_message
from unkai_scheduler.domain.ports import AddressPair, FixedAddress, Port, PortOwner, PortState, Qos
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.services.port_drafts import PortDraft
from unkai_scheduler.services.ports import PortsService


class PortServicer(port_service_pb2_grpc.PortServiceServicer):
    """Ports over gRPC."""

    def __init__(self, ports: PortsService) -> None:
        self._ports = ports

    async def CreatePort(
        self, request: port_service_pb2.CreatePortRequest, context: Any
    ) -> port_service_pb2.CreatePortResponse:
        port = await self._ports.create(call_of(request), request.project_id, _draft(request.port))
        return port_service_pb2.CreatePortResponse(port=port_message(port))

    async def GetPort(
        self, request: port_service_pb2.GetPortRequest, context: Any
    ) -> port_service_pb2.GetPortResponse:
        port = await self._ports.get(request.port_id)
        return port_service_pb2.GetPortResponse(port=port_message(port))

    async def ListPorts(
        self, request: port_service_pb2.ListPortsRequest, context: Any
    ) -> port_service_pb2.ListPortsResponse:
        page = await self._ports.list(
            Paging(request.page_size, request.page_token),
            project_id=request.project_id,
            name=request.name,
            network_id=request.network_id,
            owner_id=request.owner_id,
            security_group_id=request.security_group_id,
        )
        return port_service_pb2.ListPortsResponse(
            ports=map(port_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdatePort(
        self, request: port_service_pb2.UpdatePortRequest, context: Any
    ) -> port_service_pb2.UpdatePortResponse:
        port = await self._ports.update(
            call_of(request),
            request.port.id,
            _draft(request.port),
            request.update_mask.paths,
            request.port.etag,
        )
        return port_service_pb2.UpdatePortResponse(port=port_message(port))

    async def DeletePort(
        self, request: port_service_pb2.DeletePortRequest, context: Any
    ) -> port_service_pb2.DeletePortResponse:
        await self._ports.delete(call_of(request), request.port_id, request.etag)
        return port_service_pb2.DeletePortResponse()

    async def AttachPort(
        self, request: port_service_pb2.AttachPortRequest, context: Any
    ) -> port_service_pb2.AttachPortResponse:
        plugged = await self._ports.attach(
            call_of(request), request.port_id, request.instance_id, request.etag
        )
        return port_service_pb2.AttachPortResponse(
            port=port_message(plugged.port), operation=operation_message(plugged.operation)
        )

    async def DetachPort(
        self, request: port_service_pb2.DetachPortRequest, context: Any
    ) -> port_service_pb2.DetachPortResponse:
        plugged = await self._ports.detach(call_of(request), request.port_id, request.etag)
        return port_service_pb2.DetachPortResponse(
            port=port_message(plugged.port), operation=operation_message(plugged.operation)
        )


def port_message(port: Port) -> port_pb2.Port:
    """Write a port."""
    owner = port.owner.value if port.owner else "UNSPECIFIED"
    return port_pb2.Port(
        id=port.id,
        project_id=port.project_id,
        name=port.name,
        labels=dict(port.labels),
        etag=port.etag,
        network_id=port.network_id,
        fixed_addresses=[
            port_pb2.FixedAddress(subnet_id=some.subnet_id, address=some.address)
            for some in port.addresses
        ],
        mac_address=port.mac_address,
        security_group_ids=port.security_group_ids,
        no_security_groups=not port.security_group_ids,
        allowed_address_pairs=[
            port_pb2.AddressPair(cidr=pair.cidr, mac_address=pair.mac_address)
            for pair in port.pairs
        ],
        no_anti_spoofing=not port.anti_spoofing,
        qos=_qos_message(port.qos),
        owner=port_pb2.Port.Owner.Value(f"OWNER_{owner}"),
        owner_id=port.owner_id,
        position=port.position,
        delete_with_owner=port.delete_with_owner,
        state=port_pb2.Port.State.Value(f"STATE_{_state(port).value}"),
        reconciling=port.reconciling,
        create_time=timestamp(port.create_time),
        update_time=timestamp(port.update_time),
    )


def _state(port: Port) -> PortState:
    """Return what users see: OVN itself has what no instance is behind, on each host."""
    if port.owner in (None, PortOwner.INSTANCE):
        return port.state
    return PortState.ACTIVE


def _qos_message(qos: Qos) -> port_pb2.Port.Qos | None:
    if qos == Qos():
        return None
    return port_pb2.Port.Qos(
        egress_bits_per_s=qos.egress_bits_per_s,
        egress_burst_bits=qos.egress_burst_bits,
        ingress_bits_per_s=qos.ingress_bits_per_s,
        ingress_burst_bits=qos.ingress_burst_bits,
    )


def _draft(message: port_pb2.Port) -> PortDraft:
    return PortDraft(
        name=message.name,
        network_id=message.network_id,
        mac_address=message.mac_address,
        addresses=[FixedAddress(some.subnet_id, some.address) for some in message.fixed_addresses],
        security_group_ids=list(message.security_group_ids),
        no_security_groups=message.no_security_groups,
        pairs=[AddressPair(some.cidr, some.mac_address) for some in message.allowed_address_pairs],
        no_anti_spoofing=message.no_anti_spoofing,
        qos=Qos(
            message.qos.egress_bits_per_s,
            message.qos.egress_burst_bits,
            message.qos.ingress_bits_per_s,
            message.qos.ingress_burst_bits,
        ),
        labels=dict(message.labels),
    )
