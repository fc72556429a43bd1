"""A database restored from an old backup: hosts know more than it, and nobody is harmed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import adopting
from tests.support.acceptance import Shows
from tests.support.adopting import adopt, found, refusal, restore, starts
from tests.support.api import an_ssh_key
from tests.support.builders import a_key_pair, a_project, an_id, an_image, an_instance
from tests.support.cloud import GIB, Cloud, a_cloud
from tests.support.cloud_sight import wait_clean
from tests.support.sights import Rules
from unkai_scheduler.agents.port import HeldMachine, MachineOrder
from unkai_scheduler.domain.findings import FindingKind
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.images import Image, ImageState, upload_key
from unkai_scheduler.domain.instances import InstanceState, Power
from unkai_scheduler.domain.machines import Machine, MachineState, Tombstone
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.services.adopted_images import AdoptedImages, FoundBytes
from unkai_scheduler.services.adoptions import AdoptionDraft
from unkai_scheduler.store import hosts, images, instances, key_pairs, projects, tombstones, uploads
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    Unavailable,
    UnkaiError,
)

S, K = InstanceState, FindingKind
RESTORED = Rules(history=False)


async def run_new(cloud: Cloud, name: str, **spec: Any) -> str:
    """Make an instance that runs; return its id."""
    made = await cloud.create(name, **spec)
    ended = await cloud.until_ended(made.operation_id)
    assert ended.state is OperationState.SUCCEEDED, ended
    return made.id


async def test_five_instances_that_a_backup_does_not_know_are_adopted_and_live_on(
    cloud: Cloud, shows: Shows
) -> None:
    old = await run_new(cloud, "old")
    copy = adopting.backup(cloud)
    new = [await run_new(cloud, f"new-{n}", labels={"n": str(n)}) for n in range(5)]
    before = starts(cloud)
    rows = {ident: await cloud.instance(ident) for ident in new}

    await restore(cloud, copy)
    orphans = await found(cloud, K.ORPHAN)
    adopted = [await adopt(cloud, finding.instance_id) for finding in orphans]
    await wait_clean(cloud, RESTORED)

    assert {one.instance.id for one in adopted} == set(new)
    assert starts(cloud) == before, "no machine was touched"
    for ident in new:
        row, was = await cloud.instance(ident), rows[ident]
        assert row.state is S.RUNNING
        assert (row.spec, row.host_id, row.project_id) == (was.spec, was.host_id, was.project_id)
        assert (row.generation, row.run_epoch) == (was.generation, was.run_epoch)
        assert row.has_run, "its disk must exist"
    assert not await found(cloud)
    await cloud.until_stamped()
    for one in adopted:
        assert one.warnings == ()
        created = await cloud.events(one.instance.id)
        assert [event.reason for event in created if event.actor == "client:admin"] == ["ADOPTED"]

    # They are instances as any other.
    await cloud.until_ended((await cloud.stop(new[0])).id)
    await cloud.until_ended((await cloud.begin(new[0])).id)
    await cloud.until_state(new[0], S.RUNNING)
    for ident in new:
        assert (await cloud.until_ended((await cloud.delete(ident)).id)).state.value == "SUCCEEDED"
    await wait_clean(cloud, RESTORED)
    assert set(cloud.machines()) == {old}
    shows(
        "solid 3 adoption in one process",
        "5 of 5 adopted, none touched, checker clean; then stopped, started, deleted",
    )


async def test_what_changed_since_the_backup_is_learned_again(cloud: Cloud) -> None:
    stopped, started, rebooted = [await run_new(cloud, name) for name in ("a", "b", "c")]
    await cloud.until_ended((await cloud.stop(started)).id)
    copy = adopting.backup(cloud)
    await cloud.until_ended((await cloud.stop(stopped)).id)
    await cloud.until_ended((await cloud.begin(started)).id)
    await cloud.until_ended((await cloud.reboot(rebooted)).id)
    late = await run_new(cloud, "late")
    await cloud.until_ended((await cloud.stop(late)).id)
    before, rows = starts(cloud), {row.id: row for row in await cloud.instances()}

    await restore(cloud, copy)
    await found(cloud)
    await adopt(cloud, late)
    await wait_clean(cloud, RESTORED)

    assert starts(cloud) == before
    for ident, was in rows.items():
        row = await cloud.instance(ident)
        assert (row.state, row.desired_power) == (was.state, was.desired_power)
        assert (row.generation, row.reboot_serial) == (was.generation, was.reboot_serial)
    assert not await found(cloud)


async def test_what_was_deleted_since_the_backup_is_told_and_never_made_anew(cloud: Cloud) -> None:
    gone, kept = await run_new(cloud, "gone"), await run_new(cloud, "kept")
    copy = adopting.backup(cloud)
    await cloud.until_ended((await cloud.delete(gone)).id)

    await restore(cloud, copy)
    await cloud.until_state(gone, S.DELETED_ON_HOST)
    (finding,) = await found(cloud)

    assert (finding.kind, finding.instance_id) == (K.DELETED_ON_HOST, gone)
    assert (await refusal(cloud, gone)).reason == "INSTANCE_KNOWN"
    await cloud.until_ended((await cloud.delete(gone)).id)
    await wait_clean(cloud, RESTORED)
    assert set(cloud.machines()) == {kept}


async def test_an_instance_made_and_deleted_since_the_backup_stays_away(cloud: Cloud) -> None:
    copy = adopting.backup(cloud)
    gone = await run_new(cloud, "gone")
    await cloud.until_ended((await cloud.delete(gone)).id)

    await restore(cloud, copy)
    assert not await found(cloud)
    error = await refusal(cloud, gone)

    assert isinstance(error, NotFound)
    assert error.reason == "ORPHAN_NOT_FOUND"


async def test_a_name_taken_meanwhile_is_refused_or_changed(cloud: Cloud) -> None:
    copy = adopting.backup(cloud)
    orphan, other = await run_new(cloud, "web"), await run_new(cloud, "db")
    await restore(cloud, copy)
    await found(cloud)
    await run_new(cloud, "web")
    await run_new(cloud, "db")

    error = await refusal(cloud, orphan)
    assert isinstance(error, AlreadyExists)
    assert "--name" in error.fix
    assert isinstance(await refusal(cloud, orphan, name="db", rename_if_taken=True), AlreadyExists)
    named = await adopt(cloud, orphan, name="web-2")
    renamed = await adopt(cloud, other, rename_if_taken=True)

    assert named.instance.spec.name == "web-2"
    assert renamed.instance.spec.name == f"db-{other[-6:]}"
    assert "db is taken" in renamed.warnings[0]
    await wait_clean(cloud, RESTORED)
    await cloud.until_ended((await cloud.stop(other)).id)
    await cloud.until_ended((await cloud.begin(other)).id)
    await wait_clean(cloud, RESTORED)


async def test_a_project_that_is_gone_is_replaced_by_the_default_or_the_one_asked_for(
    cloud: Cloud,
) -> None:
    copy = adopting.backup(cloud)
    lab = a_project(name="lab")
    await cloud.uow.write(lambda conn: projects.insert(conn, lab))
    made = [await cloud.create(f"vm-{n}") for n in range(2)]
    for one in made:
        await cloud.until_ended(one.operation_id)
    for host in cloud.agents.hosts.values():
        for held in host.machines.values():
            inside = replace(held.order.instance, project_id=lab.id)
            held.order = replace(held.order, instance=inside)
    await restore(cloud, copy)
    await found(cloud)
    other = a_project(name="other")
    await cloud.uow.write(lambda conn: projects.insert(conn, other))

    fallen = await adopt(cloud, made[0].id)
    asked = await adopt(cloud, made[1].id, project_id=other.id)

    default = await cloud.uow.read(lambda conn: projects.find(conn, "default"))
    assert default is not None
    assert fallen.instance.project_id == default.id
    assert "belongs to default" in fallen.warnings[0]
    assert (asked.instance.project_id, asked.warnings) == (other.id, ())
    missing = await refusal(cloud, an_id("instance"), project_id=an_id("project"))
    assert isinstance(missing, NotFound)


@pytest.mark.parametrize("has_bytes", [True, False])
@pytest.mark.parametrize("token", ["", "0123456789abcdef"], ids=["by its id", "by its upload"])
async def test_an_image_and_keys_that_are_gone_get_their_rows_back(
    cloud: Cloud, has_bytes: bool, token: str
) -> None:
    copy = adopting.backup(cloud)
    image, key = an_image(size_bytes=5), a_key_pair(public_key=an_ssh_key())
    if token:
        image = replace(image, bytes_key=upload_key(image.id, token))
    cloud.images.kept |= {
        image.key: b"bytes" if has_bytes else b"",
        f"{an_id('image')}.1": b"other",
    }
    await cloud.uow.write(lambda conn: images.insert(conn, image))
    await cloud.uow.write(lambda conn: key_pairs.insert(conn, key))
    ident = await run_new(
        cloud, "web", image_id=image.id, key_pair_ids=(key.id,), user_data=b"#!/bin/sh\n"
    )
    await restore(cloud, copy)
    await found(cloud)

    adopted = await adopt(cloud, ident)

    again = await cloud.uow.read(lambda conn: images.get(conn, image.id))
    assert again is not None
    assert again.state is (ImageState.READY if has_bytes else ImageState.FAILED)
    assert (again.sha256, again.size_bytes) == (image.sha256, image.size_bytes)
    assert again.key == (image.key if has_bytes else image.id)
    assert image.id in adopted.warnings[0]
    pair = await cloud.uow.read(lambda conn: key_pairs.get(conn, key.id))
    assert pair is not None
    assert pair.public_key == key.public_key
    assert await cloud.uow.read(lambda conn: instances.user_data(conn, ident)) == b"#!/bin/sh\n"
    for act in (cloud.stop, cloud.begin, cloud.delete):
        assert (await cloud.until_ended((await act(ident)).id)).state is OperationState.SUCCEEDED


@pytest.mark.parametrize("given_up", [False, True])
async def test_an_image_whose_bytes_came_after_the_backup_is_ready_again(
    cloud: Cloud, given_up: bool
) -> None:
    image = an_image(size_bytes=5)
    image = replace(image, bytes_key=upload_key(image.id, "0123456789abcdef"))
    state = ImageState.FAILED if given_up else ImageState.UPLOADING
    awaited = replace(
        image, state=state, sha256="", size_bytes=0, virtual_size_bytes=0, bytes_key="", format=None
    )
    await cloud.uow.write(lambda conn: images.insert(conn, awaited))
    copy = adopting.backup(cloud)
    await cloud.uow.write(lambda conn: images.replace(conn, image, etag=None))
    cloud.images.kept[image.key] = b"bytes"
    ident, other = [await run_new(cloud, name, image_id=image.id) for name in ("web", "db")]
    await restore(cloud, copy)
    await found(cloud)

    # Those of an upload under way may be anything.
    coming = upload_key(image.id, "0")
    cloud.images.kept[coming] = b"other"
    await cloud.uow.write(lambda conn: uploads.insert_new(conn, coming, image.id))
    adopted = await adopt(cloud, ident)
    again = await adopt(cloud, other)

    mended = await cloud.uow.read(lambda conn: images.get(conn, image.id))
    assert mended is not None
    assert mended.etag != awaited.etag
    times = {"etag": mended.etag, "update_time": mended.update_time}
    assert mended == replace(image, **times)  # type: ignore[arg-type]
    assert f"its image {image.name} was {state.value}" in adopted.warnings[0]
    assert again.warnings == ()
    await cloud.until_stamped()
    assert [event.reason for event in await cloud.events(image.id)] == ["ADOPTED"]


async def test_an_image_that_awaits_other_bytes_goes_on_awaiting_them(cloud: Cloud) -> None:
    image = an_image(size_bytes=5)
    awaited = replace(image, state=ImageState.UPLOADING, sha256="0" * 64)
    copy = adopting.backup(cloud)
    await cloud.uow.write(lambda conn: images.insert(conn, image))
    cloud.images.kept[image.key] = b"bytes"
    ident = await run_new(cloud, "web", image_id=image.id)
    await restore(cloud, copy)
    await found(cloud)
    await cloud.uow.write(lambda conn: images.insert(conn, awaited))

    adopted = await adopt(cloud, ident)

    assert adopted.warnings == ()
    assert await cloud.uow.read(lambda conn: images.get(conn, image.id)) == awaited


async def test_a_host_that_adoption_oversells_is_told_and_gets_nothing_new(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path, host_count=1) as cloud:
        copy = adopting.backup(cloud)
        orphan = await run_new(cloud, "large", memory_bytes=20 * GIB)
        await restore(cloud, copy)
        await found(cloud)
        await run_new(cloud, "also-large", memory_bytes=20 * GIB)

        adopted = await adopt(cloud, orphan)

        assert "memory" in adopted.warnings[0]
        assert [f.kind for f in await found(cloud)] == [K.HOST_OVERSOLD]
        late = await cloud.create("late", memory_bytes=GIB)
        assert (await cloud.until_ended(late.operation_id)).state is OperationState.FAILED
        assert cloud.running().keys() >= {orphan}


# Who asks twice, or at the same time, or of somebody who leads no more.


@pytest.fixture
async def orphaned(cloud: Cloud) -> tuple[Cloud, str]:
    """A cloud with one orphan."""
    copy = adopting.backup(cloud)
    ident = await run_new(cloud, "web")
    await restore(cloud, copy)
    await found(cloud)
    return cloud, ident


async def test_the_same_request_has_the_first_answer_even_when_the_host_is_silent(
    orphaned: tuple[Cloud, str],
) -> None:
    cloud, ident = orphaned
    first = await adopt(cloud, ident, request_id="r-1")
    (claim,) = await cloud.claims()
    cloud.lose_host(claim.host_id)
    await cloud.until_state(ident, S.UNKNOWN)

    assert await adopt(cloud, ident, request_id="r-1") == first
    assert (await refusal(cloud, ident, request_id="r-2")).reason == "INSTANCE_KNOWN"


async def test_the_same_request_many_times_at_once_has_one_answer(
    orphaned: tuple[Cloud, str],
) -> None:
    cloud, ident = orphaned

    first, *others = await asyncio.gather(
        *(adopt(cloud, ident, request_id="r-1") for _ in range(8))
    )

    assert others == [first] * 7


async def test_of_many_callers_at_once_one_adopts(orphaned: tuple[Cloud, str]) -> None:
    cloud, ident = orphaned
    results = await asyncio.gather(
        *(adopt(cloud, ident, name=f"web-{n}") for n in range(8)), return_exceptions=True
    )

    adopted = [r for r in results if not isinstance(r, BaseException)]
    refused = [r for r in results if isinstance(r, FailedPrecondition)]
    assert (len(adopted), len(refused)) == (1, 7)
    assert {error.reason for error in refused} == {"INSTANCE_KNOWN"}
    await wait_clean(cloud, RESTORED)


class Meanwhile:
    """Agents that let something happen while a host is asked."""

    def __init__(self, cloud: Cloud, act: Callable[[], Awaitable[object]]) -> None:
        self._cloud = cloud
        self._act = act

    async def machine_spec(self, endpoint: Any, instance_id: str) -> HeldMachine:
        held = await self._cloud.agents.machine_spec(endpoint, instance_id)
        await self._act()
        return held


async def test_a_leader_that_has_lost_meanwhile_adopts_nothing_and_the_next_one_does(
    orphaned: tuple[Cloud, str],
) -> None:
    cloud, ident = orphaned
    changing = Meanwhile(cloud, lambda: cloud.uow.take_term(0))
    deposed = adopting.adoptions(cloud, agents=changing)

    with pytest.raises(Unavailable) as caught:
        await deposed.adopt(adopting.a_call("r-1"), AdoptionDraft(ident))

    assert caught.value.reason == "NOT_LEADER"
    assert await cloud.instances() == []

    async def adopted() -> bool:
        try:
            return bool(await adopt(cloud, ident, request_id="r-1"))
        except (Unavailable, NotFound):
            return False

    await cloud.until(adopted, "the same request succeeds under the new term")
    await wait_clean(cloud, RESTORED)


# What is refused.


async def test_a_machine_on_two_hosts_is_adopted_only_where_its_host_is_named(
    orphaned: tuple[Cloud, str],
) -> None:
    cloud, ident = orphaned
    (here,) = cloud.machines()[ident]
    there = next(host_id for host_id in cloud.host_ids if host_id != here)
    held = cloud.agents.hosts[here].machines[ident]
    cloud.agents.plant_machine(there, replace(held.machine, host_id=there), held.order)
    await asyncio.sleep(1)

    error = await refusal(cloud, ident)
    assert error.reason == "ORPHAN_ON_SEVERAL_HOSTS"
    third = next(host_id for host_id in cloud.host_ids if host_id not in {here, there})
    assert (await refusal(cloud, ident, host_id=third)).reason == "ORPHAN_NOT_FOUND"
    adopted = await adopt(cloud, ident, host_id=here)

    assert adopted.instance.host_id == here
    assert [(f.kind, f.host_id) for f in await found(cloud)] == [(K.UNCLAIMED_MACHINE, there)]
    assert sorted(cloud.running()[ident]) == sorted([here, there]), "neither was touched"


async def test_what_was_removed_by_right_is_refused(orphaned: tuple[Cloud, str]) -> None:
    cloud, ident = orphaned
    (host_id,) = cloud.machines()[ident]
    machine = cloud.agents.hosts[host_id].machines[ident].machine
    grave = Tombstone(ident, host_id, machine.generation, machine.run_epoch, cloud.clock())
    # The audit removes what it knows to be removed: so it is written while the host is asked.
    burying = Meanwhile(cloud, lambda: cloud.uow.write(lambda conn: tombstones.insert(conn, grave)))

    with pytest.raises(FailedPrecondition) as caught:
        await adopting.adoptions(cloud, agents=burying).adopt(
            adopting.a_call(), AdoptionDraft(ident)
        )

    assert caught.value.reason == "TOMBSTONED"
    assert await cloud.instances() == []


async def test_an_image_deleted_meanwhile_is_never_taken_for_one_that_has_its_bytes(
    orphaned: tuple[Cloud, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud, ident = orphaned
    look = AdoptedImages.find

    async def find(self: AdoptedImages, image: Image) -> FoundBytes:
        found_bytes = await look(self, image)
        await cloud.uow.write(lambda conn: images.delete(conn, cloud.image.id))
        return found_bytes

    with monkeypatch.context() as patch:
        patch.setattr(AdoptedImages, "find", find)
        with pytest.raises(Unavailable) as caught:
            await adopt(cloud, ident)

    assert caught.value.reason == "IMAGE_GONE_MEANWHILE"
    again = await adopt(cloud, ident)
    assert "its bytes are gone" in again.warnings[0]


async def test_a_host_that_cannot_be_asked_or_has_removed_it_is_named(
    orphaned: tuple[Cloud, str],
) -> None:
    cloud, ident = orphaned
    (host_id,) = cloud.machines()[ident]
    asked: list[UnkaiError] = [
        Unavailable("the connection broke"),
        DeadlineExceeded("no answer"),
        NotFound.of("instance", ident),
    ]
    reasons = []
    for error in asked:
        refusing = adopting.adoptions(cloud, agents=Meanwhile(cloud, _raising(error)))
        with pytest.raises(UnkaiError) as caught:
            await refusing.adopt(adopting.a_call(), AdoptionDraft(ident))
        reasons.append(caught.value.reason)
        assert caught.value.metadata.keys() & {"host", "host_id"}
    assert reasons == ["HOST_UNREACHABLE", "HOST_UNREACHABLE", "ORPHAN_NOT_FOUND"]
    assert host_id in caught.value.message


def _raising(error: UnkaiError) -> Callable[[], Awaitable[object]]:
    async def act() -> object:
        raise error

    return act


async def test_keys_and_images_of_other_projects_are_not_taken_on_a_hosts_word(
    orphaned: tuple[Cloud, str],
) -> None:
    cloud, ident = orphaned
    (host_id,) = cloud.machines()[ident]
    theirs = a_project(name="theirs")
    key = a_key_pair(project_id=theirs.id, public_key=an_ssh_key())
    image = an_image(project_id=theirs.id)
    unknown = an_id("key_pair")

    def work(conn: Connection) -> None:
        projects.insert(conn, theirs)
        key_pairs.insert(conn, key)
        images.insert(conn, image)

    await cloud.uow.write(work)
    held = cloud.agents.hosts[host_id].machines[ident]
    told = held.order.instance
    spec = replace(told.spec, image_id=image.id, key_pair_ids=(key.id, unknown))
    held.order = replace(
        held.order,
        instance=replace(told, spec=spec),
        image=image,
        public_keys=(key.public_key, an_ssh_key()),
    )

    adopted = await adopt(cloud, ident)

    assert adopted.instance.spec.key_pair_ids == (unknown,)
    warned = "\n".join(adopted.warnings)
    assert f"image {image.name} is private to project {theirs.id}" in warned
    assert f"key pair {key.id} is another project's: it is left out" in warned
    restored = await cloud.uow.read(lambda conn: key_pairs.get(conn, unknown))
    assert restored is not None
    assert f"{restored.name} now" in warned
    assert restored.fingerprint in warned


async def test_an_agent_too_old_to_tell_is_said_to_be(orphaned: tuple[Cloud, str]) -> None:
    cloud, ident = orphaned
    (host_id,) = cloud.machines()[ident]
    told = cloud.agents.hosts[host_id]
    told.description = replace(told.description, features=("machines.v1",))
    cloud.register(host_id)

    async def known() -> bool:
        return (await cloud.hosts())[host_id].features == ("machines.v1",)

    await cloud.until(known, "the host's row says so")
    assert (await refusal(cloud, ident)).reason == "AGENT_TOO_OLD"


async def plant(cloud: Cloud, told: Machine, **spec: Any) -> str:
    """Let the first host hold a machine that nobody ordered; return its id."""
    stranger = an_instance(**{"image_id": cloud.image.id, **spec})
    told = replace(told, instance_id=stranger.id, host_id=cloud.host_ids[0])
    order = MachineOrder(stranger, cloud.image, 1 << 20, must_exist=True)
    cloud.agents.plant_machine(cloud.host_ids[0], told, order)
    await asyncio.sleep(0)
    return stranger.id


RUNS = Machine("", "", 3, 3, 1, MachineState.RUNNING, name="x")
INVENTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"vcpus": 100_000}, {}),
    ({"vcpus": 0}, {}),
    ({"memory_bytes": 1}, {}),
    ({"memory_bytes": 1 << 60}, {}),
    ({"disk_bytes": -5}, {}),
    ({"image_id": "../../etc/passwd"}, {}),
    ({"key_pair_ids": ("x",)}, {}),
    ({"required_traits": ("\x1b[31m",)}, {}),
    ({"labels": {"a b": "c"}}, {}),
    ({}, {"generation": 1 << 60}),
    ({}, {"generation": 0}),
    ({}, {"run_epoch": 1 << 40}),
    ({}, {"reboot_serial": 1 << 40}),
    ({}, {"observed_generation": 99}),
]


async def test_what_a_hostile_host_invents_is_refused(cloud: Cloud) -> None:
    planted = [await plant(cloud, replace(RUNS, **told), **spec) for spec, told in INVENTED]
    await found(cloud)

    for ident in planted:
        error = await refusal(cloud, ident)
        assert error.reason == "ORPHAN_ABSURD", error
        assert len(error.message) < 600


async def test_a_bad_name_needs_a_better_one(cloud: Cloud) -> None:
    names = ["", "../x", "A" * 200, "rm -rf\x1b[0m", "-"]
    planted = [await plant(cloud, RUNS, name=name) for name in names]
    await found(cloud)

    for number, ident in enumerate(planted):
        assert (await refusal(cloud, ident)).reason == "ORPHAN_NAMELESS"
        named = await adopt(cloud, ident, name=f"better-{number}")
        assert named.instance.spec.name == f"better-{number}"


async def test_each_state_is_taken_over_as_it_is(cloud: Cloud) -> None:
    off = replace(RUNS, run_epoch=2, wants_power=False)
    states = {
        MachineState.STOPPED: S.STOPPED,
        MachineState.LOST: S.LOST,
        MachineState.STOPPING: S.STOPPING,
    }
    planted = {
        await plant(cloud, replace(off, state=state), desired_power=Power.OFF): wanted
        for state, wanted in states.items()
    }
    await found(cloud)

    adopted = {ident: (await adopt(cloud, ident)).instance for ident in planted}
    await asyncio.sleep(5)

    for ident, wanted in planted.items():
        assert adopted[ident].state is wanted
        assert adopted[ident].has_run
        row = await cloud.instance(ident)
        assert (row.state, row.generation, row.run_epoch) == (wanted, 3, 2)


async def test_one_that_awaits_its_permit_gets_it_by_being_adopted(
    orphaned: tuple[Cloud, str],
) -> None:
    cloud, ident = orphaned
    (host_id,) = cloud.machines()[ident]
    cloud.agents.crash_machine(host_id, ident)
    await asyncio.sleep(1)

    await adopt(cloud, ident)

    await cloud.until_state(ident, S.RUNNING)


async def test_an_adopted_instance_follows_its_host_at_once(orphaned: tuple[Cloud, str]) -> None:
    cloud, ident = orphaned
    adopted = await adopt(cloud, ident)
    await cloud.until_state(ident, S.RUNNING)

    cloud.lose_host(adopted.instance.host_id)

    await cloud.until_state(ident, S.UNKNOWN, within_s=25)
    rows = await cloud.uow.read(hosts.list_all)
    assert HostState.UNKNOWN in {row.state for row in rows}


async def test_nothing_is_adopted_where_nobody_leads(orphaned: tuple[Cloud, str]) -> None:
    cloud, ident = orphaned
    service = adopting.adoptions(cloud)
    cloud.etcd.stop()
    await asyncio.sleep(2)

    with pytest.raises(UnkaiError) as caught:
        await service.adopt(adopting.a_call(), AdoptionDraft(ident))

    assert isinstance(caught.value, Unavailable)
