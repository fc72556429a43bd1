"""Calls to agents and their streams: limits, and what errors and absurd answers become.

Two traps. A dead host's stream does not end: every watch has a limit of silence, after which it
raises `Unavailable`. And a host may answer anything: what makes no sense is `Unavailable` too, so
that no caller has to expect more than the port says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError

from unkai_scheduler.agents.channels import Channels
from unkai_scheduler.agents.limits import Limits
from unkai_scheduler.agents.port import Endpoint
from unkai_wire.errors import Unavailable
from unkai_wire.rpc_errors import from_rpc_error

T = TypeVar("T")


class Calls:
    """Calls over channels: `make` begins one, `read` turns a message into ours."""

    def __init__(self, channels: Channels, limits: Limits) -> None:
        self._channels = channels
        self._limits = limits

    async def call(
        self,
        endpoint: Endpoint,
        make: Callable[[grpc.aio.Channel], Awaitable[Any]],
        read: Callable[[Any], T],
    ) -> T:
        """Make a call that one message answers; raise our errors."""
        async with self._channels.to(endpoint) as channel:
            with _errors_of(endpoint):
                return read(_sensible(await make(channel)))

    async def watch(
        self,
        endpoint: Endpoint,
        make: Callable[[grpc.aio.Channel], Any],
        read: Callable[[Any], T],
    ) -> AsyncGenerator[T, None]:
        """Yield what a stream says that has no end; its end is an error."""
        async with aclosing(
            self.stream(endpoint, make, read, silence_s=self._limits.silence_s)
        ) as items:
            async for item in items:
                yield item
        raise Unavailable(
            f"host {endpoint.host_id} ended a watch",
            reason="WATCH_ENDED",
            metadata={"host_id": endpoint.host_id},
        )

    async def stream(
        self,
        endpoint: Endpoint,
        make: Callable[[grpc.aio.Channel], Any],
        read: Callable[[Any], T],
        *,
        silence_s: float | None,
    ) -> AsyncGenerator[T, None]:
        """Yield what a stream says; silent for so long it is `Unavailable` (None: never)."""
        async with self._channels.to(endpoint) as channel:
            call = make(channel)
            try:
                while (message := await _next(call, endpoint, silence_s)) is not grpc.aio.EOF:
                    with _errors_of(endpoint):
                        item = read(_sensible(message))
                    yield item
            finally:
                call.cancel()


async def _next(call: Any, endpoint: Endpoint, silence_s: float | None) -> Any:
    try:
        async with asyncio.timeout(silence_s):
            with _errors_of(endpoint):
                return await call.read()
    except TimeoutError as error:
        raise Unavailable(
            f"host {endpoint.host_id} has been silent for {silence_s:g} s",
            reason="HOST_SILENT",
            metadata={"host_id": endpoint.host_id, "silence_s": f"{silence_s:g}"},
        ) from error


def _sensible(message: Any) -> Any:
    """Return a message that could be decoded; gRPC gives None in place of one that could not."""
    if message is None:
        raise ValueError("its bytes are not a message of this method")
    return message


@contextmanager
def _errors_of(endpoint: Endpoint) -> Iterator[None]:
    """Turn into our errors what gRPC raises, and what comes of an answer that makes no sense."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
    except (DecodeError, ValueError, OverflowError) as error:
        raise Unavailable(
            f"host {endpoint.host_id} gave an answer that makes no sense: {error}",
            reason="HOST_ANSWER_ABSURD",
            fix="bring agent and scheduler to versions that fit; if they do, mistrust the host",
            metadata={"host_id": endpoint.host_id},
        ) from error
