"""What every call passes on its way in: who calls, may they, until when; then one audit line.

Stands inside `unkai_wire.rpc_errors.ErrorInterceptor`, which turns what is raised here and in the
servicers into statuses. The trap: a handler runs in the task of its call, so what is set there
(the caller, the log's context) is seen by this call alone.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import structlog

from unkai_scheduler.api import policy
from unkai_scheduler.api.callers import Caller, calling
from unkai_scheduler.api.rpc_metrics import RpcMetrics
from unkai_scheduler.api.stopping import Calls
from unkai_scheduler.domain.names import is_request_id
from unkai_wire.errors import DeadlineExceeded, PermissionDenied, UnkaiError
from unkai_wire.rpc_errors import status_code, wrap_handler
from unkai_wire.tls import principal_of_auth_context

_LOG = structlog.get_logger()

Continuation: TypeAlias = (
    "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]"
)


@dataclass(slots=True)
class _Visit:
    """One call on its way through."""

    method: str
    caller: Caller
    rule: policy.Rule
    request_id: str
    started_s: float = field(default_factory=time.monotonic)


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Identity, policy, deadline, audit log and counts, for every method."""

    def __init__(self, metrics: RpcMetrics, calls: Calls) -> None:
        self._metrics = metrics
        self._calls = calls

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler; refuse one that the policy does not list."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)

        def unary(behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def call(request: Any, context: Any) -> Any:
                with self._visit(method, request, context) as visit, self._counted(visit):
                    return await _in_time(visit, behaviour(request, context))

            return call

        def stream(
            behaviour: Callable[..., AsyncIterator[Any]],
        ) -> Callable[..., AsyncIterator[Any]]:
            async def call(request: Any, context: Any) -> Any:
                with self._visit(method, request, context) as visit, self._counted(visit):
                    async for response in behaviour(request, context):
                        yield response

            return call

        return wrap_handler(handler, unary, stream)

    def _counted(self, visit: _Visit) -> AbstractContextManager[None]:
        return self._calls.waiting() if visit.rule.waits else self._calls.working()

    @contextmanager
    def _visit(self, method: str, request: Any, context: Any) -> Iterator[_Visit]:
        given = getattr(request, "request_id", "")
        # One that is none is neither logged nor given back: it may be of any size.
        request_id = given if given and is_request_id(given) else secrets.token_hex(8)
        code, visit = "OK", None
        started_s = time.monotonic()
        try:
            principal = principal_of_auth_context(context.auth_context(), context.peer())
            caller = Caller(principal, method)
            visit = _Visit(method, caller, policy.allow(principal, method), request_id, started_s)
            with (
                calling(caller),
                structlog.contextvars.bound_contextvars(
                    principal=str(principal), method=method, request_id=request_id
                ),
            ):
                yield visit
        except UnkaiError as error:
            error.request_id = error.request_id or request_id
            code = status_code(error).name
            _log_refusal(error, method, request_id, known=visit is not None)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except BaseException:
            code = "INTERNAL"
            raise
        finally:
            self._leave(visit, method, code, time.monotonic() - started_s)

    def _leave(self, visit: _Visit | None, method: str, code: str, took_s: float) -> None:
        listed = method if method in policy.TABLE else "unlisted"
        timed = visit is not None and visit.rule.deadline_s is not None
        self._metrics.answered(listed, code, took_s, timed=timed)
        if visit is not None and visit.rule.writes and code == "OK":
            _LOG.info(
                "call_accepted",
                method=method,
                principal=str(visit.caller.principal),
                request_id=visit.request_id,
                took_s=round(took_s, 4),
            )


def _log_refusal(error: UnkaiError, method: str, request_id: str, *, known: bool) -> None:
    """Log a refused call: a caller's mistake is no trouble of ours."""
    log = _LOG.info if known and not isinstance(error, PermissionDenied) else _LOG.warning
    log("call_refused", method=method, request_id=request_id, reason=error.reason)


async def _in_time(visit: _Visit, answer: Awaitable[Any]) -> Any:
    """Await the answer, at most for as long as the policy gives the method."""
    try:
        async with asyncio.timeout(visit.rule.deadline_s) as limit:
            return await answer
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceeded(
            f"{visit.method.rpartition('/')[2]} did not end in {visit.rule.deadline_s:g} s; "
            "what it did is unknown",
            fix="repeat the call with the same request_id",
            metadata={"method": visit.method},
        ) from error
