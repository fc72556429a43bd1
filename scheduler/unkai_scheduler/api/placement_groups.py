"""compute.v1.PlacementGroupService."""

from __future__ import annotations

from typing import Any

from unkai.compute.v1 import (
    placement_group_pb2,
    placement_group_service_pb2,
    placement_group_service_pb2_grpc,
)
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.api.fields import enum_of
from unkai_scheduler.domain.placement_groups import (
    GroupPolicy,
    GroupScope,
    PlacementGroup,
    Strictness,
)
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.services.placement_groups import PlacementGroupDraft, PlacementGroupsService

_Message = placement_group_pb2.PlacementGroup
_POLICIES: dict[int, GroupPolicy | None] = {
    int(_Message.POLICY_UNSPECIFIED): None,
    int(_Message.POLICY_AFFINITY): GroupPolicy.AFFINITY,
    int(_Message.POLICY_ANTI_AFFINITY): GroupPolicy.ANTI_AFFINITY,
}
_STRICTNESSES = {
    int(_Message.STRICTNESS_UNSPECIFIED): Strictness.HARD,
    int(_Message.STRICTNESS_HARD): Strictness.HARD,
    int(_Message.STRICTNESS_SOFT): Strictness.SOFT,
}
_SCOPES = {
    int(_Message.SCOPE_UNSPECIFIED): GroupScope.HOST,
    int(_Message.SCOPE_HOST): GroupScope.HOST,
    int(_Message.SCOPE_ZONE): GroupScope.ZONE,
}


class PlacementGroupServicer(placement_group_service_pb2_grpc.PlacementGroupServiceServicer):
    """Placement groups over gRPC."""

    def __init__(self, placement_groups: PlacementGroupsService) -> None:
        self._placement_groups = placement_groups

    async def CreatePlacementGroup(
        self, request: placement_group_service_pb2.CreatePlacementGroupRequest, context: Any
    ) -> placement_group_service_pb2.CreatePlacementGroupResponse:
        group = await self._placement_groups.create(
            call_of(request), request.project_id, _draft(request.placement_group)
        )
        return placement_group_service_pb2.CreatePlacementGroupResponse(
            placement_group=placement_group_message(group)
        )

    async def GetPlacementGroup(
        self, request: placement_group_service_pb2.GetPlacementGroupRequest, context: Any
    ) -> placement_group_service_pb2.GetPlacementGroupResponse:
        group = await self._placement_groups.get(request.placement_group_id)
        return placement_group_service_pb2.GetPlacementGroupResponse(
            placement_group=placement_group_message(group)
        )

    async def ListPlacementGroups(
        self, request: placement_group_service_pb2.ListPlacementGroupsRequest, context: Any
    ) -> placement_group_service_pb2.ListPlacementGroupsResponse:
        page = await self._placement_groups.list(
            Paging(request.page_size, request.page_token),
            project_id=request.project_id,
            name=request.name,
        )
        return placement_group_service_pb2.ListPlacementGroupsResponse(
            placement_groups=map(placement_group_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdatePlacementGroup(
        self, request: placement_group_service_pb2.UpdatePlacementGroupRequest, context: Any
    ) -> placement_group_service_pb2.UpdatePlacementGroupResponse:
        group = await self._placement_groups.update(
            call_of(request),
            request.placement_group.id,
            _draft(request.placement_group),
            request.update_mask.paths,
            request.placement_group.etag,
        )
        return placement_group_service_pb2.UpdatePlacementGroupResponse(
            placement_group=placement_group_message(group)
        )

    async def DeletePlacementGroup(
        self, request: placement_group_service_pb2.DeletePlacementGroupRequest, context: Any
    ) -> placement_group_service_pb2.DeletePlacementGroupResponse:
        await self._placement_groups.delete(
            call_of(request), request.placement_group_id, request.etag
        )
        return placement_group_service_pb2.DeletePlacementGroupResponse()


def placement_group_message(group: PlacementGroup) -> placement_group_pb2.PlacementGroup:
    """Write a placement group."""
    return _Message(
        id=group.id,
        project_id=group.project_id,
        name=group.name,
        labels=dict(group.labels),
        policy=_Message.Policy.Value(f"POLICY_{group.policy.value}"),
        strictness=_Message.Strictness.Value(f"STRICTNESS_{group.strictness.value}"),
        scope=_Message.Scope.Value(f"SCOPE_{group.scope.value}"),
        max_per_place=group.max_per_place,
        instance_ids=group.instance_ids,
        etag=group.etag,
        create_time=timestamp(group.create_time),
        update_time=timestamp(group.update_time),
    )


def _draft(message: placement_group_pb2.PlacementGroup) -> PlacementGroupDraft:
    return PlacementGroupDraft(
        name=message.name,
        policy=enum_of(_POLICIES, message.policy, "placement_group.policy"),
        strictness=enum_of(_STRICTNESSES, message.strictness, "placement_group.strictness"),
        scope=enum_of(_SCOPES, message.scope, "placement_group.scope"),
        max_per_place=message.max_per_place,
        labels=dict(message.labels),
    )
