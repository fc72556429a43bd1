"""Identity and permission, before any servicer: who calls, and may it?

Installed inside `ErrorInterceptor`, which turns what is raised here into a status. A refusal says
nothing about whether what was asked for exists.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog

from unkai_agent.api.policy import may_call
from unkai_wire.errors import PermissionDenied
from unkai_wire.rpc_errors import wrap_handler
from unkai_wire.tls import MONITORS_READ, Principal, Role, principal_of_auth_context

_LOG = structlog.get_logger("unkai.agent.api")
Context = grpc.aio.ServicerContext[Any, Any]


def caller(context: Context) -> Principal:
    """Say who calls; raise `Unauthenticated` when that cannot be told."""
    return principal_of_auth_context(context.auth_context(), context.peer())


class PolicyInterceptor(grpc.aio.ServerInterceptor):
    """Let only those through whom the policy table names."""

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler with the check."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method

        def unary(behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def call(request: Any, context: Context) -> Any:
                _check(method, context)
                return await behaviour(request, context)

            return call

        def stream(behaviour: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
            async def call(request: Any, context: Context) -> AsyncIterator[Any]:
                _check(method, context)
                async for response in behaviour(request, context):
                    yield response

            return call

        return wrap_handler(handler, unary, stream)


def _check(method: str, context: Context) -> None:
    principal = caller(context)
    if not may_call(principal.role, method):
        _LOG.info("call_refused", method=method, principal=str(principal))
        reads_figures = principal.role is Role.MONITOR
        raise PermissionDenied(
            f"{principal} may not call {method.rpartition('/')[2]} on a host's agent"
            f"{MONITORS_READ if reads_figures else ''}",
            reason="METHOD_NOT_ALLOWED",
            fix="ask the scheduler, with a client certificate"
            if reads_figures
            else "ask the scheduler: only it gives orders to hosts",
            metadata={"principal": str(principal), "method": method},
        )
