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
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unkai_scheduler.domain.hosts import HostUsage, MachineUsage
from unkai_scheduler.placement import signals
from unkai_scheduler.placement.settling import Settling, settling_weight
from unkai_scheduler.placement.signals import FULL, Ours

Ints = npt.NDArray[np.int64]

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
        batch: dict[int, tuple[float, float, list[int]]] = {}
        sample_s = self._floats("sample_s")
        for sample in samples:
            row, usage = sample.row, sample.usage
            if row in batch:
                folded.update(self._fold_batch(batch))
                batch = {}
            if sample.received_s < sample_s[row]:
                continue
            batch[row] = (sample.received_s, usage.interval_s, self._signals(sample))
            self._columns["sampled"][row] = [getattr(usage, s.name.lower()) for s in Sampled]
            self._columns["total_mib"][row] = max(usage.memory_total_bytes >> MIB_SHIFT, 1)
        folded.update(self._fold_batch(batch))
        return np.fromiter(folded, np.int64, len(folded))

    def _fold_batch(
        self, batch: Mapping[int, tuple[float, float, list[int]]]
    ) -> Mapping[int, object]:
        if not batch:
            return batch
        rows = np.fromiter(batch, np.int64, len(batch))
        received_s = np.array([b[0] for b in batch.values()])
        # The host's own measure of time: how long a sample took to arrive says nothing.
        intervals_s = np.array([b[1] for b in batch.values()])
        values = np.array([b[2] for b in batch.values()], np.int64)
        sample_s, mean = self._floats("sample_s"), self._table("mean")
        ring, slots = self._table("ring"), self._table("slot")
        # After a silence the old numbers say nothing: begin anew.
        fresh = received_s - sample_s[rows] > self._max_sample_age_s
        step_ms = np.clip(intervals_s * 1000, 1, self._max_sample_age_s * 1000).astype(np.int64)
        # First-order low-pass (backward Euler), in integers: alpha = dt / (dt + tau).
        alpha = np.where(fresh, 1 << 16, (step_ms << 16) // (step_ms + SMOOTHING_MS))
        mean[rows] += (((values << 8) - mean[rows]) * alpha[:, None]) >> 16
        ring[rows[fresh]] = 0
        ring[rows, slots[rows]] = values
        slots[rows] = (slots[rows] + 1) % RECENT_SAMPLES
        high = np.partition(ring[rows], RECENT_SAMPLES - 2, axis=1)[:, RECENT_SAMPLES - 2]
        self._table("recent")[rows] = np.maximum(mean[rows] >> 8, high)
        sample_s[rows] = received_s
        return batch

    def _signals(self, sample: Sample) -> list[int]:
        row, usage, now_s = sample.row, sample.usage, sample.received_s
        cpus = int(self._table("cpus")[row])
        ours = self._ours(sample)
        cpu = signals.cpu_signals(usage, cpus, ours)
        before = self._table("cpu_before")
        if now_s - self._floats("sample_s")[row] > self._max_sample_age_s:
            before[row] = 0
        if ours.untold_cores:
            # A guest that comes or goes explains what was not there before it, and nothing else.
            least = signals.least_cpu_signals(usage, cpus, ours)
            known = before[row].tolist()
            cpu = [
                max(low, min(high, was)) for low, high, was in zip(least, cpu, known, strict=True)
            ]
        else:
            before[row] = cpu
        return [*cpu, *signals.other_signals(usage, ours)]

    def _ours(self, sample: Sample) -> Ours:
        usage, machines, now_s = sample.usage, sample.machines, sample.received_s
        told = {machine.instance_id: machine for machine in machines}
        used = wait = settling_resident = untold = 0.0
        for instance_id, settling in self._settling.machines_on(sample.host_id).items():
            weight = settling_weight(now_s, settling.bucket) / FULL
            machine = told.get(instance_id)
            if machine is not None:
                used += weight * machine.cpu_used_cores
                wait += weight * machine.cpu_wait_cores
                settling_resident += weight * machine.memory_resident_bytes
            elif settling.left_s >= now_s - usage.interval_s:
                untold += weight * settling.vcpus
        resident = sum(machine.memory_resident_bytes for machine in machines)
        if usage.machines_running > len(machines):
            # Some run without figures: they may hold all that is claimed.
            resident = max(resident, int(self._table("claimed_memory")[sample.row]))
        return Ours(used, wait, untold, settling_resident, resident)

    def _table(self, name: str) -> Ints:
        return self._columns[name]  # type: ignore[return-value]

    def _floats(self, name: str) -> npt.NDArray[np.float64]:
        return self._columns[name]  # type: ignore[return-value]
