"""compute.v1.InstanceService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from unkai.compute.v1 import instance_pb2, instance_service_pb2, instance_service_pb2_grpc
from unkai_scheduler.agents.convert import instance_message
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.api.fields import enum_of, seconds_of
from unkai_scheduler.api.interfaces import interface_drafts, interface_messages
from unkai_scheduler.api.operations import operation_message
from unkai_scheduler.domain.instances import Instance, InstanceState, PlacementPolicy, Seed
from unkai_scheduler.services.adoptions import AdoptionDraft, AdoptionsService
from unkai_scheduler.services.consoles import ConsolesService
from unkai_scheduler.services.forwards import ForwardsService
from unkai_scheduler.services.instance_drafts import InstanceDraft
from unkai_scheduler.services.instances import InstanceFilter, InstancesService
from unkai_scheduler.services.launches import Batch
from unkai_scheduler.services.listing import Paging
from unkai_wire.errors import InvalidArgument

MAX_PIECE_BYTES = 64 << 10
POLICIES = {
    int(instance_pb2.Instance.PLACEMENT_POLICY_UNSPECIFIED): None,
    int(instance_pb2.Instance.PLACEMENT_POLICY_PACK): PlacementPolicy.PACK,
    int(instance_pb2.Instance.PLACEMENT_POLICY_SPREAD): PlacementPolicy.SPREAD,
}
_SEEDS = {
    int(instance_pb2.Instance.SEED_UNSPECIFIED): Seed.DISK,
    int(instance_pb2.Instance.SEED_DISK): Seed.DISK,
    int(instance_pb2.Instance.SEED_METADATA): Seed.METADATA,
}
_STATES = {
    int(instance_pb2.Instance.State.Value(f"STATE_{state.value}")): state for state in InstanceState
}


class InstanceServicer(instance_service_pb2_grpc.InstanceServiceServicer):
    """Instances over gRPC."""

    def __init__(
        self,
        instances: InstancesService,
        adoptions: AdoptionsService,
        consoles: ConsolesService,
        forwards: ForwardsService,
    ) -> None:
        self._instances = instances
        self._adoptions = adoptions
        self._consoles = consoles
        self._forwards = forwards

    async def CreateInstance(
        self, request: instance_service_pb2.CreateInstanceRequest, context: Any
    ) -> instance_service_pb2.CreateInstanceResponse:
        accepted = await self._instances.create(
            call_of(request),
            request.project_id,
            draft_of(request.instance),
            seconds_of(request.capacity_wait, "capacity_wait"),
        )
        return instance_service_pb2.CreateInstanceResponse(
            instance=_message(accepted.instance),
            operation=operation_message(accepted.operation),
        )

    async def BatchCreateInstances(
        self, request: instance_service_pb2.BatchCreateInstancesRequest, context: Any
    ) -> instance_service_pb2.BatchCreateInstancesResponse:
        batch = Batch(
            draft_of(request.instance),
            request.count,
            seconds_of(request.capacity_wait, "capacity_wait"),
            request.all_or_nothing,
        )
        made = await self._instances.create_batch(call_of(request), request.project_id, batch)
        return instance_service_pb2.BatchCreateInstancesResponse(
            instances=map(_message, made.instances),
            operations=map(operation_message, made.operations),
        )

    async def GetInstance(
        self, request: instance_service_pb2.GetInstanceRequest, context: Any
    ) -> instance_service_pb2.GetInstanceResponse:
        instance = await self._instances.get(request.instance_id)
        return instance_service_pb2.GetInstanceResponse(instance=_message(instance))

    async def ListInstances(
        self, request: instance_service_pb2.ListInstancesRequest, context: Any
    ) -> instance_service_pb2.ListInstancesResponse:
        wanted = InstanceFilter(
            project_id=request.project_id,
            name=request.name,
            id_prefix=request.id_prefix,
            host_id=request.host_id,
            states=tuple(enum_of(_STATES, number, "states") for number in request.states),
            labels=dict(request.label_selector),
        )
        page = await self._instances.list(Paging(request.page_size, request.page_token), wanted)
        return instance_service_pb2.ListInstancesResponse(
            instances=map(_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdateInstance(
        self, request: instance_service_pb2.UpdateInstanceRequest, context: Any
    ) -> instance_service_pb2.UpdateInstanceResponse:
        instance = await self._instances.update(
            call_of(request),
            request.instance.id,
            draft_of(request.instance),
            request.update_mask.paths,
            request.instance.etag,
        )
        return instance_service_pb2.UpdateInstanceResponse(instance=_message(instance))

    async def DeleteInstance(
        self, request: instance_service_pb2.DeleteInstanceRequest, context: Any
    ) -> instance_service_pb2.DeleteInstanceResponse:
        accepted = await self._instances.delete(call_of(request), request.instance_id, request.etag)
        return instance_service_pb2.DeleteInstanceResponse(
            instance=_message(accepted.instance),
            operation=operation_message(accepted.operation),
        )

    async def StartInstance(
        self, request: instance_service_pb2.StartInstanceRequest, context: Any
    ) -> instance_service_pb2.StartInstanceResponse:
        accepted = await self._instances.start(call_of(request), request.instance_id)
        return instance_service_pb2.StartInstanceResponse(
            instance=_message(accepted.instance),
            operation=operation_message(accepted.operation),
        )

    async def StopInstance(
        self, request: instance_service_pb2.StopInstanceRequest, context: Any
    ) -> instance_service_pb2.StopInstanceResponse:
        accepted = await self._instances.stop(
            call_of(request),
            request.instance_id,
            force=request.force,
            grace_s=(seconds_of(request.grace, "grace") if request.HasField("grace") else None),
        )
        return instance_service_pb2.StopInstanceResponse(
            instance=_message(accepted.instance),
            operation=operation_message(accepted.operation),
        )

    async def RebootInstance(
        self, request: instance_service_pb2.RebootInstanceRequest, context: Any
    ) -> instance_service_pb2.RebootInstanceResponse:
        accepted = await self._instances.reboot(
            call_of(request), request.instance_id, force=request.force
        )
        return instance_service_pb2.RebootInstanceResponse(
            instance=_message(accepted.instance),
            operation=operation_message(accepted.operation),
        )

    async def AdoptInstance(
        self, request: instance_service_pb2.AdoptInstanceRequest, context: Any
    ) -> instance_service_pb2.AdoptInstanceResponse:
        draft = AdoptionDraft(
            instance_id=request.instance_id,
            host_id=request.host_id,
            project_id=request.project_id,
            name=request.name,
            rename_if_taken=request.rename_if_taken,
        )
        adopted = await self._adoptions.adopt(call_of(request), draft)
        return instance_service_pb2.AdoptInstanceResponse(
            instance=_message(adopted.instance), warnings=adopted.warnings
        )

    async def ReadConsoleLog(
        self, request: instance_service_pb2.ReadConsoleLogRequest, context: Any
    ) -> AsyncIterator[instance_service_pb2.ReadConsoleLogResponse]:
        pieces = self._consoles.read_log(
            request.instance_id, tail_bytes=request.tail_bytes, follow=request.follow
        )
        async for piece in pieces:
            yield instance_service_pb2.ReadConsoleLogResponse(output=piece)

    async def AttachConsole(
        self,
        request_iterator: AsyncIterator[instance_service_pb2.AttachConsoleRequest],
        context: Any,
    ) -> AsyncIterator[instance_service_pb2.AttachConsoleResponse]:
        first = await anext(request_iterator, instance_service_pb2.AttachConsoleRequest())
        if first.WhichOneof("action") != "open":
            raise InvalidArgument.field("open", "must be the first message", reason="OPEN_EXPECTED")
        pieces = self._consoles.attach(
            first.open.instance_id, _typed(request_iterator), force=first.open.force
        )
        async for piece in pieces:
            yield instance_service_pb2.AttachConsoleResponse(output=piece)

    async def Forward(
        self,
        request_iterator: AsyncIterator[instance_service_pb2.ForwardRequest],
        context: Any,
    ) -> AsyncIterator[instance_service_pb2.ForwardResponse]:
        first = await anext(request_iterator, instance_service_pb2.ForwardRequest())
        if first.WhichOneof("action") != "open":
            raise InvalidArgument.field("open", "must be the first message", reason="OPEN_EXPECTED")
        pieces = self._forwards.open(
            first.open.instance_id,
            first.open.port_number,
            _sent(request_iterator),
            port_id=first.open.port_id,
        )
        async with aclosing(pieces):
            async for piece in pieces:
                if piece is None:
                    yield instance_service_pb2.ForwardResponse(end=True)
                else:
                    yield instance_service_pb2.ForwardResponse(data=piece)


async def _sent(
    requests: AsyncIterator[instance_service_pb2.ForwardRequest],
) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("action") != "data" or len(request.data) > MAX_PIECE_BYTES:
            raise InvalidArgument.field(
                "data",
                f"must be in every message after the first, with at most {MAX_PIECE_BYTES} bytes",
                reason="DATA_EXPECTED",
            )
        yield request.data


def _message(instance: Instance) -> instance_pb2.Instance:
    message = instance_message(instance)
    message.interfaces.extend(interface_messages(instance.ports))
    return message


def draft_of(message: instance_pb2.Instance) -> InstanceDraft:
    """Read what a user says of an instance."""
    return InstanceDraft(
        name=message.name,
        image_id=message.image_id,
        flavor_id=message.flavor_id,
        vcpus=message.vcpus,
        memory_bytes=message.memory_bytes,
        disk_bytes=message.disk_bytes,
        key_pair_ids=tuple(message.key_pair_ids),
        user_data=message.user_data,
        required_traits=tuple(message.required_traits),
        preferred_traits=tuple(message.preferred_traits),
        forbidden_traits=tuple(message.forbidden_traits),
        zone=message.zone,
        aggregate_id=message.aggregate_id,
        placement_policy=enum_of(POLICIES, message.placement_policy, "instance.placement_policy"),
        labels=dict(message.labels),
        seed=enum_of(_SEEDS, message.seed, "instance.seed"),
        priority=message.priority,
        placement_group_id=message.placement_group_id,
        interfaces=interface_drafts(message),
        no_network=message.no_network,
    )


async def _typed(
    requests: AsyncIterator[instance_service_pb2.AttachConsoleRequest],
) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("action") != "input" or len(request.input) > MAX_PIECE_BYTES:
            raise InvalidArgument.field(
                "input",
                f"must be in every message after the first, with at most {MAX_PIECE_BYTES} bytes",
                reason="INPUT_EXPECTED",
            )
        yield request.input
