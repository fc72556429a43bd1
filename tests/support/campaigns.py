"""Members of a cluster under test: records, campaigns in the background, and waiting for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from unkai_scheduler.cluster.port import Cluster, Membership
from unkai_wire.cluster_records import HostRecord, SchedulerRecord
from unkai_wire.errors import Unavailable

TAKE_OVER_S = 30.0
"""Longest to wait for what is to come: a hung leader is followed after 11 s, on a quiet machine."""


def a_host(name: str = "h1") -> HostRecord:
    return HostRecord(
        host_id=f"hst-{name}",
        name=name,
        address="127.0.0.1:7444",
        tls_name=f"hst-{name}.host.unkai.internal",
        cpus=2,
        memory_bytes=1 << 30,
        disk_bytes=1 << 34,
        accelerator="tcg",
        accelerator_reason="no /dev/kvm",
        traits=("CPU_X86_64",),
        boot_id="b",
        agent_version="0.1.0",
    )


def a_scheduler(name: str) -> SchedulerRecord:
    return SchedulerRecord(name, f"{name}:7443", "0.1.0")


class Campaign:
    """A campaign in the background: what it said, and whether it leads now."""

    def __init__(self, member: Cluster) -> None:
        self.said: list[bool] = []
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(member))

    async def _run(self, member: Cluster) -> None:
        turns = member.lead()
        try:
            async for turn in turns:
                self.said.append(turn)
                self._changed.set()
        finally:
            assert isinstance(turns, AsyncGenerator)
            await turns.aclose()

    @property
    def leads(self) -> bool:
        return bool(self.said) and self.said[-1]

    async def until(self, leads: bool, within_s: float = TAKE_OVER_S) -> None:
        async with asyncio.timeout(within_s):
            while self.leads is not leads:
                self._changed.clear()
                await self._changed.wait()

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@asynccontextmanager
async def campaigning(member: Cluster) -> AsyncIterator[Campaign]:
    campaign = Campaign(member)
    try:
        yield campaign
    finally:
        await campaign.stop()


async def membership_where(
    member: Cluster, holds: Callable[[Membership], bool], within_s: float = TAKE_OVER_S
) -> Membership:
    async with asyncio.timeout(within_s):
        while True:
            with suppress(Unavailable):
                seen = await member.read()
                if holds(seen):
                    return seen
            await asyncio.sleep(0.05)
