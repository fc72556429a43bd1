"""Batches of new instances, over gRPC: all their rows, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.api import MIB, Api, an_api, refused
from tests.support.network_api import read
from unkai.compute.v1 import instance_pb2, instance_service_pb2
from unkai.operation.v1 import operation_pb2
from unkai_scheduler.services.events import EventFilter
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.store import instances, operations, ports
from unkai_wire.errors import AlreadyExists, NotFound

Interface = instance_pb2.Instance.Interface


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def batch(api: Api, count: int, name: str = "web", **changes: Any) -> Any:
    """Ask for a batch of one CPU and 64 MiB each."""
    request = {key: changes.pop(key) for key in ("request_id", "all_or_nothing") if key in changes}
    if "image_id" not in changes:
        changes["image_id"] = (await api.a_ready_image(f"image-of-{name}")).id
    wanted = instance_pb2.Instance(name=name, vcpus=1, memory_bytes=64 * MIB, **changes)
    return await api.instances.BatchCreateInstances(
        instance_service_pb2.BatchCreateInstancesRequest(instance=wanted, count=count, **request)
    )


async def rows(api: Api) -> list[Any]:
    found = await read(api, lambda conn: instances.list_page(conn, after=None, limit=1000))
    return sorted(found, key=lambda row: row.id)


async def test_each_has_a_number_ports_of_its_own_and_an_operation(api: Api) -> None:
    answer = await batch(api, 12, labels={"tier": "front"}, priority=7, user_data=b"#!/bin/sh")

    names = [f"web-{number}" for number in range(1, 13)]
    assert [one.name for one in answer.instances] == names
    assert [one.resource_id for one in answer.operations] == [one.id for one in answer.instances]
    assert {one.state for one in answer.operations} == {operation_pb2.Operation.STATE_PENDING}
    assert {one.priority for one in answer.instances} == {7}
    assert {one.user_data for one in answer.instances} == {b""}
    assert len({one.etag for one in answer.instances}) == 12
    addresses = [
        fixed.address for one in answer.instances for fixed in one.interfaces[0].fixed_addresses
    ]
    assert len(set(addresses)) == 24
    stored = await rows(api)
    assert [(row.spec.name, row.gang_id) for row in stored] == [(name, "") for name in names]
    told = await read(api, lambda conn: ports.of_owners(conn, [row.id for row in stored]))
    assert [len(told[row.id]) for row in stored] == [1] * 12
    kept = await read(api, lambda conn: instances.user_data(conn, stored[11].id))
    assert kept == b"#!/bin/sh"
    selected = await api.instances.ListInstances(
        instance_service_pb2.ListInstancesRequest(label_selector={"tier": "front"})
    )
    assert len(selected.instances) == 12
    assert api.leading.wakes == 1


async def test_a_gang_knows_itself_and_its_first_comes_first(api: Api) -> None:
    answer = await batch(api, 3, no_network=True, all_or_nothing=True)

    stored = await rows(api)
    assert [row.id for row in stored] == [one.id for one in answer.instances]
    assert {row.gang_id for row in stored} == {answer.instances[0].id}
    waiting = await read(api, lambda conn: instances.waiting_of_gang(conn, stored[0].id))
    assert [row.id for row in waiting] == [row.id for row in stored]


async def test_a_name_that_is_taken_refuses_the_whole(api: Api) -> None:
    taken = (await api.create("web-3", no_network=True)).instance

    refusal = await refused(batch(api, 5, image_id=taken.image_id))
    assert isinstance(refusal, AlreadyExists)
    assert refusal.message == "instance web-3 already exists"

    assert [row.id for row in await rows(api)] == [taken.id]
    assert len(await read(api, _operations)) == 1
    assert await read(api, lambda conn: ports.of_owners(conn, [taken.id])) == {}


def _operations(conn: Any) -> list[Any]:
    return operations.list_page(conn, after=None, limit=100)


async def test_the_same_request_is_answered_once(api: Api) -> None:
    image_id = (await api.a_ready_image()).id
    first = await batch(api, 3, image_id=image_id, request_id="again")
    second = await batch(api, 3, image_id=image_id, request_id="again")

    assert first == second
    assert len(await rows(api)) == 3
    other = batch(api, 4, image_id=image_id, request_id="again")
    assert (await refused(other)).reason == "REQUEST_ID_REUSED"


async def test_what_is_unknown_makes_nothing(api: Api) -> None:
    refusal = await refused(batch(api, 3, image_id="img-01hf7yat00e008000000000001"))
    assert isinstance(refusal, NotFound)
    assert await rows(api) == []


async def test_several_cannot_share_a_port_or_an_address(api: Api) -> None:
    image_id = (await api.a_ready_image()).id
    fixed = Interface(fixed_addresses=[{"address": "10.0.0.9"}])
    for interface, field in (
        (Interface(port_id="prt-01hf7yat00e008000000000001"), "port_id"),
        (fixed, "fixed_addresses"),
    ):
        asked = batch(api, 2, image_id=image_id, interfaces=[interface])
        refusal = await refused(asked)
        assert refusal.reason == "NOT_FOR_SEVERAL"
        assert refusal.metadata["field"] == f"instance.interfaces[0].{field}"


async def test_the_longest_name_counts(api: Api) -> None:
    fine: dict[str, Any] = {"image_id": (await api.a_ready_image()).id, "no_network": True}
    assert len((await batch(api, 9, name="a" * 61, **fine)).instances) == 9
    refusal = await refused(batch(api, 10, name="b" * 61, **fine))
    assert f"{'b' * 61}-10" in refusal.message


async def test_events_tell_of_each(api: Api) -> None:
    await batch(api, 3, no_network=True)
    await api.stamp()
    page = await api.services.events.list(Paging(), EventFilter(kinds=("instance",)))
    assert [event.resource_name for event in page.rows] == ["web-3", "web-2", "web-1"]
