"""Machines just placed, and what is expected of them; a part of the fleet.

A guest that boots burns whole cores for seconds, which says little about how its host will be in a
minute. So it counts with what is expected of it, by its size, and what it shows counts only as that
expectation fades: wholly the one for `SETTLING_FULL_S`, wholly the other after `SETTLING_S`.

Expectations are summed in buckets of time, one row per host, in two of the fleet's columns: the
fleet moves and grows them with all others. It never asks for the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unkai_scheduler.placement.signals import FULL

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SETTLING_FULL_S = 15
"""So long a machine just placed counts wholly with what is expected of it."""
SETTLING_S = 60
"""After so long it counts wholly with what it shows; linear in between."""
BUCKET_S = 5
BUCKETS = SETTLING_S // BUCKET_S + 1
_COLUMNS = ("expected_vcpus", "expected_mib")


class SettlingMachine(NamedTuple):
    """A machine placed less than `SETTLING_S` ago."""

    bucket: int
    vcpus: int
    memory_mib: int


class Left(NamedTuple):
    """One that was removed a moment ago: samples begun before that have its load in them."""

    instance_id: str
    machine: SettlingMachine
    left_s: float


class Settling:
    """The machines just placed on all hosts. Times are monotonic seconds."""

    def __init__(self, columns: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """`columns`: the fleet's, which hold `expected_vcpus` and `expected_mib`."""
        self._columns = columns
        self._machines: dict[str, SettlingMachine] = {}
        """By instance."""
        self._of_bucket: dict[int, list[str]] = {}
        """Instances placed in each bucket of time, some of them gone."""
        self._left: dict[str, list[Left]] = {}
        """By host."""
        self._clock_s = -np.inf
        self._bucket: int | None = None
        self._expected: dict[str, Ints] = {}
        """Sums per row under the present weights; empty while rows have moved."""
        self._weights: Ints = np.zeros(BUCKETS, np.int64)

    def take_over(self, other: Settling) -> None:
        """Know what another knows; the columns are a copy of its columns."""
        self._machines = dict(other._machines)
        self._of_bucket = {bucket: list(ids) for bucket, ids in other._of_bucket.items()}
        self._left = {host_id: list(left) for host_id, left in other._left.items()}
        self._clock_s, self._bucket, self._weights = other._clock_s, other._bucket, other._weights
        self._expected = {}

    def add(
        self, row: int, *, instance_id: str, vcpus: int, memory_mib: int, since_s: float
    ) -> None:
        """Expect something of a machine placed at `since_s`. `instance_id`: empty in simulation."""
        self.advance(since_s)
        bucket = int(since_s // BUCKET_S)
        self._expect(row, bucket, vcpus, memory_mib)
        if instance_id:
            self._machines[instance_id] = SettlingMachine(bucket, vcpus, memory_mib)
            self._of_bucket.setdefault(bucket, []).append(instance_id)

    def left(self, host_id: str, instance_id: str) -> SettlingMachine | None:
        """Note that a machine was removed; its load may show once more.

        Return it if something is expected of it, for `expect_less`.
        """
        was = self._machines.pop(instance_id, None)
        if was is not None:
            self._left.setdefault(host_id, []).append(Left(instance_id, was, self._clock_s))
        return was

    def forget(self, instance_id: str) -> SettlingMachine | None:
        """Forget a machine that never was; return as `left`."""
        return self._machines.pop(instance_id, None)

    def expect_less(self, row: int, was: SettlingMachine) -> None:
        """Expect nothing more of a machine."""
        self._expect(row, was.bucket, -was.vcpus, -was.memory_mib)

    def forget_host(self, host_id: str) -> None:
        """Forget a host's machines; its row is another's from now on."""
        self._left.pop(host_id, None)
        self.rows_changed()

    def rows_changed(self) -> None:
        """Note that hosts came, went or moved: sums are made anew."""
        self._expected = {}

    def machine(self, instance_id: str) -> SettlingMachine | None:
        """Return a machine that settles; None: it has settled, or is gone."""
        return self._machines.get(instance_id)

    def weight(self, bucket: int) -> int:
        """Return with what weight `expected` has a machine of a bucket in it."""
        return self._weights.item(bucket % BUCKETS)

    def left_since(self, host_id: str, since_s: float) -> Sequence[Left]:
        """Return who left a host since a moment; those before are forgotten."""
        left = self._left.get(host_id)
        if left is None:
            return ()
        recent = [one for one in left if one.left_s >= since_s]
        if recent:
            self._left[host_id] = recent
        else:
            del self._left[host_id]
        return recent

    def advance(self, now_s: float) -> None:
        """Clear the buckets whose machines have settled."""
        self._clock_s = max(self._clock_s, now_s)
        bucket = int(now_s // BUCKET_S)
        if self._bucket is None:
            self._bucket = bucket
        elif bucket > self._bucket:
            for passed in range(max(self._bucket + 1, bucket - BUCKETS + 1), bucket + 1):
                for column in _COLUMNS:
                    self._table(column)[:, passed % BUCKETS] = 0
            self._bucket = bucket
            self._expected = {}
            for settled in [b for b in self._of_bucket if b <= bucket - BUCKETS]:
                for instance_id in self._of_bucket.pop(settled):
                    machine = self._machines.get(instance_id)
                    if machine is not None and machine.bucket == settled:
                        del self._machines[instance_id]

    def fade(self, now_s: float) -> Bools | None:
        """Come to a moment; return which rows' expectations changed, None: perhaps all."""
        before = self._expected
        self.advance(now_s)
        self._weights = self._bucket_weights(now_s)
        self._expected = {}
        changed = [self.expected(name) != before[name] for name in _COLUMNS if name in before]
        return changed[0] | changed[1] if changed else None

    def expected(self, column: str) -> Ints:
        """Return what is expected of each row's machines, spare rows included, in fixed point."""
        if not self._expected:
            self._expected = {name: self._table(name) @ self._weights for name in _COLUMNS}
        return self._expected[column]

    def _expect(self, row: int, bucket: int, vcpus: int, memory_mib: int) -> None:
        slot = bucket % BUCKETS
        if self._bucket is None or bucket <= self._bucket - BUCKETS:
            return
        for column, amount in zip(_COLUMNS, (vcpus, memory_mib), strict=True):
            values = self._columns[column]
            before: int = values.item(row, slot)
            after = max(before + amount, 0)
            values[row, slot] = after
            if self._expected:
                self._expected[column][row] += (after - before) * self._weights.item(slot)

    def _bucket_weights(self, now_s: float) -> Ints:
        assert self._bucket is not None
        weights = np.zeros(BUCKETS, np.int64)
        for bucket in range(self._bucket - BUCKETS + 1, self._bucket + 1):
            weights[bucket % BUCKETS] = settling_weight(now_s, bucket)
        return weights

    def _table(self, column: str) -> Ints:
        return self._columns[column]  # type: ignore[return-value]


def settling_weight(now_s: float, bucket: int) -> int:
    """Return how much a machine placed in a bucket still counts with what is expected of it.

    From `FULL` down to 0.
    """
    age_s = now_s - bucket * BUCKET_S
    if age_s <= SETTLING_FULL_S:
        return FULL
    left_s = SETTLING_S - age_s
    return max(int(left_s * FULL / (SETTLING_S - SETTLING_FULL_S)), 0)
