"""network.v1.FloatingIpService."""

from __future__ import annotations

from typing import Any

from unkai.network.v1 import (
    floating_ip_pb2,
    floating_ip_service_pb2,
    floating_ip_service_pb2_grpc,
)
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.domain.routers import FloatingIp
from unkai_scheduler.services.floating_ips import (
    FloatingIpDraft,
    FloatingIpFilter,
    FloatingIpsService,
)
from unkai_scheduler.services.listing import Paging


class FloatingIpServicer(floating_ip_service_pb2_grpc.FloatingIpServiceServicer):
    """Floating addresses over gRPC."""

    def __init__(self, floating_ips: FloatingIpsService) -> None:
        self._floating_ips = floating_ips

    async def CreateFloatingIp(
        self, request: floating_ip_service_pb2.CreateFloatingIpRequest, context: Any
    ) -> floating_ip_service_pb2.CreateFloatingIpResponse:
        floating_ip = await self._floating_ips.create(
            call_of(request), request.project_id, _draft(request.floating_ip)
        )
        return floating_ip_service_pb2.CreateFloatingIpResponse(
            floating_ip=floating_ip_message(floating_ip)
        )

    async def GetFloatingIp(
        self, request: floating_ip_service_pb2.GetFloatingIpRequest, context: Any
    ) -> floating_ip_service_pb2.GetFloatingIpResponse:
        floating_ip = await self._floating_ips.get(request.floating_ip_id)
        return floating_ip_service_pb2.GetFloatingIpResponse(
            floating_ip=floating_ip_message(floating_ip)
        )

    async def ListFloatingIps(
        self, request: floating_ip_service_pb2.ListFloatingIpsRequest, context: Any
    ) -> floating_ip_service_pb2.ListFloatingIpsResponse:
        wanted = FloatingIpFilter(
            project_id=request.project_id,
            name=request.name,
            port_id=request.port_id,
            instance_id=request.instance_id,
        )
        page = await self._floating_ips.list(Paging(request.page_size, request.page_token), wanted)
        return floating_ip_service_pb2.ListFloatingIpsResponse(
            floating_ips=map(floating_ip_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdateFloatingIp(
        self, request: floating_ip_service_pb2.UpdateFloatingIpRequest, context: Any
    ) -> floating_ip_service_pb2.UpdateFloatingIpResponse:
        floating_ip = await self._floating_ips.update(
            call_of(request),
            request.floating_ip.id,
            _draft(request.floating_ip),
            request.update_mask.paths,
            request.floating_ip.etag,
        )
        return floating_ip_service_pb2.UpdateFloatingIpResponse(
            floating_ip=floating_ip_message(floating_ip)
        )

    async def DeleteFloatingIp(
        self, request: floating_ip_service_pb2.DeleteFloatingIpRequest, context: Any
    ) -> floating_ip_service_pb2.DeleteFloatingIpResponse:
        await self._floating_ips.delete(call_of(request), request.floating_ip_id, request.etag)
        return floating_ip_service_pb2.DeleteFloatingIpResponse()


def floating_ip_message(row: FloatingIp) -> floating_ip_pb2.FloatingIp:
    """Write a floating address."""
    return floating_ip_pb2.FloatingIp(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        labels=dict(row.labels),
        etag=row.etag,
        network_id=row.network_id,
        address=row.address,
        port_id=row.port_id,
        fixed_address=row.fixed_address,
        instance_id=row.instance_id,
        router_id=row.router_id,
        reconciling=row.reconciling,
        create_time=timestamp(row.create_time),
        update_time=timestamp(row.update_time),
    )


def _draft(message: floating_ip_pb2.FloatingIp) -> FloatingIpDraft:
    return FloatingIpDraft(
        name=message.name,
        network_id=message.network_id,
        address=message.address,
        port_id=message.port_id,
        fixed_address=message.fixed_address,
        labels=dict(message.labels),
    )
