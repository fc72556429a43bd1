"""The scheduler's Prometheus figures, and the mTLS endpoint that shows them.

Figures of the whole cloud (hosts, instances, operations) are read when asked for; the leader's own
(decisions, rejections, audit) are counted where they happen. Only the leader has live figures, so
`unkai_leader` tells which of several schedulers to believe. Series of single instances come from
the agents that hold them, never from here. The trap: the endpoint runs in a
thread; it asks the event loop for the rows and waits.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from unkai_scheduler.domain.clock import Clock, system_clock
from unkai_scheduler.domain.hosts import Host, HostState
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.operations import Operation, OperationState, Verb
from unkai_scheduler.services.live import LiveView
from unkai_scheduler.store import events, hosts, instances, operations, ovn_work
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.errors import Unavailable

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_READ_S = 5.0
"""Seconds a scrape waits for the rows; Prometheus itself gives up after 10."""
_PAGE = 1000


class Etcd(Protocol):
    """What the exporter needs of the cluster."""

    async def answers(self) -> bool:
        """Tell whether etcd answers."""


class Ovn(Protocol):
    """What the exporter needs of the way to OVN's northbound database."""

    transactions: int

    @property
    def trouble(self) -> str:
        """Why it cannot be asked now; empty: it can."""


class Reign(Protocol):
    """What the exporter needs of the leader."""

    term: int

    @property
    def is_leading(self) -> bool:
        """Tell whether this process leads."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All rows that figures are made of, read in one transaction."""

    hosts: list[Host]
    instances: list[tuple[str, InstanceState, int]]
    """Their number by project and state."""
    active: list[Operation]
    """Operations that have not ended."""
    unstamped: tuple[int, datetime | None]
    """Events that wait for their revision, and since when the oldest does."""
    due: tuple[int, datetime | None] = (0, None)
    """Units that OVN does not have yet, and since when the oldest waits."""


class CloudCollector(Collector):
    """Makes the figures of the cloud from the store and the live state at each scrape."""

    def __init__(
        self,
        uow: UnitOfWork,
        live: LiveView,
        reign: Reign,
        loop: asyncio.AbstractEventLoop,
        *,
        etcd: Etcd | None = None,
        ovn: Ovn | None = None,
        disks: Mapping[str, Path] | None = None,
        clock: Clock = system_clock,
    ) -> None:
        """`clock`: the cloud's. `disks`: what lies where on this machine's, by what it is."""
        self._etcd = etcd
        self._ovn = ovn
        self._disks = dict(disks or {})
        self._clock = clock
        self._uow = uow
        self._live = live
        self._reign = reign
        self._loop = loop

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not read the store."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read and count. Called in the endpoint's thread."""
        leading = self._reign.is_leading
        yield _gauge("unkai_leader", "1 where this scheduler leads.", float(leading))
        yield _gauge("unkai_term", "Number of the reign, where this scheduler leads.",
                     float(self._reign.term if leading else 0))  # fmt: skip
        ahead = system_clock() - self._clock()
        yield _gauge("unkai_scheduler_clock_ahead_seconds",
                     "How far this machine's clock is ahead of the database's.",
                     ahead.total_seconds())  # fmt: skip
        yield from _of_disks(self._disks)
        if self._etcd is not None:
            answers = asyncio.run_coroutine_threadsafe(self._etcd.answers(), self._loop)
            yield _gauge("unkai_etcd_up", "1 while etcd answers this scheduler.",
                         float(answers.result(_READ_S)))  # fmt: skip
        if self._ovn is not None:
            yield _gauge("unkai_ovn_up", "1 while OVN's northbound database answers us.",
                         float(not self._ovn.trouble))  # fmt: skip
            yield CounterMetricFamily(
                "unkai_ovn_transactions",
                "Transactions that this scheduler sent to OVN's northbound database.",
                value=self._ovn.transactions,
            )
        snapshot = self._snapshot()
        up = "1 while the database answers this scheduler."
        yield _gauge("unkai_database_up", up, float(snapshot is not None))
        if snapshot is None:
            return
        yield from _of_hosts(snapshot.hosts, self._live)
        yield from _of_instances(snapshot.instances)
        yield from _of_operations(snapshot.active, self._clock())
        yield from _of_events(snapshot.unstamped, self._clock())
        if self._ovn is not None:
            yield from _of_ovn(snapshot.due, self._clock())

    def _snapshot(self) -> Snapshot | None:
        """Read the rows; None when the database does not answer, which costs its figures alone."""
        reading = asyncio.run_coroutine_threadsafe(self._uow.read(read_snapshot), self._loop)
        try:
            return reading.result(_READ_S)
        except (Unavailable, TimeoutError):
            reading.cancel()
            return None


def read_snapshot(conn: Connection) -> Snapshot:
    """Read the rows page by page, in one transaction."""
    active: list[Operation] = []
    after_operation = None
    while rows := operations.list_page(conn, after=after_operation, limit=_PAGE, active_only=True):
        active += rows
        after_operation = (rows[-1].id,)
    counts = instances.count_by_state(conn)
    due = (ovn_work.count(conn), ovn_work.oldest(conn))
    return Snapshot(hosts.list_all(conn), counts, active, events.unstamped(conn), due)


_HOST_FIGURES: tuple[tuple[str, str, Callable[[Host], float]], ...] = (
    ("unkai_host_cpus", "CPUs of the host.", lambda h: h.cpus),
    ("unkai_host_memory_bytes", "Memory for instances.", lambda h: h.memory_bytes),
    ("unkai_host_disk_bytes", "Disk for instances.", lambda h: h.disk_bytes),
    ("unkai_host_claimed_vcpus", "Virtual CPUs claimed.", lambda h: h.claimed_vcpus),
    ("unkai_host_claimed_memory_bytes", "Memory claimed.", lambda h: h.claimed_memory_bytes),
    ("unkai_host_claimed_disk_bytes", "Disk claimed.", lambda h: h.claimed_disk_bytes),
    ("unkai_host_instances", "Instances the host holds.", lambda h: h.instance_count),
    ("unkai_host_up", "1 where the host is UP.", lambda h: h.state is HostState.UP),
    ("unkai_host_cordoned", "1 where nothing new is placed.", lambda h: h.cordoned),
)


def _of_hosts(rows: list[Host], live: LiveView) -> Iterator[Metric]:
    states = Counter(row.state.value for row in rows)
    yield _by_state("unkai_hosts", "Hosts, by state.", [s.value for s in HostState], states)
    for name, text, figure in _HOST_FIGURES:
        family = GaugeMetricFamily(name, text, labels=["host"])
        for row in rows:
            family.add_metric([row.name], float(figure(row)))
        yield family
    ages = GaugeMetricFamily(
        "unkai_metric_age_seconds", "Age of the host's newest sample.", labels=["host"]
    )
    skews = GaugeMetricFamily(
        "unkai_host_clock_skew_seconds",
        "How far the host's clock is behind the database's, by its newest sample.",
        labels=["host"],
    )
    samples = live.samples()
    for row in rows:
        age_s, received = live.age_s(row.id), samples.get(row.id)
        if age_s is not None:
            ages.add_metric([row.name], age_s)
        if received is not None:
            behind = received.received_time - received.sample.host.sample_time
            skews.add_metric([row.name], behind.total_seconds())
    yield ages
    yield skews


def _of_instances(rows: list[tuple[str, InstanceState, int]]) -> Iterator[Metric]:
    counts = {(project_id, state): number for project_id, state, number in rows}
    family = GaugeMetricFamily(
        "unkai_instances", "Instances, by project and state.", labels=["project_id", "state"]
    )
    for project_id in sorted({project for project, _ in counts}):
        for state in InstanceState:
            family.add_metric([project_id, state.value], counts.get((project_id, state), 0))
    yield family


def _of_operations(rows: list[Operation], now: datetime) -> Iterator[Metric]:
    states = [state.value for state in OperationState if not state.ended]
    counts = Counter(row.state.value for row in rows)
    yield _by_state("unkai_operations", "Operations that have not ended, by state.", states, counts)
    oldest = GaugeMetricFamily(
        "unkai_operations_oldest_seconds",
        "Age of the oldest operation that has not ended and waits for no capacity, by verb; or 0.",
        labels=["verb"],
    )
    for verb in Verb:
        ages = [_age_s(r, now) for r in rows if r.verb is verb and not r.queue_position]
        oldest.add_metric([verb.value], max(ages, default=0.0))
    yield oldest
    overdue = sum(row.deadline_time < now for row in rows)
    yield _gauge("unkai_operations_overdue", "Operations past their deadline.", float(overdue))
    waits = [_age_s(row, now) for row in rows if row.queue_position]
    yield _gauge("unkai_capacity_queue_length", "Operations that wait for capacity.", len(waits))
    yield _gauge(
        "unkai_capacity_queue_oldest_seconds", "Longest such wait, or 0.", max(waits, default=0.0)
    )


def _age_s(row: Operation, now: datetime) -> float:
    return max(0.0, (now - row.create_time).total_seconds())


def _of_events(unstamped: tuple[int, datetime | None], now: datetime) -> Iterator[Metric]:
    count, oldest = unstamped
    lag_s = max(0.0, (now - oldest).total_seconds()) if oldest is not None else 0.0
    yield _gauge("unkai_events_unstamped", "Events that wait for their revision.", count)
    yield _gauge("unkai_events_lag_seconds", "How long the oldest of them waits, or 0.", lag_s)


def _of_ovn(due: tuple[int, datetime | None], now: datetime) -> Iterator[Metric]:
    count, oldest = due
    age_s = max(0.0, (now - oldest).total_seconds()) if oldest is not None else 0.0
    yield _gauge("unkai_ovn_units_due", "Units that OVN does not have as they shall be.", count)
    yield _gauge("unkai_ovn_oldest_due_seconds", "How long the oldest of them waits, or 0.", age_s)


def _of_disks(disks: Mapping[str, Path]) -> Iterator[Metric]:
    size = GaugeMetricFamily(
        "unkai_scheduler_disk_size_bytes", "Size of the disk, by what it holds.", labels=["holds"]
    )
    free = GaugeMetricFamily(
        "unkai_scheduler_disk_available_bytes", "Room on the disk.", labels=["holds"]
    )
    for holds, path in disks.items():
        try:
            disk = os.statvfs(path)
        except OSError:
            continue
        size.add_metric([holds], disk.f_blocks * disk.f_frsize)
        free.add_metric([holds], disk.f_bavail * disk.f_frsize)
    yield size
    yield free


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _by_state(name: str, text: str, states: list[str], counts: Counter[str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["state"])
    for state in states:
        family.add_metric([state], counts[state])
    return family
