"""host.v1.HostService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from unkai.host.v1 import host_pb2, host_service_pb2, host_service_pb2_grpc, usage_pb2
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.domain.hosts import HostUsage, MachineUsage
from unkai_scheduler.services.diagnoses import DiagnosesService
from unkai_scheduler.services.host_removals import HostRemovalsService
from unkai_scheduler.services.hosts import HostsService, HostView
from unkai_scheduler.services.listing import Paging
from unkai_wire.doctor.messages import check_names, to_message


class HostServicer(host_service_pb2_grpc.HostServiceServicer):
    """Hosts over gRPC."""

    def __init__(
        self, hosts: HostsService, removals: HostRemovalsService, diagnoses: DiagnosesService
    ) -> None:
        self._hosts = hosts
        self._removals = removals
        self._diagnoses = diagnoses

    async def GetHost(
        self, request: host_service_pb2.GetHostRequest, context: Any
    ) -> host_service_pb2.GetHostResponse:
        host = await self._hosts.get(request.host_id)
        return host_service_pb2.GetHostResponse(host=host_message(host))

    async def ListHosts(
        self, request: host_service_pb2.ListHostsRequest, context: Any
    ) -> host_service_pb2.ListHostsResponse:
        paging = Paging(request.page_size, request.page_token)
        page = await self._hosts.list(paging, name=request.name)
        return host_service_pb2.ListHostsResponse(
            hosts=map(host_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdateHost(
        self, request: host_service_pb2.UpdateHostRequest, context: Any
    ) -> host_service_pb2.UpdateHostResponse:
        wanted, mask = request.host, request.update_mask.paths
        host = await self._hosts.update(call_of(request), wanted.id, wanted.zone, mask, wanted.etag)
        return host_service_pb2.UpdateHostResponse(host=host_message(host))

    async def CordonHost(
        self, request: host_service_pb2.CordonHostRequest, context: Any
    ) -> host_service_pb2.CordonHostResponse:
        host = await self._hosts.cordon(call_of(request), request.host_id, request.reason)
        return host_service_pb2.CordonHostResponse(host=host_message(host))

    async def UncordonHost(
        self, request: host_service_pb2.UncordonHostRequest, context: Any
    ) -> host_service_pb2.UncordonHostResponse:
        host = await self._hosts.uncordon(call_of(request), request.host_id)
        return host_service_pb2.UncordonHostResponse(host=host_message(host))

    async def RemoveHost(
        self, request: host_service_pb2.RemoveHostRequest, context: Any
    ) -> host_service_pb2.RemoveHostResponse:
        call = call_of(request)
        removed = await self._removals.remove(call, request.host_id, request.statement)
        return host_service_pb2.RemoveHostResponse(
            host=host_message(self._hosts.view(removed.host)), instance_ids=removed.instance_ids
        )

    async def DiagnoseHost(
        self, request: host_service_pb2.DiagnoseHostRequest, context: Any
    ) -> host_service_pb2.DiagnoseHostResponse:
        names = check_names(list(request.checks))
        found = await self._diagnoses.host(request.host_id, names)
        return host_service_pb2.DiagnoseHostResponse(
            diagnosis=to_message(found.report, found.end_time)
        )

    async def DiagnoseScheduler(
        self, request: host_service_pb2.DiagnoseSchedulerRequest, context: Any
    ) -> host_service_pb2.DiagnoseSchedulerResponse:
        found = await self._diagnoses.scheduler(check_names(list(request.checks)))
        return host_service_pb2.DiagnoseSchedulerResponse(
            diagnosis=to_message(found.report, found.end_time)
        )

    async def WatchUsage(
        self, request: host_service_pb2.WatchUsageRequest, context: Any
    ) -> AsyncIterator[host_service_pb2.WatchUsageResponse]:
        async for sample in self._hosts.watch_usage(request.host_ids):
            machines = sample.machines if request.include_machines else ()
            yield host_service_pb2.WatchUsageResponse(
                host_id=sample.host_id,
                host=usage_message(sample.host),
                machines=map(_machine_usage_message, machines),
            )


def host_message(view: HostView) -> host_pb2.Host:
    """Write a host."""
    host = view.host
    return host_pb2.Host(
        id=host.id,
        name=host.name,
        state=host_pb2.Host.State.Value(f"STATE_{host.state.value}"),
        cordoned=host.cordoned,
        cordon_reason=host.cordon_reason,
        address=host.address,
        cpus=host.cpus,
        memory_bytes=host.memory_bytes,
        disk_bytes=host.disk_bytes,
        claimed_vcpus=host.claimed_vcpus,
        claimed_memory_bytes=host.claimed_memory_bytes,
        claimed_disk_bytes=host.claimed_disk_bytes,
        claimable_vcpus=view.claimable_vcpus,
        claimable_memory_bytes=view.claimable_memory_bytes,
        claimable_disk_bytes=view.claimable_disk_bytes,
        instance_count=host.instance_count,
        accelerator=host.accelerator,
        traits=host.traits,
        agent_version=host.agent_version,
        boot_id=host.boot_id,
        network_problem=host.network_problem,
        zone=host.zone,
        aggregate_ids=[aggregate.id for aggregate in host.aggregates],
        aggregate_traits=sorted({trait for a in host.aggregates for trait in a.traits}),
        usage=None if view.usage is None else usage_message(view.usage),
        usage_age_s=view.usage_age_s,
        etag=host.etag,
        create_time=timestamp(host.create_time),
        update_time=timestamp(host.update_time),
    )


def usage_message(usage: HostUsage) -> usage_pb2.HostUsage:
    """Write a host's sample; the domain's fields are named and counted as the contract's."""
    figures = asdict(usage)
    sample_time = timestamp(figures.pop("sample_time"))
    return usage_pb2.HostUsage(sample_time=sample_time, **figures)


def _machine_usage_message(usage: MachineUsage) -> usage_pb2.MachineUsage:
    return usage_pb2.MachineUsage(**asdict(usage))
