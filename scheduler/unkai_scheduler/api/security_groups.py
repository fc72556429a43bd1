"""network.v1.SecurityGroupService."""

from __future__ import annotations

from typing import Any

from unkai.network.v1 import (
    security_group_pb2,
    security_group_service_pb2,
    security_group_service_pb2_grpc,
)
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.api.fields import enum_of
from unkai_scheduler.domain.security_groups import Direction, Protocol, Rule, SecurityGroup
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.services.security_groups import SecurityGroupDraft, SecurityGroupsService
from unkai_scheduler.services.security_rules import RuleDraft

_Message = security_group_pb2.SecurityGroup
_DIRECTIONS = {
    int(_Message.DIRECTION_UNSPECIFIED): None,
    int(_Message.DIRECTION_INGRESS): Direction.INGRESS,
    int(_Message.DIRECTION_EGRESS): Direction.EGRESS,
}
_VERSIONS = {
    int(_Message.IP_VERSION_UNSPECIFIED): 0,
    int(_Message.IP_VERSION_4): 4,
    int(_Message.IP_VERSION_6): 6,
}
_PROTOCOLS = {
    int(_Message.PROTOCOL_UNSPECIFIED): None,
    int(_Message.PROTOCOL_TCP): Protocol.TCP,
    int(_Message.PROTOCOL_UDP): Protocol.UDP,
    int(_Message.PROTOCOL_ICMP): Protocol.ICMP,
    int(_Message.PROTOCOL_SCTP): Protocol.SCTP,
}


class SecurityGroupServicer(security_group_service_pb2_grpc.SecurityGroupServiceServicer):
    """Security groups over gRPC."""

    def __init__(self, groups: SecurityGroupsService) -> None:
        self._groups = groups

    async def CreateSecurityGroup(
        self, request: security_group_service_pb2.CreateSecurityGroupRequest, context: Any
    ) -> security_group_service_pb2.CreateSecurityGroupResponse:
        group = await self._groups.create(
            call_of(request), request.project_id, _draft(request.security_group)
        )
        return security_group_service_pb2.CreateSecurityGroupResponse(
            security_group=security_group_message(group)
        )

    async def GetSecurityGroup(
        self, request: security_group_service_pb2.GetSecurityGroupRequest, context: Any
    ) -> security_group_service_pb2.GetSecurityGroupResponse:
        group = await self._groups.get(request.security_group_id)
        return security_group_service_pb2.GetSecurityGroupResponse(
            security_group=security_group_message(group)
        )

    async def ListSecurityGroups(
        self, request: security_group_service_pb2.ListSecurityGroupsRequest, context: Any
    ) -> security_group_service_pb2.ListSecurityGroupsResponse:
        page = await self._groups.list(
            Paging(request.page_size, request.page_token),
            project_id=request.project_id,
            name=request.name,
        )
        return security_group_service_pb2.ListSecurityGroupsResponse(
            security_groups=map(security_group_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdateSecurityGroup(
        self, request: security_group_service_pb2.UpdateSecurityGroupRequest, context: Any
    ) -> security_group_service_pb2.UpdateSecurityGroupResponse:
        group = await self._groups.update(
            call_of(request),
            request.security_group.id,
            _draft(request.security_group),
            request.update_mask.paths,
            request.security_group.etag,
        )
        return security_group_service_pb2.UpdateSecurityGroupResponse(
            security_group=security_group_message(group)
        )

    async def DeleteSecurityGroup(
        self, request: security_group_service_pb2.DeleteSecurityGroupRequest, context: Any
    ) -> security_group_service_pb2.DeleteSecurityGroupResponse:
        await self._groups.delete(call_of(request), request.security_group_id, request.etag)
        return security_group_service_pb2.DeleteSecurityGroupResponse()

    async def AddSecurityGroupRule(
        self, request: security_group_service_pb2.AddSecurityGroupRuleRequest, context: Any
    ) -> security_group_service_pb2.AddSecurityGroupRuleResponse:
        added = await self._groups.add_rule(
            call_of(request), request.security_group_id, _rule_draft(request.rule, "rule")
        )
        return security_group_service_pb2.AddSecurityGroupRuleResponse(
            security_group=security_group_message(added.group), rule=rule_message(added.rule)
        )

    async def RemoveSecurityGroupRule(
        self, request: security_group_service_pb2.RemoveSecurityGroupRuleRequest, context: Any
    ) -> security_group_service_pb2.RemoveSecurityGroupRuleResponse:
        group = await self._groups.remove_rule(call_of(request), request.rule_id)
        return security_group_service_pb2.RemoveSecurityGroupRuleResponse(
            security_group=security_group_message(group)
        )


def security_group_message(group: SecurityGroup) -> security_group_pb2.SecurityGroup:
    """Write a security group."""
    return _Message(
        id=group.id,
        project_id=group.project_id,
        name=group.name,
        labels=dict(group.labels),
        etag=group.etag,
        description=group.description,
        rules=map(rule_message, group.rules),
        port_count=group.port_count,
        reconciling=group.reconciling,
        create_time=timestamp(group.create_time),
        update_time=timestamp(group.update_time),
    )


def rule_message(rule: Rule) -> security_group_pb2.SecurityGroup.Rule:
    """Write a rule."""
    protocol = rule.protocol.value if rule.protocol else "UNSPECIFIED"
    return _Message.Rule(
        id=rule.id,
        direction=_Message.Direction.Value(f"DIRECTION_{rule.direction.value}"),
        ip_version=_Message.IpVersion.Value(f"IP_VERSION_{rule.ip_version or 'UNSPECIFIED'}"),
        protocol=_Message.Protocol.Value(f"PROTOCOL_{protocol}"),
        port_first=rule.port_first,
        port_last=rule.port_last,
        icmp_type=rule.icmp_type,
        icmp_code=rule.icmp_code,
        remote_cidr=rule.remote_cidr,
        remote_group_id=rule.remote_group_id,
        description=rule.description,
    )


def _draft(message: security_group_pb2.SecurityGroup) -> SecurityGroupDraft:
    return SecurityGroupDraft(
        name=message.name,
        description=message.description,
        rules=[
            _rule_draft(rule, f"security_group.rules[{number}]")
            for number, rule in enumerate(message.rules)
        ],
        no_default_rules=message.no_default_rules,
        labels=dict(message.labels),
    )


def _rule_draft(rule: security_group_pb2.SecurityGroup.Rule, field: str) -> RuleDraft:
    return RuleDraft(
        direction=enum_of(_DIRECTIONS, rule.direction, f"{field}.direction"),
        ip_version=enum_of(_VERSIONS, rule.ip_version, f"{field}.ip_version"),
        protocol=enum_of(_PROTOCOLS, rule.protocol, f"{field}.protocol"),
        port_first=rule.port_first,
        port_last=rule.port_last,
        icmp_type=rule.icmp_type if rule.HasField("icmp_type") else None,
        icmp_code=rule.icmp_code if rule.HasField("icmp_code") else None,
        remote_cidr=rule.remote_cidr,
        remote_group_id=rule.remote_group_id,
        description=rule.description,
    )
