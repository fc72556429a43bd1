"""A host that is gone for ever is removed on an operator's word; what it held ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import pytest

from tests.support.adopting import a_call, found
from tests.support.builders import an_id, an_instance
from tests.support.cloud import Cloud
from tests.support.cloud_sight import wait_clean
from tests.support.store import FaultyStore
from unkai_scheduler.agents.port import MachineOrder
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.findings import FindingKind
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.machines import Machine, MachineState
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.host_removals import HostRemovalsService, RemovedHost
from unkai_scheduler.store import instances
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_wire.errors import FailedPrecondition, NotFound, Unavailable

T = TypeVar("T")
DATABASE_GONE = Unavailable("the database does not answer", reason="DATABASE_UNAVAILABLE")
BURNT = "burnt on 27 November; the disks were shredded"


async def remove(
    cloud: Cloud, host_id: str, *, request_id: str = "", uow: UnitOfWork | None = None
) -> RemovedHost:
    leader = cloud.schedulers["s1"].leader
    context = ServiceContext(uow or cloud.uow, cloud.clock, an_id, leader.wake)
    return await HostRemovalsService(context, leader).remove(a_call(request_id), host_id, BURNT)


async def refusal(cloud: Cloud, host_id: str) -> FailedPrecondition:
    before = await cloud.hosts(), await cloud.claims()
    with pytest.raises(FailedPrecondition) as caught:
        await remove(cloud, host_id)
    assert (await cloud.hosts(), await cloud.claims()) == before
    return caught.value


async def an_instance_on_a_lost_host(cloud: Cloud) -> tuple[str, str]:
    """Run an instance, lose its host; return the ids of both."""
    made = await cloud.create("web")
    await cloud.until_ended(made.operation_id)
    host_id = (await cloud.instance(made.id)).host_id
    cloud.lose_host(host_id)
    await until_host(cloud, host_id, HostState.UNKNOWN)
    return made.id, host_id


async def until_host(cloud: Cloud, host_id: str, state: HostState) -> None:
    async def holds() -> bool:
        host = (await cloud.hosts()).get(host_id)
        return host is not None and host.state is state

    await cloud.until(holds, f"the host is {state.value}")


async def test_an_instance_that_was_deleted_is_gone_once_its_host_is_removed(cloud: Cloud) -> None:
    ident, host_id = await an_instance_on_a_lost_host(cloud)
    deletion = await cloud.delete(ident)
    await cloud.until_state(ident, InstanceState.DELETING)

    removed = await remove(cloud, host_id, request_id="r-1")

    assert removed.instance_ids == (ident,)
    assert (await cloud.until_ended(deletion.id)).state is OperationState.SUCCEEDED
    assert await cloud.find(ident) is None
    assert host_id not in await cloud.hosts()
    assert await remove(cloud, host_id, request_id="r-1") == removed, "asked twice, done once"
    await cloud.until_stamped()
    (said,) = [e for e in await cloud.events(host_id) if e.type is EventType.DELETED]
    assert (said.actor, said.reason) == ("client:admin", "HOST_REMOVED")
    assert said.attributes["statement"] == BURNT
    assert not await found(cloud), "no audit waits for it, and nothing is left of it"
    with pytest.raises(NotFound):
        await remove(cloud, host_id)


async def test_an_instance_that_nobody_deleted_keeps_its_host(cloud: Cloud) -> None:
    ident, host_id = await an_instance_on_a_lost_host(cloud)

    error = await refusal(cloud, host_id)
    assert error.reason == "HOST_HOLDS_INSTANCES"
    assert "web" in error.message
    assert "unkai instance delete" in error.fix

    cloud.return_host(host_id)
    await cloud.until_state(ident, InstanceState.RUNNING)


async def test_a_host_that_speaks_or_is_registered_is_not_removed(cloud: Cloud) -> None:
    host_id = cloud.host_ids[0]
    await until_host(cloud, host_id, HostState.UP)
    assert (await refusal(cloud, host_id)).reason == "HOST_NOT_GONE"

    cloud.agents.hang(host_id)
    await until_host(cloud, host_id, HostState.UNKNOWN)
    assert (await refusal(cloud, host_id)).reason == "HOST_NOT_GONE", "its lease is still there"

    cloud.agents.heal(host_id)
    await until_host(cloud, host_id, HostState.UP)
    cloud.etcd.remove_host(host_id)
    error = await refusal(cloud, host_id)
    assert error.reason == "HOST_NOT_GONE", "it speaks, whatever etcd says"
    assert f"etcd revoke {host_id}" in error.fix


async def test_a_host_that_comes_back_is_new_and_what_was_deleted_on_it_goes(cloud: Cloud) -> None:
    ident, host_id = await an_instance_on_a_lost_host(cloud)
    await cloud.delete(ident)
    await cloud.until_state(ident, InstanceState.DELETING)
    await remove(cloud, host_id)

    cloud.return_host(host_id)

    async def is_empty() -> bool:
        return host_id in await cloud.hosts() and not cloud.machines().get(host_id)

    await cloud.until(is_empty, "the machine left on the host is removed")
    await wait_clean(cloud)
    assert not await found(cloud, FindingKind.ORPHAN)
    again = await cloud.create("web")
    assert (await cloud.until_ended(again.operation_id)).state is OperationState.SUCCEEDED


async def a_lost_host(cloud: Cloud) -> str:
    """Return a host that was up and has been silent for long."""
    host_id = cloud.host_ids[0]
    await until_host(cloud, host_id, HostState.UP)
    cloud.lose_host(host_id)
    await until_host(cloud, host_id, HostState.UNKNOWN)
    return host_id


class LateWrite(FaultyStore):
    """A store where a host is back and UP when a write begins, or when its leader hears of it."""

    def __init__(self, cloud: Cloud, host_id: str, *, is_committed: bool) -> None:
        super().__init__(cloud.uow)
        self._cloud = cloud
        self._host_id = host_id
        self._is_committed = is_committed

    async def lead(self, term: int, work: Callable[[Connection], T]) -> T:
        if not self._is_committed:
            await self._return()
            return await super().lead(term, work)
        result = await super().lead(term, work)
        await self._return()
        return result

    async def _return(self) -> None:
        self._cloud.return_host(self._host_id)
        await until_host(self._cloud, self._host_id, HostState.UP)


async def test_a_host_that_comes_back_before_its_removal_is_written_is_not_removed(
    cloud: Cloud,
) -> None:
    host_id = await a_lost_host(cloud)

    with pytest.raises(FailedPrecondition) as caught:
        await remove(cloud, host_id, uow=LateWrite(cloud, host_id, is_committed=False))

    assert caught.value.reason == "HOST_NOT_GONE"
    await cloud.until_stamped()
    assert not [e for e in await cloud.events(host_id) if e.type is EventType.DELETED]
    assert (await cloud.hosts())[host_id].state is HostState.UP


async def test_a_host_that_comes_back_once_it_is_removed_is_up_and_takes_machines(
    cloud: Cloud,
) -> None:
    host_id = await a_lost_host(cloud)

    await remove(cloud, host_id, uow=LateWrite(cloud, host_id, is_committed=True))

    await until_host(cloud, host_id, HostState.UP)
    made = [await cloud.create(f"web-{n}") for n in range(6)]
    for one in made:
        assert (await cloud.until_ended(one.operation_id)).state is OperationState.SUCCEEDED
    assert host_id in {(await cloud.instance(one.id)).host_id for one in made}


async def test_nothing_is_placed_on_a_removed_host_and_the_next_leader_knows_it_no_more(
    cloud: Cloud,
) -> None:
    host_id = await a_lost_host(cloud)
    await remove(cloud, host_id)

    made = [await cloud.create(f"web-{n}") for n in range(4)]
    for one in made:
        assert (await cloud.until_ended(one.operation_id)).state is OperationState.SUCCEEDED
    await cloud.kill()
    await cloud.start()
    await wait_clean(cloud)
    assert set(await cloud.hosts()) == set(cloud.host_ids) - {host_id}


class SlowCommit(FaultyStore):
    """A store whose answer takes a while once all is written."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud.uow)
        self.is_written = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def lead(self, term: int, work: Callable[[Connection], T]) -> T:
        result = await super().lead(term, work)
        self.is_written.set()
        await self.may_answer.wait()
        return result


async def test_a_caller_that_goes_once_a_removal_is_written_leaves_a_leader_that_knows_it(
    cloud: Cloud,
) -> None:
    host_id = await a_lost_host(cloud)
    store, view = SlowCommit(cloud), cloud.schedulers["s1"].leader.hosts
    caller = asyncio.create_task(remove(cloud, host_id, uow=store))
    await store.is_written.wait()

    caller.cancel()
    with suppress(asyncio.CancelledError):
        await caller
    store.may_answer.set()

    async def is_forgotten() -> bool:
        return not view.is_written(host_id)

    await cloud.until(is_forgotten, "the leader has forgotten the host", within_s=5.0)


async def lose_answer_of_removal(cloud: Cloud, host_id: str, request_id: str = "") -> None:
    """Remove a host; the database says nothing about it."""
    store = FaultyStore(cloud.uow)
    store.lose_answer_of_next(DATABASE_GONE)
    with pytest.raises(Unavailable):
        await remove(cloud, host_id, request_id=request_id, uow=store)
    assert host_id not in await cloud.hosts()


async def test_a_removal_asked_for_again_is_known_to_the_leader(cloud: Cloud) -> None:
    host_id = await a_lost_host(cloud)
    await lose_answer_of_removal(cloud, host_id, "r-1")

    await remove(cloud, host_id, request_id="r-1")

    view = cloud.schedulers["s1"].leader.hosts
    assert not view.is_written(host_id)
    cloud.return_host(host_id)
    await until_host(cloud, host_id, HostState.UP)
    await remove(cloud, host_id, request_id="r-1")
    assert view.is_written(host_id), "it has come back since"


async def test_a_deletion_ends_where_a_removals_answer_was_lost(cloud: Cloud) -> None:
    host_id = await a_lost_host(cloud)
    cloud.return_host(host_id)
    await until_host(cloud, host_id, HostState.UP)
    row = an_instance(image_id=cloud.image.id, state=InstanceState.FAILED)
    await cloud.uow.write(lambda conn: instances.insert(conn, row))
    machine = Machine(row.id, host_id, 1, 1, 1, MachineState.RUNNING, name="web")
    cloud.agents.plant_machine(
        host_id, machine, MachineOrder(row, cloud.image, 1, must_exist=False)
    )
    live = cloud.schedulers["s1"].live

    async def is_told() -> bool:
        return live.holders(row.id) == (host_id,)

    await cloud.until(is_told, "the host has told what it holds")
    cloud.lose_host(host_id)
    await until_host(cloud, host_id, HostState.UNKNOWN)
    await lose_answer_of_removal(cloud, host_id)

    deletion = await cloud.delete(row.id)

    # A leader that asks for a claim without end lets no time be jumped over: each second is real.
    ended = await cloud.until_ended(deletion.id, within_s=30.0)
    assert ended.state is OperationState.SUCCEEDED
    assert not cloud.schedulers["s1"].leader.hosts.is_written(host_id)
