"""host.v1.AuditService."""

from __future__ import annotations

from typing import Any

from unkai.host.v1 import audit_pb2, audit_service_pb2, audit_service_pb2_grpc
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.fields import enum_of
from unkai_scheduler.domain.findings import Finding, FindingKind
from unkai_scheduler.services.audits import AuditsService
from unkai_scheduler.services.listing import Paging

MAX_UNSEEN = 100
_MOST_VCPUS = (1 << 31) - 1
_KINDS = {int(audit_pb2.Finding.Kind.Value(f"KIND_{kind.name}")): kind for kind in FindingKind}


class AuditServicer(audit_service_pb2_grpc.AuditServiceServicer):
    """Audits over gRPC."""

    def __init__(self, audits: AuditsService) -> None:
        self._audits = audits

    async def ListFindings(
        self, request: audit_service_pb2.ListFindingsRequest, context: Any
    ) -> audit_service_pb2.ListFindingsResponse:
        found = await self._audits.list(
            Paging(request.page_size, request.page_token),
            kinds=[enum_of(_KINDS, number, "kinds") for number in request.kinds],
            host_id=request.host_id,
        )
        audited = found.audited
        return audit_service_pb2.ListFindingsResponse(
            findings=map(finding_message, found.page.rows),
            next_page_token=found.page.next_token,
            audit=audit_pb2.Audit(
                audit_time=timestamp(audited.audit_time),
                unseen_hosts=audited.unseen_hosts[:MAX_UNSEEN],
                unseen_host_count=len(audited.unseen_hosts),
            ),
        )


def finding_message(finding: Finding) -> audit_pb2.Finding:
    """Write a finding."""
    kind = audit_pb2.Finding
    return kind(
        kind=kind.Kind.Value(f"KIND_{finding.kind.name}"),
        host_id=finding.host_id,
        host_name=finding.host_name,
        instance_id=finding.instance_id,
        instance_name=finding.name,
        project_id=finding.project_id,
        machine_state=finding.machine_state,
        vcpus=min(finding.vcpus, _MOST_VCPUS),
        memory_bytes=finding.memory_bytes,
        generation=finding.generation,
        message=finding.message,
        remedy=kind.Remedy.Value(f"REMEDY_{finding.remedy.name}"),
        fix=finding.fix,
        resource_kind=finding.resource_kind,
        resource_id=finding.resource_id,
    )
