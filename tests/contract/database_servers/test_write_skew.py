"""Two schedulers change the same things at the same moment: what one has checked stays true.

Each race is run with the locks and without them. Between a check and the write that rests on it a
pause is laid, so that a missing lock shows itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.acceptance import Shows
from tests.support.builders import (
    a_flavor,
    a_key_pair,
    a_placement_group,
    an_aggregate,
    an_id,
    an_image,
    an_instance,
)
from tests.support.pauses import pause_after
from tests.support.store import a_store, noon
from unkai_scheduler.domain.images import ImageState
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.aggregates import AggregatesService
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.flavors import FlavorsService
from unkai_scheduler.services.images import ImagesService
from unkai_scheduler.services.instance_drafts import InstanceDraft
from unkai_scheduler.services.instances import InstancesService
from unkai_scheduler.services.key_pairs import KeyPairDraft, KeyPairsService
from unkai_scheduler.services.placement_groups import PlacementGroupsService
from unkai_scheduler.services.projects import ProjectDraft, ProjectsService
from unkai_scheduler.settings import ImageSettings
from unkai_scheduler.store import (
    aggregates,
    flavors,
    images,
    instances,
    key_pairs,
    operations,
    placement_groups,
    requests,
    turns,
)
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_wire.errors import UnkaiError
from unkai_wire.tls import Principal, Role

ROUNDS = 6
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA me"


class Replica:
    """One scheduler's services on a unit of work of its own."""

    def __init__(self, uow: UnitOfWork) -> None:
        self.uow = uow
        context = ServiceContext(uow, noon, an_id, lambda ids: None)
        self.instances = InstancesService(context, NetworkSettings())
        self.flavors = FlavorsService(context)
        self.aggregates = AggregatesService(context)
        self.key_pairs = KeyPairsService(context)
        self.placement_groups = PlacementGroupsService(context)
        self.projects = ProjectsService(context)
        no_bytes: Any = None
        self.images = ImagesService(context, no_bytes, ImageSettings())

    def call(self, method: str, request_id: str = "") -> Call:
        return Call(Principal(Role.CLIENT, "ada"), method, request_id, "digest")

    async def create(self, image_id: str, *, request_id: str = "", **draft: Any) -> Any:
        given = {"name": "vm" + an_id("instance")[3:], "vcpus": 1, "memory_bytes": 64 << 20} | draft
        wanted = InstanceDraft(image_id=image_id, **given)
        return await self.instances.create(self.call("Create", request_id), "", wanted)


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[tuple[Replica, Replica]]:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(a_store(tmp_path)) for _ in range(2)]
        yield Replica(one), Replica(two)


async def outcome(act: Awaitable[Any], *, after_s: float = 0.0) -> Any:
    await asyncio.sleep(after_s)
    try:
        return await act
    except UnkaiError as error:
        return error


async def an_image_row(replica: Replica, **changes: Any) -> str:
    image = an_image(**changes)
    await replica.uow.write(lambda conn: images.insert(conn, image))
    return image.id


def _count_by_group(conn: Connection, ident: str) -> int:
    return len(placement_groups.naming(conn, [ident]).get(ident, ()))


@pytest.mark.parametrize("kind", ["flavor", "key pair", "aggregate", "placement group"])
async def test_what_an_instance_names_is_not_deleted_while_the_instance_is_made(
    replicas: tuple[Replica, Replica],
    locks: bool,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    database: str,
    shows: Shows,
) -> None:
    one, two = replicas
    image_id = await an_image_row(one)
    named = {"flavor": flavors, "key pair": key_pairs, "aggregate": aggregates}
    named["placement group"] = placement_groups
    pause_after(monkeypatch, named[kind], "get")
    counts = ("count_by_flavor", "count_by_key_pair", "count_by_aggregate")
    pause_after(monkeypatch, instances, *counts)
    pause_after(monkeypatch, placement_groups, "naming")
    dangle = 0
    for number in range(ROUNDS):
        flavor, pair, group = a_flavor(name=f"f{number}"), a_key_pair(), a_placement_group()
        await one.uow.write(lambda conn, g=group: placement_groups.insert(conn, g))
        await one.uow.write(lambda conn, f=flavor: flavors.insert(conn, f))
        await one.uow.write(lambda conn, p=pair: key_pairs.insert(conn, p))
        if kind == "flavor":
            made = one.create(image_id, flavor_id=flavor.id, vcpus=0, memory_bytes=0)
            gone = two.flavors.delete(two.call("Delete"), flavor.id)
            asked = (flavor.id, instances.count_by_flavor, flavors.get)
        elif kind == "aggregate":
            fast = an_aggregate()
            await one.uow.write(lambda conn, row=fast: aggregates.insert(conn, row))
            made = one.create(image_id, aggregate_id=fast.id)
            gone = two.aggregates.delete(two.call("Delete"), fast.id)
            asked = (fast.id, instances.count_by_aggregate, aggregates.get)
        elif kind == "placement group":
            made = one.create(image_id, placement_group_id=group.id)
            gone = two.placement_groups.delete(two.call("Delete"), group.id)
            asked = (group.id, _count_by_group, placement_groups.get)
        else:
            made = one.create(image_id, key_pair_ids=(pair.id,))
            gone = two.key_pairs.delete(two.call("Delete"), pair.id)
            asked = (pair.id, instances.count_by_key_pair, key_pairs.get)
        await asyncio.gather(outcome(made), outcome(gone))
        count, stored = await one.uow.read(
            lambda conn, a=asked: (a[1](conn, a[0]), a[2](conn, a[0]))
        )
        dangle += count > 0 and stored is None

    assert (dangle == 0) is locks
    shows(f"solid 2 write skew {database} {kind}{'' if locks else ', locks taken away'}",
          f"{dangle} of {ROUNDS} dangling")  # fmt: skip


async def test_an_image_goes_only_when_no_instance_can_come_of_it_any_more(
    replicas: tuple[Replica, Replica], locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = replicas
    pause_after(monkeypatch, images, "held", pause_s=0.25)
    lost = 0
    for _ in range(ROUNDS):
        image_id = await an_image_row(one)

        async def delete_wholly(ident: str = image_id) -> None:
            """What the leader does too: the row goes once nobody needs it."""
            await two.images.delete(two.call("Delete"), ident)

            def work(conn: Connection) -> None:
                for image, needs in images.deleting(conn, 99):
                    if image.id == ident and not needs:
                        images.delete(conn, ident)

            await two.uow.write(work)

        made, gone = outcome(one.create(image_id)), outcome(delete_wholly(), after_s=0.05)
        await asyncio.gather(made, gone)
        stored, needs = await one.uow.read(
            lambda conn, i=image_id: (images.get(conn, i), instances.count_by_image(conn, i))
        )
        lost += needs > 0 and stored is None
        if stored is not None:
            assert stored.state is ImageState.DELETING

    assert (lost == 0) is locks


async def test_a_project_is_not_deleted_while_something_is_made_in_it(
    replicas: tuple[Replica, Replica], locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The foreign key keeps it anyway; the lock makes the reason exact."""
    one, two = replicas
    pause_after(monkeypatch, key_pairs, "count_by_project", pause_s=0.15)
    reasons: Counter[str] = Counter()
    for number in range(ROUNDS):
        project = await one.projects.create(one.call("Create"), ProjectDraft(name=f"p{number}"))
        draft = KeyPairDraft("me", KEY)
        results = await asyncio.gather(
            outcome(one.key_pairs.create(one.call("Create"), project.id, draft), after_s=0.05),
            outcome(two.projects.delete(two.call("Delete"), project.id)),
        )
        reasons.update(r.reason for r in results if isinstance(r, UnkaiError))

    exact = {"PROJECT_IN_USE", "PROJECT_NOT_FOUND"}
    assert reasons.total() == ROUNDS
    assert (set(reasons) <= exact) is locks, reasons


async def test_an_instance_gets_one_operation_at_a_time(
    replicas: tuple[Replica, Replica], locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = replicas
    pause_after(monkeypatch, operations, "active_for")
    doubled = 0
    for _ in range(ROUNDS):
        row = an_instance(state=InstanceState.STOPPED)
        await one.uow.write(lambda conn, r=row: instances.insert(conn, r))
        await asyncio.gather(
            *(outcome(r.instances.start(r.call("Start"), row.id)) for r in replicas)
        )
        active = await one.uow.read(
            lambda conn, r=row: operations.list_page(
                conn, after=None, limit=9, resource_id=r.id, active_only=True
            )
        )
        doubled += len(active) > 1

    assert (doubled == 0) is locks


async def test_a_user_and_the_leader_lose_none_of_each_others_changes(
    replicas: tuple[Replica, Replica],
    locks: bool,
    monkeypatch: pytest.MonkeyPatch,
    database: str,
    shows: Shows,
) -> None:
    user, leader = replicas
    pause_after(monkeypatch, instances, "get")
    term = await leader.uow.take_term(0)
    lost = 0
    for _ in range(ROUNDS):
        row = an_instance(state=InstanceState.PROVISIONING)
        await user.uow.write(lambda conn, r=row: instances.insert(conn, r))

        def run(conn: Connection, ident: str = row.id) -> None:
            stored = instances.locked(conn, ident)
            assert stored is not None
            instances.replace(
                conn, replace(stored, has_run=True, state=InstanceState.RUNNING), etag=None
            )

        draft = InstanceDraft(labels={"tier": "web"})
        await asyncio.gather(
            outcome(
                user.instances.update(user.call("Update"), row.id, draft, ["labels"], ""),
                after_s=0.005,
            ),
            outcome(leader.uow.lead(term, run)),
        )
        stored = await user.uow.read(lambda conn, r=row: instances.get(conn, r.id))
        assert stored is not None
        lost += not (stored.has_run and stored.spec.labels == {"tier": "web"})

    assert (lost == 0) is locks
    shows(f"solid 2 lost updates {database}{'' if locks else ', locks taken away'}",
          f"{lost} of {ROUNDS} lost")  # fmt: skip


async def test_a_counter_counts_all_while_its_row_is_locked_first(
    replicas: tuple[Replica, Replica],
    locks: bool,
    monkeypatch: pytest.MonkeyPatch,
    database: str,
    shows: Shows,
) -> None:
    # All wait for one row, on a busy machine for long: time is not what is tested.
    for patience in ("PATIENCE_S", "RETRY_S"):
        monkeypatch.setattr(turns, patience, 600.0)
    row, count = an_instance(attempt=0), 60

    def add_one(conn: Connection) -> None:
        stored = instances.locked(conn, row.id)
        assert stored is not None
        instances.replace(conn, replace(stored, attempt=stored.attempt + 1), etag=None)

    await replicas[0].uow.write(lambda conn: instances.insert(conn, row))
    await asyncio.gather(*(r.uow.write(add_one) for r in replicas for _ in range(count)))
    stored = await replicas[0].uow.read(lambda conn: instances.get(conn, row.id))
    assert stored is not None
    lost = 2 * count - stored.attempt

    assert (lost == 0) is locks
    shows(f"solid 2 counted {database}{'' if locks else ', locks taken away'}",
          f"{lost} of {2 * count} updates lost")  # fmt: skip


async def test_terms_are_taken_one_after_the_other(
    replicas: tuple[Replica, Replica], locks: bool
) -> None:
    taken = await asyncio.gather(*(r.uow.take_term(0) for r in replicas for _ in range(10)))

    assert (sorted(taken) == list(range(1, 21))) is locks


async def test_one_request_at_two_schedulers_is_done_once_and_answered_alike(
    replicas: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = replicas
    image_id = await an_image_row(one)
    pause_after(monkeypatch, requests, "recall")
    stopped = [an_instance(state=InstanceState.STOPPED) for _ in range(ROUNDS)]
    for number, row in enumerate(stopped):
        await one.uow.write(lambda conn, r=row: instances.insert(conn, r))
        for act in (
            lambda r, n=number: r.create(image_id, name=f"web-{n}", request_id=f"create-{n}"),
            lambda r, n=number: r.projects.create(
                r.call("CreateProject", f"project-{n}"), ProjectDraft(name=f"shop-{n}")
            ),
            lambda r, n=number, i=row.id: r.instances.start(r.call("Start", f"start-{n}"), i),
            lambda r, n=number, i=row.id: r.instances.update(
                r.call("Update", f"update-{n}"), i, InstanceDraft(labels={"n": str(n)}),
                ["labels"], "",
            ),
        ):  # fmt: skip
            answers = await asyncio.gather(outcome(act(one)), outcome(act(two)))
            assert answers[0] == answers[1]
            assert not isinstance(answers[0], UnkaiError), answers

    made = await one.uow.read(lambda conn: instances.list_page(conn, after=None, limit=99))
    assert len(made) == 2 * ROUNDS
