"""The gRPC server: servicers, interceptors, health, reflection; on mTLS and on a unix socket.

The socket is for root on this machine: it is made with mode 0600 and never replaces one that
somebody serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from unkai.compute.v1 import (
    flavor_service_pb2,
    flavor_service_pb2_grpc,
    instance_service_pb2,
    instance_service_pb2_grpc,
    key_pair_service_pb2,
    key_pair_service_pb2_grpc,
    placement_group_service_pb2,
    placement_group_service_pb2_grpc,
)
from unkai.event.v1 import event_service_pb2, event_service_pb2_grpc
from unkai.host.v1 import (
    aggregate_service_pb2,
    aggregate_service_pb2_grpc,
    audit_service_pb2,
    audit_service_pb2_grpc,
    host_service_pb2,
    host_service_pb2_grpc,
    placement_service_pb2,
    placement_service_pb2_grpc,
)
from unkai.identity.v1 import project_service_pb2, project_service_pb2_grpc
from unkai.network.v1 import (
    floating_ip_service_pb2,
    floating_ip_service_pb2_grpc,
    load_balancer_service_pb2,
    load_balancer_service_pb2_grpc,
    network_service_pb2,
    network_service_pb2_grpc,
    port_service_pb2,
    port_service_pb2_grpc,
    reachability_service_pb2,
    reachability_service_pb2_grpc,
    router_service_pb2,
    router_service_pb2_grpc,
    security_group_service_pb2,
    security_group_service_pb2_grpc,
    subnet_service_pb2,
    subnet_service_pb2_grpc,
)
from unkai.operation.v1 import operation_service_pb2, operation_service_pb2_grpc
from unkai.scheduler.v1 import peer_service_pb2_grpc
from unkai.storage.v1 import image_service_pb2, image_service_pb2_grpc
from unkai_scheduler.api.aggregates import AggregateServicer
from unkai_scheduler.api.audits import AuditServicer
from unkai_scheduler.api.events import EventServicer
from unkai_scheduler.api.flavors import FlavorServicer
from unkai_scheduler.api.floating_ips import FloatingIpServicer
from unkai_scheduler.api.health import SERVICE_NAME as HEALTH_NAME
from unkai_scheduler.api.health import HealthServicer
from unkai_scheduler.api.hosts import HostServicer
from unkai_scheduler.api.images import ImageServicer
from unkai_scheduler.api.instances import InstanceServicer
from unkai_scheduler.api.interceptors import AccessInterceptor
from unkai_scheduler.api.key_pairs import KeyPairServicer
from unkai_scheduler.api.load_balancers import LoadBalancerServicer
from unkai_scheduler.api.networks import NetworkServicer
from unkai_scheduler.api.operations import OperationServicer
from unkai_scheduler.api.peers import (
    LeaderRoute,
    Leading,
    PeerServicer,
    ProxyInterceptor,
    live_methods,
)
from unkai_scheduler.api.placement import PlacementServicer
from unkai_scheduler.api.placement_groups import PlacementGroupServicer
from unkai_scheduler.api.ports import PortServicer
from unkai_scheduler.api.projects import ProjectServicer
from unkai_scheduler.api.reachability import ReachabilityServicer
from unkai_scheduler.api.routers import RouterServicer
from unkai_scheduler.api.rpc_metrics import RpcMetrics
from unkai_scheduler.api.security_groups import SecurityGroupServicer
from unkai_scheduler.api.stopping import Calls
from unkai_scheduler.api.subnets import SubnetServicer
from unkai_scheduler.ovn.sight import Sight
from unkai_scheduler.services.adoptions import AdoptionsService
from unkai_scheduler.services.aggregates import AggregatesService
from unkai_scheduler.services.audits import AuditsService
from unkai_scheduler.services.consoles import ConsolesService
from unkai_scheduler.services.diagnoses import DiagnosesService
from unkai_scheduler.services.events import EventsService
from unkai_scheduler.services.flavors import FlavorsService
from unkai_scheduler.services.floating_ips import FloatingIpsService
from unkai_scheduler.services.forwards import ForwardsService
from unkai_scheduler.services.host_removals import HostRemovalsService
from unkai_scheduler.services.hosts import HostsService
from unkai_scheduler.services.images import ImagesService
from unkai_scheduler.services.instances import InstancesService
from unkai_scheduler.services.key_pairs import KeyPairsService
from unkai_scheduler.services.load_balancers import LoadBalancersService
from unkai_scheduler.services.networks import NetworksService
from unkai_scheduler.services.operations import OperationsService
from unkai_scheduler.services.placement import PlacementService
from unkai_scheduler.services.placement_groups import PlacementGroupsService
from unkai_scheduler.services.ports import PortsService
from unkai_scheduler.services.projects import ProjectsService
from unkai_scheduler.services.reachability import ReachabilityExplained
from unkai_scheduler.services.replays import ReplaysService
from unkai_scheduler.services.routers import RoutersService
from unkai_scheduler.services.security_groups import SecurityGroupsService
from unkai_scheduler.services.simulations import SimulationsService
from unkai_scheduler.services.subnets import SubnetsService
from unkai_wire import tracing
from unkai_wire.lasting_server import LastingServer
from unkai_wire.rpc_errors import ErrorInterceptor
from unkai_wire.tls import TlsFiles, server_options

LAST_ANSWERS_S = 0.5
"""Seconds that answers get to reach their callers once the work behind them is done."""


@dataclass(frozen=True, slots=True)
class Services:
    """All use cases that the server offers."""

    instances: InstancesService
    adoptions: AdoptionsService
    consoles: ConsolesService
    forwards: ForwardsService
    flavors: FlavorsService
    key_pairs: KeyPairsService
    placement_groups: PlacementGroupsService
    images: ImagesService
    aggregates: AggregatesService
    hosts: HostsService
    host_removals: HostRemovalsService
    audits: AuditsService
    diagnoses: DiagnosesService
    placement: PlacementService
    replays: ReplaysService
    simulations: SimulationsService
    operations: OperationsService
    events: EventsService
    projects: ProjectsService
    networks: NetworksService
    subnets: SubnetsService
    ports: PortsService
    security_groups: SecurityGroupsService
    routers: RoutersService
    floating_ips: FloatingIpsService
    load_balancers: LoadBalancersService
    reachability: ReachabilityExplained
    sight: Sight
    """What OVN shows of them."""


class ApiServer:
    """One gRPC server. Bind it to addresses, start it, stop it."""

    def __init__(
        self, services: Services, leading: Leading, route: LeaderRoute, metrics: RpcMetrics
    ) -> None:
        offered = _offered(services)
        self._calls = Calls()
        methods = live_methods([(service, servicer) for service, servicer, _ in offered])
        names = [service.full_name for service, _, _ in offered]
        self.health = HealthServicer(names)

        def make() -> grpc.aio.Server:
            server = grpc.aio.server(
                interceptors=[
                    ErrorInterceptor(),
                    *tracing.server_interceptors(begins=True),
                    AccessInterceptor(metrics, self._calls),
                    ProxyInterceptor(route, methods),
                ],
                options=server_options(),
            )
            for _, servicer, add in offered:
                add(servicer, server)
            peer_service_pb2_grpc.add_PeerServiceServicer_to_server(
                PeerServicer(leading, route, methods), server
            )
            health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
            shown = (*names, HEALTH_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(shown, server)
            return server

        self._server = LastingServer(make)

    def listen(self, address: str, tls: TlsFiles) -> int:
        """Listen with mTLS at `HOST:PORT`; return the port."""
        return self._server.listen(address, tls)

    def listen_locally(self, path: Path) -> None:
        """Listen on a unix socket of mode 0600; call `start` before anything else is awaited."""
        self._server.listen_locally(path)

    async def start(self) -> None:
        """Serve."""
        await self._server.start()
        self.health.begin()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, end those that wait for news, give the others some time."""
        self.health.end()
        self._calls.stop()
        await self._calls.work_done(grace_s)
        # What is left are answers on their way, some to callers that do not read.
        await self._server.stop(min(grace_s, LAST_ANSWERS_S))


def _offered(services: Services) -> list[tuple[Any, Any, Any]]:
    """Return descriptor, servicer and registration of each public service."""
    return [
        *_computing(services),
        (
            image_service_pb2.DESCRIPTOR.services_by_name["ImageService"],
            ImageServicer(services.images),
            image_service_pb2_grpc.add_ImageServiceServicer_to_server,
        ),
        *_hosting(services),
        (
            operation_service_pb2.DESCRIPTOR.services_by_name["OperationService"],
            OperationServicer(services.operations),
            operation_service_pb2_grpc.add_OperationServiceServicer_to_server,
        ),
        (
            event_service_pb2.DESCRIPTOR.services_by_name["EventService"],
            EventServicer(services.events),
            event_service_pb2_grpc.add_EventServiceServicer_to_server,
        ),
        (
            project_service_pb2.DESCRIPTOR.services_by_name["ProjectService"],
            ProjectServicer(services.projects),
            project_service_pb2_grpc.add_ProjectServiceServicer_to_server,
        ),
        *_networking(services),
    ]


def _computing(services: Services) -> list[tuple[Any, Any, Any]]:
    """Return the same of the services of instances."""
    return [
        (
            instance_service_pb2.DESCRIPTOR.services_by_name["InstanceService"],
            InstanceServicer(
                services.instances, services.adoptions, services.consoles, services.forwards
            ),
            instance_service_pb2_grpc.add_InstanceServiceServicer_to_server,
        ),
        (
            flavor_service_pb2.DESCRIPTOR.services_by_name["FlavorService"],
            FlavorServicer(services.flavors),
            flavor_service_pb2_grpc.add_FlavorServiceServicer_to_server,
        ),
        (
            key_pair_service_pb2.DESCRIPTOR.services_by_name["KeyPairService"],
            KeyPairServicer(services.key_pairs),
            key_pair_service_pb2_grpc.add_KeyPairServiceServicer_to_server,
        ),
        (
            placement_group_service_pb2.DESCRIPTOR.services_by_name["PlacementGroupService"],
            PlacementGroupServicer(services.placement_groups),
            placement_group_service_pb2_grpc.add_PlacementGroupServiceServicer_to_server,
        ),
    ]


def _hosting(services: Services) -> list[tuple[Any, Any, Any]]:
    """Return the same of the services of hosts."""
    return [
        (
            host_service_pb2.DESCRIPTOR.services_by_name["HostService"],
            HostServicer(services.hosts, services.host_removals, services.diagnoses),
            host_service_pb2_grpc.add_HostServiceServicer_to_server,
        ),
        (
            aggregate_service_pb2.DESCRIPTOR.services_by_name["AggregateService"],
            AggregateServicer(services.aggregates),
            aggregate_service_pb2_grpc.add_AggregateServiceServicer_to_server,
        ),
        (
            audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"],
            AuditServicer(services.audits),
            audit_service_pb2_grpc.add_AuditServiceServicer_to_server,
        ),
        (
            placement_service_pb2.DESCRIPTOR.services_by_name["PlacementService"],
            PlacementServicer(services.placement, services.replays, services.simulations),
            placement_service_pb2_grpc.add_PlacementServiceServicer_to_server,
        ),
    ]


def _networking(services: Services) -> list[tuple[Any, Any, Any]]:
    """Return the same of the services of networks."""
    return [
        (
            network_service_pb2.DESCRIPTOR.services_by_name["NetworkService"],
            NetworkServicer(services.networks),
            network_service_pb2_grpc.add_NetworkServiceServicer_to_server,
        ),
        (
            subnet_service_pb2.DESCRIPTOR.services_by_name["SubnetService"],
            SubnetServicer(services.subnets),
            subnet_service_pb2_grpc.add_SubnetServiceServicer_to_server,
        ),
        (
            port_service_pb2.DESCRIPTOR.services_by_name["PortService"],
            PortServicer(services.ports),
            port_service_pb2_grpc.add_PortServiceServicer_to_server,
        ),
        (
            security_group_service_pb2.DESCRIPTOR.services_by_name["SecurityGroupService"],
            SecurityGroupServicer(services.security_groups),
            security_group_service_pb2_grpc.add_SecurityGroupServiceServicer_to_server,
        ),
        (
            router_service_pb2.DESCRIPTOR.services_by_name["RouterService"],
            RouterServicer(services.routers, services.sight),
            router_service_pb2_grpc.add_RouterServiceServicer_to_server,
        ),
        (
            floating_ip_service_pb2.DESCRIPTOR.services_by_name["FloatingIpService"],
            FloatingIpServicer(services.floating_ips),
            floating_ip_service_pb2_grpc.add_FloatingIpServiceServicer_to_server,
        ),
        (
            load_balancer_service_pb2.DESCRIPTOR.services_by_name["LoadBalancerService"],
            LoadBalancerServicer(services.load_balancers, services.sight),
            load_balancer_service_pb2_grpc.add_LoadBalancerServiceServicer_to_server,
        ),
        (
            reachability_service_pb2.DESCRIPTOR.services_by_name["ReachabilityService"],
            ReachabilityServicer(services.reachability),
            reachability_service_pb2_grpc.add_ReachabilityServiceServicer_to_server,
        ),
    ]
