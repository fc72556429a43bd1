"""Agents over gRPC: the port `agents.port` as the scheduler uses it.

Each method is a message, a call (`calls.py`) and what its answer means (`convert.py`); requests
carry the host's id. Nothing is retried here: a failed call means *unknown*, and the reconciler that
made it decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from datetime import datetime

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
from unkai_scheduler.agents.calls import Calls
from unkai_scheduler.agents.channels import Channels
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
from unkai_wire.doctor.findings import Report
from unkai_wire.doctor.messages import from_message
from unkai_wire.tls import TlsFiles


class GrpcAgents:
    """Calls agents with the scheduler's certificate. Close it on the loop that used it."""

    def __init__(
        self,
        tls: TlsFiles,
        *,
        limits: Limits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits or Limits()
        self._channels = Channels(tls, monotonic)
        self._calls = Calls(self._channels, self._limits)

    async def describe(self, endpoint: Endpoint) -> HostDescription:
        """Return what the host is."""
        return await self._calls.call(
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
        return await self._calls.call(
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
        return await self._calls.call(
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
        return await self._calls.call(
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
        return await self._calls.call(
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
        await self._calls.call(
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
        await self._calls.call(
            endpoint,
            lambda channel: storage_service_pb2_grpc.StorageServiceStub(channel).EvictImage(
                request, timeout=self._limits.order_s
            ),
            lambda _: None,
        )

    async def diagnose(self, endpoint: Endpoint, checks: Sequence[str]) -> tuple[Report, datetime]:
        """Have the host examined."""
        request = host_service_pb2.DiagnoseRequest(host_id=endpoint.host_id, checks=checks)
        return await self._calls.call(
            endpoint,
            lambda channel: host_service_pb2_grpc.HostServiceStub(channel).Diagnose(
                request, timeout=self._limits.diagnose_s
            ),
            lambda answer: from_message(answer.diagnosis),
        )

    async def count_flows(self, endpoint: Endpoint, cookies: Sequence[int]) -> Mapping[int, int]:
        """Return what the host's flows of these cookies have counted."""
        request = network_service_pb2.CountFlowsRequest(host_id=endpoint.host_id, cookies=cookies)
        return await self._calls.call(
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
            self._calls.watch(
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
            self._calls.watch(
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
            self._calls.stream(
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
                self._calls.stream(
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
                self._calls.stream(
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
        await self._calls.call(
            endpoint,
            lambda channel: network_service_pb2_grpc.NetworkServiceStub(channel).EnsureNames(
                request, timeout=self._limits.order_s
            ),
            lambda _: None,
        )

    async def close(self) -> None:
        """Close all channels; calls under way fail."""
        await self._channels.close()

    @property
    def open_addresses(self) -> list[str]:
        """Addresses to which a channel is open."""
        return self._channels.open_addresses
