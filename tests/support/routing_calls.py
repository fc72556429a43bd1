"""Routers, floating addresses and load balancers over gRPC: made by one call each."""

from __future__ import annotations

from typing import Any

from tests.support.api import Api
from unkai.network.v1 import (
    floating_ip_pb2,
    floating_ip_service_pb2,
    load_balancer_pb2,
    load_balancer_service_pb2,
    router_pb2,
    router_service_pb2,
)


async def a_way_out(
    api: Api, external_network_id: str, *subnet_ids: str, name: str = "edge"
) -> router_pb2.Router:
    """Make a router from these subnets to an external network."""
    gateway = router_pb2.Router.Gateway(network_id=external_network_id)
    asked = router_service_pb2.CreateRouterRequest(
        router=router_pb2.Router(name=name, gateway=gateway)
    )
    router = (await api.routers.CreateRouter(asked)).router
    for subnet_id in subnet_ids:
        place = router_pb2.Router.Interface(subnet_id=subnet_id)
        joined = router_service_pb2.AddRouterInterfaceRequest(router_id=router.id, interface=place)
        router = (await api.routers.AddRouterInterface(joined)).router
    return router


async def a_floating_ip(api: Api, **fields: Any) -> floating_ip_pb2.FloatingIp:
    """Make a floating address."""
    asked = floating_ip_service_pb2.CreateFloatingIpRequest(
        floating_ip=floating_ip_pb2.FloatingIp(**fields)
    )
    return (await api.floating_ips.CreateFloatingIp(asked)).floating_ip


async def a_load_balancer(
    api: Api, subnet_id: str, *member_ids: str, name: str = "lb"
) -> load_balancer_pb2.LoadBalancer:
    """Make a load balancer with one listener, whose members are checked."""
    kinds = load_balancer_pb2.LoadBalancer
    listener = kinds.Listener(
        protocol=kinds.PROTOCOL_TCP,
        port_number=80,
        members=[kinds.Member(port_id=ident) for ident in member_ids],
        health_check=kinds.HealthCheck(),
    )
    asked = load_balancer_service_pb2.CreateLoadBalancerRequest(
        load_balancer=kinds(name=name, subnet_id=subnet_id, listeners=[listener])
    )
    return (await api.load_balancers.CreateLoadBalancer(asked)).load_balancer
