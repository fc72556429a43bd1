"""Allocation: how much of a host may be claimed, by the ratios that the operator has set. Pure.

Placement fills hosts up to it, and an adoption and the audit tell of a host that holds more.
"""

from __future__ import annotations

from dataclasses import dataclass

from unkai_scheduler.domain.hosts import Host


@dataclass(frozen=True, slots=True)
class AllocationRatios:
    """How much of a host may be claimed: virtual CPUs per CPU, bytes per byte."""

    vcpus: float = 4.0
    memory: float = 1.0
    disk: float = 1.0


@dataclass(frozen=True, slots=True)
class Claimable:
    """What may be claimed of a host."""

    vcpus: int
    memory_bytes: int
    disk_bytes: int


def claimable(host: Host, ratios: AllocationRatios) -> Claimable:
    """Return what may be claimed of a host under the ratios, rounded down."""
    return Claimable(
        int(host.cpus * ratios.vcpus),
        int(host.memory_bytes * ratios.memory),
        int(host.disk_bytes * ratios.disk),
    )
