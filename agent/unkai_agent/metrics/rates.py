"""Two readings become one sample. Pure.

A counter that goes backwards (a machine restarted, a cgroup made anew) counts as no change: a
sample is then too low once, never absurd.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from unkai_agent.compute.driver import DomainUsage
from unkai_agent.domain.hosts import Capacity, HostUsage, MachineUsage, PortUsage
from unkai_agent.metrics.counters import HostCounters
from unkai_agent.network.driver import PortCounters

PortReading = Mapping[str, Mapping[str, PortCounters]]
"""Counters of all ports, by instance and port."""


@dataclass(frozen=True, slots=True)
class MachineCounters:
    """One reading of all running machines."""

    monotonic_s: float
    usages: Mapping[str, DomainUsage]
    """By instance id."""
    ports: PortReading = field(default_factory=dict)

    @classmethod
    def of(
        cls, monotonic_s: float, usages: Iterable[DomainUsage], ports: PortReading | None = None
    ) -> MachineCounters:
        """Make the reading from what the drivers returned."""
        return cls(monotonic_s, {usage.instance_id: usage for usage in usages}, ports or {})


_NEW = DomainUsage("", 0, 0, 0, 0, 0, 0, 0)
"""The counters of a machine that starts."""


def rate(before: float, after: float, elapsed_s: float) -> float:
    """Return the growth each second; 0 when the counter went backwards or no time passed."""
    return max(0.0, after - before) / elapsed_s if elapsed_s > 0 else 0.0


def host_usage(
    before: HostCounters,
    after: HostCounters,
    *,
    capacity: Capacity,
    sample_time: datetime,
    disk_available_bytes: int,
    machines_running: int,
) -> HostUsage:
    """Return the host's sample between two readings.

    CPU and memory are told against the stated capacity, so that a host which offers a part of its
    machine is full when that part is; and so is one whose quota is used up, whatever it offers.
    """
    elapsed_s = after.monotonic_s - before.monotonic_s

    def share(before_us: int, after_us: int) -> float:
        return min(1.0, rate(before_us, after_us, elapsed_s * 1e6))

    cores = min(float(capacity.cpus), rate(before.cpu_used_ns, after.cpu_used_ns, elapsed_s * 1e9))
    usable = min(float(capacity.cpus), after.cpu_limit_cores or capacity.cpus)
    total = min(capacity.memory_bytes, after.memory_total_bytes or capacity.memory_bytes)
    return HostUsage(
        sample_time=sample_time,
        interval_s=elapsed_s,
        cpu_used_cores=cores,
        cpu_used_ratio=min(1.0, cores / usable) if usable else 0.0,
        cpu_wait_cores=rate(before.cpu_wait_ns, after.cpu_wait_ns, elapsed_s * 1e9),
        cpu_pressure_ratio=share(before.cpu_pressure.some_us, after.cpu_pressure.some_us),
        memory_pressure_ratio=share(before.memory_pressure.some_us, after.memory_pressure.some_us),
        memory_full_pressure_ratio=share(
            before.memory_pressure.full_us, after.memory_pressure.full_us
        ),
        io_pressure_ratio=share(before.io_pressure.some_us, after.io_pressure.some_us),
        io_full_pressure_ratio=share(before.io_pressure.full_us, after.io_pressure.full_us),
        memory_total_bytes=total,
        memory_available_bytes=max(
            0, min(after.memory_available_bytes, total - after.memory_used_bytes)
        ),
        disk_available_bytes=disk_available_bytes,
        disk_read_bytes_per_s=rate(before.disk_read_bytes, after.disk_read_bytes, elapsed_s),
        disk_write_bytes_per_s=rate(before.disk_write_bytes, after.disk_write_bytes, elapsed_s),
        network_receive_bytes_per_s=rate(
            before.network_receive_bytes, after.network_receive_bytes, elapsed_s
        ),
        network_transmit_bytes_per_s=rate(
            before.network_transmit_bytes, after.network_transmit_bytes, elapsed_s
        ),
        machines_running=machines_running,
    )


def machine_usages(
    before: MachineCounters, after: MachineCounters, *, cpus: int
) -> tuple[MachineUsage, ...]:
    """Return a sample for each machine of the second reading, by id.

    One that was not in the first has started since, its counters at zero; unless it has used more
    CPU than the host's `cpus` have since: then it was only overlooked, and is left out once.
    """
    elapsed_s = after.monotonic_s - before.monotonic_s
    return tuple(
        replace(
            _machine_usage(before.usages.get(instance_id, _NEW), usage, elapsed_s),
            ports=_port_usages(
                before.ports.get(instance_id, {}), after.ports.get(instance_id, {}), elapsed_s
            ),
        )
        for instance_id, usage in sorted(after.usages.items())
        if instance_id in before.usages or usage.cpu_time_ns <= cpus * elapsed_s * 1e9
    )


def _machine_usage(before: DomainUsage, after: DomainUsage, elapsed_s: float) -> MachineUsage:
    return MachineUsage(
        instance_id=after.instance_id,
        cpu_used_cores=rate(before.cpu_time_ns, after.cpu_time_ns, elapsed_s * 1e9),
        cpu_wait_cores=rate(before.cpu_wait_ns, after.cpu_wait_ns, elapsed_s * 1e9),
        memory_resident_bytes=after.memory_resident_bytes,
        disk_read_bytes_per_s=rate(before.disk_read_bytes, after.disk_read_bytes, elapsed_s),
        disk_write_bytes_per_s=rate(before.disk_write_bytes, after.disk_write_bytes, elapsed_s),
        disk_reads_per_s=rate(before.disk_reads, after.disk_reads, elapsed_s),
        disk_writes_per_s=rate(before.disk_writes, after.disk_writes, elapsed_s),
    )


def _port_usages(
    before: Mapping[str, PortCounters], after: Mapping[str, PortCounters], elapsed_s: float
) -> tuple[PortUsage, ...]:
    """Return a sample for each port; one that was not there before counts from zero."""
    return tuple(
        _port_usage(port_id, before.get(port_id, _NEW_PORT), counters, elapsed_s)
        for port_id, counters in sorted(after.items())
    )


_NEW_PORT = PortCounters(0, 0, 0, 0, 0, 0)


def _port_usage(
    port_id: str, before: PortCounters, after: PortCounters, elapsed_s: float
) -> PortUsage:
    return PortUsage(
        port_id=port_id,
        received_bytes_per_s=rate(before.received_bytes, after.received_bytes, elapsed_s),
        received_packets_per_s=rate(before.received_packets, after.received_packets, elapsed_s),
        received_drops_per_s=rate(before.received_dropped, after.received_dropped, elapsed_s),
        sent_bytes_per_s=rate(before.sent_bytes, after.sent_bytes, elapsed_s),
        sent_packets_per_s=rate(before.sent_packets, after.sent_packets, elapsed_s),
        sent_drops_per_s=rate(before.sent_dropped, after.sent_dropped, elapsed_s),
    )
