"""The scheduler's Prometheus figures, and the mTLS endpoint that shows them.

Figures of the whole cloud (hosts, instances, operations) are read when asked for; the leader's own
(decisions, rejections, audit) are counted where they happen. Only the leader has live figures, so
`unkai_leader` tells which of several schedulers to believe. The trap: the endpoint runs in a
thread; it asks the event loop for the rows and waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from unkai_scheduler.domain.hosts import Host, HostState
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.services.live import LiveView
from unkai_scheduler.store import hosts, instances, operations
from unkai_scheduler.store.unit_of_work import UnitOfWork

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_READ_S = 5.0
"""Seconds a scrape waits for the rows; Prometheus itself gives up after 10."""
_PAGE = 1000


class Reign(Protocol):
    """What the exporter needs of the leader."""

    is_leading: bool
    term: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All rows that figures are made of, read in one transaction."""

    hosts: list[Host]
    instances: list[Instance]
    active_operations: Counter[str]


class CloudCollector(Collector):
    """Makes the figures of the cloud from the store and the live state at each scrape."""

    def __init__(
        self, uow: UnitOfWork, live: LiveView, reign: Reign, loop: asyncio.AbstractEventLoop
    ) -> None:
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
        reading = asyncio.run_coroutine_threadsafe(self._uow.read(read_snapshot), self._loop)
        snapshot = reading.result(_READ_S)
        yield from _of_hosts(snapshot.hosts, self._live)
        yield from _of_instances(snapshot.instances)
        counts = snapshot.active_operations
        states = [state.value for state in OperationState if not state.ended]
        yield _by_state(
            "unkai_operations", "Operations that have not ended, by state.", states, counts
        )


def read_snapshot(conn: Connection) -> Snapshot:
    """Read the rows page by page, in one transaction."""
    found: list[Instance] = []
    after = None
    while page := instances.list_page(conn, after=after, limit=_PAGE):
        found += page
        after = (page[-1].spec.name, page[-1].id)
    active: Counter[str] = Counter()
    after_operation = None
    while rows := operations.list_page(conn, after=after_operation, limit=_PAGE, active_only=True):
        active.update(row.state.value for row in rows)
        after_operation = (rows[-1].id,)
    return Snapshot(hosts.list_all(conn), found, active)


_HOST_FIGURES: tuple[tuple[str, str, Callable[[Host], float]], ...] = (
    ("unkai_host_cpus", "CPUs of the host.", lambda h: h.cpus),
    ("unkai_host_memory_bytes", "Memory for instances.", lambda h: h.memory_bytes),
    ("unkai_host_disk_bytes", "Disk for instances.", lambda h: h.disk_bytes),
    ("unkai_host_claimed_vcpus", "Virtual CPUs claimed.", lambda h: h.claimed_vcpus),
    ("unkai_host_claimed_memory_bytes", "Memory claimed.", lambda h: h.claimed_memory_bytes),
    ("unkai_host_claimed_disk_bytes", "Disk claimed.", lambda h: h.claimed_disk_bytes),
    ("unkai_host_instances", "Instances the host holds.", lambda h: h.instance_count),
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
    for row in rows:
        age_s = live.age_s(row.id)
        if age_s is not None:
            ages.add_metric([row.name], age_s)
    yield ages


def _of_instances(rows: list[Instance]) -> Iterator[Metric]:
    counts = Counter((row.project_id, row.state.value) for row in rows)
    family = GaugeMetricFamily(
        "unkai_instances", "Instances, by project and state.", labels=["project_id", "state"]
    )
    for project_id in sorted({project for project, _ in counts}):
        for state in InstanceState:
            family.add_metric([project_id, state.value], counts[project_id, state.value])
    yield family
    named = InfoMetricFamily(
        "unkai_instance",
        "Names of an instance, to join with series that carry its id.",
        labels=["instance_id", "project_id", "host"],
    )
    for row in rows:
        named.add_metric([row.id, row.project_id, row.host_name], {"name": row.spec.name})
    yield named


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _by_state(name: str, text: str, states: list[str], counts: Counter[str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["state"])
    for state in states:
        family.add_metric([state], counts[state])
    return family
