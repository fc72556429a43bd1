"""A host that exists in figures only, for fleets of simulated hosts.

Stands in for `counter_source`: its counters are what its simulated machines use plus a background
load that may be set at any time. The sampler cannot tell the difference. What the CPUs cannot
serve shows as waiting and pressure, as it would.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from unkai_agent.compute.fake import FakeCompute
from unkai_agent.domain.hosts import Capacity
from unkai_agent.metrics.counters import HostCounters, Pressure

_US = 1_000_000
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class HostLoad:
    """What runs on the host beside machines."""

    cpu_cores: float = 0.0
    """CPU wanted; what is above the host's CPUs waits."""
    memory_bytes: int = 0
    memory_pressure_ratio: float = 0.0
    """Share of time in which some task waits for memory; half of it all tasks do."""
    io_pressure_ratio: float = 0.0
    """Share of time in which some task waits for I/O; half of it all tasks do."""
    disk_read_bytes_per_s: float = 0.0
    disk_write_bytes_per_s: float = 0.0


class SimulatedHost:
    """A counter source: call it to read the counters."""

    def __init__(
        self,
        capacity: Capacity,
        compute: FakeCompute,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._compute = compute
        self._monotonic = monotonic
        self._load = HostLoad()
        self._counters = HostCounters(monotonic())

    def set_load(self, load: HostLoad) -> None:
        """Set the background load from now on."""
        self()
        self._load = load

    def __call__(self) -> HostCounters:
        """Bring the counters up to date and return them."""
        before, load = self._counters, self._load
        now_s = self._monotonic()
        elapsed_s = max(0.0, now_s - before.monotonic_s)
        machines = self._compute.running_machines()
        wanted = load.cpu_cores + sum(m.cpu_cores for m, _ in machines)
        used = min(wanted, float(self._capacity.cpus))
        waiting = wanted - used + sum(m.cpu_wait_cores for m, _ in machines)
        held = load.memory_bytes + sum(held for _, held in machines)
        read = load.disk_read_bytes_per_s + sum(m.disk_read_bytes_per_s for m, _ in machines)
        written = load.disk_write_bytes_per_s + sum(m.disk_write_bytes_per_s for m, _ in machines)
        self._counters = HostCounters(
            monotonic_s=now_s,
            cpu_used_ns=before.cpu_used_ns + int(used * elapsed_s * _NS),
            cpu_wait_ns=before.cpu_wait_ns + int(waiting * elapsed_s * _NS),
            cpu_pressure=_grow(before.cpu_pressure, min(1.0, waiting), 0.0, elapsed_s),
            memory_pressure=_grow(
                before.memory_pressure,
                load.memory_pressure_ratio,
                load.memory_pressure_ratio / 2,
                elapsed_s,
            ),
            io_pressure=_grow(
                before.io_pressure, load.io_pressure_ratio, load.io_pressure_ratio / 2, elapsed_s
            ),
            memory_total_bytes=self._capacity.memory_bytes,
            memory_used_bytes=held,
            memory_available_bytes=max(0, self._capacity.memory_bytes - held),
            disk_read_bytes=before.disk_read_bytes + int(read * elapsed_s),
            disk_write_bytes=before.disk_write_bytes + int(written * elapsed_s),
        )
        return self._counters


def _grow(before: Pressure, some: float, full: float, elapsed_s: float) -> Pressure:
    return Pressure(
        before.some_us + int(some * elapsed_s * _US), before.full_us + int(full * elapsed_s * _US)
    )
