"""Whether etcd answers is known from what is asked of it anyway, and asked where nobody did."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from unkai_scheduler.cluster.fake import FakeCluster, FakeEtcd
from unkai_scheduler.cluster.measured import FRESH_S, MeasuredCluster
from unkai_scheduler.cluster.port import Membership
from unkai_wire.cluster_records import SchedulerRecord
from unkai_wire.errors import Unavailable


class Etcd:
    """A cluster that answers, or does not, and counts how often it is read."""

    def __init__(self) -> None:
        self.away = False
        self.reads = 0
        self._real: FakeCluster = FakeEtcd().member("s1")

    async def read(self) -> Membership:
        self.reads += 1
        if self.away:
            raise Unavailable("etcd does not answer", reason="ETCD_UNAVAILABLE")
        return await self._real.read()

    async def register(self, record: SchedulerRecord) -> None:
        await self._real.register(record)

    def lead(self) -> AsyncIterator[bool]:
        return self._real.lead()

    async def resign(self) -> None:
        await self._real.resign()

    def watch(self) -> AsyncIterator[Membership]:
        return self._real.watch()

    async def close(self) -> None:
        await self._real.close()


class Site:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.etcd = Etcd()
        self.cluster = MeasuredCluster(self.etcd, monotonic=lambda: self.now_s)


@pytest.fixture
def site() -> Site:
    return Site()


async def test_a_recent_answer_spares_the_question(site: Site) -> None:
    assert await site.cluster.answers()
    assert site.etcd.reads == 1
    site.now_s += FRESH_S
    assert await site.cluster.answers()
    assert site.etcd.reads == 1


async def test_a_watch_that_speaks_is_an_answer(site: Site) -> None:
    async with aclosing(cast("Any", site.cluster.watch())) as stream:
        await anext(stream)
        assert await site.cluster.answers()
    assert site.etcd.reads == 0


async def test_silence_is_noticed_and_counted(site: Site) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("unkai_etcd_failures_total", {"call": "read"}) or 0.0

    before = count()
    assert await site.cluster.answers()
    site.etcd.away, site.now_s = True, site.now_s + FRESH_S + 1
    assert not await site.cluster.answers()
    assert count() == before + 1
    with pytest.raises(Unavailable):
        await site.cluster.read()
