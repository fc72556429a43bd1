"""Lifetimes: how long instances live here, learned from those that ended and those that go on.

Instances are told apart by class (`class_of`) and age. Of each class and age it is counted how many
ended at that age and how many outlived it (Kaplan and Meier, "Nonparametric Estimation from
Incomplete Observations", JASA 1958: those that still run count as far as they got). What a class
lacks in history it borrows from all. A table frozen from the counts says how likely an instance
still runs after each of some spans, given its age: so a prediction is made anew as it ages.

`alignment_score` uses it: the best host is one that something else keeps busy anyway for as long as
the new instance may run, so that hosts become empty. After NILAS and LAVA ("LAVA: Lifetime-Aware VM
Allocation with Learned Distributions and Adaptation to Mispredictions", Ling et al., MLSys 2025),
with whole distributions in place of one expected lifetime: the most likely one says nothing here,
for lifetimes run over four orders of magnitude.

Pure. Integers and elementwise, so that any CPU gives the same bits. Times are in seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from unkai_scheduler.placement.signals import FULL

Ints = npt.NDArray[np.int64]

AGES = 24
"""Ages are told apart in half octaves from five minutes on; the last has no end."""
AGE_EDGES_S: Ints = np.array(
    [0, *(300 << age // 2 if age % 2 == 0 else 424 << age // 2 for age in range(AGES - 1))],
    np.int64,
)
"""Where each age begins; 424 is 300 times the root of two."""
_EDGES_S: tuple[int, ...] = tuple(AGE_EDGES_S.tolist())
SPANS = 10
SPAN_MIDDLES_S: Ints = np.array([450, *(1350 << span for span in range(SPANS - 1))], np.int64)
"""From now: the middle of the first quarter of an hour, of the second, of the second half hour, of
the second hour and so on, doubling, up to five days. Each counts alike: equal steps of the
logarithm, as lifetimes spread."""
SIZES, KINDS = 8, 4
CLASSES = SIZES * KINDS

_ONE_BITS = 30
_ONE = 1 << _ONE_BITS
"""A probability of 1 in the making of a table."""
_LOSS_BITS = 12
"""Losses, -ln(1 - p), are in 4096ths."""
_STEP_BITS = 8
"""Of a sum of losses, so many low bits do not count: it is looked up in 16ths."""
_TOGETHER = 2
"""A sum of losses counts as one of half as much: what a tenant starts together ends together, so
that the chance that all are gone is greater than if each ended by itself."""
_P_BITS = 10
_CLASS_PRIOR, _AGE_PRIOR = 20, 10
"""So many instances as all other classes, or as the age before, have a say in a hazard."""
_FIRST_HAZARD = _ONE * 3 // 10
"""Where nothing is known, three in ten end within each half octave: half within an octave."""


def _losses() -> Ints:
    # From Decimal, which rounds alike everywhere; a certainty counts as all but certain.
    whole = 1 << _P_BITS
    losses = [
        -(1 - Decimal(min(p, whole - 1)) / whole).ln() * (1 << _LOSS_BITS) for p in range(whole + 1)
    ]
    return np.array([int(loss + Decimal("0.5")) for loss in losses], np.int64)


def _alone() -> Ints:
    step = Decimal(1 << _STEP_BITS) / (1 << _LOSS_BITS) / _TOGETHER
    return np.array([int((-step * i).exp() * FULL + Decimal("0.5")) for i in range(384)], np.int64)


_LOSS: Ints = _losses()
"""By probability in 1024ths."""
_ALONE: Ints = _alone()
"""exp(-loss / 2) by loss in 16ths, 0..65535."""


def class_of(vcpus: int, memory_mib: int) -> int:
    """Return the class, 0 to 31, of instances of a size: by virtual CPUs and by memory for each.

    Sizes double from 1 to 128 virtual CPUs; kinds are below 1.5 GiB a virtual CPU, below 3
    (compute), below 6 (general) and more (memory): half-way between what clouds sell (2, 4, 8).
    """
    size = min(max(vcpus, 1).bit_length() - 1, SIZES - 1)
    each_mib = memory_mib // max(vcpus, 1)
    kind = (each_mib >= 1536) + (each_mib >= 3072) + (each_mib >= 6144)
    return size * KINDS + kind


def ages_of(seconds: Ints) -> Ints:
    """Return the age, 0 to 23, of each number of seconds."""
    ages: Ints = np.searchsorted(AGE_EDGES_S, np.maximum(seconds, 0), side="right") - 1
    return ages


def age_of(seconds: int) -> int:
    """Return the age of one number of seconds: quicker than `ages_of` for one."""
    return max(bisect_right(_EDGES_S, seconds) - 1, 0)


@dataclass(frozen=True, slots=True, eq=False)
class LifetimeTable:
    """What the counts say, frozen."""

    losses: Ints
    """classes x ages x spans: -ln(1 - p) in 4096ths; p: an instance of that age lasts the span.
    A host's sum over its instances tells how likely all are gone by then: exp(-sum) if each ended
    by itself."""
    lasting: Ints
    """classes x spans: how likely a new instance lasts the span, 0..65535."""


class LifetimeCounts:
    """Counts, by class and age, of instances that ended at that age and that outlived it."""

    def __init__(self) -> None:
        self._ended: Ints = np.zeros((CLASSES, AGES), np.int64)
        self._outlived: Ints = np.zeros((CLASSES, AGES), np.int64)

    def ended_at(self, of_class: int, seen: int, age: int) -> None:
        """Count an instance that ended at an age, and outlived those since it was last seen."""
        self._outlived[of_class, seen:age] += 1
        self._ended[of_class, age] += 1

    def outlived(self, classes: Ints, ages: Ints) -> None:
        """Count instances that got older than an age: one class and one age each."""
        np.add.at(self._outlived, (classes, ages), 1)

    def table(self) -> LifetimeTable:
        """Freeze the counts. Cost: some 8,000 figures, whatever the number of instances."""
        hazards = self._hazards()
        alive = np.full((CLASSES, AGES + 1), _ONE, np.int64)
        for age in range(AGES):
            left = alive[:, age] * ((_ONE - hazards[:, age]) >> 14) >> (_ONE_BITS - 14)
            alive[:, age + 1] = np.maximum(left, 1 << 8)
        middles = np.append((AGE_EDGES_S[:-1] + AGE_EDGES_S[1:]) // 2, AGE_EDGES_S[-1] * 6 // 5)
        now = _alive_at(alive, middles)[:, :, None]
        then = _alive_at(alive, (middles[:, None] + SPAN_MIDDLES_S).ravel())
        lasts = np.minimum(then.reshape(CLASSES, AGES, SPANS) * FULL // now, FULL)
        new = _alive_at(alive, SPAN_MIDDLES_S)
        return LifetimeTable(_LOSS[lasts * (1 << _P_BITS) // FULL], new * FULL // _ONE)

    def _hazards(self) -> Ints:
        """Return the share of those that reach an age who end at it, classes x ages, of `_ONE`."""
        ended, all_ended = self._ended, self._ended.sum(axis=0)
        reached, all_reached = ended + self._outlived, all_ended + self._outlived.sum(axis=0)
        common = np.zeros(AGES, np.int64)
        last = _FIRST_HAZARD
        for age in range(AGES):
            share = int(all_ended[age]) * _ONE + _AGE_PRIOR * last
            common[age] = last = share // (int(all_reached[age]) + _AGE_PRIOR)
        hazards: Ints = (ended * _ONE + _CLASS_PRIOR * common) // (reached + _CLASS_PRIOR)
        return hazards


def _alive_at(alive: Ints, seconds: Ints) -> Ints:
    """Return how many of `_ONE` are alive at each of some ages in seconds, classes x seconds.

    `alive`: at the edges of the ages. In between on a straight line.
    """
    ages = ages_of(seconds)
    last_s = AGE_EDGES_S[-1]
    begins, ends = AGE_EDGES_S[ages], np.append(AGE_EDGES_S[1:], 2 * last_s)[ages]
    into = np.minimum((seconds - begins) * (1 << 12) // (ends - begins), 1 << 12)
    before, after = alive[:, ages], alive[:, ages + 1]
    at: Ints = before - ((before - after) * into >> 12)
    return at


def alignment_score(sums: Ints, of_class: int, table: LifetimeTable) -> Ints:
    """Return how surely others keep each host busy while a new instance may run, 0..65535.

    `sums`: hosts x spans, the losses of what is on each host. The mean over the spans of the
    chance that the instance still runs and all others are gone is what it is short of 65535: an
    empty host has least, one with instances that last has most. O(hosts) elementwise.
    """
    alone = _ALONE[np.minimum(sums >> _STEP_BITS, len(_ALONE) - 1)]
    prolonged = (alone * table.lasting[of_class]).sum(axis=1) // (SPANS * FULL)
    score: Ints = FULL - prolonged
    return score
