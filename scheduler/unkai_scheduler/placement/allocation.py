"""Allocation: how much of a host may be claimed, by the ratios that the operator has set. Pure.

The settings' ratios hold for all hosts but those whose aggregates say others. Placement fills hosts
up to it, and an adoption and the audit tell of a host that holds more.
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


def ratios_of(host: Host, ratios: AllocationRatios) -> AllocationRatios:
    """Return a host's ratios: of each the smallest that its aggregates say, else the settings'.

    As Nova's AggregateCoreFilter takes the smallest of several (Nova, scheduler filters).
    """
    said = [aggregate.ratios for aggregate in host.aggregates]
    return AllocationRatios(
        vcpus=min((r.cpu for r in said if r.cpu is not None), default=ratios.vcpus),
        memory=min((r.memory for r in said if r.memory is not None), default=ratios.memory),
        disk=min((r.disk for r in said if r.disk is not None), default=ratios.disk),
    )


def claimable(host: Host, ratios: AllocationRatios) -> Claimable:
    """Return what may be claimed of a host, rounded down. `ratios`: the settings'."""
    ratios = ratios_of(host, ratios)
    return Claimable(
        int(host.cpus * ratios.vcpus),
        int(host.memory_bytes * ratios.memory),
        int(host.disk_bytes * ratios.disk),
    )
