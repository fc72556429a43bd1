"""The live figures of hosts: samples folded into smoothed signals, a part of the fleet.

Ratios are quantised to 16 bits when a sample is folded, so that any CPU decides alike. The figures
are columns of the fleet, which moves and grows them with all others. It never asks for the time.

The trap: our own guests are load too. A machine just placed counts with what is *expected* of it,
and what it shows counts only as that expectation fades (settling.py). At its beginning and its end
a host's sample has its load in it, but no figures of its own: then it may account for as much as
its virtual CPUs can use, but for nothing that was there before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unkai_scheduler.domain.hosts import HostUsage, MachineUsage
from unkai_scheduler.placement import signals
from unkai_scheduler.placement.settling import Settling, settling_weight
from unkai_scheduler.placement.signals import FULL, Ours, Usages

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

MIB_SHIFT = 20

MAX_SAMPLE_AGE_S = 10.0
"""Older numbers are no numbers, unless a fleet is told otherwise."""
SMOOTHING_MS = 6000
"""Time constant of the exponential mean."""
RECENT_SAMPLES = 8
"""Samples (16 s) whose second highest is the high quantile: one spike alone is not a load, and a
load that ended is forgotten 14 s later."""


class Sampled(IntEnum):
    """The figures of the newest sample that are kept as they came, to explain with."""

    CPU_USED_RATIO = 0
    CPU_WAIT_CORES = 1
    CPU_PRESSURE_RATIO = 2
    MEMORY_AVAILABLE_BYTES = 3
    MEMORY_PRESSURE_RATIO = 4
    IO_PRESSURE_RATIO = 5


class Sample(NamedTuple):
    """One host's figures as they came."""

    row: int
    host_id: str
    usage: HostUsage
    machines: Sequence[MachineUsage]
    """Figures of the machines on it: they tell our guests' load from others'."""
    received_s: float
    """Monotonic seconds."""


_FIGURES = (*(figure.name.lower() for figure in Sampled), "interval_s", "memory_total_bytes")
_figures = attrgetter(*_FIGURES)
_NO_CORES = 1e-6


class LiveFigures:
    """The live figures of all hosts."""

    def __init__(
        self,
        columns: Mapping[str, npt.NDArray[np.generic]],
        settling: Settling,
        max_sample_age_s: float,
    ) -> None:
        """`columns`: the fleet's. `settling`: the machines just placed, brought up to date."""
        self._columns = columns
        self._settling = settling
        self._max_sample_age_s = max_sample_age_s

    def fold(self, samples: Iterable[Sample]) -> Ints:
        """Take in samples; late ones are skipped. Return the rows that have new figures."""
        folded: set[int] = set()
        batch: dict[int, Sample] = {}
        sample_s = self._floats("sample_s")
        for sample in samples:
            if sample.row in batch:
                folded.update(self._fold_batch(batch))
                batch = {}
            if sample.received_s >= sample_s[sample.row]:
                batch[sample.row] = sample
        folded.update(self._fold_batch(batch))
        return np.fromiter(folded, np.int64, len(folded))

    def _fold_batch(self, batch: Mapping[int, Sample]) -> Iterable[int]:
        """Fold in one sample of each of some hosts."""
        if not batch:
            return ()
        rows = np.fromiter(batch, np.int64, len(batch))
        received_s = np.array([sample.received_s for sample in batch.values()])
        usages = np.array([_figures(sample.usage) for sample in batch.values()]).T
        taken = Usages(**dict(zip(_FIGURES, usages, strict=True)), cpus=self._table("cpus")[rows])
        sample_s = self._floats("sample_s")
        # After a silence the old numbers say nothing: begin anew.
        fresh = received_s - sample_s[rows] > self._max_sample_age_s
        values = self._signals(batch.values(), rows, taken, fresh)
        self._smooth(rows, values, taken.interval_s, fresh)
        sample_s[rows] = received_s
        self._floats("sampled")[rows] = usages[: len(Sampled)].T
        self._table("total_mib")[rows] = np.maximum(taken.memory_total_bytes // (1 << MIB_SHIFT), 1)
        return batch

    def _smooth(self, rows: Ints, values: Ints, intervals_s: Floats, fresh: Bools) -> None:
        """Take signals into means and quantiles. `values`: one row per host, as `Signal`."""
        mean, ring, slots = self._table("mean"), self._table("ring"), self._table("slot")
        # The host's own measure of time: how long a sample took to arrive says nothing.
        step_ms = np.clip(intervals_s * 1000, 1, self._max_sample_age_s * 1000).astype(np.int64)
        # First-order low-pass (backward Euler), in integers: alpha = dt / (dt + tau).
        alpha = np.where(fresh, 1 << 16, (step_ms << 16) // (step_ms + SMOOTHING_MS))
        mean[rows] += (((values << 8) - mean[rows]) * alpha[:, None]) >> 16
        ring[rows[fresh]] = 0
        ring[rows, slots[rows]] = values
        slots[rows] = (slots[rows] + 1) % RECENT_SAMPLES
        high = np.partition(ring[rows], RECENT_SAMPLES - 2, axis=1)[:, RECENT_SAMPLES - 2]
        self._table("recent")[rows] = np.maximum(mean[rows] >> 8, high)

    def _signals(self, samples: Iterable[Sample], rows: Ints, usages: Usages, fresh: Bools) -> Ints:
        """Return the signals, one row per host, as `Signal`."""
        ours = Ours(*np.array([self._ours(sample) for sample in samples]).T)
        cpu = signals.cpu_signals(usages, ours)
        before = self._table("cpu_before")
        before[rows[fresh]] = 0
        # A guest that comes or goes explains what was not there before it, and nothing else.
        least = signals.least_cpu_signals(usages, ours)
        untold = (ours.untold_cores > 0)[:, None]
        known = before[rows]
        cpu = np.where(untold, np.maximum(least, np.minimum(cpu, known)), cpu)
        before[rows] = np.where(untold, known, cpu)
        return np.concatenate([cpu, signals.other_signals(usages, ours)], axis=1)

    def _ours(self, sample: Sample) -> tuple[float, float, float, float, float]:
        """Return what of a sample our machines account for, in the order of `Ours`."""
        usage, machines, now_s = sample.usage, sample.machines, sample.received_s
        left = self._settling.left_since(sample.host_id, now_s - usage.interval_s)
        gone = {one.instance_id: one.machine for one in left} if left else {}
        # Of who settles all are untold until told.
        untold = self._settling.expected("expected_vcpus").item(sample.row) / FULL
        used = wait = settling_resident = 0.0
        resident = 0
        for told in machines:
            resident += told.memory_resident_bytes
            settling = self._settling.machine(told.instance_id)
            if settling is None:
                settling = gone.pop(told.instance_id, None)
                if settling is None:
                    continue
                weight = settling_weight(now_s, settling.bucket) / FULL
            else:
                weight = settling_weight(now_s, settling.bucket) / FULL
                untold -= self._settling.weight(settling.bucket) / FULL * settling.vcpus
            used += weight * told.cpu_used_cores
            wait += weight * told.cpu_wait_cores
            settling_resident += weight * told.memory_resident_bytes
        for machine in gone.values():
            untold += settling_weight(now_s, machine.bucket) / FULL * machine.vcpus
        if usage.machines_running > len(machines):
            # Some run without figures: they may hold all that is claimed.
            resident = max(resident, self._table("claimed_memory").item(sample.row))
        # Sums and differences of the same fractions: what is left over below that is none.
        return used, wait, untold if untold > _NO_CORES else 0.0, settling_resident, resident

    def _table(self, name: str) -> Ints:
        return self._columns[name]  # type: ignore[return-value]

    def _floats(self, name: str) -> npt.NDArray[np.float64]:
        return self._columns[name]  # type: ignore[return-value]
