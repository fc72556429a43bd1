"""Callers at the same moment: exactly one wins, the others learn why, nothing is half-written."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.api import Api, an_api
from unkai.compute.v1 import (
    flavor_pb2,
    flavor_service_pb2,
    instance_pb2,
    instance_service_pb2,
    key_pair_service_pb2,
)
from unkai.event.v1 import event_service_pb2
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai.operation.v1 import operation_service_pb2
from unkai.storage.v1 import image_pb2, image_service_pb2
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.store import instances
from unkai_scheduler.store.tables import metadata
from unkai_wire.rpc_errors import from_rpc_error

pb = instance_service_pb2
MANY = 24


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with an_api(tmp_path / "a") as served:
        yield served


async def outcomes(calls: Iterable[Awaitable[Any]]) -> tuple[list[Any], Counter[str]]:
    """Await all at once; return the answers, and the reasons of the refusals."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, grpc.RpcError)]
    answers = [result for result in results if not isinstance(result, BaseException)]
    assert len(errors) + len(answers) == len(results), results
    return answers, Counter(from_rpc_error(error).reason for error in errors)


async def rows_of(api: Api, *tables: str) -> dict[str, int]:
    return await api.uow.read(
        lambda conn: {
            name: len(conn.execute(metadata.tables[name].select()).all()) for name in tables
        }
    )


async def test_of_many_creates_of_one_name_one_wins_and_the_others_leave_nothing(api: Api) -> None:
    image = await api.a_ready_image()
    before = await rows_of(api, "events")
    won, lost = await outcomes(
        api.create(
            "web", image_id=image.id, request_id=f"r{n}", labels={"n": str(n)}, no_network=True
        )
        for n in range(MANY)
    )
    after = await rows_of(api, "instances", "operations", "requests", "events", "instance_labels")
    assert len(won) == 1
    assert lost == {"INSTANCE_EXISTS": MANY - 1}
    assert after == {
        "instances": 1,
        "operations": 1,
        "requests": 1,
        "events": before["events"] + 1,
        "instance_labels": 1,
    }


async def test_one_request_sent_by_two_connections_at_once_is_done_once(api: Api) -> None:
    image = await api.a_ready_image()
    instance = instance_pb2.Instance(name="web", image_id=image.id, vcpus=1, memory_bytes=64 << 20)
    request = pb.CreateInstanceRequest(instance=instance, request_id="one")
    address = f"unix:{api.folder / 'api.sock'}"
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as other:
        create = other.unary_unary(
            "/unkai.compute.v1.InstanceService/CreateInstance",
            request_serializer=pb.CreateInstanceRequest.SerializeToString,
            response_deserializer=pb.CreateInstanceResponse.FromString,
        )
        answers, lost = await outcomes(
            [create(request) for _ in range(MANY)]
            + [api.instances.CreateInstance(request) for _ in range(MANY)]
        )
    assert not lost
    assert all(answer == answers[0] for answer in answers)
    assert await rows_of(api, "instances", "operations") == {"instances": 1, "operations": 1}


async def test_a_request_is_answered_as_before_after_its_instance_is_gone(api: Api) -> None:
    image = await api.a_ready_image()
    first = await api.create("web", image_id=image.id, request_id="one")
    await api.lead(lambda conn: instances.delete(conn, first.instance.id))
    assert await api.create("web", image_id=image.id, request_id="one") == first
    assert (await rows_of(api, "instances"))["instances"] == 0


async def test_of_many_updates_under_one_etag_one_wins(api: Api) -> None:
    made = (await api.create("web")).instance
    mask = {"paths": ["labels"]}
    _, lost = await outcomes(
        api.instances.UpdateInstance(
            pb.UpdateInstanceRequest(
                instance=instance_pb2.Instance(id=made.id, etag=made.etag, labels={"n": str(n)}),
                update_mask=mask,
            )
        )
        for n in range(MANY)
    )
    assert lost == {"ETAG_MISMATCH": MANY - 1}


async def test_of_many_acts_on_one_instance_one_begins(api: Api) -> None:
    made = (await api.create("web")).instance
    await api.settle(made.id, state=InstanceState.RUNNING)
    stop = pb.StopInstanceRequest(instance_id=made.id)
    reboot = pb.RebootInstanceRequest(instance_id=made.id)
    won, lost = await outcomes(
        [api.instances.StopInstance(stop) for _ in range(MANY)]
        + [api.instances.RebootInstance(reboot) for _ in range(MANY)]
    )
    assert len(won) == 1
    assert lost == {"OPERATION_IN_PROGRESS": 2 * MANY - 1}


async def test_deleting_while_creating_cancels_the_create_and_all_callers_share_it(
    api: Api,
) -> None:
    created = await api.create("web")
    delete = pb.DeleteInstanceRequest(instance_id=created.instance.id)
    won, lost = await outcomes(api.instances.DeleteInstance(delete) for _ in range(MANY))
    get = operation_service_pb2.GetOperationRequest(operation_id=created.operation.id)
    ended = (await api.operations.GetOperation(get)).operation
    assert not lost
    assert len({answer.operation.id for answer in won}) == 1
    assert ended.error.code == grpc.StatusCode.CANCELLED.value[0]
    assert (await rows_of(api, "operations"))["operations"] == 2


async def test_a_project_is_not_removed_while_something_is_made_in_it(api: Api) -> None:
    for number in range(MANY):
        project = (
            await api.projects.CreateProject(
                project_service_pb2.CreateProjectRequest(
                    project=project_pb2.Project(name=f"p{number}")
                )
            )
        ).project
        made, lost = await outcomes(
            [
                api.projects.DeleteProject(
                    project_service_pb2.DeleteProjectRequest(project_id=project.id)
                ),
                api.images.CreateImage(
                    image_service_pb2.CreateImageRequest(
                        project_id=project.id, image=image_pb2.Image(name="tiny")
                    )
                ),
            ]
        )
        assert len(made) == 1
        assert set(lost) <= {"PROJECT_IN_USE", "PROJECT_NOT_FOUND"}


async def test_a_flavor_that_is_removed_while_it_is_named_is_named_by_nobody(api: Api) -> None:
    image = await api.a_ready_image()
    for number in range(MANY):
        flavor = (
            await api.flavors.CreateFlavor(
                flavor_service_pb2.CreateFlavorRequest(
                    flavor=flavor_pb2.Flavor(name=f"f{number}", vcpus=1, memory_bytes=64 << 20)
                )
            )
        ).flavor
        made, lost = await outcomes(
            [
                api.flavors.DeleteFlavor(
                    flavor_service_pb2.DeleteFlavorRequest(flavor_id=flavor.id)
                ),
                api.create(f"web{number}", image_id=image.id, flavor_id=flavor.id),
            ]
        )
        assert len(made) == 1
        assert set(lost) <= {"FLAVOR_IN_USE", "FLAVOR_NOT_FOUND"}


@pytest.mark.parametrize("noun", ["projects", "flavors", "key_pairs", "images", "operations"])
async def test_what_was_listed_can_be_watched_from_there(api: Api, noun: str) -> None:
    await api.a_ready_image()
    await api.stamp()
    requests = {
        "projects": project_service_pb2.ListProjectsRequest(),
        "flavors": flavor_service_pb2.ListFlavorsRequest(),
        "key_pairs": key_pair_service_pb2.ListKeyPairsRequest(),
        "images": image_service_pb2.ListImagesRequest(),
        "operations": operation_service_pb2.ListOperationsRequest(),
    }
    method = "List" + "".join(word.capitalize() for word in noun.split("_"))
    listed = await getattr(getattr(api, noun), method)(requests[noun])
    later = await api.projects.CreateProject(
        project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name="later"))
    )
    await api.stamp()
    watch = api.events.WatchEvents(
        event_service_pb2.WatchEventsRequest(after_revision=listed.revision)
    )
    async with asyncio.timeout(5):
        seen = [await watch.read(), await watch.read()]
    watch.cancel()
    assert seen[1].event.resource_id == later.project.id
