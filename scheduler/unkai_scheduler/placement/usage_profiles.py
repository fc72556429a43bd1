"""Usage profiles: what like instances use, which is all that is known of a newcomer.

Who is alike is said by a key: the words that an instance brings with it (its project, image and
flavor, say). Of each key are kept the mean share that its machines use of their virtual CPUs, how
much they differ from each other, and how much one differs from its own mean; and the same of all
machines together, towards which a key that has few of them is drawn. Pure; bounded.

The trap: averages are over machine time, as contention is. A short-lived machine weighs little.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unkai_scheduler.placement.contention import CORE, Newcomer
from unkai_scheduler.placement.signals import FULL

Ints = npt.NDArray[np.int64]

ALL = 0
"""The row of all machines together."""
MAX_PROFILES = 1024
"""Keys that are told apart; 48 bytes each. Beyond, a new one is as all are."""
MEMORY_MS = 1 << 27
"""Machine time that is remembered: 37 hours of one, or two minutes of a thousand; what is older
counts half, then a quarter. A profile of many machines so follows the hour of the day."""
FEW = 4
"""So many machines of a key say as much of the next one as all others' do."""
MOST_MACHINES = 64
FIRST_SHARE, FIRST_BETWEEN, FIRST_WITHIN = FULL * 3 // 10, FULL // 12, FULL // 36
"""Before any machine has shown anything: three tenths of its virtual CPUs, give or take three
tenths from one to the other (the variance of any share between 0 and 1, evenly: 1/12)."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of machines, shares of their virtual CPUs in fixed point, one of each."""

    share: Ints
    variance: Ints
    """Between machines and within one, together; `FULL` is 1.0."""


class UsageProfiles:
    """What machines use, by key. Not safe for threads."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, int] = OrderedDict()
        self._free = list(range(MAX_PROFILES, ALL, -1))
        self._shares, self._squares, self._within, self._weights, self._machines, self._refs = (
            np.zeros(MAX_PROFILES + 1, np.int64) for _ in range(6)
        )
        self._one: dict[int, tuple[int, int]] = {}
        """By row what is expected of one machine, until something is learnt."""

    def hold(self, key: str) -> int:
        """Return the row of a machine's key, which stays its own until `drop`."""
        row = self._row(key)
        self._refs[row] += 1
        return row

    def drop(self, row: int) -> None:
        """Say that a machine that held a row is gone; what it has shown stays known."""
        self._refs[row] -= 1

    def newcomer(self, key: str, vcpus: int) -> Newcomer:
        """Return what is expected of an instance of a key."""
        share, variance = self.expected_of(self._rows.get(key, ALL))
        return Newcomer(vcpus * share * CORE // FULL, vcpus * vcpus * variance * CORE**2 // FULL)

    def expected_of(self, row: int) -> tuple[int, int]:
        """Return share and variance that are expected of one machine of a row."""
        one = self._one.get(row)
        if one is None:
            expected = self.expected(np.array([row]))
            one = self._one[row] = int(expected.share[0]), int(expected.variance[0])
        return one

    def expected(self, rows: Ints) -> Expected:
        """Return what is expected of a machine of each row of which nothing is known yet."""
        share, between, within = self._known(rows)
        all_share, all_between, all_within = self._known(np.array([ALL]))
        machines = np.where(rows == ALL, 0, self._machines[rows])
        parts = machines + FEW
        return Expected(
            (share * machines + all_share * FEW) // parts,
            ((between + within) * machines + (all_between + all_within) * FEW) // parts,
        )

    def meet(self, rows: Ints) -> None:
        """Count machines that have shown for the first time what they use; rows may repeat."""
        count = np.bincount(rows, minlength=MAX_PROFILES + 1)
        self._machines = np.minimum(self._machines + count, MOST_MACHINES)
        self._one.clear()

    def learn(self, rows: Ints, shares: Ints, variances: Ints, step_ms: Ints) -> None:
        """Take in what machines use: a row each, mean share and variance, and for how long."""
        keyed = rows != ALL
        for known, values in (
            (self._shares, shares * step_ms),
            (self._squares, (shares * shares // FULL) * step_ms),
            (self._within, variances * step_ms),
            (self._weights, step_ms),
        ):
            np.add.at(known, rows[keyed], values[keyed])
            known[ALL] += values.sum()
        self._one.clear()
        full = self._weights > MEMORY_MS
        for known in (self._shares, self._squares, self._within, self._weights):
            known[full] >>= 1

    def _row(self, key: str) -> int:
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
            return row
        if not self._free:
            self._forget_one()
        if not self._free:
            return ALL
        row = self._rows[key] = self._free.pop()
        return row

    def _forget_one(self) -> None:
        """Forget the key without machines that was asked for longest ago, if there is one."""
        oldest = next((key for key, row in self._rows.items() if not self._refs[row]), None)
        if oldest is None:
            return
        row = self._rows.pop(oldest)
        self._one.pop(row, None)
        self._free.append(row)
        for known in (self._shares, self._squares, self._within, self._weights, self._machines):
            known[row] = 0

    def _known(self, rows: Ints) -> tuple[Ints, Ints, Ints]:
        """Return mean share, variance between machines and variance within one, of each row."""
        weights = self._weights[rows]
        some = np.maximum(weights, 1)
        share = self._shares[rows] // some
        between = np.maximum(self._squares[rows] // some - share * share // FULL, 0)
        none = weights == 0
        return (
            np.where(none, FIRST_SHARE, share),
            np.where(none, FIRST_BETWEEN, between),
            np.where(none, FIRST_WITHIN, self._within[rows] // some),
        )
