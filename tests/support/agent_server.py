"""An in-process gRPC server of `agent.v1` over a `FakeAgents`, to test the real client against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from datetime import UTC
from typing import Any

import grpc

from unkai.agent.v1 import (
    fence_pb2,
    host_service_pb2,
    host_service_pb2_grpc,
    machine_pb2,
    machine_service_pb2,
    machine_service_pb2_grpc,
    network_service_pb2,
    network_service_pb2_grpc,
    storage_service_pb2,
    storage_service_pb2_grpc,
)
from unkai.compute.v1 import instance_pb2
from unkai.host.v1 import usage_pb2
from unkai.storage.v1 import image_pb2
from unkai_scheduler.agents import convert
from unkai_scheduler.agents.fake import FakeAgents
from unkai_scheduler.agents.port import Alive, Endpoint, MachineOrder, Synced, UsageSample
from unkai_scheduler.domain.hosts import HostUsage
from unkai_scheduler.domain.images import Image, ImageFormat, ImageState, Visibility
from unkai_scheduler.domain.instances import (
    Instance,
    InstanceSpec,
    InstanceState,
    PlacementPolicy,
    Power,
)
from unkai_scheduler.domain.machines import Fence, Machine, Tombstone
from unkai_wire.doctor.messages import to_message
from unkai_wire.rpc_errors import ErrorInterceptor
from unkai_wire.tls import TlsFiles, server_options

Context = grpc.aio.ServicerContext


def fence_of(message: fence_pb2.Fence) -> Fence:
    return Fence(message.term, message.generation, message.run_epoch)


def image_of(message: image_pb2.Image) -> Image:
    return Image(
        id=message.id,
        project_id=message.project_id,
        name=message.name,
        visibility=Visibility(
            image_pb2.Image.Visibility.Name(message.visibility).removeprefix("VISIBILITY_")
        ),
        state=ImageState(image_pb2.Image.State.Name(message.state).removeprefix("STATE_")),
        etag=message.etag,
        create_time=convert.moment_of(message.create_time),
        update_time=convert.moment_of(message.update_time),
        format={
            image_pb2.Image.FORMAT_QCOW2: ImageFormat.QCOW2,
            image_pb2.Image.FORMAT_RAW: ImageFormat.RAW,
        }.get(message.format),
        size_bytes=message.size_bytes,
        virtual_size_bytes=message.virtual_size_bytes,
        sha256=message.sha256,
        labels=dict(message.labels),
    )


def instance_of(message: instance_pb2.Instance, spec: machine_pb2.MachineSpec) -> Instance:
    """Read an instance with what its order says beside it."""
    policies = {
        instance_pb2.Instance.PLACEMENT_POLICY_PACK: PlacementPolicy.PACK,
        instance_pb2.Instance.PLACEMENT_POLICY_SPREAD: PlacementPolicy.SPREAD,
    }
    return Instance(
        id=message.id,
        project_id=message.project_id,
        spec=InstanceSpec(
            name=message.name,
            image_id=message.image_id,
            vcpus=message.vcpus,
            memory_bytes=message.memory_bytes,
            disk_bytes=message.disk_bytes,
            flavor_id=message.flavor_id,
            key_pair_ids=tuple(message.key_pair_ids),
            required_traits=tuple(message.required_traits),
            preferred_traits=tuple(message.preferred_traits),
            forbidden_traits=tuple(message.forbidden_traits),
            zone=message.zone,
            priority=message.priority,
            aggregate_id=message.aggregate_id,
            placement_group_id=message.placement_group_id,
            placement_policy=policies.get(message.placement_policy),
            labels=dict(message.labels),
        ),
        state=InstanceState(instance_pb2.Instance.State.Name(message.state).removeprefix("STATE_")),
        desired_power=Power(
            instance_pb2.Instance.Power.Name(message.desired_power).removeprefix("POWER_")
        ),
        generation=message.generation,
        run_epoch=message.run_epoch,
        etag=message.etag,
        create_time=convert.moment_of(message.create_time),
        update_time=convert.moment_of(message.update_time),
        host_id=message.host_id,
        host_name=message.host_name,
        reboot_serial=spec.reboot_serial,
        reboot_force=spec.reboot_force,
        stop_grace_s=spec.stop_grace.ToMilliseconds() / 1000,
    )


def order_of(spec: machine_pb2.MachineSpec) -> MachineOrder:
    """Read an order."""
    (disk,) = spec.disks
    return MachineOrder(
        instance=instance_of(spec.instance, spec),
        image=image_of(disk.image),
        disk_bytes=disk.size_bytes,
        must_exist=disk.existence == machine_pb2.DiskSpec.EXISTENCE_MUST_EXIST,
        public_keys=tuple(spec.seed.public_keys),
        user_data=spec.seed.user_data,
    )


def machine_message(machine: Machine) -> machine_pb2.Machine:
    return machine_pb2.Machine(
        instance_id=machine.instance_id,
        generation=machine.generation,
        observed_generation=machine.observed_generation,
        run_epoch=machine.run_epoch,
        state=machine_pb2.Machine.State.Value(f"STATE_{machine.state.value}"),
        step=machine.step,
        step_done_bytes=machine.step_done_bytes,
        step_total_bytes=machine.step_total_bytes,
        error=convert.status_message(machine.error),
        retry_time=convert.timestamp(machine.retry_time),
        guest_shutdown=machine.guest_shutdown,
        reboot_serial=machine.reboot_serial,
        accelerator=machine.accelerator,
        start_time=convert.timestamp(machine.start_time),
        instance=instance_pb2.Instance(
            name=machine.name,
            project_id=machine.project_id,
            vcpus=machine.vcpus,
            memory_bytes=machine.memory_bytes,
            disk_bytes=machine.disk_bytes,
            desired_power={
                None: instance_pb2.Instance.POWER_UNSPECIFIED,
                True: instance_pb2.Instance.POWER_ON,
                False: instance_pb2.Instance.POWER_OFF,
            }[machine.wants_power],
        ),
    )


def sample_message(sample: UsageSample) -> host_service_pb2.WatchUsageResponse:
    figures = {name: getattr(sample.host, name) for name in HostUsage.__slots__}
    figures["sample_time"] = convert.timestamp(sample.host.sample_time.astimezone(UTC))
    return host_service_pb2.WatchUsageResponse(
        host_id=sample.host_id,
        host=usage_pb2.HostUsage(**figures),
        machines=[usage_pb2.MachineUsage(**asdict(m)) for m in sample.machines],
    )


class AgentServicer(
    host_service_pb2_grpc.HostServiceServicer,
    machine_service_pb2_grpc.MachineServiceServicer,
    network_service_pb2_grpc.NetworkServiceServicer,
    storage_service_pb2_grpc.StorageServiceServicer,
):
    """All of `agent.v1` that the client calls, for many hosts at one address."""

    def __init__(self, agents: FakeAgents) -> None:
        self._agents = agents

    def _endpoint(self, host_id: str) -> Endpoint:
        return Endpoint(host_id, "in memory", "in memory")

    async def Describe(
        self, request: host_service_pb2.DescribeRequest, context: Context
    ) -> host_service_pb2.DescribeResponse:
        found = await self._agents.describe(self._endpoint(request.host_id))
        return host_service_pb2.DescribeResponse(
            host=host_service_pb2.HostDescription(
                **{name: getattr(found, name) for name in type(found).__slots__}
            )
        )

    async def Diagnose(
        self, request: host_service_pb2.DiagnoseRequest, context: Context
    ) -> host_service_pb2.DiagnoseResponse:
        report, end_time = await self._agents.diagnose(
            self._endpoint(request.host_id), list(request.checks)
        )
        return host_service_pb2.DiagnoseResponse(diagnosis=to_message(report, end_time))

    async def CountFlows(
        self, request: network_service_pb2.CountFlowsRequest, context: Context
    ) -> network_service_pb2.CountFlowsResponse:
        counts = await self._agents.count_flows(
            self._endpoint(request.host_id), list(request.cookies)
        )
        return network_service_pb2.CountFlowsResponse(
            counts=[
                network_service_pb2.FlowCount(cookie=cookie, packet_count=count)
                for cookie, count in counts.items()
            ]
        )

    async def AnnounceTerm(
        self, request: host_service_pb2.AnnounceTermRequest, context: Context
    ) -> host_service_pb2.AnnounceTermResponse:
        highest = await self._agents.announce_term(
            self._endpoint(request.host_id), request.fence.term
        )
        return host_service_pb2.AnnounceTermResponse(highest_term=highest)

    async def WatchUsage(
        self, request: host_service_pb2.WatchUsageRequest, context: Context
    ) -> AsyncIterator[host_service_pb2.WatchUsageResponse]:
        async with aclosing(self._agents.watch_usage(self._endpoint(request.host_id))) as samples:
            async for sample in samples:
                yield sample_message(sample)

    async def EnsureMachine(
        self, request: machine_service_pb2.EnsureMachineRequest, context: Context
    ) -> machine_service_pb2.EnsureMachineResponse:
        machine = await self._agents.ensure_machine(
            self._endpoint(request.host_id), fence_of(request.fence), order_of(request.spec)
        )
        return machine_service_pb2.EnsureMachineResponse(machine=machine_message(machine))

    async def RemoveMachine(
        self, request: machine_service_pb2.RemoveMachineRequest, context: Context
    ) -> machine_service_pb2.RemoveMachineResponse:
        left = await self._agents.remove_machine(
            self._endpoint(request.host_id), fence_of(request.fence), request.instance_id
        )
        if isinstance(left, Tombstone):
            tombstone = convert.tombstone_message(left)
            return machine_service_pb2.RemoveMachineResponse(tombstone=tombstone)
        return machine_service_pb2.RemoveMachineResponse(machine=machine_message(left))

    async def GetMachineSpec(
        self, request: machine_service_pb2.GetMachineSpecRequest, context: Context
    ) -> machine_service_pb2.GetMachineSpecResponse:
        held = await self._agents.machine_spec(self._endpoint(request.host_id), request.instance_id)
        return machine_service_pb2.GetMachineSpecResponse(
            machine=machine_message(held.machine), spec=convert.spec_message(held.order)
        )

    async def WatchMachines(
        self, request: machine_service_pb2.WatchMachinesRequest, context: Context
    ) -> AsyncIterator[machine_service_pb2.WatchMachinesResponse]:
        response = machine_service_pb2.WatchMachinesResponse
        changes = self._agents.watch_machines(self._endpoint(request.host_id))
        async with aclosing(changes):
            async for change in changes:
                match change:
                    case Machine():
                        yield response(machine=machine_message(change))
                    case Tombstone():
                        yield response(tombstone=convert.tombstone_message(change))
                    case Synced():
                        yield response(synced=True)
                    case Alive():
                        yield response(alive=True)

    async def AcknowledgeTombstones(
        self, request: machine_service_pb2.AcknowledgeTombstonesRequest, context: Context
    ) -> machine_service_pb2.AcknowledgeTombstonesResponse:
        await self._agents.acknowledge_tombstones(
            self._endpoint(request.host_id),
            request.fence.term,
            [convert.tombstone_of(t, request.host_id) for t in request.tombstones],
        )
        return machine_service_pb2.AcknowledgeTombstonesResponse()

    async def ReadConsoleLog(
        self, request: machine_service_pb2.ReadConsoleLogRequest, context: Context
    ) -> AsyncIterator[machine_service_pb2.ReadConsoleLogResponse]:
        pieces = self._agents.read_console_log(
            self._endpoint(request.host_id),
            request.instance_id,
            tail_bytes=request.tail_bytes,
            follow=request.follow,
        )
        async with aclosing(pieces):
            async for piece in pieces:
                yield machine_service_pb2.ReadConsoleLogResponse(output=piece)

    async def AttachConsole(
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[machine_service_pb2.AttachConsoleResponse]:
        opening = (await anext(requests)).open

        async def typed() -> AsyncIterator[bytes]:
            async for request in requests:
                yield request.input

        outputs = self._agents.attach_console(
            self._endpoint(opening.host_id), opening.instance_id, typed(), force=opening.force
        )
        async with aclosing(outputs):
            async for output in outputs:
                yield machine_service_pb2.AttachConsoleResponse(output=output)

    async def EvictImage(
        self, request: storage_service_pb2.EvictImageRequest, context: Context
    ) -> storage_service_pb2.EvictImageResponse:
        await self._agents.evict_image(
            self._endpoint(request.host_id), request.fence.term, request.sha256
        )
        return storage_service_pb2.EvictImageResponse()


@asynccontextmanager
async def serving(agents: FakeAgents, tls: TlsFiles) -> AsyncIterator[str]:
    """Serve on a loopback port with client certificates demanded; give the address."""
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=server_options())
    servicer = AgentServicer(agents)
    host_service_pb2_grpc.add_HostServiceServicer_to_server(servicer, server)
    machine_service_pb2_grpc.add_MachineServiceServicer_to_server(servicer, server)
    network_service_pb2_grpc.add_NetworkServiceServicer_to_server(servicer, server)
    storage_service_pb2_grpc.add_StorageServiceServicer_to_server(servicer, server)
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials())
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
