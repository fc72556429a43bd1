"""operation.v1.OperationService."""

from __future__ import annotations

from typing import Any

from unkai.operation.v1 import operation_pb2, operation_service_pb2, operation_service_pb2_grpc
from unkai_scheduler.agents.convert import status_message, timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.api.fields import seconds_of
from unkai_scheduler.domain.operations import Operation
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.services.operations import OperationsService


class OperationServicer(operation_service_pb2_grpc.OperationServiceServicer):
    """Operations over gRPC."""

    def __init__(self, operations: OperationsService) -> None:
        self._operations = operations

    async def GetOperation(
        self, request: operation_service_pb2.GetOperationRequest, context: Any
    ) -> operation_service_pb2.GetOperationResponse:
        operation = await self._operations.get(request.operation_id)
        return operation_service_pb2.GetOperationResponse(operation=operation_message(operation))

    async def ListOperations(
        self, request: operation_service_pb2.ListOperationsRequest, context: Any
    ) -> operation_service_pb2.ListOperationsResponse:
        page = await self._operations.list(
            Paging(request.page_size, request.page_token),
            project_id=request.project_id,
            resource_id=request.resource_id,
            active_only=request.active_only,
        )
        return operation_service_pb2.ListOperationsResponse(
            operations=map(operation_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def WaitOperation(
        self, request: operation_service_pb2.WaitOperationRequest, context: Any
    ) -> operation_service_pb2.WaitOperationResponse:
        timeout_s = None
        if request.HasField("timeout"):
            timeout_s = seconds_of(request.timeout, "timeout")
        operation = await self._operations.wait(
            request.operation_id, timeout_s, request.seen_update_time
        )
        return operation_service_pb2.WaitOperationResponse(operation=operation_message(operation))

    async def CancelOperation(
        self, request: operation_service_pb2.CancelOperationRequest, context: Any
    ) -> operation_service_pb2.CancelOperationResponse:
        operation = await self._operations.cancel(call_of(request), request.operation_id)
        return operation_service_pb2.CancelOperationResponse(operation=operation_message(operation))


def operation_message(operation: Operation) -> operation_pb2.Operation:
    """Write an operation."""
    kind = operation_pb2.Operation
    return kind(
        id=operation.id,
        project_id=operation.project_id,
        verb=kind.Verb.Value(f"VERB_{operation.verb.value}"),
        resource_kind=operation.resource_kind,
        resource_id=operation.resource_id,
        state=kind.State.Value(f"STATE_{operation.state.value}"),
        progress_message=operation.progress_message,
        progress_percent=operation.progress_percent,
        error=status_message(operation.error),
        queue_position=operation.queue_position,
        cancel_requested_time=timestamp(operation.cancel_requested_time),
        request_id=operation.request_id,
        create_time=timestamp(operation.create_time),
        update_time=timestamp(operation.update_time),
        end_time=timestamp(operation.end_time),
        deadline_time=timestamp(operation.deadline_time),
    )
