"""Signals: what one sample says of a host's load, less what machines just placed account for.

Ratios in fixed point, so that any CPU decides alike. Pure; `fleet.py` smooths them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

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
class Usages:
    """Samples of some hosts, one value each; fields and units as host/v1/usage.proto."""

    cpu_used_ratio: Floats
    cpu_wait_cores: Floats
    cpu_pressure_ratio: Floats
    memory_available_bytes: Floats
    memory_pressure_ratio: Floats
    io_pressure_ratio: Floats
    interval_s: Floats
    memory_total_bytes: Floats
    cpus: Ints


@dataclass(frozen=True, slots=True)
class Ours:
    """What of samples our own machines account for, one value each; of those that settle, as far
    as they do."""

    settling_used_cores: Floats
    settling_wait_cores: Floats
    untold_cores: Floats
    """At most so much more used, and waited for: by settling machines without figures."""
    settling_resident_bytes: Floats
    resident_bytes: Floats
    """Of all machines, settled ones too."""


def cpu_signals(usages: Usages, ours: Ours) -> Ints:
    """Return CPU_LOAD and CPU_WAIT, a row per host, less what machines with figures account for."""
    return _cpu(usages, ours.settling_used_cores, ours.settling_wait_cores)


def least_cpu_signals(usages: Usages, ours: Ours) -> Ints:
    """Return CPU_LOAD and CPU_WAIT less all that settling machines may account for."""
    untold = ours.untold_cores
    return _cpu(usages, ours.settling_used_cores + untold, ours.settling_wait_cores + untold)


def other_signals(usages: Usages, ours: Ours) -> Ints:
    """Return the signals of memory and I/O, a row per host."""
    total = np.maximum(usages.memory_total_bytes, 1)
    used_bytes = total - usages.memory_available_bytes
    ratios = (
        (used_bytes - ours.settling_resident_bytes) / total,
        (used_bytes - ours.resident_bytes) / total,
        usages.memory_pressure_ratio,
        usages.io_pressure_ratio,
    )
    return np.stack([quantise(ratio) for ratio in ratios], axis=1)


def quantise(ratios: Floats) -> Ints:
    """Return ratios in fixed point; below 0, and no number, are 0; above 1 is 1."""
    known = np.where(ratios > 0.0, ratios, 0.0)
    fixed: Ints = (np.minimum(known, 1.0) * FULL + 0.5).astype(np.int64)
    return fixed


def _cpu(usages: Usages, used: Floats, wait: Floats) -> Ints:
    # PSI counts whoever waits; take off the share of it that our machines explain.
    waited = np.where(usages.cpu_wait_cores > 0, usages.cpu_wait_cores, np.inf)
    ours = np.minimum(wait / waited, 1.0)
    load = (usages.cpu_used_ratio * usages.cpus - used) / usages.cpus
    waiting = np.maximum(
        (usages.cpu_wait_cores - wait) / usages.cpus, usages.cpu_pressure_ratio * (1 - ours) / 2
    )
    return np.stack([quantise(load), quantise(waiting)], axis=1)
