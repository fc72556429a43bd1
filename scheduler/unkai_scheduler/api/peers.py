"""scheduler.v1.PeerService, both ends: waking the leader, and passing calls for live data to it.

Any scheduler answers any call; what only the leader knows (usage, consoles) it asks the leader
for. A call is passed on with the caller's name, and at most once more by a peer that has just lost
the lead; so two schedulers that take each other for the leader cannot play ball with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import structlog
from google.protobuf import descriptor, message_factory
from google.protobuf.message import DecodeError

from unkai.scheduler.v1 import peer_service_pb2, peer_service_pb2_grpc
from unkai_scheduler.api import policy
from unkai_scheduler.api.callers import Caller, calling, current, principal_of_text
from unkai_scheduler.api.interceptors import Continuation
from unkai_scheduler.cluster.port import Cluster
from unkai_wire.cluster_records import SchedulerRecord
from unkai_wire.deadlines import READ_S
from unkai_wire.errors import DeadlineExceeded, PermissionDenied, Unavailable, UnkaiError
from unkai_wire.rpc_errors import from_rpc_error, undecodable, wrap_handler
from unkai_wire.tls import SCHEDULER_TLS_NAME, TlsFiles, channel_options

MAX_HOPS = 1
WAKE_S = 1.0
_REMEMBER_S = 1.0
"""Seconds for which the leader's record is not read again."""
_LOG = structlog.get_logger()


class Leading(Protocol):
    """What peers need of the leader's part of this process."""

    @property
    def is_leading(self) -> bool:
        """Tell whether this process leads."""

    def wake(self) -> None:
        """Look at once: something was written."""


@dataclass(frozen=True, slots=True)
class LiveMethod:
    """A servicer's method that may come by a peer."""

    behaviour: Callable[..., Any]
    request: type[Any]
    response: type[Any]
    takes_stream: bool
    gives_stream: bool
    alone: bool
    """It is answered here while nobody leads."""


def live_methods(
    servicers: Sequence[tuple[descriptor.ServiceDescriptor, object]],
) -> dict[str, LiveMethod]:
    """Find the methods that the policy calls live, by full name."""
    methods = {}
    for service, servicer in servicers:
        for method in service.methods:
            name = f"/{service.full_name}/{method.name}"
            if policy.TABLE[name].live:
                methods[name] = LiveMethod(
                    getattr(servicer, method.name),
                    message_factory.GetMessageClass(method.input_type),
                    message_factory.GetMessageClass(method.output_type),
                    method.client_streaming,
                    method.server_streaming,
                    policy.TABLE[name].alone,
                )
    return methods


class LeaderRoute:
    """Finds the leader and keeps one channel to it."""

    def __init__(
        self,
        name: str,
        cluster: Cluster,
        leading: Leading,
        tls: TlsFiles,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._cluster = cluster
        self._leading = leading
        self._credentials = tls.channel_credentials()
        self._monotonic = monotonic
        self._record: SchedulerRecord | None = None
        self._read_s = float("-inf")
        self._address = ""
        self._channel: grpc.aio.Channel | None = None

    @property
    def is_here(self) -> bool:
        """Tell whether this process leads."""
        return self._leading.is_leading

    async def stub(self) -> peer_service_pb2_grpc.PeerServiceAsyncStub:
        """Return a stub of the leader, elsewhere; raise `Unavailable` when there is none."""
        record = await self._find()
        if record is None or record.name == self._name:
            raise Unavailable(
                "no scheduler leads at this moment",
                reason="NO_LEADER",
                fix="try again in a few seconds",
                retry_after_s=1.0,
            )
        if self._channel is None or record.address != self._address:
            await self.close()
            self._address = record.address
            self._channel = grpc.aio.secure_channel(
                record.address, self._credentials, options=channel_options(SCHEDULER_TLS_NAME)
            )
        return peer_service_pb2_grpc.PeerServiceStub(self._channel)

    async def leads_nowhere(self) -> bool:
        """Tell whether no leader can be found, here or elsewhere."""
        try:
            await self.stub()
        except Unavailable:
            return not self.is_here
        return False

    async def _find(self) -> SchedulerRecord | None:
        now_s = self._monotonic()
        if now_s - self._read_s > _REMEMBER_S:
            self._record = (await self._cluster.read()).leader
            self._read_s = now_s
        return self._record

    async def forward(
        self,
        method: str,
        first: bytes,
        rest: AsyncIterator[bytes] | None = None,
        *,
        hops_left: int,
    ) -> AsyncGenerator[bytes, None]:
        """Have the leader answer a call of the current caller; `rest` follows its first answer.

        A write that meets a refusal hides it (`unkai_wire.rpc_errors`). So the first message goes
        with the first request, and nothing more is sent, not even the end, until the leader has
        answered. A method that takes a stream must therefore answer its first message.
        """
        stub = await self.stub()
        request = peer_service_pb2.ProxyRequest(
            method=method, hops_left=hops_left, principal=str(current().principal), message=first
        )
        goes_on: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def requests() -> AsyncIterator[peer_service_pb2.ProxyRequest]:
            yield request
            if await goes_on and rest is not None:
                async for message in rest:
                    yield peer_service_pb2.ProxyRequest(message=message)

        call = stub.Proxy(requests())
        try:
            async for response in call:
                if rest is not None and not goes_on.done():
                    goes_on.set_result(True)
                yield response.message
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()
            if not goes_on.done():
                goes_on.set_result(False)

    async def close(self) -> None:
        """Close the channel."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(grace=0)


class PeerWaker:
    """Wakes the leader, here or elsewhere. Many wakes in a row become one."""

    def __init__(self, route: LeaderRoute, leading: Leading) -> None:
        self._route = route
        self._leading = leading
        self._due: set[str] = set()
        self._woken = asyncio.Event()

    def wake(self, resource_ids: Sequence[str]) -> None:
        """Note that rows are due and return at once."""
        if self._leading.is_leading:
            self._leading.wake()
            return
        if len(self._due) < 1000:
            self._due.update(resource_ids)
        self._woken.set()

    async def run(self) -> None:
        """Send wakes to the leader elsewhere until cancelled; a lost one costs only time."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            due, self._due = sorted(self._due), set()
            try:
                stub = await self._route.stub()
                await stub.Wake(peer_service_pb2.WakeRequest(resource_ids=due), timeout=WAKE_S)
            except (UnkaiError, grpc.RpcError) as error:
                _LOG.debug("wake_lost", error=str(error))


class PeerServicer(peer_service_pb2_grpc.PeerServiceServicer):
    """What other schedulers may ask of us."""

    def __init__(
        self, leading: Leading, route: LeaderRoute, methods: dict[str, LiveMethod]
    ) -> None:
        self._leading = leading
        self._route = route
        self._methods = methods

    async def Wake(
        self, request: peer_service_pb2.WakeRequest, context: Any
    ) -> peer_service_pb2.WakeResponse:
        self._leading.wake()
        return peer_service_pb2.WakeResponse()

    async def Proxy(
        self, request_iterator: AsyncIterator[peer_service_pb2.ProxyRequest], context: Any
    ) -> AsyncIterator[peer_service_pb2.ProxyResponse]:
        first = await anext(request_iterator, peer_service_pb2.ProxyRequest())
        method = self._methods.get(first.method)
        if method is None:
            raise PermissionDenied(
                f"{first.method[:128] or 'no method'} is not passed on between schedulers",
                reason="METHOD_NOT_ALLOWED",
                metadata={"method": first.method[:128]},
            )
        principal = principal_of_text(first.principal)
        policy.allow(principal, first.method)
        rest = _messages(request_iterator)
        with calling(Caller(principal, first.method)):
            if self._leading.is_leading:
                answers = _answer(method, first.message, rest, context)
            elif 0 < first.hops_left <= MAX_HOPS:
                answers = self._route.forward(
                    first.method,
                    first.message,
                    rest if method.takes_stream else None,
                    hops_left=first.hops_left - 1,
                )
            else:
                raise Unavailable(
                    "this scheduler does not lead any more",
                    reason="NOT_LEADER",
                    fix="try again in a few seconds",
                )
            async with aclosing(answers):
                async for message in answers:
                    yield peer_service_pb2.ProxyResponse(message=message)


async def _messages(requests: AsyncIterator[peer_service_pb2.ProxyRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request.message


async def _answer(
    method: LiveMethod, first: bytes, rest: AsyncIterator[bytes], context: Any
) -> AsyncGenerator[bytes, None]:
    """Run a method of our own on messages that came by a peer."""
    request: Any = _message(method, first)
    if method.takes_stream:
        request = _decoded(method, request, rest)
    if method.gives_stream:
        async for response in method.behaviour(request, context):
            yield response.SerializeToString()
    else:
        response = await _in_time(method.behaviour(request, context))
        yield response.SerializeToString()


def _message(method: LiveMethod, raw: bytes) -> Any:
    try:
        return method.request.FromString(raw)
    except DecodeError as error:
        raise undecodable() from error


async def _in_time(answer: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(READ_S) as limit:
            return await answer
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceeded(
            f"the leader's answer did not come in {READ_S:g} s", fix="call again"
        ) from error


async def _decoded(
    method: LiveMethod, first: Any, rest: AsyncIterator[bytes]
) -> AsyncIterator[Any]:
    yield first
    async for raw in rest:
        yield _message(method, raw)


class ProxyInterceptor(grpc.aio.ServerInterceptor):
    """Passes calls for live data to the leader when it is elsewhere.

    What does without a leader is answered here while nobody leads: reads of hosts without live
    figures, consoles by what the database says of the host.
    """

    def __init__(self, route: LeaderRoute, methods: dict[str, LiveMethod]) -> None:
        self._route = route
        self._methods = methods

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handlers of live methods."""
        handler = await continuation(handler_call_details)
        name = str(handler_call_details.method)
        method = self._methods.get(name)
        if handler is None or method is None:
            return handler

        def unary(behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def call(request: Any, context: Any) -> Any:
                if self._route.is_here:
                    return await behaviour(request, context)
                try:
                    first = request.SerializeToString()
                    route = self._route.forward(name, first, hops_left=MAX_HOPS)
                    async with aclosing(route) as answers:
                        return method.response.FromString(await anext(answers))
                except Unavailable:
                    if not method.alone:
                        raise
                    return await behaviour(request, context)

            return call

        def stream(
            behaviour: Callable[..., AsyncIterator[Any]],
        ) -> Callable[..., AsyncIterator[Any]]:
            async def call(request: Any, context: Any) -> Any:
                if self._route.is_here or (method.alone and await self._route.leads_nowhere()):
                    async for response in behaviour(request, context):
                        yield response
                    return
                rest = _each(request) if method.takes_stream else None
                # Of an empty stream the leader is told an empty message: it says what is missing.
                first = request.SerializeToString() if rest is None else await anext(rest, b"")
                route = self._route.forward(name, first, rest, hops_left=MAX_HOPS)
                async with aclosing(route) as answers:
                    async for raw in answers:
                        yield method.response.FromString(raw)

            return call

        return wrap_handler(handler, unary, stream)


async def _each(requests: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request.SerializeToString()
