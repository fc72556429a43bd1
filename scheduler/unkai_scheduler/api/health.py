"""The standard health service (grpc.health.v1): are we serving, and which services.

Our own few lines, because the library's Watch writes to its context in place of yielding, which
no interceptor of ours can wrap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from unkai_wire.errors import NotFound

SERVICE_NAME = "grpc.health.v1.Health"
_Status = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # untyped library
    """Says SERVING from `begin` to `end` for the whole server and each service."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset({"", *services})
        self._serving = False
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """Say from now on that we serve."""
        self._set(serving=True)

    def end(self) -> None:
        """Say from now on that we do not serve any more."""
        self._set(serving=False)

    async def Check(self, request: Any, context: Any) -> Any:
        """Return the state of one service; an empty name means the server."""
        if request.service not in self._services:
            raise NotFound.of("service", request.service[:64])
        return self._answer(request.service)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Send the state now and after each change."""
        while True:
            changed = self._changed
            yield self._answer(request.service)
            await changed.wait()

    def _set(self, *, serving: bool) -> None:
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    def _answer(self, service: str) -> Any:
        if service not in self._services:
            return _Status(status=_Status.SERVICE_UNKNOWN)
        return _Status(status=_Status.SERVING if self._serving else _Status.NOT_SERVING)
