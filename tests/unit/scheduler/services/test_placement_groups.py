"""Placement groups over gRPC: made, shown with their members, kept while they have any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from tests.support.api import Api, an_api, refused
from unkai.compute.v1 import placement_group_pb2
from unkai.compute.v1 import placement_group_service_pb2 as pb
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai_scheduler.services.events import EventFilter
from unkai_scheduler.services.listing import Paging
from unkai_wire.errors import AlreadyExists, Conflict, FailedPrecondition, NotFound

Group = placement_group_pb2.PlacementGroup


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def a_group(api: Api, name: str = "web", **changes: Any) -> Group:
    request = {key: changes.pop(key) for key in ("request_id", "project_id") if key in changes}
    wanted = Group(name=name, **({"policy": Group.POLICY_ANTI_AFFINITY} | changes))
    answer = await api.placement_groups.CreatePlacementGroup(
        pb.CreatePlacementGroupRequest(placement_group=wanted, **request)
    )
    return answer.placement_group


async def read(api: Api, ident: str) -> Group:
    request = pb.GetPlacementGroupRequest(placement_group_id=ident)
    return (await api.placement_groups.GetPlacementGroup(request)).placement_group


async def listed(api: Api, **filters: Any) -> list[Group]:
    request = pb.ListPlacementGroupsRequest(**filters)
    return list((await api.placement_groups.ListPlacementGroups(request)).placement_groups)


async def test_a_group_is_as_asked_with_what_was_left_unsaid(api: Api) -> None:
    made = await a_group(api, labels={"tier": "front"})

    assert made.id.startswith("pgr-")
    assert (made.policy, made.strictness, made.scope, made.max_per_place) == (
        Group.POLICY_ANTI_AFFINITY,
        Group.STRICTNESS_HARD,
        Group.SCOPE_HOST,
        1,
    )
    assert await read(api, made.id) == made
    assert (await a_group(api, "z", scope=Group.SCOPE_ZONE)).max_per_place == 0
    near = await a_group(
        api, "near", policy=Group.POLICY_AFFINITY, strictness=Group.STRICTNESS_SOFT
    )
    assert (near.max_per_place, near.strictness) == (0, Group.STRICTNESS_SOFT)
    assert [one.name for one in await listed(api)] == ["near", "web", "z"]
    assert await listed(api, name="web") == [made]


async def test_those_that_name_it_are_its_instances(api: Api) -> None:
    group, other = await a_group(api), await a_group(api, "other")
    first = (await api.create("a", placement_group_id=group.id)).instance
    second = (await api.create("b", placement_group_id=group.id)).instance
    await api.create("c")

    assert first.placement_group_id == group.id
    assert list((await read(api, group.id)).instance_ids) == [first.id, second.id]
    assert [len(one.instance_ids) for one in await listed(api)] == [0, 2]
    assert list((await read(api, other.id)).instance_ids) == []


async def test_a_group_with_members_stays_and_its_refusal_names_them(api: Api) -> None:
    group = await a_group(api)
    image_id = (await api.a_ready_image()).id
    for number in range(7):
        await api.create(f"web-{number}", image_id=image_id, placement_group_id=group.id)

    request = pb.DeletePlacementGroupRequest(placement_group_id=group.id)
    refusal = await refused(api.placement_groups.DeletePlacementGroup(request))

    assert isinstance(refusal, FailedPrecondition)
    assert refusal.reason == "PLACEMENT_GROUP_IN_USE"
    assert refusal.message == (
        "placement group web has members: web-0, web-1, web-2, web-3, web-4 and 2 more"
    )
    assert refusal.fix == "remove these instances first"
    assert refusal.metadata["instances"] == "7"


async def test_an_empty_group_goes_and_so_may_its_project(api: Api) -> None:
    project = (
        await api.projects.CreateProject(
            project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name="lab"))
        )
    ).project
    group = await a_group(api, project_id=project.id)
    remove = project_service_pb2.DeleteProjectRequest(project_id=project.id)
    refusal = await refused(api.projects.DeleteProject(remove))
    assert "placement groups" in refusal.message

    stale = pb.DeletePlacementGroupRequest(placement_group_id=group.id, etag="old")
    assert isinstance(await refused(api.placement_groups.DeletePlacementGroup(stale)), Conflict)
    gone = pb.DeletePlacementGroupRequest(placement_group_id=group.id, etag=group.etag)
    await api.placement_groups.DeletePlacementGroup(gone)

    assert await listed(api) == []
    await api.projects.DeleteProject(remove)


async def test_name_and_labels_change_and_nothing_else(api: Api) -> None:
    group = await a_group(api)

    def asked(*paths: str, **fields: Any) -> Any:
        return api.placement_groups.UpdatePlacementGroup(
            pb.UpdatePlacementGroupRequest(
                placement_group=Group(id=group.id, **fields), update_mask=FieldMask(paths=paths)
            )
        )

    changed = (await asked("name", "labels", name="www", labels={"a": "b"})).placement_group
    assert (changed.name, dict(changed.labels), changed.max_per_place) == ("www", {"a": "b"}, 1)
    assert changed.etag != group.etag
    assert isinstance(await refused(asked("name", name="x", etag=group.etag)), Conflict)
    refusal = await refused(asked("policy", policy=Group.POLICY_AFFINITY))
    assert refusal.reason == "FIELD_NOT_CHANGEABLE"


async def test_a_name_is_one_groups_and_a_request_is_done_once(api: Api) -> None:
    first = await a_group(api, request_id="r1")
    assert await a_group(api, request_id="r1") == first
    assert isinstance(await refused(a_group(api)), AlreadyExists)


async def test_an_instance_comes_only_into_a_group_of_its_project(api: Api) -> None:
    project = (
        await api.projects.CreateProject(
            project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name="lab"))
        )
    ).project
    theirs, image_id = await a_group(api, project_id=project.id), (await api.a_ready_image()).id
    for ident in (theirs.id, "pgr-01hf7yat00e008000000000001"):
        refusal = await refused(api.create("web", image_id=image_id, placement_group_id=ident))
        assert isinstance(refusal, NotFound)
        assert refusal.reason == "PLACEMENT_GROUP_NOT_FOUND"


async def test_events_tell_what_became_of_it(api: Api) -> None:
    group = await a_group(api)
    await api.placement_groups.DeletePlacementGroup(
        pb.DeletePlacementGroupRequest(placement_group_id=group.id)
    )
    await api.stamp()
    page = await api.services.events.list(Paging(), EventFilter(kinds=("placement_group",)))
    assert [event.message for event in page.rows] == [
        "placement group web was removed",
        "placement group web was made",
    ]
