"""What every noun's repository promises, and what some add to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta, timezone
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import StatementError

from tests.support.builders import (
    DEFAULT_PROJECT_ID,
    NOON,
    a_claim,
    a_decision,
    a_flavor,
    a_host,
    a_key_pair,
    a_placement_group,
    a_project,
    an_aggregate,
    an_event,
    an_id,
    an_image,
    an_instance,
    an_operation,
)
from unkai_scheduler.domain.aggregates import Membership, OwnRatios
from unkai_scheduler.domain.hosts import HostMark, HostState
from unkai_scheduler.domain.images import ImageState, Visibility
from unkai_scheduler.domain.instances import InstanceState, PlacementPolicy, Power
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.domain.placement_groups import GroupPolicy, GroupScope, Strictness
from unkai_scheduler.store import (
    aggregates,
    claims,
    events,
    flavors,
    hosts,
    images,
    instances,
    key_pairs,
    operations,
    placement_groups,
    projects,
)
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)

NAMED: list[tuple[ModuleType, Any]] = [
    (projects, a_project),
    (flavors, a_flavor),
    (key_pairs, a_key_pair),
    (placement_groups, a_placement_group),
    (images, an_image),
    (hosts, a_host),
    (aggregates, an_aggregate),
    (instances, an_instance),
]
NOUNS = [*NAMED, (operations, an_operation)]
CHANGED = [each for each in NOUNS if each[0] is not key_pairs]
"""A key pair is made and removed, never changed."""
REMOVED = [each for each in NOUNS if each[0] is not operations]
"""Operations go all at once, by their age."""
FOUND = [each for each in NAMED if each[0] not in {flavors, aggregates}]

FULL_ROWS = [
    (projects, a_project(description="for 雲海 🌊", labels={"team": "cloud"})),
    (flavors, a_flavor(vcpus=4, memory_bytes=1 << 42, disk_bytes=1 << 45, labels={"a": "b"})),
    (
        placement_groups,
        a_placement_group(
            policy=GroupPolicy.AFFINITY,
            strictness=Strictness.SOFT,
            scope=GroupScope.ZONE,
            max_per_place=0,
            labels={"a": "b"},
        ),
    ),
    (key_pairs, a_key_pair(labels={"who": "ada"})),
    (
        images,
        an_image(
            state=ImageState.FAILED,
            visibility=Visibility.PUBLIC,
            format=None,
            state_reason={"reason": "IMAGE_CORRUPT", "details": {"offset": 1}},
            labels={"os": "debian"},
        ),
    ),
    (
        hosts,
        a_host(
            state=HostState.UNKNOWN,
            traits=("cpu-avx2", "ssd"),
            features=("console",),
            cordoned=True,
            cordon_reason="new memory",
            zone="room-2",
        ),
    ),
    (
        aggregates,
        an_aggregate(
            description="快 ones",
            project_ids=(DEFAULT_PROJECT_ID,),
            traits=("SSD", "GENERATION_3"),
            ratios=OwnRatios(cpu=0.1, disk=16.0),
            labels={"a": "b"},
        ),
    ),
    (
        instances,
        an_instance(
            key_pair_ids=("key-1", "key-2"),
            required_traits=("ssd",),
            preferred_traits=("GPU", "FAST"),
            forbidden_traits=("OLD",),
            zone="room-2",
            priority=1000,
            placement_group_id="pgr-1",
            gang_id="ins-1",
            aggregate_id="agg-1",
            placement_policy=PlacementPolicy.PACK,
            labels={"app": "web"},
            flavor_id="flv-1",
            state=InstanceState.STOPPED,
            desired_power=Power.OFF,
            state_reason={"class": "NotFound", "message": "gone"},
            has_run=True,
            delete_requested=True,
            reboot_serial=3,
            reboot_force=True,
            stop_grace_s=0.1,
            observed_generation=9,
            accelerator="kvm",
            start_time=NOON,
            due_time=NOON + timedelta(microseconds=1),
            operation_id="opr-1",
            attempt=7,
        ),
    ),
    (
        operations,
        an_operation(
            state=OperationState.FAILED,
            error={"class": "NoCapacity", "details": {"reasons": {"memory": 3}}},
            progress_message="placing",
            progress_percent=40,
            queue_position=2,
            cancel_requested_time=NOON,
            end_time=NOON,
            request_id="r-1",
        ),
    ),
]


@pytest.mark.parametrize(("noun", "row"), FULL_ROWS, ids=lambda value: getattr(value, "id", ""))
async def test_a_row_comes_back_as_it_went(uow: UnitOfWork, noun: ModuleType, row: Any) -> None:
    await uow.write(lambda conn: noun.insert(conn, row))

    assert await uow.read(lambda conn: noun.get(conn, row.id)) == row


@pytest.mark.parametrize(
    ("noun", "row"),
    [each for each in FULL_ROWS if each[0] in dict(CHANGED)],
    ids=lambda value: getattr(value, "id", ""),
)
async def test_replace_writes_every_changeable_column(
    uow: UnitOfWork, noun: ModuleType, row: Any
) -> None:
    build = dict(NOUNS)[noun]
    fixed = {"key_pair_ids": row.spec.key_pair_ids} if noun is instances else {}
    await uow.write(lambda conn: noun.insert(conn, build(id=row.id, **fixed)))

    await uow.write(lambda conn: noun.replace(conn, row, etag=None))

    assert await uow.read(lambda conn: noun.get(conn, row.id)) == row


@pytest.mark.parametrize(("noun", "build"), REMOVED)
async def test_what_is_deleted_is_gone_and_deleting_twice_is_fine(
    uow: UnitOfWork, noun: ModuleType, build: Any
) -> None:
    row = build()
    await uow.write(lambda conn: noun.insert(conn, row))

    for _ in range(2):
        await uow.write(lambda conn: noun.delete(conn, row.id))

    assert await uow.read(lambda conn: noun.get(conn, row.id)) is None


@pytest.mark.parametrize(("noun", "build"), NAMED)
async def test_a_taken_name_is_refused_also_when_renaming(
    uow: UnitOfWork, noun: ModuleType, build: Any
) -> None:
    first, second = build(name="taken"), build(name="free")
    await uow.write(lambda conn: noun.insert(conn, first))
    await uow.write(lambda conn: noun.insert(conn, second))

    with pytest.raises(AlreadyExists) as caught:
        await uow.write_grouped(lambda conn: noun.insert(conn, build(name="taken")))
    assert caught.value.resource == "taken"

    if noun in dict(CHANGED):
        renamed = build(id=second.id, name="taken")
        with pytest.raises(AlreadyExists) as caught:
            await uow.write(lambda conn: noun.replace(conn, renamed, etag=None))
        assert caught.value.resource == "taken"


@pytest.mark.parametrize(("noun", "build"), [each for each in CHANGED if each in NAMED])
async def test_replace_with_an_old_etag_is_a_conflict(
    uow: UnitOfWork, noun: ModuleType, build: Any
) -> None:
    row = build()
    await uow.write(lambda conn: noun.insert(conn, row))
    changed = replace(row, etag="second")
    await uow.write(lambda conn: noun.replace(conn, changed, etag=row.etag))

    late = replace(row, etag="third")
    with pytest.raises(Conflict) as caught:
        await uow.write(lambda conn: noun.replace(conn, late, etag=row.etag))

    assert caught.value.reason == "ETAG_MISMATCH"
    assert await uow.read(lambda conn: noun.get(conn, row.id)) == changed


@pytest.mark.parametrize(("noun", "build"), CHANGED)
async def test_replacing_what_is_not_there_is_not_found(
    uow: UnitOfWork, noun: ModuleType, build: Any
) -> None:
    with pytest.raises(NotFound):
        await uow.write(lambda conn: noun.replace(conn, build(), etag=None))


@pytest.mark.parametrize(("noun", "build"), NAMED)
async def test_pages_follow_names_and_lose_nothing_while_rows_go(
    uow: UnitOfWork, noun: ModuleType, build: Any
) -> None:
    made = [build(name=f"zz-{n}") for n in (3, 1, 2, 5, 4)]
    for row in made:
        await uow.write(lambda conn, row=row: noun.insert(conn, row))
    start = ["zz", ""]

    first = await uow.read(lambda conn: noun.list_page(conn, after=start, limit=2))
    last = first[-1]
    await uow.write(lambda conn: noun.delete(conn, last.id))
    key = [_name(last), last.id]
    rest = await uow.read(lambda conn: noun.list_page(conn, after=key, limit=10))

    assert [_name(row) for row in first + rest] == ["zz-1", "zz-2", "zz-3", "zz-4", "zz-5"]


@pytest.mark.parametrize(("noun", "build"), FOUND)
async def test_a_name_finds_its_row(uow: UnitOfWork, noun: ModuleType, build: Any) -> None:
    row = build(name="sought")
    await uow.write(lambda conn: noun.insert(conn, row))
    scope = (
        (DEFAULT_PROJECT_ID,) if noun in {key_pairs, placement_groups, images, instances} else ()
    )

    found = await uow.read(lambda conn: noun.find(conn, *scope, "sought"))
    listed = await uow.read(lambda conn: noun.list_page(conn, after=None, limit=9, name="sought"))
    missing = await uow.read(lambda conn: noun.find(conn, *scope, "other"))

    assert (found, listed, missing) == (row, [row], None)


async def test_names_are_unique_within_a_project_alone(uow: UnitOfWork) -> None:
    other = a_project()
    here, there = an_instance(name="web"), an_instance(name="web", project_id=other.id)

    def insert(conn: Connection) -> None:
        projects.insert(conn, other)
        instances.insert(conn, here)
        instances.insert(conn, there)

    await uow.write(insert)

    assert await uow.read(lambda conn: instances.find(conn, other.id, "web")) == there


async def test_a_project_that_owns_something_cannot_be_deleted(uow: UnitOfWork) -> None:
    await uow.write(lambda conn: instances.insert(conn, an_instance()))

    with pytest.raises(FailedPrecondition) as caught:
        await uow.write(lambda conn: projects.delete(conn, DEFAULT_PROJECT_ID))

    assert caught.value.reason == "REFERENCE_BROKEN"


async def test_a_page_key_of_another_kind_is_refused(uow: UnitOfWork) -> None:
    with pytest.raises(InvalidArgument):
        await uow.read(lambda conn: flavors.list_page(conn, after=["x"], limit=1))


async def test_times_of_any_zone_come_back_as_utc_and_naive_ones_are_refused(
    uow: UnitOfWork,
) -> None:
    there = NOON.astimezone(timezone(timedelta(hours=9)))
    row = a_flavor(create_time=there)
    await uow.write(lambda conn: flavors.insert(conn, row))

    stored = await uow.read(lambda conn: flavors.get(conn, row.id))

    assert stored is not None
    assert stored.create_time == there
    assert stored.create_time.utcoffset() == timedelta(0)
    assert stored.create_time.microsecond == NOON.microsecond
    naive = a_flavor(create_time=NOON.replace(tzinfo=None))
    with pytest.raises(StatementError, match="time zone"):
        await uow.write(lambda conn: flavors.insert(conn, naive))


async def test_user_data_is_kept_apart_from_the_row(uow: UnitOfWork) -> None:
    row = an_instance(user_data=bytes(range(256)) * 256)
    await uow.write(lambda conn: instances.insert(conn, row))
    stored = await uow.read(lambda conn: instances.get(conn, row.id))
    assert stored is not None
    await uow.write(lambda conn: instances.replace(conn, stored, etag=None))

    kept = await uow.read(lambda conn: instances.user_data(conn, row.id))

    assert stored.spec.user_data == b""
    assert kept == row.spec.user_data


async def test_instances_are_selected_by_each_filter(uow: UnitOfWork) -> None:
    host = a_host()
    web = an_instance(name="web", labels={"app": "web", "tier": "front"}, image_id="img-1")
    db = an_instance(name="db", labels={"app": "db"}, state=InstanceState.RUNNING)

    def insert(conn: Connection) -> None:
        hosts.insert(conn, host)
        instances.insert(conn, web)
        instances.insert(conn, db)
        claims.insert(conn, [a_claim(db, host)])

    await uow.write(insert)

    async def names(**filters: Any) -> list[str]:
        page = await uow.read(
            lambda conn: instances.list_page(conn, after=None, limit=10, **filters)
        )
        return [row.spec.name for row in page]

    assert await names() == ["db", "web"]
    assert await names(project_id="prj-other") == []
    assert await names(name="web") == ["web"]
    assert await names(id_prefix=web.id) == ["web"]
    assert await names(id_prefix="ins%") == []
    assert await names(host_id=host.id) == ["db"]
    assert await names(states=[InstanceState.RUNNING]) == ["db"]
    assert await names(labels={"app": "web", "tier": ""}) == ["web"]
    assert await names(labels={"app": "db", "tier": ""}) == []
    assert await uow.read(lambda conn: instances.count_by_image(conn, "img-1")) == 1
    assert await uow.read(lambda conn: instances.count_by_project(conn, web.project_id)) == 2
    counts = await uow.read(instances.count_by_state)
    assert set(counts) == {(row.project_id, row.state, 1) for row in (web, db)}


async def test_instances_are_counted_by_what_they_name(uow: UnitOfWork) -> None:
    first, second = a_key_pair().id, a_key_pair().id
    for keys in ((first, second), (second,)):
        row = an_instance(flavor_id="flv-1", aggregate_id="agg-1", key_pair_ids=keys)
        await uow.write(lambda conn, row=row: instances.insert(conn, row))

    def counts(conn: Connection) -> list[int]:
        by_key = [instances.count_by_key_pair(conn, key) for key in (first, second, "key-x")]
        by_aggregate = instances.count_by_aggregate(conn, "agg-1")
        return [*by_key, instances.count_by_flavor(conn, "flv-1"), by_aggregate]

    assert await uow.read(counts) == [1, 2, 0, 2, 2]


async def test_changed_labels_select_anew(uow: UnitOfWork) -> None:
    row = an_instance(labels={"app": "web"})
    changed = replace(row, spec=replace(row.spec, labels={"app": "db"}))
    await uow.write(lambda conn: instances.insert(conn, row))
    await uow.write(lambda conn: instances.replace(conn, changed, etag=row.etag))

    def by(value: str) -> Any:
        return lambda conn: instances.list_page(conn, after=None, limit=9, labels={"app": value})

    assert await uow.read(by("web")) == []
    assert await uow.read(by("db")) == [changed]


async def test_members_of_groups_are_found_by_group_and_by_host(uow: UnitOfWork) -> None:
    group, other = a_placement_group(), a_placement_group()
    members = [an_instance(placement_group_id=group.id) for _ in range(3)]
    stranger, one, two = an_instance(), a_host(), a_host()

    def work(conn: Connection) -> None:
        for row in (group, other):
            placement_groups.insert(conn, row)
        for host in (one, two):
            hosts.insert(conn, host)
        instances.insert_many(conn, [*members, stranger])
        claims.insert(conn, [a_claim(row, one) for row in (members[0], members[1], stranger)])

    await uow.write(work)

    naming = await uow.read(lambda conn: placement_groups.naming(conn, [group.id, other.id]))
    assert naming == {group.id: tuple(sorted(row.id for row in members))}
    held = await uow.read(lambda conn: placement_groups.claimed_on(conn, [one.id, two.id]))
    assert held == {one.id: {members[0].id: group.id, members[1].id: group.id}}


async def test_due_rows_come_by_priority_first(uow: UnitOfWork) -> None:
    low = an_instance(due_time=NOON - timedelta(seconds=5))
    high, middle = (an_instance(due_time=NOON, priority=priority) for priority in (1000, 7))
    await uow.write(lambda conn: instances.insert_many(conn, [low, middle, high]))

    assert await uow.read(lambda conn: instances.due(conn, NOON, 10)) == [high, middle, low]


async def test_a_name_that_is_taken_refuses_many_rows_and_says_which(uow: UnitOfWork) -> None:
    await uow.write(lambda conn: instances.insert(conn, an_instance(name="b")))
    made = [an_instance(name=name, labels={"x": "y"}) for name in ("a", "b", "c")]

    with pytest.raises(AlreadyExists, match="instance b "):
        await uow.write(lambda conn: instances.insert_many(conn, made))

    left = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=9))
    assert [row.spec.name for row in left] == ["b"]
    other = [an_instance(name="d"), an_instance(name="d")]
    with pytest.raises(AlreadyExists):
        await uow.write(lambda conn: instances.insert_many(conn, other))


async def test_those_of_a_gang_without_a_host_are_read_together(uow: UnitOfWork) -> None:
    waiting = [an_instance(gang_id="g1") for _ in range(3)]
    other, placed = an_instance(gang_id="g2"), an_instance(gang_id="g1")
    failed, host = an_instance(gang_id="g1", state=InstanceState.FAILED), a_host()

    def work(conn: Connection) -> None:
        hosts.insert(conn, host)
        instances.insert_many(conn, [*waiting, other, placed, failed])
        claims.insert(conn, [a_claim(placed, host)])

    await uow.write(work)

    found = await uow.read(lambda conn: instances.waiting_of_gang(conn, "g1"))
    assert found == sorted(waiting, key=lambda row: row.id)


async def test_due_rows_come_oldest_first(uow: UnitOfWork) -> None:
    late, early = an_instance(due_time=NOON), an_instance(due_time=NOON - timedelta(seconds=5))
    others = [an_instance(due_time=NOON + timedelta(microseconds=1)), an_instance(due_time=None)]
    for row in (late, early, *others):
        await uow.write(lambda conn, row=row: instances.insert(conn, row))

    assert await uow.read(lambda conn: instances.due(conn, NOON, 10)) == [early, late]
    assert await uow.read(lambda conn: instances.due(conn, NOON, 1)) == [early]


async def test_rows_put_off_beyond_a_moment_come_furthest_first(uow: UnitOfWork) -> None:
    far, near = (an_instance(due_time=NOON + timedelta(seconds=s)) for s in (9, 5))
    for row in (near, far, an_instance(due_time=NOON), an_instance(due_time=None)):
        await uow.write(lambda conn, row=row: instances.insert(conn, row))

    assert await uow.read(lambda conn: instances.due_after(conn, NOON, 10)) == [far.id, near.id]
    assert await uow.read(lambda conn: instances.due_after(conn, NOON, 1)) == [far.id]


async def test_a_host_comes_with_what_its_aggregates_say_of_it(uow: UnitOfWork) -> None:
    one, two, none = (a_host(name=name) for name in "abc")
    project = a_project()
    fast = an_aggregate(
        name="fast", host_ids=(one.id, two.id), traits=("SSD",), ratios=OwnRatios(cpu=2.0)
    )
    closed = an_aggregate(name="closed", host_ids=(two.id,), project_ids=(project.id,))

    def insert(conn: Connection) -> None:
        projects.insert(conn, project)
        for host in (one, two, none):
            hosts.insert(conn, host)
        for row in (fast, closed, an_aggregate()):
            aggregates.insert(conn, row)

    await uow.write(insert)
    told = await uow.read(hosts.list_all)
    again = await uow.read(lambda conn: hosts.list_some(conn, [host.id for host in told]))

    assert [host.aggregates for host in told] == [
        (Membership(fast.id, "fast", ("SSD",), (), OwnRatios(cpu=2.0)),),
        (fast.says, closed.says),
        (),
    ]
    assert sorted(again, key=lambda host: host.name) == told
    assert await uow.read(lambda conn: aggregates.count_by_project(conn, project.id)) == 1


async def test_hosts_that_are_touched_moved_and_no_others(uow: UnitOfWork) -> None:
    one, two = a_host(), a_host()
    for row in (one, two):
        await uow.write(lambda conn, row=row: hosts.insert(conn, row))

    later = NOON + timedelta(seconds=5)
    await uow.write(lambda conn: hosts.touch(conn, [one.id, "hst-x"], "new", later))

    marks = await uow.read(hosts.marks)
    assert (marks[one.id].etag, marks[two.id].etag) == ("new", two.etag)
    touched = await uow.read(lambda conn: hosts.get(conn, one.id))
    assert touched == replace(one, etag="new", update_time=later)


async def test_a_host_in_an_aggregate_is_not_removed_from_under_it(uow: UnitOfWork) -> None:
    host = a_host()
    await uow.write(lambda conn: hosts.insert(conn, host))
    await uow.write(lambda conn: aggregates.insert(conn, an_aggregate(host_ids=(host.id,))))

    with pytest.raises(FailedPrecondition) as caught:
        await uow.write(lambda conn: hosts.delete(conn, host.id))

    assert caught.value.reason == "REFERENCE_BROKEN"


async def test_a_hosts_sums_are_those_of_its_claims(uow: UnitOfWork) -> None:
    host, idle = a_host(name="a"), a_host(name="b")
    held = [an_instance(vcpus=2, memory_bytes=1 << 40), an_instance(vcpus=3)]

    def insert(conn: Connection) -> None:
        for row in (host, idle):
            hosts.insert(conn, row)
        for instance in held:
            instances.insert(conn, instance)
        claims.insert(conn, [a_claim(instance, host) for instance in held])

    await uow.write(insert)
    busy, free = await uow.read(hosts.list_all)

    assert (busy.claimed_vcpus, busy.instance_count) == (5, 2)
    assert busy.claimed_memory_bytes == sum(i.spec.memory_bytes for i in held)
    assert busy.claimed_disk_bytes == sum(i.spec.disk_bytes for i in held)
    assert free == idle


async def test_a_hosts_mark_moves_with_its_row_and_its_claims(uow: UnitOfWork) -> None:
    host, idle, held = a_host(name="a"), a_host(name="b"), an_instance(vcpus=2)

    def insert(conn: Connection) -> None:
        for row in (host, idle):
            hosts.insert(conn, row)
        instances.insert(conn, held)

    await uow.write(insert)
    assert await uow.read(hosts.marks) == {
        row.id: HostMark(row.etag, 0, 0, 0) for row in (host, idle)
    }

    await uow.write(lambda conn: claims.insert(conn, [a_claim(held, host)]))
    await uow.write(lambda conn: hosts.replace(conn, replace(idle, etag="moved"), etag=None))

    spec = held.spec
    assert await uow.read(hosts.marks) == {
        host.id: HostMark(host.etag, 2, spec.memory_bytes, spec.disk_bytes),
        idle.id: HostMark("moved", 0, 0, 0),
    }


async def test_some_hosts_are_read_however_many(uow: UnitOfWork) -> None:
    rows = [a_host(name=f"h{number}") for number in range(1, 602)]

    def insert(conn: Connection) -> None:
        for row in rows:
            hosts.insert(conn, row)

    await uow.write(insert)
    wanted = [*(row.id for row in rows[1:]), an_id("host")]
    found = await uow.read(lambda conn: hosts.list_some(conn, wanted))

    assert sorted(row.id for row in found) == sorted(row.id for row in rows[1:])
    assert await uow.read(lambda conn: hosts.list_some(conn, [])) == []


async def test_a_claimed_instance_names_its_host_and_no_host_with_claims_goes(
    uow: UnitOfWork,
) -> None:
    host, held, free = a_host(), an_instance(), an_instance()

    def insert(conn: Connection) -> None:
        hosts.insert(conn, host)
        instances.insert(conn, held)
        instances.insert(conn, free)
        claims.insert(conn, [a_claim(held, host)])

    await uow.write(insert)
    with pytest.raises(FailedPrecondition):
        await uow.write(lambda conn: hosts.delete(conn, host.id))

    assert await uow.read(instances.all_claimed) == [
        replace(held, host_id=host.id, host_name=host.name)
    ]


async def test_what_some_hosts_hold_is_read_in_the_order_of_ids(uow: UnitOfWork) -> None:
    one, other, third = (a_host() for _ in range(3))
    rows = [an_instance() for _ in range(5)]
    held = [(rows[4], one), (rows[0], other), (rows[2], one), (rows[1], third)]

    def insert(conn: Connection) -> None:
        for host in (one, other, third):
            hosts.insert(conn, host)
        for row in rows:
            instances.insert(conn, row)
        claims.insert(conn, [a_claim(row, host) for row, host in held])

    await uow.write(insert)
    found = await uow.read(lambda conn: instances.claimed_of(conn, [one.id, other.id]))
    assert [(row.id, row.host_id) for row in found] == [
        (rows[0].id, other.id),
        (rows[2].id, one.id),
        (rows[4].id, one.id),
    ]
    assert await uow.read(lambda conn: instances.claimed_of(conn, [])) == []


async def test_deleting_an_instance_keeps_its_operations_and_events(uow: UnitOfWork) -> None:
    host, row = a_host(), an_instance(labels={"a": "b"})
    operation = an_operation(resource_id=row.id)
    event = an_event(resource_id=row.id)

    def insert(conn: Connection) -> None:
        hosts.insert(conn, host)
        instances.insert(conn, row)
        claims.insert(conn, [a_claim(row, host)])
        instances.save_decision(conn, a_decision(row.id))
        operations.insert(conn, operation)
        events.insert(conn, event)
        instances.delete(conn, row.id)
        events.stamp(conn, 10)

    await uow.write(insert)

    assert await uow.read(claims.list_all) == []
    with pytest.raises(NotFound):
        await uow.read(lambda conn: instances.decision(conn, row.id))
    assert await uow.read(lambda conn: operations.get(conn, operation.id)) == operation
    listed = await uow.read(
        lambda conn: events.list_page(conn, resource_id=row.id, after=None, limit=9)
    )
    assert [found.id for found in listed] == [event.id]


async def test_operations_are_listed_newest_first_and_by_what_is_active(uow: UnitOfWork) -> None:
    resource = an_instance().id
    ended = an_operation(resource_id=resource, state=OperationState.SUCCEEDED, end_time=NOON)
    first = an_operation(resource_id=resource, deadline_time=NOON)
    second = an_operation(resource_id=resource, deadline_time=NOON - timedelta(seconds=1))
    other = an_operation()
    for row in (ended, first, second, other):
        await uow.write(lambda conn, row=row: operations.insert(conn, row))

    page = await uow.read(lambda conn: operations.list_page(conn, after=None, limit=2))
    rest = await uow.read(lambda conn: operations.list_page(conn, after=[page[-1].id], limit=9))
    active = await uow.read(
        lambda conn: operations.list_page(
            conn, after=None, limit=9, resource_id=resource, active_only=True
        )
    )
    assert page + rest == [other, second, first, ended]
    assert active == [second, first]
    assert await uow.read(lambda conn: operations.active_for(conn, resource)) == second
    assert await uow.read(lambda conn: operations.expired(conn, NOON, 9)) == [second, first]
    assert await uow.write(lambda conn: operations.prune(conn, NOON, 9)) == 0
    later = NOON + timedelta(seconds=1)
    assert await uow.write(lambda conn: operations.prune(conn, later, 9)) == 1


async def test_images_of_a_project_and_public_ones_are_usable(uow: UnitOfWork) -> None:
    other = a_project()
    rows = [
        an_image(name="a-own"),
        an_image(name="b-public", project_id=other.id, visibility=Visibility.PUBLIC),
        an_image(name="c-private", project_id=other.id),
    ]

    def insert(conn: Connection) -> None:
        projects.insert(conn, other)
        for row in rows:
            images.insert(conn, row)

    await uow.write(insert)
    usable = await uow.read(
        lambda conn: images.list_page(conn, after=None, limit=9, usable_by=DEFAULT_PROJECT_ID)
    )

    assert usable == rows[:2]
    assert await uow.read(lambda conn: images.count_by_project(conn, other.id)) == 2


async def test_an_id_taken_twice_inside_the_store_is_safe_to_retry(uow: UnitOfWork) -> None:
    event = an_event()
    await uow.write(lambda conn: events.insert(conn, event))

    with pytest.raises((AlreadyExists, Unavailable)):
        await uow.write(lambda conn: events.insert(conn, event))


def _name(row: Any) -> str:
    return str(row.spec.name if hasattr(row, "spec") else row.name)


async def test_images_to_remove_that_no_instance_needs_come_before_those_that_wait(
    uow: UnitOfWork,
) -> None:
    held, free, late = (
        an_image(name=name, state=ImageState.DELETING, update_time=NOON + timedelta(seconds=age))
        for name, age in (("a", 0), ("b", 2), ("c", 1))
    )

    def fill(conn: Connection) -> None:
        for image in (held, free, late, an_image(name="ready")):
            images.insert(conn, image)
        for _ in range(2):
            instances.insert(conn, an_instance(image_id=held.id))

    await uow.write(fill)

    assert await uow.read(lambda conn: images.deleting(conn, 10)) == [
        (late, 0),
        (free, 0),
        (held, 2),
    ]
    assert await uow.read(lambda conn: images.deleting(conn, 1)) == [(late, 0)]


@pytest.mark.parametrize("change", [lambda e: f"{e} ", lambda e: f"{e}\0", lambda _: "\0"])
async def test_an_etag_that_only_resembles_the_stored_one_is_another(
    uow: UnitOfWork, change: Callable[[str], str]
) -> None:
    row = an_instance()
    await uow.write(lambda conn: instances.insert(conn, row))

    with pytest.raises(Conflict) as refused:
        await uow.write(lambda conn: instances.replace(conn, row, etag=change(row.etag)))

    assert refused.value.reason == "ETAG_MISMATCH"


async def test_a_label_with_a_space_at_its_end_is_another(uow: UnitOfWork) -> None:
    row = an_instance()
    row = replace(row, spec=replace(row.spec, labels={"tier": "web "}))
    await uow.write(lambda conn: instances.insert(conn, row))

    def found(value: str) -> Callable[[Connection], int]:
        labels = {"tier": value}
        return lambda conn: len(instances.list_page(conn, after=None, limit=9, labels=labels))

    assert await uow.read(found("web")) == 0
    assert await uow.read(found("web ")) == 1
