"""One scheduler's services of networks on a unit of work of its own, as two of them race."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from typing import Any

from tests.support.builders import a_claim, a_host, an_id, an_instance
from tests.support.store import noon
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.networks import Network, NetworkType, Subnet
from unkai_scheduler.domain.operations import OperationState, end
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.floating_ips import FloatingIpsService
from unkai_scheduler.services.instance_ports import InstancePorts
from unkai_scheduler.services.load_balancers import LoadBalancersService
from unkai_scheduler.services.networks import NetworkDraft, NetworksService
from unkai_scheduler.services.port_drafts import PortDraft
from unkai_scheduler.services.ports import PortsService
from unkai_scheduler.services.projects import ProjectDraft, ProjectsService
from unkai_scheduler.services.router_drafts import GatewayDraft, InterfaceDraft, RouterDraft
from unkai_scheduler.services.routers import RoutersService
from unkai_scheduler.services.security_groups import SecurityGroupDraft, SecurityGroupsService
from unkai_scheduler.services.subnet_drafts import SubnetDraft
from unkai_scheduler.services.subnets import SubnetsService
from unkai_scheduler.store import claims, hosts, instances, operations
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_wire.errors import UnkaiError
from unkai_wire.tls import Principal, Role

SETTINGS = NetworkSettings(
    northbound=("unix:/run/ovn/nb.sock",), physical_networks={"public": 1500}
)


class Replica:
    """One scheduler's services of networks on a unit of work of its own."""

    def __init__(self, uow: UnitOfWork) -> None:
        self.uow = uow
        self.context = ServiceContext(uow, noon, an_id, lambda ids: None)
        self.projects = ProjectsService(self.context)
        self.networks = NetworksService(self.context, SETTINGS)
        self.subnets = SubnetsService(self.context, SETTINGS)
        self.ports = PortsService(self.context, SETTINGS)
        self.groups = SecurityGroupsService(self.context, SETTINGS)
        self.routers = RoutersService(self.context, SETTINGS)
        self.floating_ips = FloatingIpsService(self.context, SETTINGS)
        self.balancers = LoadBalancersService(self.context, SETTINGS)

    def call(self, method: str = "/m", request_id: str = "") -> Call:
        return Call(Principal(Role.CLIENT, "ada"), method, request_id, "digest")

    async def network(
        self, cidr: str = "10.0.0.0/24", *, project_id: str = "", **draft: Any
    ) -> tuple[Network, Subnet]:
        draft = {"name": "n" + an_id("network")[4:]} | draft
        network = await self.networks.create(self.call(), project_id, NetworkDraft(**draft))
        return network, await self.subnet(network, cidr)

    async def subnet(self, network: Network, cidr: str) -> Subnet:
        draft = SubnetDraft(name="s" + an_id("subnet")[4:], network_id=network.id, cidr=cidr)
        return await self.subnets.create(self.call(), "", draft)

    async def outside(self, project_id: str = "") -> Network:
        draft = NetworkDraft(
            name="n" + an_id("network")[4:],
            type=NetworkType.FLAT,
            physical_network="public",
            external=True,
        )
        network = await self.networks.create(self.call(), project_id, draft)
        await self.subnet(network, "203.0.113.0/24")
        return network

    async def port(
        self, network: Network, *, project_id: str = "", request_id: str = "", **draft: Any
    ) -> Port:
        wanted = PortDraft(network_id=network.id, **draft)
        return await self.ports.create(self.call("CreatePort", request_id), project_id, wanted)

    async def project(self) -> str:
        name = "p" + an_id("project")[4:]
        return (await self.projects.create(self.call(), ProjectDraft(name=name))).id

    async def way_out(self, outside: Network, subnet: Subnet) -> Any:
        draft = RouterDraft(name="r" + an_id("router")[4:], gateway=GatewayDraft(outside.id))
        router = await self.routers.create(self.call(), "", draft)
        joined = InterfaceDraft(subnet.id)
        return await self.routers.add_interface(self.call(), router.id, joined)

    async def group(self, project_id: str = "") -> Any:
        draft = SecurityGroupDraft(name="g" + an_id("security_group")[4:])
        return await self.groups.create(self.call(), project_id, draft)

    async def running(self) -> Instance:
        """Insert an instance that runs on a host with networks."""
        host = a_host(features=("networks.v1",), name="h" + an_id("host")[4:])
        row = an_instance(state=InstanceState.RUNNING, name="vm" + an_id("instance")[4:])

        def work(conn: Connection) -> None:
            hosts.insert(conn, host)
            instances.insert(conn, row)
            claims.insert(conn, [a_claim(row, host)])

        await self.uow.write(work)
        return row

    async def free(self, instance_id: str) -> None:
        """Let go of what an instance is plugged in by, as the leader does once it is gone."""
        plugs = InstancePorts(self.context, "s1")

        def work(conn: Connection) -> None:
            instances.lock(conn, instance_id)
            plugs.lock(conn, [instance_id])
            plugs.free(conn, instance_id)

        await self.uow.write(work)

    async def settle(self, instance_id: str) -> None:
        """End what is under way on an instance, as the leader does."""

        def work(conn: Connection) -> None:
            while (active := operations.active_for(conn, instance_id)) is not None:
                operations.replace(conn, end(active, OperationState.SUCCEEDED, noon()))

        await self.uow.write(work)


async def outcome(act: Awaitable[Any]) -> Any:
    try:
        return await act
    except UnkaiError as error:
        return error


async def together(*acts: Awaitable[Any]) -> tuple[list[Any], Counter[str]]:
    """Do all at once; return what came of those that went well, and why the others did not."""
    results = await asyncio.gather(*map(outcome, acts))
    refused = Counter(some.reason for some in results if isinstance(some, UnkaiError))
    return [some for some in results if not isinstance(some, UnkaiError)], refused
