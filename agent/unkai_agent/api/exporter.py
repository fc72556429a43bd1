"""Figures for Prometheus, over mTLS: `unkai_host_*`, `unkai_instance_*` and `unkai_agent_*`.

Collected when asked: the scraper's thread asks the event loop, under a deadline. Series of single
instances come from here alone; their names join by `unkai_instance_info`. The label `host` is the
host's name, as in the scheduler's series; its id joins by `unkai_host_info`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from unkai.compute.v1 import instance_pb2
from unkai_agent.api.directory import Host, HostDirectory
from unkai_agent.compute.driver import DomainUsage
from unkai_agent.domain.hosts import HostUsage
from unkai_agent.domain.machines import Machine, MachineState
from unkai_agent.host_facts import agent_version
from unkai_agent.metrics.rates import PortReading
from unkai_agent.network.driver import PortCounters
from unkai_agent.storage.driver import CachedImage
from unkai_wire.daemon_figures import DaemonCollector
from unkai_wire.errors import UnkaiError
from unkai_wire.metrics_server import MetricsServer
from unkai_wire.setting_values import split_address
from unkai_wire.tls import TlsFiles

_LOG = structlog.get_logger("unkai.agent.exporter")
_SCRAPE_S = 8.0
"""Prometheus gives up after 10 s."""
_ASK_S = 3.0
"""Hypervisor and disk get so long each: one that hangs costs its own figures, not the host's."""

_HOST_GAUGES: Sequence[tuple[str, str, Callable[[HostUsage], float]]] = (
    ("cpu_used_cores", "CPU in use, in cores", lambda u: u.cpu_used_cores),
    ("cpu_wait_cores", "Time tasks waited for a CPU, in cores", lambda u: u.cpu_wait_cores),
    ("cpu_pressure_ratio", "PSI cpu some", lambda u: u.cpu_pressure_ratio),
    ("memory_pressure_ratio", "PSI memory some", lambda u: u.memory_pressure_ratio),
    ("memory_full_pressure_ratio", "PSI memory full", lambda u: u.memory_full_pressure_ratio),
    ("io_pressure_ratio", "PSI io some", lambda u: u.io_pressure_ratio),
    ("io_full_pressure_ratio", "PSI io full", lambda u: u.io_full_pressure_ratio),
    ("memory_available_bytes", "Memory to be had", lambda u: u.memory_available_bytes),
    ("disk_available_bytes", "Free where disks are kept", lambda u: u.disk_available_bytes),
    ("sample_timestamp_seconds", "Time of the sample", lambda u: u.sample_time.timestamp()),
)
_INSTANCE_COUNTERS: Sequence[tuple[str, str, Callable[[DomainUsage], float]]] = (
    ("cpu_seconds", "CPU time used", lambda u: u.cpu_time_ns / 1e9),
    ("cpu_wait_seconds", "Time virtual CPUs waited for a CPU", lambda u: u.cpu_wait_ns / 1e9),
    ("disk_read_bytes", "Bytes read from disks", lambda u: u.disk_read_bytes),
    ("disk_written_bytes", "Bytes written to disks", lambda u: u.disk_write_bytes),
    ("disk_reads", "Reads from disks", lambda u: u.disk_reads),
    ("disk_writes", "Writes to disks", lambda u: u.disk_writes),
)
_PORT_COUNTERS: Sequence[tuple[str, str, Callable[[PortCounters], float]]] = (
    ("received_bytes", "Bytes that the guest received", lambda c: c.received_bytes),
    ("received_packets", "Packets that the guest received", lambda c: c.received_packets),
    ("received_drops", "Packets for the guest that were dropped", lambda c: c.received_dropped),
    ("sent_bytes", "Bytes that the guest sent", lambda c: c.sent_bytes),
    ("sent_packets", "Packets that the guest sent", lambda c: c.sent_packets),
    ("sent_drops", "Packets of the guest that were dropped", lambda c: c.sent_dropped),
)
_INSTANCE = ("host", "project_id", "instance_id")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one scrape reads of one host."""

    host: Host
    usage: HostUsage | None
    machines: Sequence[Machine]
    domains: Sequence[DomainUsage]
    images: Sequence[CachedImage] | None
    """None: not known."""
    ports: PortReading


class HostCollector(Collector):
    """Collects the figures of all hosts in the directory."""

    def __init__(self, directory: HostDirectory, loop: asyncio.AbstractEventLoop) -> None:
        self._directory = directory
        self._loop = loop

    def collect(self) -> Iterable[Metric]:
        """Return all series. Runs on a scraper's thread."""
        future = asyncio.run_coroutine_threadsafe(self._read_all(), self._loop)
        readings = future.result(_SCRAPE_S)
        yield from _host_metrics(readings)
        yield from _instance_metrics(readings)
        yield from _port_metrics(readings)

    async def _read_all(self) -> Sequence[_Reading]:
        return [await _read(host) for host in self._directory.hosts()]


def serve(directory: HostDirectory, address: str, tls: TlsFiles) -> Callable[[], None]:
    """Serve `/metrics` to administrators and schedulers; return what stops it."""
    registry = CollectorRegistry()
    registry.register(HostCollector(directory, asyncio.get_running_loop()))
    registry.register(DaemonCollector("agent", agent_version(), (tls.certificate, tls.ca)))
    host, port = split_address(address)
    return MetricsServer(host, port, tls, registry).close


async def _read(host: Host) -> _Reading:
    domains = await _answer(host, host.compute.usage())
    images = await _answer(host, host.storage.list_images())
    sample = host.usage.latest
    usage = sample.host if sample else None
    ports = await _answer(host, host.read_ports())
    return _Reading(host, usage, host.converger.machines(), domains or (), images, ports or {})


async def _answer(host: Host, asked: Awaitable[T]) -> T | None:
    """Wait for an answer, but not for long; None when there is none."""
    try:
        async with asyncio.timeout(_ASK_S):
            return await asked
    except (UnkaiError, OSError) as error:
        reason = error.reason if isinstance(error, UnkaiError) else "NO_ANSWER"
        _LOG.info("scrape_incomplete", host=host.record.name, reason=reason)
        return None


def _host_metrics(readings: Sequence[_Reading]) -> Iterable[Metric]:
    info = InfoMetricFamily("unkai_host", "What the host is", labels=["host"])
    capacity = {
        name: GaugeMetricFamily(f"unkai_host_{name}", text, labels=["host"])
        for name, text in (
            ("cpus", "CPUs"),
            ("memory_bytes", "Memory for instances"),
            ("disk_bytes", "Disk for instances"),
        )
    }
    machines = GaugeMetricFamily(
        "unkai_host_machines", "Machines by observed state", labels=["host", "state"]
    )
    cache = GaugeMetricFamily("unkai_host_image_cache_bytes", "Images cached", labels=["host"])
    problems = GaugeMetricFamily(
        "unkai_host_ledger_problems", "Ledger files that could not be read", labels=["host"]
    )
    watched = GaugeMetricFamily(
        "unkai_host_leader_watches", "1 while a leader watches this host", labels=["host"]
    )
    unknown = GaugeMetricFamily(
        "unkai_host_unknown", "Found here, not in the ledger; kept", labels=["host", "kind"]
    )
    joined = GaugeMetricFamily(
        "unkai_host_switch_joined",
        "1 while the host's switch belongs to OVN and its programs answer",
        labels=["host"],
    )
    for reading in readings:
        record, converger = reading.host.record, reading.host.converger
        facts = {"host_id": record.host_id, "accelerator": record.accelerator}
        info.add_metric([record.name], facts | {"version": record.agent_version})
        for name, family in capacity.items():
            family.add_metric([record.name], float(getattr(record, name)))
        states = Counter(machine.state for machine in reading.machines)
        for state in MachineState:
            machines.add_metric([record.name, state.value], states[state])
        if reading.images is not None:
            held = sum(image.size_bytes for image in reading.images)
            cache.add_metric([record.name], held)
        problems.add_metric([record.name], converger.ledger_problems)
        watched.add_metric([record.name], float(converger.contact.is_watched))
        unknown.add_metric([record.name, "domain"], len(converger.unknown.domains))
        unknown.add_metric([record.name, "disk"], len(converger.unknown.disks))
        if reading.host.switch is not None:
            joined.add_metric([record.name], float(reading.host.switch.problem is None))
    yield from (info, *capacity.values(), machines, cache, problems, watched, unknown, joined)
    for name, text, value in _HOST_GAUGES:
        family = GaugeMetricFamily(f"unkai_host_{name}", text, labels=["host"])
        for reading in readings:
            if reading.usage is not None:
                family.add_metric([reading.host.record.name], value(reading.usage))
        yield family


def _instance_metrics(readings: Sequence[_Reading]) -> Iterable[Metric]:
    info = InfoMetricFamily("unkai_instance", "What the instance is", labels=list(_INSTANCE))
    memory = GaugeMetricFamily(
        "unkai_instance_memory_resident_bytes", "Memory held", labels=list(_INSTANCE)
    )
    counters = [
        (CounterMetricFamily(f"unkai_instance_{name}", text, labels=list(_INSTANCE)), value)
        for name, text, value in _INSTANCE_COUNTERS
    ]
    for reading in readings:
        labels = {m.instance_id: _labels(reading.host, m) for m in reading.machines}
        for machine in reading.machines:
            facts: dict[str, Any] = {
                "name": machine.domain_name.rpartition(".")[0],
                "domain": machine.domain_name,
            }
            info.add_metric(labels[machine.instance_id], facts)
        for usage in reading.domains:
            if usage.instance_id in labels:
                memory.add_metric(labels[usage.instance_id], usage.memory_resident_bytes)
                for family, value in counters:
                    family.add_metric(labels[usage.instance_id], value(usage))
    yield from (info, memory, *(family for family, _ in counters))


def _port_metrics(readings: Sequence[_Reading]) -> Iterable[Metric]:
    labels = [*_INSTANCE, "port_id"]
    for name, text, value in _PORT_COUNTERS:
        family = CounterMetricFamily(f"unkai_instance_port_{name}", text, labels=labels)
        for reading in readings:
            for machine in reading.machines:
                ports = reading.ports.get(machine.instance_id)
                whose = _labels(reading.host, machine) if ports else []
                for port_id, counters in sorted((ports or {}).items()):
                    family.add_metric([*whose, port_id], value(counters))
        yield family


def _labels(host: Host, machine: Machine) -> list[str]:
    project_id = instance_pb2.Instance.FromString(machine.instance).project_id
    return [host.record.name, project_id, machine.instance_id]
