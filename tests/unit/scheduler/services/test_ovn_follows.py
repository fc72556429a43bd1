"""Whatever is done to networks, each unit of OVN that comes out different is marked.

The services say which units follow from a change by a few queries of ids; the derivation says what
they are. Here both are asked, after each step of a random walk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from tests.support.acceptance import count, seeded
from tests.support.api import Api, an_api
from tests.support.network_api import marked, read, settled
from tests.support.network_calls import a_network, a_port, a_subnet
from tests.support.routing_calls import a_floating_ip, a_load_balancer, a_way_out
from unkai.network.v1 import (
    floating_ip_pb2,
    floating_ip_service_pb2,
    load_balancer_pb2,
    load_balancer_service_pb2,
    network_pb2,
    port_pb2,
    port_service_pb2,
    router_pb2,
    router_service_pb2,
)
from unkai_scheduler.ovn.northbound.units import BASE, keys_of, unit_of_key
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Unit
from unkai_scheduler.store import (
    floating_ips,
    load_balancers,
    networks,
    ports,
    routers,
    security_groups,
    subnets,
)
from unkai_wire.rpc_errors import from_rpc_error

Step = Callable[[], Awaitable[Any]]
_PLAIN = 4
"""Ports that are there from the beginning; those of load balancers come after."""
_ROUTERS = 2


def the_view(conn: Any) -> View:
    """Read the whole store."""
    every: dict[str, Any] = {"after": None, "limit": 1000}
    there = subnets.list_page(conn, **every)
    sources = load_balancers.probe_sources(conn, [subnet.id for subnet in there])
    return View.of(
        networks=networks.list_page(conn, **every),
        subnets=there,
        ports=ports.list_page(conn, **every),
        routers=routers.list_page(conn, **every),
        floating_ips=floating_ips.list_page(conn, **every),
        security_groups=security_groups.list_page(conn, **every),
        load_balancers=load_balancers.list_page(conn, **every),
        gateway_hosts={"public": frozenset({"h1", "h2"})},
        probe_sources=sources,
    )


async def units(api: Api) -> dict[str, Unit]:
    """Derive all units that have rows."""
    view = await read(api, the_view)
    derived = {key: unit_of_key(view, key) for key in keys_of(view) if key != BASE}
    return {key: unit for key, unit in derived.items() if unit.rows}


@dataclass
class Walk:
    """A user who does one thing after the other, some of which are refused."""

    api: Api
    random: Random
    outside: str
    subnets: list[str] = field(default_factory=list)
    ports: list[str] = field(default_factory=list)
    routers: list[str] = field(default_factory=list)
    floating: list[str] = field(default_factory=list)
    balancers: list[str] = field(default_factory=list)
    number: int = 0

    def one(self, some: list[str]) -> str:
        return self.random.choice(some) if some else ""

    async def make_router(self) -> None:
        if len(self.routers) < _ROUTERS:
            made = await a_way_out(self.api, self.outside, name=self.name())
            self.routers.append(made.id)

    async def make_floating(self) -> None:
        port_id = self.one([*self.ports, ""])
        made = await a_floating_ip(self.api, name=self.name(), port_id=port_id)
        self.floating.append(made.id)

    async def make_balancer(self) -> None:
        members = self.random.sample(self.ports[:_PLAIN], 2)
        made = await a_load_balancer(self.api, self.one(self.subnets), *members, name=self.name())
        self.balancers.append(made.id)
        self.ports.append(made.port_id)

    async def join(self) -> None:
        place = router_pb2.Router.Interface(subnet_id=self.one(self.subnets))
        await self.api.routers.AddRouterInterface(
            router_service_pb2.AddRouterInterfaceRequest(
                router_id=self.one(self.routers), interface=place
            )
        )

    async def leave(self) -> None:
        router_id = self.one(self.routers)
        got = await self.api.routers.GetRouter(
            router_service_pb2.GetRouterRequest(router_id=router_id)
        )
        there = [place.subnet_id for place in got.router.interfaces]
        await self.api.routers.RemoveRouterInterface(
            router_service_pb2.RemoveRouterInterfaceRequest(
                router_id=router_id, subnet_id=self.one(there)
            )
        )

    async def change_router(self) -> None:
        path = self.random.choice(["gateway", "routes"])
        router = router_pb2.Router(id=self.one(self.routers))
        if self.random.random() < 0.7:
            router.gateway.network_id = self.outside
            router.gateway.no_snat = self.random.random() < 0.5
            router.routes.add(destination="10.99.0.0/16", next_hop="203.0.113.1")
        await self.api.routers.UpdateRouter(
            router_service_pb2.UpdateRouterRequest(
                router=router, update_mask=FieldMask(paths=[path])
            )
        )

    async def move(self) -> None:
        floating = floating_ip_pb2.FloatingIp(
            id=self.one(self.floating), port_id=self.one([*self.ports, ""])
        )
        await self.api.floating_ips.UpdateFloatingIp(
            floating_ip_service_pb2.UpdateFloatingIpRequest(
                floating_ip=floating, update_mask=FieldMask(paths=["port_id"])
            )
        )

    async def rebalance(self) -> None:
        kinds = load_balancer_pb2.LoadBalancer
        row = kinds(id=self.one(self.balancers))
        listener = row.listeners.add(protocol=kinds.PROTOCOL_UDP, port_number=53)
        for port_id in self.random.sample(self.ports[:_PLAIN], 2):
            listener.members.add(port_id=port_id)
        if self.random.random() < 0.5:
            listener.health_check.SetInParent()
        await self.api.load_balancers.UpdateLoadBalancer(
            load_balancer_service_pb2.UpdateLoadBalancerRequest(
                load_balancer=row, update_mask=FieldMask(paths=["listeners"])
            )
        )

    async def change_port(self) -> None:
        port = port_pb2.Port(id=self.one(self.ports))
        await self.api.ports.UpdatePort(
            port_service_pb2.UpdatePortRequest(
                port=port, update_mask=FieldMask(paths=["fixed_addresses"])
            )
        )

    async def remove(self) -> None:
        kind = self.random.choice(["router", "floating", "balancer"])
        if kind == "router":
            router_id = self.one(self.routers)
            await self.api.routers.DeleteRouter(
                router_service_pb2.DeleteRouterRequest(router_id=router_id)
            )
            self.routers.remove(router_id)
        elif kind == "floating":
            await self.api.floating_ips.DeleteFloatingIp(
                floating_ip_service_pb2.DeleteFloatingIpRequest(
                    floating_ip_id=self.one(self.floating)
                )
            )
        else:
            await self.api.load_balancers.DeleteLoadBalancer(
                load_balancer_service_pb2.DeleteLoadBalancerRequest(
                    load_balancer_id=self.one(self.balancers)
                )
            )

    def name(self) -> str:
        self.number += 1
        return f"n{self.number}"

    def step(self) -> Step:
        making: list[Step] = [self.make_router, self.make_floating, self.make_balancer]
        changing: list[Step] = [
            self.join,
            self.leave,
            self.change_router,
            self.move,
            self.rebalance,
            self.change_port,
            self.remove,
        ]
        return self.random.choice([*making, *changing, self.join, self.join, self.leave])


async def a_walk(api: Api, random: Random) -> Walk:
    flat = network_pb2.Network.TYPE_FLAT
    outside = await a_network(api, "outside", external=True, type=flat, physical_network="public")
    await a_subnet(api, outside.id, "203.0.113.0/24")
    walk = Walk(api, random, outside.id)
    for number in range(2):
        network = await a_network(api, f"net{number}")
        four = await a_subnet(api, network.id, f"10.{number}.0.0/24")
        six = await a_subnet(api, network.id, f"fd00:{number}::/64")
        walk.subnets += [four.id, six.id]
        walk.ports += [(await a_port(api, network.id)).id for _ in range(2)]
    return walk


async def was_done(step: Step) -> bool:
    """Take a step; tell whether it was done, not refused."""
    try:
        await step()
    except grpc.RpcError as error:
        refusal = from_rpc_error(error)
    else:
        return True
    assert refusal.reason != "INTERNAL"
    return False


async def test_each_unit_that_comes_out_different_is_marked(tmp_path: Path) -> None:
    done: Counter[str] = Counter()
    async with an_api(tmp_path / "a") as api:
        walk = await a_walk(api, seeded("ovn follows"))
        before = await units(api)
        for _ in range(count(300)):
            await settled(api)
            step = walk.step()
            name = getattr(step, "__name__", "")
            if await was_done(step):
                done[name] += 1
            after = await units(api)
            both = before.keys() | after.keys()
            differ = {key for key in both if before.get(key) != after.get(key)}
            assert differ <= await marked(api), f"after {name}"
            before = after
    assert len(done) > 2, "nearly all was refused"
