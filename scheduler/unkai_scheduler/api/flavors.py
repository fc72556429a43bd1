"""compute.v1.FlavorService."""

from __future__ import annotations

from typing import Any

from unkai.compute.v1 import flavor_pb2, flavor_service_pb2, flavor_service_pb2_grpc
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.domain.resources import Flavor
from unkai_scheduler.services.flavors import FlavorDraft, FlavorsService
from unkai_scheduler.services.listing import Paging


class FlavorServicer(flavor_service_pb2_grpc.FlavorServiceServicer):
    """Flavors over gRPC."""

    def __init__(self, flavors: FlavorsService) -> None:
        self._flavors = flavors

    async def CreateFlavor(
        self, request: flavor_service_pb2.CreateFlavorRequest, context: Any
    ) -> flavor_service_pb2.CreateFlavorResponse:
        flavor = await self._flavors.create(call_of(request), _draft(request.flavor))
        return flavor_service_pb2.CreateFlavorResponse(flavor=flavor_message(flavor))

    async def GetFlavor(
        self, request: flavor_service_pb2.GetFlavorRequest, context: Any
    ) -> flavor_service_pb2.GetFlavorResponse:
        flavor = await self._flavors.get(request.flavor_id)
        return flavor_service_pb2.GetFlavorResponse(flavor=flavor_message(flavor))

    async def ListFlavors(
        self, request: flavor_service_pb2.ListFlavorsRequest, context: Any
    ) -> flavor_service_pb2.ListFlavorsResponse:
        paging = Paging(request.page_size, request.page_token)
        page = await self._flavors.list(paging, name=request.name)
        return flavor_service_pb2.ListFlavorsResponse(
            flavors=map(flavor_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdateFlavor(
        self, request: flavor_service_pb2.UpdateFlavorRequest, context: Any
    ) -> flavor_service_pb2.UpdateFlavorResponse:
        flavor = await self._flavors.update(
            call_of(request),
            request.flavor.id,
            _draft(request.flavor),
            request.update_mask.paths,
            request.flavor.etag,
        )
        return flavor_service_pb2.UpdateFlavorResponse(flavor=flavor_message(flavor))

    async def DeleteFlavor(
        self, request: flavor_service_pb2.DeleteFlavorRequest, context: Any
    ) -> flavor_service_pb2.DeleteFlavorResponse:
        await self._flavors.delete(call_of(request), request.flavor_id, request.etag)
        return flavor_service_pb2.DeleteFlavorResponse()


def flavor_message(flavor: Flavor) -> flavor_pb2.Flavor:
    """Write a flavor."""
    return flavor_pb2.Flavor(
        id=flavor.id,
        name=flavor.name,
        vcpus=flavor.vcpus,
        memory_bytes=flavor.memory_bytes,
        disk_bytes=flavor.disk_bytes,
        labels=dict(flavor.labels),
        etag=flavor.etag,
        create_time=timestamp(flavor.create_time),
        update_time=timestamp(flavor.update_time),
    )


def _draft(message: flavor_pb2.Flavor) -> FlavorDraft:
    return FlavorDraft(
        name=message.name,
        vcpus=message.vcpus,
        memory_bytes=message.memory_bytes,
        disk_bytes=message.disk_bytes,
        labels=dict(message.labels),
    )
