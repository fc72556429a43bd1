"""Events are watched without a gap; operations are awaited, and cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, an_api, refused
from tests.support.builders import NOON
from unkai.compute.v1 import instance_service_pb2
from unkai.event.v1 import event_pb2, event_service_pb2
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai.operation.v1 import operation_pb2, operation_service_pb2
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.store import events, instances, operations
from unkai_wire.errors import FailedPrecondition

pb = event_service_pb2
op = operation_service_pb2


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def a_project(api: Api, name: str, **request: Any) -> project_pb2.Project:
    made = project_service_pb2.CreateProjectRequest(
        project=project_pb2.Project(name=name), **request
    )
    return (await api.projects.CreateProject(made)).project


async def next_event(watch: Any) -> event_pb2.Event:
    while True:
        answer = await watch.read()
        if answer.HasField("event"):
            return answer.event


async def test_a_watch_says_at_once_where_it_begins(api: Api) -> None:
    await a_project(api, "before")
    await api.stamp()
    watch = api.events.WatchEvents(pb.WatchEventsRequest())
    async with asyncio.timeout(5):
        first = await watch.read()
    listed = await api.events.ListEvents(pb.ListEventsRequest())
    assert not first.HasField("event")
    assert first.revision == listed.revision == listed.events[0].revision
    watch.cancel()


async def test_a_watch_sends_each_event_once_with_who_and_why(api: Api) -> None:
    watch = api.events.WatchEvents(pb.WatchEventsRequest())
    await watch.read()
    project = await a_project(api, "shop", request_id="r-1")
    await api.stamp()
    await a_project(api, "bank")
    await api.stamp()
    async with asyncio.timeout(5):
        first, second = await next_event(watch), await next_event(watch)
    assert (first.resource_kind, first.resource_id) == ("project", project.id)
    assert (first.actor, first.request_id) == ("local", "r-1")
    assert first.type == event_pb2.Event.TYPE_CREATED
    assert second.resource_name == "bank"
    watch.cancel()


async def test_a_watch_resumed_from_a_revision_misses_nothing(api: Api) -> None:
    names = [f"p-{n}" for n in range(5)]
    for name in names:
        await a_project(api, name)
    await api.stamp()
    listed = (await api.events.ListEvents(pb.ListEventsRequest())).events
    third = next(e for e in listed if e.resource_name == "p-2")
    watch = api.events.WatchEvents(pb.WatchEventsRequest(after_revision=third.revision))
    async with asyncio.timeout(5):
        assert [(await next_event(watch)).resource_name for _ in range(2)] == ["p-3", "p-4"]
    watch.cancel()


async def test_a_watch_is_filtered_and_still_moves_on(api: Api) -> None:
    wanted = await a_project(api, "wanted")
    watch = api.events.WatchEvents(
        pb.WatchEventsRequest(resource_kinds=["project"], project_id=wanted.id)
    )
    await watch.read()
    await a_project(api, "other")
    change = project_service_pb2.UpdateProjectRequest(
        project=project_pb2.Project(id=wanted.id, description="ours")
    )
    change.update_mask.paths.append("description")
    await api.projects.UpdateProject(change)
    await api.stamp()
    async with asyncio.timeout(5):
        first = await next_event(watch)
        second = await next_event(watch)
    assert [e.type for e in (first, second)] == [
        event_pb2.Event.TYPE_CREATED,
        event_pb2.Event.TYPE_UPDATED,
    ]
    watch.cancel()


@pytest.mark.parametrize("revision", ["1.999", "7.0"])
async def test_a_revision_of_another_history_is_gone(api: Api, revision: str) -> None:
    watch = api.events.WatchEvents(pb.WatchEventsRequest(after_revision=revision))
    caught = await refused(watch.read())
    assert (type(caught), caught.reason) == (FailedPrecondition, "REVISION_GONE")


async def test_an_unknown_kind_is_refused(api: Api) -> None:
    request = pb.ListEventsRequest(resource_kinds=["node"])
    assert (await refused(api.events.ListEvents(request))).reason == "UNKNOWN_KIND"


async def test_events_are_listed_newest_first_in_pages(api: Api) -> None:
    for n in range(5):
        await a_project(api, f"p-{n}")
    await api.stamp()
    request = pb.ListEventsRequest(page_size=2, resource_kinds=["project"])
    seen: list[str] = []
    while True:
        page = await api.events.ListEvents(request)
        seen += [e.resource_name for e in page.events]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [f"p-{n}" for n in reversed(range(5))]


async def test_a_wait_ends_with_the_operation(api: Api) -> None:
    created = await api.create("web")
    request = op.WaitOperationRequest(operation_id=created.operation.id)
    request.timeout.seconds = 20
    waiting = asyncio.ensure_future(_settled(api.operations.WaitOperation(request)))
    await api.settle(created.instance.id)
    async with asyncio.timeout(5):
        ended = (await waiting).operation
    assert ended.state == operation_pb2.Operation.STATE_SUCCEEDED


async def _settled(call: Any) -> Any:
    return await call


async def test_a_wait_returns_what_there_is_when_its_time_is_up(api: Api) -> None:
    created = await api.create("web")
    request = op.WaitOperationRequest(operation_id=created.operation.id)
    request.timeout.nanos = 1
    answer = await api.operations.WaitOperation(request)
    assert answer.operation.state == operation_pb2.Operation.STATE_PENDING


async def test_a_wait_returns_early_when_there_is_news(api: Api) -> None:
    created = await api.create("web")

    def progress(conn: Any) -> None:
        row = operations.get(conn, created.operation.id)
        assert row is not None
        later = NOON + timedelta(seconds=1)
        operations.replace(conn, replace(row, progress_message="defining", update_time=later))

    await api.lead(progress)
    request = op.WaitOperationRequest(
        operation_id=created.operation.id,
        seen_update_time=created.operation.update_time.ToJsonString(),
    )
    async with asyncio.timeout(5):
        answer = await api.operations.WaitOperation(request)
    assert answer.operation.progress_message == "defining"


@pytest.mark.parametrize(("seconds", "seen"), [(61, ""), (-1, ""), (1, "yesterday")])
async def test_a_wait_s_fields_are_checked(api: Api, seconds: int, seen: str) -> None:
    created = await api.create("web")
    request = op.WaitOperationRequest(operation_id=created.operation.id, seen_update_time=seen)
    request.timeout.seconds = seconds
    caught = await refused(api.operations.WaitOperation(request))
    assert caught.reason in ("INVALID_DURATION", "INVALID_TIME")


async def test_a_cancel_asks_the_leader_and_asking_twice_changes_nothing(api: Api) -> None:
    created = await api.create("web")
    ident = created.instance.id
    await api.lead(
        lambda c: instances.replace(c, replace(instances.get(c, ident), due_time=None), etag=None)
    )  # type: ignore[type-var]
    request = op.CancelOperationRequest(operation_id=created.operation.id)
    first = (await api.operations.CancelOperation(request)).operation
    again = (await api.operations.CancelOperation(request)).operation

    assert first.HasField("cancel_requested_time")
    assert again == first
    row = await api.uow.read(lambda c: instances.get(c, ident))
    assert row is not None
    assert row.due_time == NOON


async def test_cancelling_what_has_ended_changes_nothing(api: Api) -> None:
    created = await api.create("web")
    await api.settle(created.instance.id)
    request = op.CancelOperationRequest(operation_id=created.operation.id)
    ended = (await api.operations.CancelOperation(request)).operation
    assert not ended.HasField("cancel_requested_time")
    row = await api.uow.read(lambda c: operations.get(c, created.operation.id))
    assert row is not None
    assert row.state is OperationState.SUCCEEDED


async def test_an_operation_that_a_delete_ends_says_so_to_those_who_watch(api: Api) -> None:
    created = await api.create("web")
    watch = api.events.WatchEvents(pb.WatchEventsRequest(resource_kinds=["operation"]))
    await watch.read()
    await api.instances.DeleteInstance(
        instance_service_pb2.DeleteInstanceRequest(
            instance_id=created.instance.id, request_id="delete-1"
        )
    )
    await api.stamp()
    async with asyncio.timeout(5):
        event = await next_event(watch)
    watch.cancel()
    assert (event.resource_id, event.resource_name) == (created.operation.id, "web")
    assert (event.state, event.reason) == ("CANCELLED", "INSTANCE_DELETED")
    assert (event.project_id, event.request_id) == (created.instance.project_id, "delete-1")
    assert dict(event.attributes) == {
        "verb": "CREATE",
        "resource_kind": "instance",
        "resource_id": created.instance.id,
    }


async def test_operations_are_listed_newest_first_and_filtered(api: Api) -> None:
    one = await api.create("one")
    two = await api.create("two")
    await api.settle(one.instance.id)
    every = await api.operations.ListOperations(op.ListOperationsRequest())
    active = await api.operations.ListOperations(op.ListOperationsRequest(active_only=True))
    of_one = await api.operations.ListOperations(
        op.ListOperationsRequest(resource_id=one.instance.id)
    )
    assert [o.id for o in every.operations] == [two.operation.id, one.operation.id]
    assert [o.id for o in active.operations] == [two.operation.id]
    assert [o.id for o in of_one.operations] == [one.operation.id]


async def test_silent_watches_read_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    watches = [api.events.WatchEvents(pb.WatchEventsRequest()) for _ in range(20)]
    for watch in watches:
        await watch.read()
    reads = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        return after(*arguments, **options)

    after = events.after
    monkeypatch.setattr(events, "after", counted)
    await asyncio.sleep(1.0)
    idle = reads
    project = await a_project(api, "news")
    await api.stamp()
    seen = [await next_event(watch) for watch in watches]
    for watch in watches:
        watch.cancel()
    assert idle == 0
    assert {event.resource_id for event in seen} == {project.id}
