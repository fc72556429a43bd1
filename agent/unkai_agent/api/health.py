"""gRPC's standard health service: SERVING from the first call until the agent stops.

Own, because grpcio's writes to the call's context in place of yielding, which interceptors that
wrap a stream cannot see through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from unkai_wire.errors import NotFound


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """One status for the server and each of its services."""

    def __init__(self, services: frozenset[str]) -> None:
        self._services = services | {""}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Say NOT_SERVING from now on."""
        self._stopping.set()

    async def Check(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Return the status of a service, or of the server."""
        if request.service not in self._services:
            raise NotFound.of("service", request.service)
        return self._response(request.service)

    async def Watch(
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        """Send the status, and again when it changes."""
        yield self._response(request.service)
        await self._stopping.wait()
        yield self._response(request.service)

    def _response(self, service: str) -> Any:
        states = health_pb2.HealthCheckResponse
        if service not in self._services:
            return states(status=states.SERVICE_UNKNOWN)
        serving = not self._stopping.is_set()
        return states(status=states.SERVING if serving else states.NOT_SERVING)


def add_health(servicer: HealthServicer, server: grpc.aio.Server) -> None:
    """Let the server answer for its health."""
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
