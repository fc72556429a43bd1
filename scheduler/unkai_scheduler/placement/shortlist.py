"""A shortlist: the best of many keys, kept in order as single keys change.

It holds all keys from a floor on, so that the best few are at hand; below the floor it knows
nothing. It is filled anew when it runs dry or when many keys changed at once. Keys are distinct
integers of at least 0; a key of -1 is no key.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

SIZE = 64
"""Keys held after filling: filling costs O(keys), and is due after about as many removals."""


class Shortlist:
    """The best keys. Cost: O(log size) comparisons a change, O(keys) a filling."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._kept: list[int] = []
        self._floor = 0
        """Every key from it on is kept."""

    def fill(self, keys: Ints) -> None:
        """Take over all keys."""
        if len(keys) <= self._size:
            best, self._floor = keys, 0
        else:
            best = np.partition(keys, len(keys) - self._size)[-self._size :]
            self._floor = max(int(best.min()), 0)
        self._kept = np.sort(best[best >= 0]).tolist()

    def change(self, old: int, new: int) -> None:
        """Replace a key; -1: there was none, or is none any more."""
        if old == new:
            return
        if old >= self._floor and old >= 0:
            del self._kept[bisect_left(self._kept, old)]
        if new >= self._floor and new >= 0:
            insort(self._kept, new)
            if len(self._kept) > 4 * self._size:
                del self._kept[: 2 * self._size]
                self._floor = self._kept[0]

    def is_dry(self, count: int, fitting: int) -> bool:
        """Tell whether the best `count` of `fitting` keys are not all at hand."""
        return len(self._kept) < min(count, fitting)

    def best(self, count: int) -> list[int]:
        """Return the best keys, greatest first."""
        return self._kept[: -count - 1 : -1]
