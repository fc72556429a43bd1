"""A host's removal in each database: one transaction, under the leader's term alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.adopting import a_call
from tests.support.api import FakeLeading
from tests.support.builders import a_claim, a_host, an_aggregate, an_id, an_image, an_instance
from tests.support.store import noon
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.host_removals import HostRemovalsService
from unkai_scheduler.store import aggregates, claims, events, hosts, images, instances, tombstones
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_wire.errors import FailedPrecondition, Unavailable

HOST = a_host(name="h1")
IMAGE = an_image()
GONE = replace(
    an_instance(name="gone", image_id=IMAGE.id), state=InstanceState.DELETING, generation=7
)
KEPT = an_instance(name="kept", image_id=IMAGE.id)


async def removals(uow: UnitOfWork, *held: object) -> HostRemovalsService:
    """Give the host these instances, and take office."""
    leading = FakeLeading(gone_hosts={HOST.id})
    leading.term = await uow.take_term(0)

    def work(conn: Connection) -> None:
        images.insert(conn, IMAGE)
        hosts.insert(conn, HOST)
        for row in (GONE, KEPT):
            instances.insert(conn, row)
            if row in held:
                claims.insert(conn, [a_claim(row, HOST)])

    await uow.lead(leading.term, work)
    return HostRemovalsService(ServiceContext(uow, noon, an_id, lambda ids: None), leading)


async def test_a_removed_host_leaves_its_aggregates(uow: UnitOfWork) -> None:
    service = await removals(uow)
    other = a_host(name="h2")
    fast = an_aggregate(host_ids=tuple(sorted((HOST.id, other.id))))
    alone = an_aggregate(host_ids=(HOST.id,))

    def fill(conn: Connection) -> None:
        hosts.insert(conn, other)
        for row in (fast, alone, an_aggregate(host_ids=(other.id,))):
            aggregates.insert(conn, row)

    await uow.write(fill)
    removed = await service.remove(a_call("r-1"), HOST.id, "burnt")

    left = await uow.read(lambda conn: [aggregates.get(conn, row.id) for row in (fast, alone)])
    assert [row and row.host_ids for row in left] == [(other.id,), ()]
    assert {row and row.etag for row in left}.isdisjoint({fast.etag, alone.etag})
    await uow.write(lambda conn: events.stamp(conn, 9))
    told = await uow.read(lambda conn: events.list_page(conn, after=None, limit=9))
    assert {e.resource_id for e in told if e.resource_kind == "aggregate"} == {fast.id, alone.id}
    assert {said.id for said in removed.host.aggregates} == {fast.id, alone.id}
    assert await service.remove(a_call("r-1"), HOST.id, "burnt") == removed


async def test_the_claims_of_deleted_instances_end_with_their_host(uow: UnitOfWork) -> None:
    service = await removals(uow, GONE)

    removed = await service.remove(a_call("r-1"), HOST.id, "burnt")

    assert removed.instance_ids == (GONE.id,)
    assert await uow.read(hosts.list_all) == []
    assert await uow.read(claims.list_all) == []
    (buried,) = await uow.read(lambda conn: tombstones.of_instance(conn, GONE.id))
    assert (buried.host_id, buried.generation, buried.run_epoch) == (HOST.id, 7, GONE.run_epoch)
    row = await uow.read(lambda conn: instances.get(conn, GONE.id))
    assert row is not None
    assert (row.host_id, row.due_time) == ("", noon())
    assert await service.remove(a_call("r-1"), HOST.id, "burnt") == removed


async def test_one_instance_that_nobody_deleted_keeps_all(uow: UnitOfWork) -> None:
    service = await removals(uow, GONE, KEPT)

    with pytest.raises(FailedPrecondition, match="nobody has deleted: kept") as caught:
        await service.remove(a_call(), HOST.id, "burnt")

    assert caught.value.reason == "HOST_HOLDS_INSTANCES"
    assert len(await uow.read(claims.list_all)) == 2
    assert await uow.read(lambda conn: tombstones.of_instance(conn, GONE.id)) == []


async def test_a_leader_that_has_lost_removes_no_host(uow: UnitOfWork) -> None:
    service = await removals(uow)
    await uow.take_term(0)

    with pytest.raises(Unavailable) as caught:
        await service.remove(a_call(), HOST.id, "burnt")

    assert caught.value.reason == "NOT_LEADER"
    assert [host.id for host in await uow.read(hosts.list_all)] == [HOST.id]
