"""Elementwise integers: the same formula for the figures of many hosts, or of one.

NumPy's functions cost a microsecond a call, whatever the length; for the one host that has just
moved Python's own are ten times quicker. So formulas that are asked for single hosts are written
with operators and with these.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
N = TypeVar("N", int, Ints)
"""One host's figure, or one of each of many."""


def at_least(values: N, least: int) -> N:
    """Return each value, or `least` where that is more."""
    if isinstance(values, int):
        return max(least, values)
    return np.maximum(values, least)


def greater(some: N, others: N) -> N:
    """Return the greater of each two."""
    if isinstance(some, int):
        return max(others, some)
    return np.maximum(some, others)


def within(values: N, least: int, most: int) -> N:
    """Return each value, or the limit that it is beyond."""
    if isinstance(values, int):
        return least if values < least else min(values, most)
    return np.minimum(np.maximum(values, least), most)
