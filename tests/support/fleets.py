"""Builders for placement: hosts, samples and fleets that name only what matters."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.domain.hosts import Host, HostState, HostUsage
from unkai_scheduler.domain.instances import PlacementPolicy
from unkai_scheduler.placement.allocation import AllocationRatios
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.pipeline import decide
from unkai_scheduler.placement.requests import PlacementRequest, Weights
from unkai_scheduler.settings import WeightSettings

GIB = 1 << 30
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
RATIOS = AllocationRatios()
WEIGHTS = Weights(**WeightSettings().model_dump())
"""Those that a scheduler has by default."""


def a_host(name: str, **changes: Any) -> Host:
    """Return a host that is up: 4 CPUs, 16 GiB of memory, 200 GiB of disk."""
    values: dict[str, Any] = {
        "id": f"hst-{name}",
        "name": name,
        "state": HostState.UP,
        "address": "127.0.0.1:7444",
        "tls_name": f"hst-{name}.host.unkai.internal",
        "cpus": 4,
        "memory_bytes": 16 * GIB,
        "disk_bytes": 200 * GIB,
        "accelerator": "tcg",
        "traits": ("CPU_X86_64",),
        "boot_id": "b",
        "agent_version": "0.1.0",
        "features": (),
        "etag": "e",
        "create_time": NOW,
        "update_time": NOW,
    }
    return Host(**{**values, **changes})


def a_usage(**changes: Any) -> HostUsage:
    """Return the sample of an idle host as `a_host` makes it."""
    values: dict[str, Any] = {
        "sample_time": NOW,
        "interval_s": 2.0,
        "cpu_used_cores": 0.1,
        "cpu_used_ratio": 0.025,
        "cpu_wait_cores": 0.0,
        "cpu_pressure_ratio": 0.0,
        "memory_pressure_ratio": 0.0,
        "memory_full_pressure_ratio": 0.0,
        "io_pressure_ratio": 0.01,
        "io_full_pressure_ratio": 0.0,
        "memory_total_bytes": 16 * GIB,
        "memory_available_bytes": 15 * GIB,
        "disk_available_bytes": 200 * GIB,
    }
    return HostUsage(**{**values, **changes})


LOADS: dict[str, dict[str, Any]] = {
    "cpu": {"cpu_used_ratio": 0.98, "cpu_used_cores": 3.9, "cpu_wait_cores": 2.0},
    "throttled cpu": {
        "cpu_used_ratio": 0.5,
        "cpu_used_cores": 2.0,
        "cpu_wait_cores": 3.0,
        "cpu_pressure_ratio": 0.95,
    },
    "memory": {"memory_available_bytes": 2 * GIB},
    "memory pressure": {"memory_pressure_ratio": 0.4, "memory_full_pressure_ratio": 0.2},
    "io": {"io_pressure_ratio": 0.85, "io_full_pressure_ratio": 0.7},
}
"""What a program that is not ours does to a host's figures."""


def a_fleet(hosts: Iterable[Host], *, at_s: float = 100.0) -> Fleet:
    """Return a fleet of these hosts, all idle, with a fresh sample each."""
    fleet = Fleet()
    for host in hosts:
        fleet.upsert_host(host, RATIOS)
        fleet.fold([(host.id, a_usage(), at_s)])
    return fleet


def sample_for(
    fleet: Fleet, usages: dict[str, HostUsage], *, from_s: float, until_s: float
) -> None:
    """Fold a sample of each host every 2 s; hosts not named are idle."""
    at_s = from_s
    while at_s <= until_s:
        fleet.fold([(ident, usages.get(ident, a_usage()), at_s) for ident in fleet.ids])
        at_s += 2.0


def a_request(name: str = "a", **changes: Any) -> PlacementRequest:
    """Return a request for 1 vCPU, 1 GiB of memory and 10 GiB of disk, to be spread."""
    values: dict[str, Any] = {
        "instance_id": f"ins-{name}",
        "vcpus": 1,
        "memory_bytes": GIB,
        "disk_bytes": 10 * GIB,
        "policy": PlacementPolicy.SPREAD,
    }
    return PlacementRequest(**{**values, **changes})


def place(fleet: Fleet, *requests: PlacementRequest, now_s: float = 100.0) -> list[Decision]:
    """Decide with the usual weights."""
    return decide(fleet, requests, weights=WEIGHTS, now=NOW, now_s=now_s)
