"""network.v1.RouterService."""

from __future__ import annotations

from typing import Any

from unkai.network.v1 import router_pb2, router_service_pb2, router_service_pb2_grpc
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.domain.routers import Route, Router
from unkai_scheduler.ovn.sight import Sight
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.services.router_drafts import GatewayDraft, InterfaceDraft, RouterDraft
from unkai_scheduler.services.routers import RoutersService


class RouterServicer(router_service_pb2_grpc.RouterServiceServicer):
    """Routers over gRPC."""

    def __init__(self, routers: RoutersService, sight: Sight) -> None:
        self._routers = routers
        self._sight = sight

    def _message(self, router: Router) -> router_pb2.Router:
        return router_message(router, self._sight)

    async def CreateRouter(
        self, request: router_service_pb2.CreateRouterRequest, context: Any
    ) -> router_service_pb2.CreateRouterResponse:
        router = await self._routers.create(
            call_of(request), request.project_id, _draft(request.router)
        )
        return router_service_pb2.CreateRouterResponse(router=self._message(router))

    async def GetRouter(
        self, request: router_service_pb2.GetRouterRequest, context: Any
    ) -> router_service_pb2.GetRouterResponse:
        router = await self._routers.get(request.router_id)
        return router_service_pb2.GetRouterResponse(router=self._message(router))

    async def ListRouters(
        self, request: router_service_pb2.ListRoutersRequest, context: Any
    ) -> router_service_pb2.ListRoutersResponse:
        page = await self._routers.list(
            Paging(request.page_size, request.page_token),
            project_id=request.project_id,
            name=request.name,
        )
        return router_service_pb2.ListRoutersResponse(
            routers=map(self._message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdateRouter(
        self, request: router_service_pb2.UpdateRouterRequest, context: Any
    ) -> router_service_pb2.UpdateRouterResponse:
        router = await self._routers.update(
            call_of(request),
            request.router.id,
            _draft(request.router),
            request.update_mask.paths,
            request.router.etag,
        )
        return router_service_pb2.UpdateRouterResponse(router=self._message(router))

    async def DeleteRouter(
        self, request: router_service_pb2.DeleteRouterRequest, context: Any
    ) -> router_service_pb2.DeleteRouterResponse:
        await self._routers.delete(call_of(request), request.router_id, request.etag)
        return router_service_pb2.DeleteRouterResponse()

    async def AddRouterInterface(
        self, request: router_service_pb2.AddRouterInterfaceRequest, context: Any
    ) -> router_service_pb2.AddRouterInterfaceResponse:
        place = request.interface
        router = await self._routers.add_interface(
            call_of(request),
            request.router_id,
            InterfaceDraft(place.subnet_id, place.address),
            request.etag,
        )
        return router_service_pb2.AddRouterInterfaceResponse(router=self._message(router))

    async def RemoveRouterInterface(
        self, request: router_service_pb2.RemoveRouterInterfaceRequest, context: Any
    ) -> router_service_pb2.RemoveRouterInterfaceResponse:
        router = await self._routers.remove_interface(
            call_of(request), request.router_id, request.subnet_id, request.etag
        )
        return router_service_pb2.RemoveRouterInterfaceResponse(router=self._message(router))


def router_message(router: Router, sight: Sight) -> router_pb2.Router:
    """Write a router, with the host that its gateway is seen on."""
    message = router_pb2.Router(
        id=router.id,
        project_id=router.project_id,
        name=router.name,
        labels=dict(router.labels),
        etag=router.etag,
        interfaces=[
            router_pb2.Router.Interface(
                subnet_id=place.subnet_id, address=place.address, port_id=place.port_id
            )
            for place in router.interfaces
        ],
        routes=[
            router_pb2.Router.Route(destination=route.destination, next_hop=route.next_hop)
            for route in router.routes
        ],
        reconciling=router.reconciling,
        create_time=timestamp(router.create_time),
        update_time=timestamp(router.update_time),
    )
    if router.gateway is not None:
        message.gateway.network_id = router.gateway.network_id
        message.gateway.addresses.extend(router.gateway.addresses)
        message.gateway.no_snat = not router.gateway.snat
        message.gateway.host_name = sight.gateway_host(router.gateway.port_id)
    return message


def _draft(message: router_pb2.Router) -> RouterDraft:
    gateway = message.gateway
    return RouterDraft(
        name=message.name,
        gateway=(
            GatewayDraft(gateway.network_id, tuple(gateway.addresses), not gateway.no_snat)
            if message.HasField("gateway")
            else None
        ),
        routes=tuple(Route(route.destination, route.next_hop) for route in message.routes),
        labels=dict(message.labels),
    )
