"""The cluster with its figures: how long etcd takes, how it fails, and whether it answers at all.

Stands in front of the real adapter. Whether etcd answers is known from what we ask of it anyway;
only where nobody has asked for a while does `answers` ask by itself.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, cast

from prometheus_client import Counter, Histogram

from unkai_scheduler.cluster.port import Cluster, Membership
from unkai_wire.cluster_records import SchedulerRecord
from unkai_wire.errors import Unavailable

SECONDS = Histogram(
    "unkai_etcd_seconds",
    "Time calls of etcd took, by call.",
    ["call"],
    buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
)
FAILURES = Counter(
    "unkai_etcd_failures_total", "Calls that etcd did not answer, by call.", ["call"]
)
FRESH_S = 10.0
"""An answer so recent says that etcd is there: a leader's watch brings one every 5 s."""


class MeasuredCluster:
    """A cluster that counts what passes through it."""

    def __init__(
        self, cluster: Cluster, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster = cluster
        self._monotonic = monotonic
        self._answered_s = float("-inf")

    async def answers(self) -> bool:
        """Tell whether etcd has answered within 10 s, or does so now."""
        if self._monotonic() - self._answered_s > FRESH_S:
            try:
                await self.read()
            except Unavailable:
                return False
        return True

    async def register(self, record: SchedulerRecord) -> None:
        """Keep this scheduler's record under a lease until `close`."""
        with self._measured("register"):
            await self._cluster.register(record)

    def lead(self) -> AsyncIterator[bool]:
        """Campaign for ever."""
        return self._cluster.lead()

    async def resign(self) -> None:
        """Give the lead up at once, if held."""
        with self._measured("resign"):
            await self._cluster.resign()

    async def read(self) -> Membership:
        """Read all records."""
        with self._measured("read"):
            return await self._cluster.read()

    async def watch(self) -> AsyncIterator[Membership]:
        """Yield the membership now, after each hint of a change, and at least every 5 s."""
        stream: Any = cast("Any", self._cluster.watch())
        async with aclosing(stream) as memberships:
            async for membership in memberships:
                self._answered_s = self._monotonic()
                yield membership

    async def close(self) -> None:
        """Withdraw our records and stop."""
        await self._cluster.close()

    @contextmanager
    def _measured(self, call: str) -> Iterator[None]:
        started_s = time.perf_counter()
        try:
            yield
        except Unavailable:
            FAILURES.labels(call).inc()
            raise
        else:
            self._answered_s = self._monotonic()
        finally:
            SECONDS.labels(call).observe(time.perf_counter() - started_s)
