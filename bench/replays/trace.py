"""What is replayed: requests, what each instance uses, and the hosts.

Sources, licences and how the files were made: bench/data/README.md.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DATA = Path(__file__).parent.parent / "data"
TRACES = {"full": "azure_v1_dev.csv.gz", "small": "azure_v1_dev_small.csv.gz"}
PLANETLAB = DATA / "utilisation" / "planetlab_20110303.csv.gz"
CPUS, OVERCOMMIT, MEMORY_MIB = 16, 2, 128 * 1024
VCPUS = CPUS * OVERCOMMIT
END_S, DAY_S, STEP_S = 300_000, 86_400, 300
COUNTED_S = END_S - DAY_S
TIMES_USED = 3
SMOOTH_TIMES = 1.25
"""Smooth usage is so much more than the row's mean: what does not jump seldom meets."""
SWING = 0.8
"""Smooth usage rises and falls by up to so much of its mean, evenly drawn, over a day."""
TOP_S, TOP_SPREAD_S = 14 * 3600, 2 * 3600
"""Its top is at 14:00, give or take two hours (normal)."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of their arrival."""

    arrival_s: Floats
    end_s: Floats
    vcpus: Ints
    memory_mib: Ints
    batch: Ints

    def __len__(self) -> int:
        return len(self.vcpus)


@dataclass(frozen=True, slots=True)
class Usage:
    """What each instance would use of its virtual CPUs."""

    name: str
    at: Callable[[Ints, int | Ints], Floats]
    """Shares of some instances in a step of 300 s, or of one in several."""


def read_trace(which: str, part: int = 1) -> Trace:
    """Read the requests; of every so many batches one."""
    with gzip.open(DATA / TRACES[which], "rt") as lines:
        rows = [row for row in csv.DictReader(lines) if int(row["batch_id"]) % part == 0]
    arrival_s = np.array([float(row["arrival_s"]) for row in rows])
    life_s = np.array([float(row["lifetime_s"] or "inf") for row in rows])
    return Trace(
        arrival_s,
        np.minimum(arrival_s + life_s, END_S),
        np.array([int(row["vcpus"]) for row in rows]),
        np.array([int(float(row["mem_gb"]) * 1024) for row in rows]),
        np.array([int(row["batch_id"]) for row in rows]),
    )


def usages(count: int, seed: int) -> list[Usage]:
    """Give each of so many instances a row of usage."""
    with gzip.open(PLANETLAB, "rt") as lines:
        reader = csv.reader(lines)
        next(reader)
        table = np.array([[int(cell) for cell in row[1:]] for row in reader]) / 100
    table = np.minimum(TIMES_USED * table, 1.0)
    means, steps = SMOOTH_TIMES * table.mean(axis=1), table.shape[1]
    chance = np.random.default_rng(seed)
    row = chance.integers(0, len(table), count)
    swing = chance.uniform(0, SWING, count)
    top = chance.normal(TOP_S, TOP_SPREAD_S, count)

    def noisy(instances: Ints, step: int | Ints) -> Floats:
        found: Floats = table[row[instances], step % steps]
        return found

    def smooth(instances: Ints, step: int | Ints) -> Floats:
        turn = np.cos(2 * math.pi * (step * STEP_S - top[instances]) / DAY_S)
        found: Floats = np.minimum(means[row[instances]] * (1 + swing[instances] * turn), 1.0)
        return found

    return [Usage("planetlab", noisy), Usage("smooth", smooth)]
