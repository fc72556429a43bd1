"""Hosts: what the store and the leader know of each, and its live figures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from unkai_scheduler.domain.aggregates import Membership

DEFAULT_ZONE = "default"
"""Zone of hosts that the operator has said none of."""


class HostState(Enum):
    """Where a host stands; meanings in host/v1/host.proto."""

    UP = "UP"
    CONNECTING = "CONNECTING"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Host:
    """A host's row, with the sums of the claims on it."""

    id: str
    name: str
    state: HostState
    address: str
    tls_name: str
    cpus: int
    memory_bytes: int
    disk_bytes: int
    accelerator: str
    traits: tuple[str, ...]
    boot_id: str
    agent_version: str
    features: tuple[str, ...]
    etag: str
    create_time: datetime
    update_time: datetime
    zone: str = DEFAULT_ZONE
    """What fails together with it; the operator's word, not its agent's."""
    cordoned: bool = False
    cordon_reason: str = ""
    physical_networks: tuple[str, ...] = ()
    """The operator's networks that it is attached to."""
    aggregates: tuple[Membership, ...] = ()
    """What the aggregates say that it is in; never written here."""
    network_problem: str = ""
    """Why its switch is not of OVN, or does not work, just now; in its agent's words."""
    claimed_vcpus: int = 0
    claimed_memory_bytes: int = 0
    claimed_disk_bytes: int = 0
    instance_count: int = 0


@dataclass(frozen=True, slots=True)
class HostMark:
    """What moves whenever a host's row, or what is claimed of it, does."""

    etag: str
    claimed_vcpus: int
    claimed_memory_bytes: int
    claimed_disk_bytes: int


@dataclass(frozen=True, slots=True)
class HostUsage:
    """One sample of a host; fields and units as host/v1/usage.proto."""

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
