"""The columns of a fleet: arrays by name, one row a host, with spare rows at their end.

Who is given them looks each up by its name every time: growing puts another array in its place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unkai_scheduler.placement.live_figures import RECENT_SAMPLES, Sampled
from unkai_scheduler.placement.settling import BUCKETS
from unkai_scheduler.placement.signals import Signal

_COLUMNS: dict[str, tuple[tuple[int, ...], type]] = {
    "up": ((), np.bool_),
    "silent": ((), np.bool_),
    "cordoned": ((), np.bool_),
    "cpus": ((), np.int64),
    "claimable_vcpus": ((), np.int64),
    "claimable_memory": ((), np.int64),
    "claimable_disk": ((), np.int64),
    "claimed_vcpus": ((), np.int64),
    "claimed_memory": ((), np.int64),
    "claimed_disk": ((), np.int64),
    "words": ((1,), np.int64),
    "expected_vcpus": ((BUCKETS,), np.int32),
    "expected_mib": ((BUCKETS,), np.int32),
    "sample_s": ((), np.float64),
    "fresh": ((), np.bool_),
    "sampled": ((len(Sampled),), np.float64),
    "total_mib": ((), np.int64),
    "mean": ((len(Signal),), np.int32),
    "ring": ((RECENT_SAMPLES, len(Signal)), np.uint16),
    "slot": ((), np.uint8),
    "cpu_before": ((2,), np.int64),
    "recent": ((len(Signal),), np.int64),
}
"""Shape of one host's value, and its type."""


class Columns(dict[str, npt.NDArray[np.generic]]):
    """The arrays by name."""

    def __init__(self) -> None:
        super().__init__(
            (name, np.zeros((0, *shape), dtype)) for name, (shape, dtype) in _COLUMNS.items()
        )

    def take_over(self, other: Columns) -> None:
        """Become like another's, in place: whoever looks at these sees what they are then."""
        self.update((name, column.copy()) for name, column in other.items())

    def make_room(self, row: int) -> None:
        """Let all have a row; new rows are 0."""
        for name, column in self.items():
            if row >= len(column):
                grown = np.zeros((max(8, 2 * row), *column.shape[1:]), column.dtype)
                grown[:row] = column[:row]
                self[name] = grown

    def widen(self, name: str, width: int) -> None:
        """Let a column of integers in rows have so many of them; new ones are 0."""
        column = self[name]
        if width > column.shape[1]:
            grown = np.zeros((len(column), width), column.dtype)
            grown[:, : column.shape[1]] = column
            self[name] = grown

    def move(self, row: int, to: int) -> None:
        """Put a row in another's place; it is a spare one then."""
        for column in self.values():
            column[to] = column[row]
            column[row] = 0
