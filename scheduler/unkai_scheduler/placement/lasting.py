"""What is on each host and how long it may last; a part of the fleet.

Each host has a sum over its instances, in one of the fleet's columns, which `lifetimes.py` scores.
A claim and a release change one row. `look_again`, called every ten minutes or so, moves all
instances to their ages, counts who outlived what, freezes a new table and makes all sums anew:
between two looks a prediction stands as it is. It never asks for the time, and never knows when
an instance will end.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from unkai_scheduler.placement.lifetimes import (
    SPANS,
    LifetimeCounts,
    LifetimeTable,
    age_of,
    ages_of,
    class_of,
)

Ints = npt.NDArray[np.int64]

LOOK_EVERY_S = 600
"""How often to call `look_again`; the shortest ages are five minutes."""
COLUMN = "lasting"
COLUMN_SHAPE, COLUMN_TYPE = (SPANS,), np.int32
"""40 bytes a host. A loss is at most 28,391, so that 75,000 instances fit on one."""


class Lasting:
    """The instances on all hosts by class and age. Times are seconds of one clock."""

    def __init__(self, columns: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """`columns`: the fleet's, which hold `COLUMN`, a row per host."""
        self.version = 0
        """Another one after each look: sums and table are new, and all scores with them."""
        self.table: LifetimeTable
        self._columns = columns
        self._counts = LifetimeCounts()
        self._slots: dict[str, int] = {}
        self._spare: list[int] = []
        self._rows: Ints = np.zeros(0, np.int64)
        """Of each slot; -1: nothing is in it."""
        self._classes, self._ages, self._since_s = (np.zeros(0, np.int64) for _ in range(3))
        self.table = self._counts.table()

    def __len__(self) -> int:
        return len(self._slots)

    def placed(
        self,
        instance_id: str,
        row: int,
        *,
        vcpus: int,
        memory_mib: int,
        since_s: int,
        now_s: int,
    ) -> None:
        """Note an instance on a host since some time ago, or now; one known already is no error."""
        if instance_id in self._slots:
            return
        slot = self._slots[instance_id] = self._slot()
        self._rows[slot] = row
        self._classes[slot] = class_of(vcpus, memory_mib)
        self._since_s[slot] = since_s
        self._ages[slot] = age_of(now_s - since_s)
        self._sums()[row] += self.table.losses[self._classes[slot], self._ages[slot]]

    def ended(self, instance_id: str, now_s: int) -> None:
        """Note that an instance is gone, and learn how old it got."""
        slot = self._take_out(instance_id)
        if slot is None:
            return
        of_class, seen = int(self._classes[slot]), int(self._ages[slot])
        self._counts.ended_at(of_class, seen, max(age_of(now_s - int(self._since_s[slot])), seen))

    def withdrawn(self, instance_id: str) -> None:
        """Forget an instance that never was, or moves; nothing is learned from it."""
        self._take_out(instance_id)

    def moved_row(self, row: int, to_row: int) -> None:
        """Note that a host's row is another now; its sums have moved with the columns."""
        self._rows[self._rows == row] = to_row

    def forget_row(self, row: int) -> None:
        """Forget a host with all that is on it."""
        for instance_id in [
            known for known, slot in self._slots.items() if self._rows[slot] == row
        ]:
            self._take_out(instance_id)

    def look_again(self, now_s: int) -> None:
        """Let all instances age. Cost O(instances): some 0.1 s for 500,000."""
        used = np.flatnonzero(self._rows >= 0)
        ages = np.maximum(ages_of(now_s - self._since_s[used]), self._ages[used])
        classes = self._classes[used]
        older = np.flatnonzero(ages > self._ages[used])
        while len(older):
            self._counts.outlived(classes[older], self._ages[used[older]])
            self._ages[used[older]] += 1
            older = older[ages[older] > self._ages[used[older]]]
        self.table = self._counts.table()
        sums = self._sums()
        for span in range(SPANS):
            losses = self.table.losses[classes, ages, span]
            # In floats, which hold whole numbers of this size exactly, in whatever order.
            sums[:, span] = np.bincount(self._rows[used], losses, len(sums))
        self.version += 1

    def _sums(self) -> Ints:
        return self._columns[COLUMN]  # type: ignore[return-value]

    def _slot(self) -> int:
        if not self._spare:
            have = len(self._rows)
            more = max(64, have)
            self._rows = np.append(self._rows, np.full(more, -1))
            self._classes, self._ages, self._since_s = (
                np.append(column, np.zeros(more, np.int64))
                for column in (self._classes, self._ages, self._since_s)
            )
            self._spare = list(range(have + more - 1, have - 1, -1))
        return self._spare.pop()

    def _take_out(self, instance_id: str) -> int | None:
        slot = self._slots.pop(instance_id, None)
        if slot is None:
            return None
        losses = self.table.losses[self._classes[slot], self._ages[slot]]
        self._sums()[self._rows[slot]] -= losses.astype(COLUMN_TYPE)
        self._rows[slot] = -1
        self._spare.append(slot)
        return slot
