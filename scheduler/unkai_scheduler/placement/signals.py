"""Signals: what one sample says of a host's load, less what machines just placed account for.

Ratios in fixed point, so that any CPU decides alike. Pure; `fleet.py` smooths them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from unkai_scheduler.domain.hosts import HostUsage

FULL = 65535
"""The fixed point's 1.0."""


class Signal(IntEnum):
    """The live signals kept of each host, each a ratio in fixed point, less is better."""

    CPU_LOAD = 0
    CPU_WAIT = 1
    MEMORY_USED = 2
    MEMORY_FOREIGN = 3
    MEMORY_PRESSURE = 4
    IO_PRESSURE = 5


@dataclass(frozen=True, slots=True)
class Ours:
    """What of a sample our own machines account for; of those that settle, as far as they do."""

    settling_used_cores: float = 0.0
    settling_wait_cores: float = 0.0
    untold_cores: float = 0.0
    """At most so much more used, and waited for: by settling machines without figures."""
    settling_resident_bytes: float = 0.0
    resident_bytes: int = 0
    """Of all machines, settled ones too."""


def cpu_signals(usage: HostUsage, cpus: int, ours: Ours) -> list[int]:
    """Return CPU_LOAD and CPU_WAIT less what machines with figures account for."""
    return _cpu(usage, cpus, ours.settling_used_cores, ours.settling_wait_cores)


def least_cpu_signals(usage: HostUsage, cpus: int, ours: Ours) -> list[int]:
    """Return CPU_LOAD and CPU_WAIT less all that settling machines may account for."""
    untold = ours.untold_cores
    return _cpu(usage, cpus, ours.settling_used_cores + untold, ours.settling_wait_cores + untold)


def other_signals(usage: HostUsage, ours: Ours) -> list[int]:
    """Return the signals of memory and I/O."""
    total = max(usage.memory_total_bytes, 1)
    used_bytes = total - usage.memory_available_bytes
    return [
        quantise((used_bytes - ours.settling_resident_bytes) / total),
        quantise((used_bytes - ours.resident_bytes) / total),
        quantise(usage.memory_pressure_ratio),
        quantise(usage.io_pressure_ratio),
    ]


def quantise(ratio: float) -> int:
    """Return a ratio in fixed point; below 0, and no number, are 0; above 1 is 1."""
    if not ratio > 0.0:
        return 0
    return int(min(ratio, 1.0) * FULL + 0.5)


def _cpu(usage: HostUsage, cpus: int, used: float, wait: float) -> list[int]:
    # PSI counts whoever waits; take off the share of it that our machines explain.
    ours = min(wait / usage.cpu_wait_cores, 1.0) if usage.cpu_wait_cores > 0 else 0.0
    return [
        quantise((usage.cpu_used_ratio * cpus - used) / cpus),
        quantise(
            max((usage.cpu_wait_cores - wait) / cpus, usage.cpu_pressure_ratio * (1 - ours) / 2)
        ),
    ]
