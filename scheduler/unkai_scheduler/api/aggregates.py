"""host.v1.AggregateService."""

from __future__ import annotations

from typing import Any

from unkai.host.v1 import aggregate_pb2, aggregate_service_pb2, aggregate_service_pb2_grpc
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.domain.aggregates import Aggregate
from unkai_scheduler.services.aggregates import AggregateDraft, AggregatesService
from unkai_scheduler.services.listing import Paging


class AggregateServicer(aggregate_service_pb2_grpc.AggregateServiceServicer):
    """Aggregates over gRPC."""

    def __init__(self, aggregates: AggregatesService) -> None:
        self._aggregates = aggregates

    async def CreateAggregate(
        self, request: aggregate_service_pb2.CreateAggregateRequest, context: Any
    ) -> aggregate_service_pb2.CreateAggregateResponse:
        made = await self._aggregates.create(call_of(request), _draft(request.aggregate))
        return aggregate_service_pb2.CreateAggregateResponse(aggregate=aggregate_message(made))

    async def GetAggregate(
        self, request: aggregate_service_pb2.GetAggregateRequest, context: Any
    ) -> aggregate_service_pb2.GetAggregateResponse:
        found = await self._aggregates.get(request.aggregate_id)
        return aggregate_service_pb2.GetAggregateResponse(aggregate=aggregate_message(found))

    async def ListAggregates(
        self, request: aggregate_service_pb2.ListAggregatesRequest, context: Any
    ) -> aggregate_service_pb2.ListAggregatesResponse:
        paging = Paging(request.page_size, request.page_token)
        page = await self._aggregates.list(paging, name=request.name)
        return aggregate_service_pb2.ListAggregatesResponse(
            aggregates=map(aggregate_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdateAggregate(
        self, request: aggregate_service_pb2.UpdateAggregateRequest, context: Any
    ) -> aggregate_service_pb2.UpdateAggregateResponse:
        changed = await self._aggregates.update(
            call_of(request),
            request.aggregate.id,
            _draft(request.aggregate),
            request.update_mask.paths,
            request.aggregate.etag,
        )
        return aggregate_service_pb2.UpdateAggregateResponse(aggregate=aggregate_message(changed))

    async def DeleteAggregate(
        self, request: aggregate_service_pb2.DeleteAggregateRequest, context: Any
    ) -> aggregate_service_pb2.DeleteAggregateResponse:
        await self._aggregates.delete(call_of(request), request.aggregate_id, request.etag)
        return aggregate_service_pb2.DeleteAggregateResponse()

    async def AddAggregateHosts(
        self, request: aggregate_service_pb2.AddAggregateHostsRequest, context: Any
    ) -> aggregate_service_pb2.AddAggregateHostsResponse:
        changed = await self._aggregates.add_hosts(
            call_of(request), request.aggregate_id, request.host_ids
        )
        return aggregate_service_pb2.AddAggregateHostsResponse(aggregate=aggregate_message(changed))

    async def RemoveAggregateHosts(
        self, request: aggregate_service_pb2.RemoveAggregateHostsRequest, context: Any
    ) -> aggregate_service_pb2.RemoveAggregateHostsResponse:
        changed = await self._aggregates.remove_hosts(
            call_of(request), request.aggregate_id, request.host_ids
        )
        return aggregate_service_pb2.RemoveAggregateHostsResponse(
            aggregate=aggregate_message(changed)
        )


def aggregate_message(row: Aggregate) -> aggregate_pb2.Aggregate:
    """Write an aggregate."""
    return aggregate_pb2.Aggregate(
        id=row.id,
        name=row.name,
        description=row.description,
        labels=dict(row.labels),
        host_ids=row.host_ids,
        project_ids=row.project_ids,
        traits=row.traits,
        cpu_ratio=row.ratios.cpu or 0.0,
        memory_ratio=row.ratios.memory or 0.0,
        disk_ratio=row.ratios.disk or 0.0,
        etag=row.etag,
        create_time=timestamp(row.create_time),
        update_time=timestamp(row.update_time),
    )


def _draft(message: aggregate_pb2.Aggregate) -> AggregateDraft:
    return AggregateDraft(
        name=message.name,
        description=message.description,
        host_ids=tuple(message.host_ids),
        project_ids=tuple(message.project_ids),
        traits=tuple(message.traits),
        cpu_ratio=message.cpu_ratio,
        memory_ratio=message.memory_ratio,
        disk_ratio=message.disk_ratio,
        labels=dict(message.labels),
    )
