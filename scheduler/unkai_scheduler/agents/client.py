"""Agents over gRPC: the port `agents.port` as the scheduler uses it.

One channel per address, shared by all hosts behind it; requests carry the host's id. A channel is
counted while calls use it and closed once nobody has for a while. Nothing is retried here: a
failed call means *unknown*, and the reconciler that made it decides.

Two traps. A dead host's stream does not end: every watch has a limit of silence, after which it
raises `Unavailable`. And a host may answer anything: what makes no sense is `Unavailable` too, so
that no caller has to expect more than the port says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError

from unkai.agent.v1 import (
    host_service_pb2,
    host_service_pb2_grpc,
    machine_service_pb2,
    machine_service_pb2_grpc,
    network_service_pb2,
    network_service_pb2_grpc,
    storage_service_pb2,
    storage_service_pb2_grpc,
)
from unkai_scheduler.agents import convert, networks, remembered
from unkai_scheduler.agents.limits import Limits
from unkai_scheduler.agents.port import (
    Endpoint,
    ForwardTarget,
    HeldMachine,
    MachineChange,
    MachineOrder,
    UsageSample,
)
from unkai_scheduler.domain.machines import Fence, HostDescription, Machine, Tombstone
from unkai_scheduler.domain.network_names import NameChange
from unkai_wire import tracing
from unkai_wire.doctor.findings import Report
from unkai_wire.doctor.messages import from_message
from unkai_wire.errors import Unavailable
from unkai_wire.rpc_errors import from_rpc_error
from unkai_wire.tls import TlsFiles, channel_options

T = TypeVar("T")

IDLE_CHANNEL_S = 60.0
"""A channel that no call has used for so long is closed."""


@dataclass(slots=True)
class _Channel:
    channel: grpc.aio.Channel
    calls: int = 0
    last_used_s: float = 0.0


class GrpcAgents:
    """Calls agents with the scheduler's certificate. Close it on the loop that used it."""

    def __init__(
        self,
        tls: TlsFiles,
        *,
        limits: Limits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = tls.channel_credentials()
        self._limits = limits or Limits()
        self._monotonic = monotonic
        self._channels: dict[tuple[str, str], _Channel] = {}

    async def describe(self, endpoint: Endpoint) -> HostDescription:
        """Return what the host is."""
        return await self._call(
            endpoint,
            lambda channel: host_service_pb2_grpc.HostServiceStub(channel).Describe(
                host_service_pb2.DescribeRequest(host_id=endpoint.host_id),
                timeout=self._limits.describe_s,
            ),
            lambda answer: convert.description_of(answer.host),
        )

    async def announce_term(self, endpoint: Endpoint, term: int) -> int:
        """Tell the agent a new term; return the highest it has seen."""
        request = host_service_pb2.AnnounceTermRequest(
            host_id=endpoint.host_id, fence=convert.fence_message(Fence(term))
        )
        return await self._call(
            endpoint,
            lambda channel: host_service_pb2_grpc.HostServiceStub(channel).AnnounceTerm(
                request, timeout=self._limits.describe_s
            ),
            lambda answer: int(answer.highest_term),
        )

    async def ensure_machine(
        self, endpoint: Endpoint, fence: Fence, order: MachineOrder
    ) -> Machine:
        """Order a machine to be."""
        request = machine_service_pb2.EnsureMachineRequest(
            host_id=endpoint.host_id,
            fence=convert.fence_message(fence),
            spec=convert.spec_message(order),
        )
        return await self._call(
            endpoint,
            lambda channel: machine_service_pb2_grpc.MachineServiceStub(channel).EnsureMachine(
                request, timeout=self._limits.order_s
            ),
            lambda answer: convert.machine_of(answer.machine, endpoint.host_id),
        )

    async def machine_spec(self, endpoint: Endpoint, instance_id: str) -> HeldMachine:
        """Return a machine with what it was last ordered to be."""
        request = machine_service_pb2.GetMachineSpecRequest(
            host_id=endpoint.host_id, instance_id=instance_id
        )
        return await self._call(
            endpoint,
            lambda channel: machine_service_pb2_grpc.MachineServiceStub(channel).GetMachineSpec(
                request, timeout=self._limits.order_s
            ),
            lambda answer: remembered.held_of(answer, endpoint.host_id),
        )

    async def remove_machine(
        self, endpoint: Endpoint, fence: Fence, instance_id: str
    ) -> Machine | Tombstone:
        """Order a machine away."""
        request = machine_service_pb2.RemoveMachineRequest(
            host_id=endpoint.host_id, fence=convert.fence_message(fence), instance_id=instance_id
        )
        return await self._call(
            endpoint,
            lambda channel: machine_service_pb2_grpc.MachineServiceStub(channel).RemoveMachine(
                request, timeout=self._limits.order_s
            ),
            lambda answer: convert.left_of(answer, endpoint.host_id),
        )

    async def acknowledge_tombstones(
        self, endpoint: Endpoint, term: int, tombstones: Sequence[Tombstone]
    ) -> None:
        """Say which tombstones are recorded."""
        request = machine_service_pb2.AcknowledgeTombstonesRequest(
            host_id=endpoint.host_id,
            fence=convert.fence_message(Fence(term)),
            tombstones=[convert.tombstone_message(t) for t in tombstones],
        )
        await self._call(
            endpoint,
            lambda channel: machine_service_pb2_grpc.MachineServiceStub(
                channel
            ).AcknowledgeTombstones(request, timeout=self._limits.order_s),
            lambda _: None,
        )

    async def evict_image(self, endpoint: Endpoint, term: int, sha256: str) -> None:
        """Drop an image from the host's cache."""
        request = storage_service_pb2.EvictImageRequest(
            host_id=endpoint.host_id, fence=convert.fence_message(Fence(term)), sha256=sha256
        )
        await self._call(
            endpoint,
            lambda channel: storage_service_pb2_grpc.StorageServiceStub(channel).EvictImage(
                request, timeout=self._limits.order_s
            ),
            lambda _: None,
        )

    async def diagnose(self, endpoint: Endpoint, checks: Sequence[str]) -> tuple[Report, datetime]:
        """Have the host examined."""
        request = host_service_pb2.DiagnoseRequest(host_id=endpoint.host_id, checks=checks)
        return await self._call(
            endpoint,
            lambda channel: host_service_pb2_grpc.HostServiceStub(channel).Diagnose(
                request, timeout=self._limits.diagnose_s
            ),
            lambda answer: from_message(answer.diagnosis),
        )

    async def count_flows(self, endpoint: Endpoint, cookies: Sequence[int]) -> Mapping[int, int]:
        """Return what the host's flows of these cookies have counted."""
        request = network_service_pb2.CountFlowsRequest(host_id=endpoint.host_id, cookies=cookies)
        return await self._call(
            endpoint,
            lambda channel: network_service_pb2_grpc.NetworkServiceStub(channel).CountFlows(
                request, timeout=self._limits.order_s
            ),
            lambda answer: {count.cookie: int(count.packet_count) for count in answer.counts},
        )

    async def watch_machines(self, endpoint: Endpoint) -> AsyncGenerator[MachineChange, None]:
        """Yield all the host holds, then `Synced`, then changes."""
        request = machine_service_pb2.WatchMachinesRequest(host_id=endpoint.host_id)
        async with aclosing(
            self._watch(
                endpoint,
                lambda channel: machine_service_pb2_grpc.MachineServiceStub(channel).WatchMachines(
                    request
                ),
                lambda message: convert.change_of(message, endpoint.host_id),
            )
        ) as changes:
            async for change in changes:
                if change is not None:
                    yield change

    async def watch_usage(self, endpoint: Endpoint) -> AsyncGenerator[UsageSample, None]:
        """Yield a sample every 2 s."""
        request = host_service_pb2.WatchUsageRequest(host_id=endpoint.host_id)
        async with aclosing(
            self._watch(
                endpoint,
                lambda channel: host_service_pb2_grpc.HostServiceStub(channel).WatchUsage(request),
                lambda message: convert.sample_of(message, endpoint.host_id),
            )
        ) as samples:
            async for sample in samples:
                yield sample

    async def read_console_log(
        self, endpoint: Endpoint, instance_id: str, *, tail_bytes: int, follow: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield pieces of the console's log."""
        request = machine_service_pb2.ReadConsoleLogRequest(
            host_id=endpoint.host_id, instance_id=instance_id, tail_bytes=tail_bytes, follow=follow
        )
        # A guest may say nothing for hours: the channel's keepalive finds a dead host here.
        async with aclosing(
            self._stream(
                endpoint,
                lambda channel: machine_service_pb2_grpc.MachineServiceStub(channel).ReadConsoleLog(
                    request
                ),
                lambda message: bytes(message.output),
                silence_s=None if follow else self._limits.silence_s,
            )
        ) as pieces:
            async for piece in pieces:
                yield piece

    async def attach_console(
        self, endpoint: Endpoint, instance_id: str, typed: AsyncIterator[bytes], *, force: bool
    ) -> AsyncGenerator[bytes, None]:
        """Connect to the console; the first item is empty and says that it is open.

        A write that meets a refusal hides it (`unkai_wire.rpc_errors`). So what is typed waits
        until the host has said that the console is open; the end of it waits, too.
        """
        is_open: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def requests() -> AsyncIterator[machine_service_pb2.AttachConsoleRequest]:
            yield machine_service_pb2.AttachConsoleRequest(
                open=machine_service_pb2.AttachConsoleRequest.Open(
                    host_id=endpoint.host_id, instance_id=instance_id, force=force
                )
            )
            if await is_open:
                async for keys in typed:
                    yield machine_service_pb2.AttachConsoleRequest(input=keys)

        try:
            async with aclosing(
                self._stream(
                    endpoint,
                    lambda channel: machine_service_pb2_grpc.MachineServiceStub(
                        channel
                    ).AttachConsole(requests()),
                    lambda message: bytes(message.output),
                    silence_s=None,
                )
            ) as pieces:
                async for piece in pieces:
                    if not is_open.done():
                        is_open.set_result(True)
                    yield piece
        finally:
            if not is_open.done():
                is_open.set_result(False)

    async def forward(
        self, endpoint: Endpoint, target: ForwardTarget, incoming: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes | None, None]:
        """Connect to an instance from inside its network."""
        requests = networks.ForwardRequests(endpoint, target, incoming)
        try:
            async with aclosing(
                self._stream(
                    endpoint,
                    lambda channel: network_service_pb2_grpc.NetworkServiceStub(channel).Forward(
                        requests.messages()
                    ),
                    networks.piece_of,
                    silence_s=None,
                )
            ) as pieces:
                async for piece in pieces:
                    requests.go_on(True)
                    yield piece
        finally:
            requests.go_on(False)

    async def ensure_names(self, endpoint: Endpoint, term: int, change: NameChange) -> None:
        """Tell a host the names of a network."""
        request = networks.names_request(endpoint, term, change)
        await self._call(
            endpoint,
            lambda channel: network_service_pb2_grpc.NetworkServiceStub(channel).EnsureNames(
                request, timeout=self._limits.order_s
            ),
            lambda _: None,
        )

    async def close(self) -> None:
        """Close all channels; calls under way fail."""
        channels, self._channels = self._channels, {}
        for shared in channels.values():
            await shared.channel.close()

    # Channels and calls

    @property
    def open_addresses(self) -> list[str]:
        """Addresses to which a channel is open."""
        return sorted(address for address, _ in self._channels)

    @asynccontextmanager
    async def _channel(self, endpoint: Endpoint) -> AsyncIterator[grpc.aio.Channel]:
        await self._close_idle()
        key = (endpoint.address, endpoint.tls_name)
        shared = self._channels.get(key)
        if shared is None:
            shared = self._channels[key] = _Channel(
                grpc.aio.secure_channel(
                    endpoint.address,
                    self._credentials,
                    channel_options(endpoint.tls_name),
                    interceptors=tracing.client_interceptors(),
                )
            )
        shared.calls += 1
        try:
            yield shared.channel
        finally:
            shared.calls -= 1
            shared.last_used_s = self._monotonic()

    async def _close_idle(self) -> None:
        oldest_s = self._monotonic() - IDLE_CHANNEL_S
        idle = [k for k, c in self._channels.items() if not c.calls and c.last_used_s < oldest_s]
        # Out of the table first: while one closes, another call may come for it.
        for shared in [self._channels.pop(key) for key in idle]:
            await shared.channel.close()

    async def _call(
        self,
        endpoint: Endpoint,
        make: Callable[[grpc.aio.Channel], Awaitable[Any]],
        read: Callable[[Any], T],
    ) -> T:
        async with self._channel(endpoint) as channel:
            with _errors_of(endpoint):
                return read(_sensible(await make(channel)))

    async def _watch(
        self,
        endpoint: Endpoint,
        make: Callable[[grpc.aio.Channel], Any],
        read: Callable[[Any], T],
    ) -> AsyncGenerator[T, None]:
        """Yield what a stream says that has no end; its end is an error."""
        async with aclosing(
            self._stream(endpoint, make, read, silence_s=self._limits.silence_s)
        ) as items:
            async for item in items:
                yield item
        raise Unavailable(
            f"host {endpoint.host_id} ended a watch",
            reason="WATCH_ENDED",
            metadata={"host_id": endpoint.host_id},
        )

    async def _stream(
        self,
        endpoint: Endpoint,
        make: Callable[[grpc.aio.Channel], Any],
        read: Callable[[Any], T],
        *,
        silence_s: float | None,
    ) -> AsyncGenerator[T, None]:
        async with self._channel(endpoint) as channel:
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
