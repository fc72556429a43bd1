"""network.v1.ReachabilityService."""

from __future__ import annotations

from typing import Any

from unkai.network.v1 import (
    reachability_pb2,
    reachability_service_pb2,
    reachability_service_pb2_grpc,
    security_group_pb2,
)
from unkai_scheduler.api.fields import enum_of
from unkai_scheduler.domain.reachability import Hop, Question, Reachability
from unkai_scheduler.domain.security_groups import Protocol
from unkai_scheduler.services.reachability import ReachabilityExplained

_Group = security_group_pb2.SecurityGroup
_PROTOCOLS = {
    int(_Group.PROTOCOL_UNSPECIFIED): Protocol.ICMP,
    int(_Group.PROTOCOL_TCP): Protocol.TCP,
    int(_Group.PROTOCOL_UDP): Protocol.UDP,
    int(_Group.PROTOCOL_ICMP): Protocol.ICMP,
    int(_Group.PROTOCOL_SCTP): Protocol.SCTP,
}


class ReachabilityServicer(reachability_service_pb2_grpc.ReachabilityServiceServicer):
    """Reachability over gRPC."""

    def __init__(self, reachability: ReachabilityExplained) -> None:
        self._reachability = reachability

    async def Explain(
        self, request: reachability_service_pb2.ExplainRequest, context: Any
    ) -> reachability_service_pb2.ExplainResponse:
        found = await self._reachability.explain(_question(request), confirm=request.confirm)
        return reachability_service_pb2.ExplainResponse(reachability=_message(found))


def _question(request: reachability_service_pb2.ExplainRequest) -> Question:
    return Question(
        source_port_id=request.source_port_id,
        source_address=request.source_address,
        destination_address=request.destination_address,
        protocol=enum_of(_PROTOCOLS, request.protocol, "protocol"),
        port_number=request.port_number,
        source_network_id=request.source_network_id,
    )


def _message(found: Reachability) -> reachability_pb2.Reachability:
    kind = reachability_pb2.Reachability
    return kind(
        verdict=kind.Verdict.Value(f"VERDICT_{found.verdict.value}"),
        reason=found.reason,
        summary=found.summary,
        fix=found.fix,
        hops=map(_hop, found.hops),
        trace=found.trace,
    )


def _hop(hop: Hop) -> reachability_pb2.Reachability.Hop:
    return reachability_pb2.Reachability.Hop(
        resource_kind=hop.kind,
        resource_id=hop.id,
        resource_name=hop.name,
        message=hop.message,
        dropped=hop.dropped,
        answer=hop.answer,
        packet_count=hop.packet_count,
    )
