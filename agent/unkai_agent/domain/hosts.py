"""What this host is, and its live figures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """Who this host is, from its certificate."""

    host_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """What this host offers to instances."""

    cpus: int
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What runs guests' CPUs, proven by running."""

    name: str
    """`kvm` or `tcg`."""
    reason: str = ""
    """Why KVM is not used, where it is not."""


@dataclass(frozen=True, slots=True)
class HostUsage:
    """One sample of the host; fields and units as host/v1/usage.proto."""

    sample_time: datetime
    interval_s: float
    cpu_used_cores: float
    cpu_used_ratio: float
    cpu_wait_cores: float
    cpu_pressure_ratio: float
    memory_pressure_ratio: float
    memory_full_pressure_ratio: float
    io_pressure_ratio: float
    io_full_pressure_ratio: float
    memory_total_bytes: int
    memory_available_bytes: int
    disk_available_bytes: int
    disk_read_bytes_per_s: float = 0.0
    disk_write_bytes_per_s: float = 0.0
    network_receive_bytes_per_s: float = 0.0
    network_transmit_bytes_per_s: float = 0.0
    machines_running: int = 0


@dataclass(frozen=True, slots=True)
class PortUsage:
    """One sample of a port, seen from the guest; fields and units as host/v1/usage.proto."""

    port_id: str
    received_bytes_per_s: float = 0.0
    received_packets_per_s: float = 0.0
    received_drops_per_s: float = 0.0
    sent_bytes_per_s: float = 0.0
    sent_packets_per_s: float = 0.0
    sent_drops_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MachineUsage:
    """One sample of a machine; fields and units as host/v1/usage.proto."""

    instance_id: str
    cpu_used_cores: float
    cpu_wait_cores: float
    memory_resident_bytes: int
    disk_read_bytes_per_s: float = 0.0
    disk_write_bytes_per_s: float = 0.0
    disk_reads_per_s: float = 0.0
    disk_writes_per_s: float = 0.0
    ports: tuple[PortUsage, ...] = ()


@dataclass(frozen=True, slots=True)
class UsageSample:
    """One sample of the host and the machines on it."""

    host: HostUsage
    machines: tuple[MachineUsage, ...] = ()
