"""A leader parted from its database, or from all hosts, and not from etcd: another takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.support.cloud import Cloud
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.reconcile.fitness import FIRST_PAUSE_S
from unkai_wire.errors import Unavailable


class Cable:
    """Stands before a store or agents; pulled, every call fails."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self.is_out = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found
        return self._guarded(found)

    def _guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.is_out:
                return _Refusal()
            return call(*args, **kwargs)

        return guarded


class _Refusal:
    """A call, or a stream, of something out of reach."""

    def __await__(self) -> Any:
        raise Unavailable("out of reach", reason="DATABASE_UNAVAILABLE")
        yield

    def __aiter__(self) -> _Refusal:
        return self

    async def __anext__(self) -> Any:
        raise Unavailable("out of reach", reason="HOST_UNREACHABLE")

    async def aclose(self) -> None:
        return


async def leads(cloud: Cloud, name: str) -> None:
    async def holds() -> bool:
        return cloud.schedulers[name].leader.is_leading

    await cloud.until(holds, f"{name} leads")


async def hears_all(cloud: Cloud) -> None:
    async def holds() -> bool:
        return [row.state for row in (await cloud.hosts()).values()] == [HostState.UP] * 3

    await cloud.until(holds, "all hosts are UP")


async def parted(cloud: Cloud, *, store: bool) -> Cable:
    """Let a scheduler behind a cable lead."""
    await cloud.kill("s1")
    cable = Cable(cloud.uow if store else cloud.agents)
    part = {"uow": cable} if store else {"agents": cable}
    await cloud.start("s1", **part)  # type: ignore[arg-type]
    await leads(cloud, "s1")
    return cable


async def test_a_leader_that_cannot_reach_its_database_resigns(cloud: Cloud) -> None:
    cable = await parted(cloud, store=True)
    await cloud.start("s2")

    cable.is_out = True
    await leads(cloud, "s2")

    made = await cloud.create()
    assert (await cloud.until_ended(made.operation_id)).state is OperationState.SUCCEEDED
    assert not cloud.schedulers["s1"].leader.is_leading


async def test_a_leader_that_hears_no_host_resigns(cloud: Cloud) -> None:
    cable = await parted(cloud, store=False)
    await hears_all(cloud)
    await cloud.start("s2")

    cable.is_out = True
    for host in cloud.agents.hosts.values():
        host.break_streams()  # nobody but s1 has any
    await leads(cloud, "s2")
    term = cloud.schedulers["s2"].leader.term
    await asyncio.sleep(10)
    assert cloud.schedulers["s2"].leader.term == term, "the old one takes no more terms"

    made = await cloud.create()
    assert (await cloud.until_ended(made.operation_id)).state is OperationState.SUCCEEDED


async def test_a_leader_without_another_scheduler_stays(cloud: Cloud) -> None:
    cable = await parted(cloud, store=True)
    before = cloud.etcd.leader

    cable.is_out = True
    await asyncio.sleep(60)
    assert cloud.etcd.leader == before
    cable.is_out = False

    made = await cloud.create()
    assert (await cloud.until_ended(made.operation_id)).state is OperationState.SUCCEEDED


async def test_hosts_that_nobody_hears_do_not_send_the_lead_to_and_fro(cloud: Cloud) -> None:
    await leads(cloud, "s1")
    await cloud.start("s2")
    for host_id in cloud.host_ids:
        cloud.agents.hang(host_id)

    reigns = set()
    for _ in range(int(FIRST_PAUSE_S * 4)):
        await asyncio.sleep(1)
        if cloud.etcd.leader is not None:
            terms = {s.leader.term for s in cloud.schedulers.values() if s.leader.is_leading}
            reigns |= terms

    # Each resigned after 15 s, a minute and two minutes: without pauses there were 16.
    assert 2 <= len(reigns) <= 8, reigns
