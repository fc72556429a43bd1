"""Projects and flavors over gRPC: made, changed, listed, removed when nothing needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.api import MIB, Api, an_api, an_ssh_key, refused
from unkai.compute.v1 import (
    flavor_pb2,
    flavor_service_pb2,
    key_pair_pb2,
    key_pair_service_pb2,
)
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai_wire.errors import AlreadyExists, InvalidArgument, NotFound

projects_pb, flavors_pb, keys_pb = project_service_pb2, flavor_service_pb2, key_pair_service_pb2


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def a_project(api: Api, name: str = "shop", **request: Any) -> project_pb2.Project:
    project = project_pb2.Project(name=name, description="ours")
    made = projects_pb.CreateProjectRequest(project=project, **request)
    return (await api.projects.CreateProject(made)).project


async def test_the_default_project_exists_and_stays(api: Api) -> None:
    page = await api.projects.ListProjects(projects_pb.ListProjectsRequest(name="default"))
    (default,) = page.projects
    delete = projects_pb.DeleteProjectRequest(project_id=default.id)
    rename = projects_pb.UpdateProjectRequest(
        project=project_pb2.Project(id=default.id, name="other")
    )
    rename.update_mask.paths.append("name")
    assert (await refused(api.projects.DeleteProject(delete))).reason == "PROJECT_IS_DEFAULT"
    assert (await refused(api.projects.UpdateProject(rename))).reason == "PROJECT_IS_DEFAULT"


async def test_a_project_with_something_in_it_stays(api: Api) -> None:
    project = await a_project(api)
    key = key_pair_pb2.KeyPair(name="me", public_key=an_ssh_key())
    made = keys_pb.CreateKeyPairRequest(project_id=project.id, key_pair=key)
    key_id = (await api.key_pairs.CreateKeyPair(made)).key_pair.id
    delete = projects_pb.DeleteProjectRequest(project_id=project.id)
    caught = await refused(api.projects.DeleteProject(delete))
    assert (caught.reason, caught.metadata["owns"]) == ("PROJECT_IN_USE", "key pairs")

    await api.key_pairs.DeleteKeyPair(keys_pb.DeleteKeyPairRequest(key_pair_id=key_id))
    await api.projects.DeleteProject(delete)
    gone = await refused(
        api.projects.GetProject(projects_pb.GetProjectRequest(project_id=project.id))
    )
    assert type(gone) is NotFound


async def test_a_project_s_name_is_taken_once(api: Api) -> None:
    await a_project(api)
    caught = await refused(a_project(api))
    assert (type(caught), caught.reason) == (AlreadyExists, "PROJECT_EXISTS")


async def test_a_removal_repeated_with_its_request_id_succeeds_again(api: Api) -> None:
    project = await a_project(api)
    delete = projects_pb.DeleteProjectRequest(project_id=project.id, request_id="r1")
    await api.projects.DeleteProject(delete)
    await api.projects.DeleteProject(delete)


async def test_only_the_masked_fields_change(api: Api) -> None:
    project = await a_project(api)
    change = projects_pb.UpdateProjectRequest(
        project=project_pb2.Project(id=project.id, name="", description="theirs")
    )
    change.update_mask.paths.append("description")
    changed = (await api.projects.UpdateProject(change)).project
    assert (changed.name, changed.description) == ("shop", "theirs")
    assert changed.etag != project.etag


async def test_a_flavor_s_figures_are_checked_together(api: Api) -> None:
    flavor = flavor_pb2.Flavor(name="x", vcpus=257, memory_bytes=MIB + 1, disk_bytes=5)
    caught = await refused(api.flavors.CreateFlavor(flavors_pb.CreateFlavorRequest(flavor=flavor)))
    assert isinstance(caught, InvalidArgument)
    assert {f for f, _ in caught.violations} == {
        "flavor.vcpus",
        "flavor.memory_bytes",
        "flavor.disk_bytes",
    }


async def test_a_flavor_is_renamed_and_removed(api: Api) -> None:
    flavor = flavor_pb2.Flavor(name="mine", vcpus=1, memory_bytes=64 * MIB)
    made = (await api.flavors.CreateFlavor(flavors_pb.CreateFlavorRequest(flavor=flavor))).flavor
    change = flavors_pb.UpdateFlavorRequest(
        flavor=flavor_pb2.Flavor(id=made.id, name="ours", etag=made.etag)
    )
    change.update_mask.paths.append("name")
    renamed = (await api.flavors.UpdateFlavor(change)).flavor
    stale = flavors_pb.DeleteFlavorRequest(flavor_id=made.id, etag=made.etag)
    assert (await refused(api.flavors.DeleteFlavor(stale))).reason == "ETAG_MISMATCH"
    await api.flavors.DeleteFlavor(
        flavors_pb.DeleteFlavorRequest(flavor_id=made.id, etag=renamed.etag)
    )
    page = await api.flavors.ListFlavors(flavors_pb.ListFlavorsRequest(name="ours"))
    assert not page.flavors


async def test_a_key_pair_shows_its_fingerprint(api: Api) -> None:
    key = key_pair_pb2.KeyPair(name="me", public_key=an_ssh_key())
    made = await api.key_pairs.CreateKeyPair(keys_pb.CreateKeyPairRequest(key_pair=key))
    assert made.key_pair.fingerprint.startswith("SHA256:")
    listed = await api.key_pairs.ListKeyPairs(keys_pb.ListKeyPairsRequest(name="me"))
    assert [k.id for k in listed.key_pairs] == [made.key_pair.id]
