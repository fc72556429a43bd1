"""network.v1.LoadBalancerService."""

from __future__ import annotations

from typing import Any

from unkai.network.v1 import (
    load_balancer_pb2,
    load_balancer_service_pb2,
    load_balancer_service_pb2_grpc,
)
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.api.fields import enum_of
from unkai_scheduler.domain.load_balancers import (
    BalancedProtocol,
    HealthCheck,
    Listener,
    LoadBalancer,
    Member,
)
from unkai_scheduler.ovn.sight import Sight
from unkai_scheduler.services.checks import Violations
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.services.load_balancer_drafts import LoadBalancerDraft
from unkai_scheduler.services.load_balancers import LoadBalancersService

_Message = load_balancer_pb2.LoadBalancer
_NUMBERS = {
    protocol: _Message.Protocol.Value(f"PROTOCOL_{protocol.value}") for protocol in BalancedProtocol
}
_HEALTH = {
    None: _Message.Member.HEALTH_UNSPECIFIED,
    True: _Message.Member.HEALTH_UP,
    False: _Message.Member.HEALTH_DOWN,
}
_PROTOCOLS = {int(number): protocol for protocol, number in _NUMBERS.items()}


class LoadBalancerServicer(load_balancer_service_pb2_grpc.LoadBalancerServiceServicer):
    """Load balancers over gRPC."""

    def __init__(self, load_balancers: LoadBalancersService, sight: Sight) -> None:
        self._load_balancers = load_balancers
        self._sight = sight

    def _message(self, row: LoadBalancer) -> load_balancer_pb2.LoadBalancer:
        return load_balancer_message(row, self._sight)

    async def CreateLoadBalancer(
        self, request: load_balancer_service_pb2.CreateLoadBalancerRequest, context: Any
    ) -> load_balancer_service_pb2.CreateLoadBalancerResponse:
        load_balancer = await self._load_balancers.create(
            call_of(request), request.project_id, _draft(request.load_balancer)
        )
        return load_balancer_service_pb2.CreateLoadBalancerResponse(
            load_balancer=self._message(load_balancer)
        )

    async def GetLoadBalancer(
        self, request: load_balancer_service_pb2.GetLoadBalancerRequest, context: Any
    ) -> load_balancer_service_pb2.GetLoadBalancerResponse:
        load_balancer = await self._load_balancers.get(request.load_balancer_id)
        return load_balancer_service_pb2.GetLoadBalancerResponse(
            load_balancer=self._message(load_balancer)
        )

    async def ListLoadBalancers(
        self, request: load_balancer_service_pb2.ListLoadBalancersRequest, context: Any
    ) -> load_balancer_service_pb2.ListLoadBalancersResponse:
        page = await self._load_balancers.list(
            Paging(request.page_size, request.page_token),
            project_id=request.project_id,
            name=request.name,
            subnet_id=request.subnet_id,
        )
        return load_balancer_service_pb2.ListLoadBalancersResponse(
            load_balancers=map(self._message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdateLoadBalancer(
        self, request: load_balancer_service_pb2.UpdateLoadBalancerRequest, context: Any
    ) -> load_balancer_service_pb2.UpdateLoadBalancerResponse:
        masked = "listeners" in request.update_mask.paths
        load_balancer = await self._load_balancers.update(
            call_of(request),
            request.load_balancer.id,
            _draft(request.load_balancer, with_listeners=masked),
            request.update_mask.paths,
            request.load_balancer.etag,
        )
        return load_balancer_service_pb2.UpdateLoadBalancerResponse(
            load_balancer=self._message(load_balancer)
        )

    async def DeleteLoadBalancer(
        self, request: load_balancer_service_pb2.DeleteLoadBalancerRequest, context: Any
    ) -> load_balancer_service_pb2.DeleteLoadBalancerResponse:
        await self._load_balancers.delete(call_of(request), request.load_balancer_id, request.etag)
        return load_balancer_service_pb2.DeleteLoadBalancerResponse()


def load_balancer_message(row: LoadBalancer, sight: Sight) -> load_balancer_pb2.LoadBalancer:
    """Write a load balancer, with what is seen of its members."""
    return load_balancer_pb2.LoadBalancer(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        labels=dict(row.labels),
        etag=row.etag,
        subnet_id=row.subnet_id,
        address=row.address,
        port_id=row.port_id,
        listeners=[_listener_message(some, sight) for some in row.listeners],
        reconciling=row.reconciling,
        create_time=timestamp(row.create_time),
        update_time=timestamp(row.update_time),
    )


def _listener_message(listener: Listener, sight: Sight) -> load_balancer_pb2.LoadBalancer.Listener:
    message = load_balancer_pb2.LoadBalancer.Listener(
        protocol=_NUMBERS[listener.protocol],
        port_number=listener.port_number,
        members=[
            load_balancer_pb2.LoadBalancer.Member(
                port_id=member.port_id,
                port_number=member.port_number,
                address=member.address,
                health=_health(listener, member, sight),
            )
            for member in listener.members
        ],
    )
    check = listener.health_check
    if check is not None:
        message.health_check.interval_s = check.interval_s
        message.health_check.timeout_s = check.timeout_s
        message.health_check.failure_count = check.failure_count
        message.health_check.success_count = check.success_count
    return message


def _health(listener: Listener, member: Member, sight: Sight) -> Any:
    """Return how a member is seen to be; what is not checked, nobody knows."""
    if listener.health_check is None:
        return _HEALTH[None]
    number = member.port_number or listener.port_number
    return _HEALTH[sight.is_well(member.port_id, listener.protocol, number)]


def _draft(
    message: load_balancer_pb2.LoadBalancer, *, with_listeners: bool = True
) -> LoadBalancerDraft:
    return LoadBalancerDraft(
        name=message.name,
        subnet_id=message.subnet_id,
        address=message.address,
        listeners=_listeners(message) if with_listeners else (),
        labels=dict(message.labels),
    )


def _listeners(message: load_balancer_pb2.LoadBalancer) -> tuple[Listener, ...]:
    listeners: list[Listener] = []
    with Violations() as wrong:
        for number, listener in enumerate(message.listeners):
            with wrong.collect():
                path = f"load_balancer.listeners[{number}].protocol"
                listeners.append(_listener(listener, path))
    return tuple(listeners)


def _listener(message: load_balancer_pb2.LoadBalancer.Listener, path: str) -> Listener:
    check = message.health_check
    return Listener(
        protocol=enum_of(_PROTOCOLS, message.protocol, path),
        port_number=message.port_number,
        members=tuple(Member(member.port_id, member.port_number) for member in message.members),
        health_check=(
            HealthCheck(
                interval_s=check.interval_s,
                timeout_s=check.timeout_s,
                failure_count=check.failure_count,
                success_count=check.success_count,
            )
            if message.HasField("health_check")
            else None
        ),
    )
