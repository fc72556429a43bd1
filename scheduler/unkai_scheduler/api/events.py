"""event.v1.EventService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from unkai.event.v1 import event_pb2, event_service_pb2, event_service_pb2_grpc
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.domain.events import Event
from unkai_scheduler.services.events import EventFilter, EventsService, Progress
from unkai_scheduler.services.listing import Paging


class EventServicer(event_service_pb2_grpc.EventServiceServicer):
    """Events over gRPC."""

    def __init__(self, events: EventsService) -> None:
        self._events = events

    async def ListEvents(
        self, request: event_service_pb2.ListEventsRequest, context: Any
    ) -> event_service_pb2.ListEventsResponse:
        paging = Paging(request.page_size, request.page_token)
        page = await self._events.list(paging, _filter(request))
        return event_service_pb2.ListEventsResponse(
            events=map(event_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def WatchEvents(
        self, request: event_service_pb2.WatchEventsRequest, context: Any
    ) -> AsyncIterator[event_service_pb2.WatchEventsResponse]:
        async for item in self._events.watch(_filter(request), request.after_revision):
            if isinstance(item, Progress):
                yield event_service_pb2.WatchEventsResponse(revision=str(item.revision))
            else:
                yield event_service_pb2.WatchEventsResponse(
                    event=event_message(item), revision=str(item.revision)
                )


def event_message(event: Event) -> event_pb2.Event:
    """Write an event."""
    return event_pb2.Event(
        revision=str(event.revision or ""),
        project_id=event.project_id,
        resource_kind=event.resource_kind,
        resource_id=event.resource_id,
        resource_name=event.resource_name,
        type=event_pb2.Event.Type.Value(f"TYPE_{event.type.value}"),
        state=event.state,
        reason=event.reason,
        message=event.message,
        attributes=dict(event.attributes),
        actor=event.actor,
        request_id=event.request_id,
        create_time=timestamp(event.create_time),
    )


def _filter(
    request: event_service_pb2.ListEventsRequest | event_service_pb2.WatchEventsRequest,
) -> EventFilter:
    return EventFilter(request.project_id, tuple(request.resource_kinds), request.resource_id)
