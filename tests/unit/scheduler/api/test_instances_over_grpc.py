"""Instances as a client sees them: accepted, listed, changed, removed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import MIB, Api, an_api, an_ssh_key, refused
from unkai.compute.v1 import (
    flavor_pb2,
    flavor_service_pb2,
    instance_pb2,
    instance_service_pb2,
    key_pair_pb2,
    key_pair_service_pb2,
)
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai.operation.v1 import operation_pb2, operation_service_pb2
from unkai.storage.v1 import image_pb2, image_service_pb2
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import InstanceState, Power
from unkai_scheduler.store import hosts, instances
from unkai_wire.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)

State = instance_pb2.Instance
OperationState = operation_pb2.Operation
pb = instance_service_pb2


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def a_project(api: Api, name: str = "other") -> str:
    request = project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name=name))
    return (await api.projects.CreateProject(request)).project.id


async def a_flavor(api: Api, **figures: int) -> str:
    flavor = flavor_pb2.Flavor(name="of-test", vcpus=2, memory_bytes=256 * MIB)
    for name, value in figures.items():
        setattr(flavor, name, value)
    request = flavor_service_pb2.CreateFlavorRequest(flavor=flavor)
    return (await api.flavors.CreateFlavor(request)).flavor.id


async def get(api: Api, ident: str) -> instance_pb2.Instance:
    return (await api.instances.GetInstance(pb.GetInstanceRequest(instance_id=ident))).instance


async def operation(api: Api, ident: str) -> operation_pb2.Operation:
    request = operation_service_pb2.GetOperationRequest(operation_id=ident)
    return (await api.operations.GetOperation(request)).operation


async def test_a_create_is_accepted_with_its_operation_and_wakes_the_leader(api: Api) -> None:
    accepted = await api.create("web", user_data=b"#cloud-config\n", labels={"app": "shop"})

    instance, work = accepted.instance, accepted.operation
    assert instance.state == State.STATE_PROVISIONING
    assert (instance.generation, instance.run_epoch) == (1, 1)
    assert (work.verb, work.state) == (OperationState.VERB_CREATE, OperationState.STATE_PENDING)
    assert work.resource_id == instance.id
    assert instance.user_data == b""
    assert await api.uow.read(lambda c: instances.user_data(c, instance.id)) == b"#cloud-config\n"
    assert api.leading.wakes == 1
    due = await api.uow.read(lambda c: instances.get(c, instance.id))
    assert due is not None
    assert due.due_time is not None


async def test_flavor_figures_are_copied(api: Api) -> None:
    flavor = await a_flavor(api, disk_bytes=100 * MIB)
    instance = (await api.create("web", flavor_id=flavor)).instance
    assert (instance.vcpus, instance.memory_bytes, instance.disk_bytes) == (
        2,
        256 * MIB,
        100 * MIB,
    )


async def test_figures_that_the_flavor_does_not_have_are_refused(api: Api) -> None:
    flavor = await a_flavor(api)
    caught = await refused(api.create("web", flavor_id=flavor, vcpus=4))
    assert caught.reason == "FLAVOR_DISAGREES"


async def test_without_a_disk_size_the_image_s_is_taken_up_to_a_mebibyte(api: Api) -> None:
    image = await api.a_ready_image("odd", 2 * MIB + 512)
    assert (await api.create("web", image_id=image.id)).instance.disk_bytes == 3 * MIB


async def test_a_disk_smaller_than_its_image_is_refused(api: Api) -> None:
    image = await api.a_ready_image("tiny", 2 * MIB)
    caught = await refused(api.create("web", image_id=image.id, disk_bytes=MIB))
    assert (type(caught), caught.reason) == (InvalidArgument, "DISK_TOO_SMALL")


async def test_an_image_without_its_bytes_cannot_be_used(api: Api) -> None:
    request = image_service_pb2.CreateImageRequest(image=image_pb2.Image(name="empty"))
    image = (await api.images.CreateImage(request)).image
    caught = await refused(api.create("web", image_id=image.id))
    assert (type(caught), caught.reason) == (FailedPrecondition, "IMAGE_NOT_READY")


async def test_another_project_s_private_image_does_not_exist(api: Api) -> None:
    project = await a_project(api)
    image = await api.a_ready_image()
    caught = await refused(api.create("web", image_id=image.id, project_id=project))
    assert (type(caught), caught.reason) == (NotFound, "IMAGE_NOT_FOUND")


async def test_a_public_image_serves_every_project(api: Api) -> None:
    project = await a_project(api)
    request = image_service_pb2.CreateImageRequest(
        image=image_pb2.Image(name="all", visibility=image_pb2.Image.VISIBILITY_PUBLIC)
    )
    image = await api.upload((await api.images.CreateImage(request)).image.id, b"\1" * MIB)
    instance = (await api.create("web", image_id=image.id, project_id=project)).instance
    assert instance.project_id == project


async def test_another_project_s_key_does_not_exist(api: Api) -> None:
    project = await a_project(api)
    request = key_pair_service_pb2.CreateKeyPairRequest(
        project_id=project, key_pair=key_pair_pb2.KeyPair(name="me", public_key=an_ssh_key())
    )
    key = (await api.key_pairs.CreateKeyPair(request)).key_pair
    caught = await refused(api.create("web", key_pair_ids=[key.id]))
    assert (type(caught), caught.reason) == (NotFound, "KEY_PAIR_NOT_FOUND")


async def test_what_an_instance_names_cannot_be_removed(api: Api) -> None:
    request = key_pair_service_pb2.CreateKeyPairRequest(
        key_pair=key_pair_pb2.KeyPair(name="me", public_key=an_ssh_key())
    )
    key = (await api.key_pairs.CreateKeyPair(request)).key_pair
    flavor = await a_flavor(api)
    instance = (await api.create("web", flavor_id=flavor, key_pair_ids=[key.id])).instance

    no_key = key_pair_service_pb2.DeleteKeyPairRequest(key_pair_id=key.id)
    no_flavor = flavor_service_pb2.DeleteFlavorRequest(flavor_id=flavor)
    no_project = project_service_pb2.DeleteProjectRequest(project_id=instance.project_id)
    assert (await refused(api.key_pairs.DeleteKeyPair(no_key))).reason == "KEY_PAIR_IN_USE"
    assert (await refused(api.flavors.DeleteFlavor(no_flavor))).reason == "FLAVOR_IN_USE"
    assert (await refused(api.projects.DeleteProject(no_project))).reason == "PROJECT_IS_DEFAULT"


async def test_a_name_is_taken_once_in_a_project(api: Api) -> None:
    image = (await api.a_ready_image()).id
    await api.create("web", image_id=image)
    caught = await refused(api.create("web", image_id=image))
    assert (type(caught), caught.reason) == (AlreadyExists, "INSTANCE_EXISTS")


async def test_the_same_request_id_returns_the_first_answer(api: Api) -> None:
    image = (await api.a_ready_image()).id
    first = await api.create("web", image_id=image, request_id="r1", labels={"a": "b"})
    await api.settle(first.instance.id, state=InstanceState.RUNNING)

    again = await api.create("web", image_id=image, request_id="r1", labels={"a": "b"})

    assert again == first
    page = await api.instances.ListInstances(pb.ListInstancesRequest())
    assert len(page.instances) == 1


async def test_the_same_request_id_with_another_body_is_refused(api: Api) -> None:
    image = (await api.a_ready_image()).id
    await api.create("web", image_id=image, request_id="r1")
    caught = await refused(api.create("db", image_id=image, request_id="r1"))
    assert (type(caught), caught.reason) == (InvalidArgument, "REQUEST_ID_REUSED")


async def test_a_refused_request_id_may_be_used_again(api: Api) -> None:
    image = (await api.a_ready_image()).id
    await api.create("web", image_id=image)
    await refused(api.create("web", image_id=image, request_id="r1"))
    assert (await api.create("db", image_id=image, request_id="r1")).instance.name == "db"


async def test_many_creates_at_once_are_each_accepted_or_refused_alone(api: Api) -> None:
    image = (await api.a_ready_image()).id
    names = [f"web-{n}" for n in range(20)] + ["web-0"]
    answers = await asyncio.gather(
        *(api.create(name, image_id=image) for name in names), return_exceptions=True
    )
    assert sum(isinstance(a, BaseException) for a in answers) == 1


async def test_lists_come_in_pages_that_miss_and_repeat_nothing(api: Api) -> None:
    image = (await api.a_ready_image()).id
    for n in range(7):
        await api.create(f"web-{n}", image_id=image)
    seen: list[str] = []
    request = pb.ListInstancesRequest(page_size=3)
    while True:
        page = await api.instances.ListInstances(request)
        seen += [i.name for i in page.instances]
        if not page.next_page_token:
            break
        if len(seen) == 3:
            await api.create("web-00", image_id=image)
        request.page_token = page.next_page_token
    assert seen == [f"web-{n}" for n in range(7)]


async def test_a_page_token_of_another_request_is_refused(api: Api) -> None:
    image = (await api.a_ready_image()).id
    for n in range(2):
        await api.create(f"web-{n}", image_id=image)
    page = await api.instances.ListInstances(pb.ListInstancesRequest(page_size=1))
    for token in (page.next_page_token, "nonsense"):
        other = pb.ListInstancesRequest(page_size=1, name="web-1", page_token=token)
        assert (await refused(api.instances.ListInstances(other))).reason == "INVALID_PAGE_TOKEN"


async def test_lists_are_filtered(api: Api) -> None:
    image = (await api.a_ready_image()).id
    one = (await api.create("one", image_id=image, labels={"app": "a", "x": ""})).instance
    two = (await api.create("two", image_id=image, labels={"app": "b"})).instance
    await api.settle(two.id, state=InstanceState.RUNNING)
    host = await api.place(two.id)

    async def listed(**conditions: Any) -> list[str]:
        page = await api.instances.ListInstances(pb.ListInstancesRequest(**conditions))
        return [i.name for i in page.instances]

    assert await listed() == ["one", "two"]
    assert await listed(name="two") == ["two"]
    assert await listed(id_prefix=one.id[:30]) == ["one"]
    assert await listed(host_id=host.id) == ["two"]
    assert await listed(states=[State.STATE_RUNNING]) == ["two"]
    assert await listed(label_selector={"app": "a"}) == ["one"]
    assert await listed(label_selector={"app": ""}) == ["one", "two"]
    short = await refused(api.instances.ListInstances(pb.ListInstancesRequest(id_prefix="ins-0")))
    assert short.reason == "ID_PREFIX_TOO_SHORT"


async def test_an_update_changes_what_the_mask_names_and_raises_the_generation(api: Api) -> None:
    instance = (await api.create("web", labels={"a": "1"})).instance
    change = pb.UpdateInstanceRequest(
        instance=State(id=instance.id, etag=instance.etag, name="shop", labels={"b": "2"})
    )
    change.update_mask.paths.append("labels")
    updated = (await api.instances.UpdateInstance(change)).instance

    assert (updated.name, dict(updated.labels)) == ("web", {"b": "2"})
    assert updated.generation == 2
    stale = await refused(api.instances.UpdateInstance(change))
    assert (type(stale), stale.reason) == (Conflict, "ETAG_MISMATCH")


@pytest.mark.parametrize(
    ("paths", "reason"), [([], "EMPTY_UPDATE_MASK"), (["vcpus"], "FIELD_NOT_CHANGEABLE")]
)
async def test_a_mask_must_name_what_can_change(api: Api, paths: list[str], reason: str) -> None:
    instance = (await api.create("web")).instance
    change = pb.UpdateInstanceRequest(instance=State(id=instance.id))
    change.update_mask.paths.extend(paths)
    assert (await refused(api.instances.UpdateInstance(change))).reason == reason


async def test_a_delete_while_creating_cancels_the_create(api: Api) -> None:
    created = await api.create("web")
    request = pb.DeleteInstanceRequest(instance_id=created.instance.id)
    deleted = await api.instances.DeleteInstance(request)

    assert deleted.instance.state == State.STATE_DELETING
    assert deleted.instance.generation == 2
    ended = await operation(api, created.operation.id)
    assert ended.state == OperationState.STATE_CANCELLED
    assert ended.HasField("end_time")


async def test_deleting_twice_returns_the_deletion_under_way(api: Api) -> None:
    ident = (await api.create("web")).instance.id
    first = await api.instances.DeleteInstance(pb.DeleteInstanceRequest(instance_id=ident))
    again = await api.instances.DeleteInstance(pb.DeleteInstanceRequest(instance_id=ident))
    assert again.operation.id == first.operation.id
    assert again.instance.generation == first.instance.generation


async def test_a_delete_with_an_old_etag_is_refused(api: Api) -> None:
    ident = (await api.create("web")).instance.id
    request = pb.DeleteInstanceRequest(instance_id=ident, etag="old")
    assert (await refused(api.instances.DeleteInstance(request))).reason == "ETAG_MISMATCH"


async def test_power_acts_wait_for_each_other(api: Api) -> None:
    created = await api.create("web")
    ident = created.instance.id
    caught = await refused(api.instances.StopInstance(pb.StopInstanceRequest(instance_id=ident)))
    assert (type(caught), caught.reason) == (Conflict, "OPERATION_IN_PROGRESS")
    assert caught.metadata["operation_id"] == created.operation.id


async def test_stop_start_and_reboot_say_what_shall_be(api: Api) -> None:
    ident = (await api.create("web")).instance.id
    await api.settle(ident, state=InstanceState.RUNNING, has_run=True)

    stop = pb.StopInstanceRequest(instance_id=ident)
    stop.grace.seconds = 5
    stopped = await api.instances.StopInstance(stop)
    assert stopped.instance.state == State.STATE_STOPPING
    assert stopped.instance.desired_power == State.POWER_OFF
    row = await api.uow.read(lambda c: instances.get(c, ident))
    assert row is not None
    assert (row.stop_grace_s, row.generation) == (5.0, 2)

    await api.settle(ident, state=InstanceState.STOPPED)
    started = await api.instances.StartInstance(pb.StartInstanceRequest(instance_id=ident))
    assert started.instance.state == State.STATE_STARTING
    assert started.instance.desired_power == State.POWER_ON

    await api.settle(ident, state=InstanceState.RUNNING)
    rebooted = await api.instances.RebootInstance(
        pb.RebootInstanceRequest(instance_id=ident, force=True)
    )
    assert rebooted.instance.state == State.STATE_REBOOTING
    row = await api.uow.read(lambda c: instances.get(c, ident))
    assert row is not None
    assert (row.reboot_serial, row.reboot_force, row.generation) == (1, True, 4)


async def test_a_forced_stop_gives_the_guest_no_time(api: Api) -> None:
    ident = (await api.create("web")).instance.id
    await api.settle(ident, state=InstanceState.RUNNING)
    await api.instances.StopInstance(pb.StopInstanceRequest(instance_id=ident, force=True))
    row = await api.uow.read(lambda c: instances.get(c, ident))
    assert row is not None
    assert row.stop_grace_s == 0.0


async def test_stopping_on_a_silent_host_does_not_pretend_to_know(api: Api) -> None:
    ident = (await api.create("web")).instance.id
    await api.settle(ident, state=InstanceState.UNKNOWN)
    stopped = await api.instances.StopInstance(pb.StopInstanceRequest(instance_id=ident))
    assert stopped.instance.state == State.STATE_UNKNOWN
    assert stopped.instance.desired_power == State.POWER_OFF


@pytest.mark.parametrize("state", [InstanceState.STOPPED, InstanceState.FAILED])
async def test_only_what_runs_can_be_rebooted(api: Api, state: InstanceState) -> None:
    ident = (await api.create("web")).instance.id
    await api.settle(ident, state=state, desired_power=Power.OFF)
    caught = await refused(
        api.instances.RebootInstance(pb.RebootInstanceRequest(instance_id=ident))
    )
    assert (type(caught), caught.reason) == (FailedPrecondition, "INSTANCE_STATE")


async def test_nothing_is_done_to_what_is_being_removed(api: Api) -> None:
    ident = (await api.create("web")).instance.id
    await api.instances.DeleteInstance(pb.DeleteInstanceRequest(instance_id=ident))
    caught = await refused(api.instances.StartInstance(pb.StartInstanceRequest(instance_id=ident)))
    assert caught.reason == "INSTANCE_DELETING"


async def test_a_missing_instance_is_named(api: Api) -> None:
    ident = "ins-01m81dvqxpet3rww6hvj271aqz"
    caught = await refused(api.instances.GetInstance(pb.GetInstanceRequest(instance_id=ident)))
    assert isinstance(caught, NotFound)
    assert (caught.resource_kind, caught.resource) == ("instance", ident)


async def test_the_console_of_a_placed_instance_is_read_and_typed_into(api: Api) -> None:
    ident = (await api.create("web")).instance.id
    log = pb.ReadConsoleLogRequest(instance_id=ident, tail_bytes=3)
    stream = api.instances.ReadConsoleLog(log)
    assert (await refused(stream.read())).reason == "INSTANCE_NOT_PLACED"

    await api.place(ident)
    assert [r.output async for r in api.instances.ReadConsoleLog(log)] == [b"n: "]

    async def typed() -> Any:
        yield pb.AttachConsoleRequest(open=pb.AttachConsoleRequest.Open(instance_id=ident))
        yield pb.AttachConsoleRequest(input=b"root\n")

    assert [r.output async for r in api.instances.AttachConsole(typed())] == [
        b"",
        b"echo root\n",
    ]


async def test_a_host_that_is_away_makes_its_console_unavailable(api: Api) -> None:
    ident = (await api.create("web")).instance.id
    host = await api.place(ident)
    api.live.drop_host(host.id)
    silent = replace(host, state=HostState.UNKNOWN)
    await api.lead(lambda conn: hosts.replace(conn, silent, etag=None))
    stream = api.instances.ReadConsoleLog(pb.ReadConsoleLogRequest(instance_id=ident))
    assert (await refused(stream.read())).reason == "HOST_UNREACHABLE"
