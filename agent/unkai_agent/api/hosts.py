"""`agent.v1.HostService`: what the host is, the leader's term, live figures, its doctor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from unkai.agent.v1 import host_service_pb2 as pb
from unkai.agent.v1 import host_service_pb2_grpc
from unkai_agent.api import convert
from unkai_agent.api.directory import HostDirectory
from unkai_agent.domain.clock import Clock
from unkai_wire.doctor.child import Examine
from unkai_wire.doctor.messages import check_names, to_message

Context = grpc.aio.ServicerContext[Any, Any]


class HostServicer(host_service_pb2_grpc.HostServiceServicer):
    """Converts; nothing else."""

    def __init__(self, directory: HostDirectory, examine: Examine, clock: Clock) -> None:
        self._directory = directory
        self._examine = examine
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        """Return what the host is."""
        host = self._directory.find_for_reading(request.host_id)
        record = host.record
        return pb.DescribeResponse(
            host=pb.HostDescription(
                host_id=record.host_id,
                name=record.name,
                agent_version=record.agent_version,
                boot_id=record.boot_id,
                cpus=record.cpus,
                memory_bytes=record.memory_bytes,
                disk_bytes=record.disk_bytes,
                accelerator=record.accelerator,
                accelerator_reason=record.accelerator_reason,
                traits=record.traits,
                features=record.features,
                highest_term=host.converger.highest_term,
            )
        )

    async def AnnounceTerm(
        self, request: pb.AnnounceTermRequest, context: Context
    ) -> pb.AnnounceTermResponse:
        """Raise the highest term seen."""
        host = self._directory.find(request.host_id)
        highest = await host.converger.announce_term(request.fence.term)
        return pb.AnnounceTermResponse(highest_term=highest)

    async def WatchUsage(
        self, request: pb.WatchUsageRequest, context: Context
    ) -> AsyncIterator[pb.WatchUsageResponse]:
        """Send each sample."""
        host = self._directory.find_for_reading(request.host_id)
        async for sample in host.usage.subscribe():
            yield convert.usage_message(host.record.host_id, sample)

    async def Diagnose(self, request: pb.DiagnoseRequest, context: Context) -> pb.DiagnoseResponse:
        """Examine the host."""
        self._directory.find_for_reading(request.host_id)
        names = check_names(list(request.checks))
        async with self._one_at_a_time:
            report = await self._examine(names)
        return pb.DiagnoseResponse(diagnosis=to_message(report, self._clock()))
