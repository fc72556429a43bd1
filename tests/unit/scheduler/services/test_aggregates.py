"""Aggregates over gRPC: made, changed, listed, removed; what hosts and instances have of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from tests.support.api import Api, an_api, refused
from tests.support.builders import a_host, an_id
from unkai.event.v1 import event_service_pb2
from unkai.host.v1 import aggregate_pb2, aggregate_service_pb2, host_pb2, host_service_pb2
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.services.aggregates import MAX_AGGREGATE_HOSTS
from unkai_scheduler.store import hosts
from unkai_wire.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)

pb = aggregate_service_pb2


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def known_hosts(api: Api, *names: str) -> list[Host]:
    made = [a_host(name=name) for name in names]
    for host in made:
        await api.lead(lambda conn, host=host: hosts.insert(conn, host))
    return made


async def create(api: Api, name: str = "fast", **fields: Any) -> aggregate_pb2.Aggregate:
    request = {"request_id": fields.pop("request_id", "")}
    wanted = aggregate_pb2.Aggregate(name=name, **fields)
    made = pb.CreateAggregateRequest(aggregate=wanted, **request)
    return (await api.aggregates.CreateAggregate(made)).aggregate


async def update(
    api: Api, aggregate: aggregate_pb2.Aggregate, paths: Sequence[str] = (), **fields: Any
) -> aggregate_pb2.Aggregate:
    wanted = aggregate_pb2.Aggregate(id=aggregate.id, etag=aggregate.etag, **fields)
    mask = FieldMask(paths=sorted(paths or fields))
    change = pb.UpdateAggregateRequest(aggregate=wanted, update_mask=mask)
    return (await api.aggregates.UpdateAggregate(change)).aggregate


async def delete(api: Api, aggregate: aggregate_pb2.Aggregate, **more: str) -> None:
    request = pb.DeleteAggregateRequest(aggregate_id=aggregate.id, **more)
    await api.aggregates.DeleteAggregate(request)


async def add(api: Api, aggregate: aggregate_pb2.Aggregate, *ids: str) -> aggregate_pb2.Aggregate:
    request = pb.AddAggregateHostsRequest(aggregate_id=aggregate.id, host_ids=ids)
    return (await api.aggregates.AddAggregateHosts(request)).aggregate


async def remove(
    api: Api, aggregate: aggregate_pb2.Aggregate, *ids: str
) -> aggregate_pb2.Aggregate:
    request = pb.RemoveAggregateHostsRequest(aggregate_id=aggregate.id, host_ids=ids)
    return (await api.aggregates.RemoveAggregateHosts(request)).aggregate


async def host_of(api: Api, host: Host) -> host_pb2.Host:
    request = host_service_pb2.GetHostRequest(host_id=host.id)
    return (await api.hosts.GetHost(request)).host


async def a_project(api: Api, name: str = "shop") -> str:
    request = project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name=name))
    return (await api.projects.CreateProject(request)).project.id


async def test_an_aggregate_is_as_it_was_made_and_its_hosts_show_it(api: Api) -> None:
    one, two, other = await known_hosts(api, "h1", "h2", "h3")
    project = await a_project(api)
    before = await host_of(api, one)
    said = {"traits": ["SSD", "GENERATION_3"], "cpu_ratio": 2.0, "disk_ratio": 1.5}
    made = await create(
        api,
        description="quick ones",
        host_ids=[two.id, one.id, one.id],
        project_ids=[project],
        labels={"rack": "b"},
        request_id="r-1",
        **said,
    )
    again = await create(
        api,
        description="quick ones",
        host_ids=[two.id, one.id, one.id],
        project_ids=[project],
        labels={"rack": "b"},
        request_id="r-1",
        **said,
    )
    shown = (
        await api.aggregates.GetAggregate(pb.GetAggregateRequest(aggregate_id=made.id))
    ).aggregate
    after = await host_of(api, one)

    assert again == made == shown
    assert list(made.host_ids) == sorted((one.id, two.id))
    assert (made.cpu_ratio, made.memory_ratio, made.disk_ratio) == (2.0, 0.0, 1.5)
    assert after.etag != before.etag
    assert list(after.aggregate_ids) == [made.id]
    assert list(after.aggregate_traits) == ["GENERATION_3", "SSD"]
    assert list(after.traits) == list(before.traits)
    assert (after.claimable_vcpus, before.claimable_vcpus) == (one.cpus * 2, one.cpus * 4)
    assert after.claimable_memory_bytes == before.claimable_memory_bytes
    assert after.claimable_disk_bytes == one.disk_bytes * 3 // 2
    assert not (await host_of(api, other)).aggregate_ids


async def test_hosts_come_and_go_and_each_move_is_told(api: Api) -> None:
    one, two = await known_hosts(api, "h1", "h2")
    made = await create(api)
    came = await add(api, made, one.id, two.id)
    same = await add(api, made, one.id)
    etag = (await host_of(api, two)).etag
    left = await remove(api, made, one.id, an_id("host"))
    nothing = await remove(api, made, one.id)
    await api.stamp()
    events = await api.events.ListEvents(event_service_pb2.ListEventsRequest(resource_id=made.id))

    assert list(came.host_ids) == sorted((one.id, two.id))
    assert same == came
    assert list(left.host_ids) == [two.id]
    assert nothing == left
    assert (await host_of(api, two)).etag == etag
    assert [event.message for event in events.events] == [
        "aggregate fast no longer has h1",
        "aggregate fast has h1, h2",
        "aggregate fast was made",
    ]
    unknown = await refused(add(api, made, an_id("host")))
    assert (type(unknown), unknown.reason) == (NotFound, "HOST_NOT_FOUND")


async def test_a_change_reaches_its_hosts_when_it_says_something_else_of_them(api: Api) -> None:
    (host,) = await known_hosts(api, "h1")
    made = await create(api, host_ids=[host.id], traits=["SSD"], memory_ratio=2.0)
    before = (await host_of(api, host)).etag
    described = await update(api, made, description="quick", labels={"a": "b"})
    quiet = (await host_of(api, host)).etag
    changed = await update(api, described, ["traits", "memory_ratio"], traits=["FAST"])
    shown = await host_of(api, host)

    assert quiet == before
    assert (changed.description, list(changed.traits), changed.memory_ratio) == (
        "quick",
        ["FAST"],
        0.0,
    )
    assert shown.etag != before
    assert list(shown.aggregate_traits) == ["FAST"]
    assert shown.claimable_memory_bytes == host.memory_bytes
    late = await refused(update(api, made, name="slow"))
    assert (type(late), late.reason) == (Conflict, "ETAG_MISMATCH")
    fixed = await refused(update(api, changed, host_ids=[]))
    assert fixed.reason == "FIELD_NOT_CHANGEABLE"


async def test_names_are_taken_once_and_listed_in_order(api: Api) -> None:
    for name in ("c", "a", "b"):
        await create(api, name)
    taken = await refused(create(api, "a"))
    first = await api.aggregates.ListAggregates(pb.ListAggregatesRequest(page_size=2))
    token = first.next_page_token
    rest = await api.aggregates.ListAggregates(pb.ListAggregatesRequest(page_token=token))
    named = await api.aggregates.ListAggregates(pb.ListAggregatesRequest(name="b"))

    assert (type(taken), taken.reason) == (AlreadyExists, "AGGREGATE_EXISTS")
    assert [a.name for a in (*first.aggregates, *rest.aggregates)] == ["a", "b", "c"]
    assert [a.name for a in named.aggregates] == ["b"]


async def test_a_page_holds_a_hundred_at_most(api: Api) -> None:
    for number in range(101):
        await create(api, f"a{number}")
    page = await api.aggregates.ListAggregates(pb.ListAggregatesRequest(page_size=1000))
    assert len(page.aggregates) == 100
    assert page.next_page_token


async def test_an_instance_asks_for_an_aggregate_that_is_for_its_project(api: Api) -> None:
    project, other = await a_project(api), await a_project(api, "lab")
    opened = await create(api)
    closed = await create(api, "closed", project_ids=[project])
    image = await api.a_ready_image()
    image_id = {"image_id": image.id}

    free = await api.create("one", aggregate_id=opened.id, **image_id)
    refusal = await refused(api.create("two", aggregate_id=closed.id, **image_id))
    gone = await refused(api.create("two", aggregate_id=an_id("aggregate"), **image_id))
    await update(api, closed, project_ids=[project, other])
    used = await refused(delete(api, opened))

    assert free.instance.aggregate_id == opened.id
    assert (type(refusal), refusal.reason) == (FailedPrecondition, "AGGREGATE_DEDICATED")
    assert refusal.message == "aggregate closed is dedicated to other projects than default"
    assert gone.reason == "AGGREGATE_NOT_FOUND"
    assert (used.reason, used.metadata["instances"]) == ("AGGREGATE_IN_USE", "1")


async def test_a_project_stays_while_an_aggregate_is_dedicated_to_it(api: Api) -> None:
    project = await a_project(api)
    closed = await create(api, project_ids=[project])
    go = project_service_pb2.DeleteProjectRequest(project_id=project)
    caught = await refused(api.projects.DeleteProject(go))
    await update(api, closed, ["project_ids"])
    await api.projects.DeleteProject(go)
    late = await refused(create(api, "late", project_ids=[project]))

    assert caught.reason == "PROJECT_IN_USE"
    assert caught.message == "project shop still has aggregates dedicated to it"
    assert (type(late), late.reason) == (NotFound, "PROJECT_NOT_FOUND")


async def test_a_removed_aggregate_leaves_its_hosts_as_they_were(api: Api) -> None:
    (host,) = await known_hosts(api, "h1")
    made = await create(api, host_ids=[host.id], cpu_ratio=1.0)
    with_it = await host_of(api, host)
    await delete(api, made, request_id="r-1")
    await delete(api, made, request_id="r-1")
    without = await host_of(api, host)

    assert with_it.claimable_vcpus == host.cpus
    assert without.claimable_vcpus == host.cpus * 4
    assert without.etag != with_it.etag
    assert not without.aggregate_ids
    assert type(await refused(delete(api, made))) is NotFound


async def test_what_is_wrong_is_told_at_once(api: Api) -> None:
    caught = await refused(
        create(
            api,
            "Fast",
            description="x" * 513,
            host_ids=["h1"],
            project_ids=["shop"],
            traits=["ssd"],
            cpu_ratio=65.0,
            memory_ratio=float("nan"),
            disk_ratio=-1.0,
        )
    )
    assert isinstance(caught, InvalidArgument)
    assert [field for field, _ in caught.violations] == [
        "aggregate.name",
        "aggregate.description",
        "aggregate.project_ids",
        "aggregate.traits",
        "aggregate.cpu_ratio",
        "aggregate.memory_ratio",
        "aggregate.disk_ratio",
        "aggregate.host_ids",
    ]


async def test_an_aggregate_has_room_for_a_thousand_hosts(api: Api) -> None:
    many = [a_host() for _ in range(MAX_AGGREGATE_HOSTS + 1)]

    def work(conn: Any) -> None:
        for host in many:
            hosts.insert(conn, host)

    await api.lead(work)
    ids = [host.id for host in many]
    made = await create(api, host_ids=ids[:-1])
    full = await refused(add(api, made, ids[-1]))
    over = await refused(create(api, "over", host_ids=ids))

    assert len(made.host_ids) == MAX_AGGREGATE_HOSTS
    assert (type(full), full.reason) == (FailedPrecondition, "AGGREGATE_FULL")
    assert over.reason == "TOO_MANY_IDS"
