"""The agent's gRPC servers: mTLS on TCP, and a 0600 unix socket for root on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import grpc
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION
from grpc_reflection.v1alpha.reflection import enable_server_reflection

from unkai.agent.v1 import (
    host_service_pb2_grpc,
    machine_service_pb2_grpc,
    network_service_pb2_grpc,
    storage_service_pb2_grpc,
)
from unkai.agent.v1.host_service_pb2 import DESCRIPTOR as HOST
from unkai.agent.v1.machine_service_pb2 import DESCRIPTOR as MACHINE
from unkai.agent.v1.network_service_pb2 import DESCRIPTOR as NETWORK
from unkai.agent.v1.storage_service_pb2 import DESCRIPTOR as STORAGE
from unkai_agent.api.directory import HostDirectory
from unkai_agent.api.health import HealthServicer, add_health
from unkai_agent.api.hosts import HostServicer
from unkai_agent.api.interceptors import PolicyInterceptor
from unkai_agent.api.machines import MachineServicer
from unkai_agent.api.networks import NetworkServicer
from unkai_agent.api.storage import StorageServicer
from unkai_agent.domain.clock import Clock, system_clock
from unkai_wire import tracing
from unkai_wire.doctor import child
from unkai_wire.doctor.child import Examine
from unkai_wire.lasting_server import LastingServer
from unkai_wire.rpc_errors import ErrorInterceptor
from unkai_wire.tls import TlsFiles, server_options

SERVICES = tuple(
    f"unkai.agent.v1.{service.name}"
    for file in (HOST, MACHINE, NETWORK, STORAGE)
    for service in file.services_by_name.values()
)
HEALTH = "grpc.health.v1.Health"
_EXAMINE: Examine = partial(child.examine, "agent", None)


class AgentServer:
    """The servicers behind one server."""

    def __init__(
        self,
        directory: HostDirectory,
        examine: Examine = _EXAMINE,
        clock: Clock = system_clock,
    ) -> None:
        """Make the server; `listen` and `listen_locally`, then `start`."""
        self._health = HealthServicer(frozenset(SERVICES))
        hosts = HostServicer(directory, examine, clock)  # one, so one examination, for all doors
        machines, storage = MachineServicer(directory), StorageServicer(directory)
        networks = NetworkServicer(directory)

        def make() -> grpc.aio.Server:
            server = grpc.aio.server(
                interceptors=[
                    ErrorInterceptor(),
                    *tracing.server_interceptors(begins=False),
                    PolicyInterceptor(),
                ],
                options=server_options(),
            )
            host_service_pb2_grpc.add_HostServiceServicer_to_server(hosts, server)
            machine_service_pb2_grpc.add_MachineServiceServicer_to_server(machines, server)
            network_service_pb2_grpc.add_NetworkServiceServicer_to_server(networks, server)
            storage_service_pb2_grpc.add_StorageServiceServicer_to_server(storage, server)
            add_health(self._health, server)
            enable_server_reflection((*SERVICES, HEALTH, REFLECTION), server)
            return server

        self._server = LastingServer(make)

    def listen(self, address: str, tls: TlsFiles) -> int:
        """Listen for holders of a certificate of our CA; return the port."""
        return self._server.listen(address, tls)

    def listen_locally(self, socket: Path) -> None:
        """Listen on a unix socket that only root may open."""
        self._server.listen_locally(socket)

    async def start(self) -> None:
        """Serve."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Let calls under way end for so long, then cut them. Guests are not touched."""
        self._health.stop()
        await self._server.stop(grace_s)
