"""etcd's members one by one: schedulers and agents outlive the loss of any, and of all they hold.

The fake has no members, so these promises are shown on real ones alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import etcd3
import etcd3.exceptions
import pytest

from tests.support.campaigns import a_host, a_scheduler, campaigning, membership_where
from tests.support.etcd import EtcdServer, EtcdTrio, running_trio
from unkai_agent.registry import EtcdRegistry
from unkai_scheduler.cluster.etcd import RELIST_S, EtcdCluster
from unkai_scheduler.cluster.port import Membership
from unkai_wire.cluster_records import HOST_LEASE_TTL_S, HostRecord, host_key

pytestmark = pytest.mark.real
ELECTION_S = 4.0
"""etcd's own: its members miss a leader for a second at most, then one of them wins."""


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[EtcdTrio]:
    stack = contextlib.ExitStack()
    members = await asyncio.to_thread(stack.enter_context, running_trio(tmp_path))
    try:
        yield members
    finally:
        await asyncio.to_thread(stack.close)


@asynccontextmanager
async def a_scheduler_of(trio: EtcdTrio, name: str = "s1") -> AsyncIterator[EtcdCluster]:
    member = EtcdCluster(trio.endpoints, None, name)
    await member.register(a_scheduler(name))
    try:
        yield member
    finally:
        await member.close()


@asynccontextmanager
async def a_host_of(trio: EtcdTrio, folder: Path, number: str = "h1") -> AsyncIterator[HostRecord]:
    registry = EtcdRegistry(trio.endpoints, None, remember=folder / "schedulers.json")
    record = a_host(number)
    registry.put(record)
    running = asyncio.create_task(registry.run())
    await asyncio.wait_for(registry.registered(), 10)
    try:
        yield record
    finally:
        running.cancel()
        await asyncio.wait([running])


Loss = Callable[[EtcdServer], Awaitable[None]]


async def killed(member: EtcdServer) -> None:
    await asyncio.to_thread(member.stop)


async def frozen(member: EtcdServer) -> None:
    member.freeze()


@pytest.mark.parametrize("loss", [killed, frozen])
@pytest.mark.parametrize("number", range(3))
async def test_any_member_may_be_lost_and_the_lead_is_held_or_taken_anew(
    trio: EtcdTrio, loss: Loss, number: int
) -> None:
    async with a_scheduler_of(trio) as s1, campaigning(s1) as campaign:
        await campaign.until(leads=True)
        await loss(trio.members[number])
        begun_s = time.monotonic()
        seen = await membership_where(s1, lambda m: "s1" in m.schedulers)
        await asyncio.sleep(max(0.0, begun_s + ELECTION_S - time.monotonic()))
        await campaign.until(leads=True)

        assert seen.schedulers == {"s1": a_scheduler("s1")}


@pytest.mark.parametrize("loss", [killed, frozen])
async def test_a_follower_lost_costs_no_lead_and_misses_no_host(
    trio: EtcdTrio, tmp_path: Path, loss: Loss
) -> None:
    elected = await asyncio.to_thread(trio.leader)
    follower = next(member for member in trio.members if member is not elected)
    async with (
        a_scheduler_of(trio) as s1,
        campaigning(s1) as campaign,
        a_host_of(trio, tmp_path) as host,
    ):
        await campaign.until(leads=True)
        await loss(follower)
        for _ in range(int(HOST_LEASE_TTL_S * 2)):
            await asyncio.sleep(0.5)
            seen = await membership_where(s1, lambda m: True, within_s=2.5)
            assert seen.hosts == {host.host_id: host}

        assert campaign.said == [True]


async def test_all_members_wiped_and_built_anew_hold_everything_again(
    trio: EtcdTrio, tmp_path: Path
) -> None:
    async with (
        a_scheduler_of(trio) as s1,
        campaigning(s1) as campaign,
        a_host_of(trio, tmp_path) as host,
    ):
        await campaign.until(leads=True)
        await asyncio.to_thread(trio.wipe)
        await membership_where(
            s1,
            lambda m: m.leader is not None and "s1" in m.schedulers and host.host_id in m.hosts,
        )
        await campaign.until(leads=True)

        assert len(campaign.said) >= 3, "a lead of the old etcd must not go on in the new one"


async def test_a_member_that_hangs_with_our_watch_costs_hints_for_one_listing_alone(
    trio: EtcdTrio,
) -> None:
    """A hung member keeps the watch open and silent; the connection would be missed in a minute."""
    first, *others = trio.members
    async with a_scheduler_of(trio) as s1, watching(s1) as changes:
        await changes.until_host("h0", others[0], RELIST_S)
        first.freeze()
        # Whoever led etcd: the two that are left have a leader again.
        await asyncio.sleep(ELECTION_S)
        await changes.until_host("h1", others[0], RELIST_S + ELECTION_S)
        await asyncio.sleep(1)
        took_s = await changes.until_host("h2", others[0], RELIST_S)

        assert took_s < RELIST_S / 2, "a watch that is heard tells at once"


async def test_history_compacted_while_a_watch_is_down_loses_no_change(trio: EtcdTrio) -> None:
    first, *others = trio.members
    async with a_scheduler_of(trio) as s1, watching(s1) as changes:
        await asyncio.to_thread(first.stop)
        for number in range(20):
            await asyncio.to_thread(put_host, others[0], f"h{number}")
        await asyncio.to_thread(compact, others[0])
        await asyncio.to_thread(first.launch)
        await changes.until(lambda m: len(m.hosts) == 20, RELIST_S + ELECTION_S)
        took_s = await changes.until_host("late", others[0], RELIST_S)

        assert took_s < RELIST_S / 2, "the watch goes on after the compaction"


def put_host(member: EtcdServer, name: str) -> None:
    """Write a host's record; while etcd elects, try again."""
    record = a_host(name)
    end = time.monotonic() + ELECTION_S * 2
    while True:
        try:
            return member.put(host_key(record.host_id), record.to_json())
        except etcd3.exceptions.Etcd3Exception:
            if time.monotonic() > end:
                raise


def compact(member: EtcdServer) -> None:
    """Forget all of etcd's history."""
    with contextlib.closing(member.client()) as client:
        newest = client.get_response("/unkai/v1/").header.revision
        client.compact(newest, physical=True)


class Changes:
    """What a scheduler's watch yields, as a test waits for it."""

    def __init__(self, watch: AsyncGenerator[Membership, None]) -> None:
        self._watch = watch

    async def until(self, holds: Callable[[Membership], bool], within_s: float) -> None:
        async with asyncio.timeout(within_s):
            while not holds(await anext(self._watch)):
                pass

    async def until_host(self, name: str, member: EtcdServer, within_s: float) -> float:
        """Register a host through a member; return how long the watch took to tell of it."""
        await asyncio.to_thread(put_host, member, name)
        begun_s = time.monotonic()
        await self.until(lambda m: f"hst-{name}" in m.hosts, within_s)
        return time.monotonic() - begun_s


@asynccontextmanager
async def watching(member: EtcdCluster) -> AsyncIterator[Changes]:
    async with aclosing(member.watch()) as watch:
        await anext(watch)
        yield Changes(watch)
