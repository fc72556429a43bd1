"""The flavor mix: what has been asked for here, and how much of it. A part of the fleet's state.

It counts the shapes of requests (virtual CPUs and memory), whatever flavor they were written as,
and freezes them from time to time: what reads the mix keeps scores per host until the mix's version
changes, so it changes seldom, and only when the mix has moved. It never asks for the time; counts
are halved now and then, so that what nobody asks for any more fades.

Pure, integers alone. All memory is in MiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

WHOLE_BITS = 16
"""Weights of a mix are in 65536ths."""
MAX_FLAVORS = 16
"""So many shapes are in a mix: those of the greatest weight."""
MAX_SHAPES = 256
"""So many shapes are counted; beyond, the rarest makes room."""
FREEZE_EVERY = 1024
"""Requests from one look at the mix to the next; the first ones come at 1, 2, 4, 8, …"""
HALVE_EVERY = 1 << 17
"""Requests after which all counts are halved."""
_ROOT_BITS = 8
"""Of the fraction of a root of a count."""
_MOVED = 1 << (WHOLE_BITS - 6)
"""A mix is new when weights of together a 64th have moved."""


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """A frozen mix: one entry per flavor, the weightiest first."""

    version: int
    """Another one for each other mix."""
    sizes: Ints
    """2 x flavors: virtual CPUs, and memory."""
    weights: Ints
    """In 65536ths, together at most 65536."""


def _mix(version: int, weights: dict[tuple[int, int], int]) -> Mix:
    sizes = np.array(list(weights), np.int64).reshape(-1, 2).T.copy()
    return Mix(version, sizes, np.array(list(weights.values()), np.int64))


class FlavorMix:
    """Counts requests by shape; `mix` is the newest frozen mix."""

    def __init__(self) -> None:
        self.mix = _mix(0, {})
        self._counts: dict[tuple[int, int], int] = {}
        self._weights: dict[tuple[int, int], int] = {}
        self._seen = 0
        self._next_look = 1

    def saw(self, vcpus: int, memory_mib: int) -> None:
        """Count a request for a new instance; now and then this makes a new mix."""
        shape = (max(vcpus, 1), max(memory_mib, 1))
        if shape not in self._counts and len(self._counts) >= MAX_SHAPES:
            # The newcomer inherits the rarest one's count: no frequent shape can be shut out
            # (Space-Saving; Metwally, Agrawal and El Abbadi, ICDT 2005).
            rarest = min(self._counts, key=lambda known: (self._counts[known], known))
            self._counts[shape] = self._counts.pop(rarest)
        self._counts[shape] = self._counts.get(shape, 0) + 1
        self._seen += 1
        if self._seen % HALVE_EVERY == 0:
            self._counts = {known: count + 1 >> 1 for known, count in self._counts.items()}
        if self._seen >= self._next_look:
            self._next_look = self._seen + min(self._seen, FREEZE_EVERY)
            self._freeze()

    def _freeze(self) -> None:
        weights = _weights(self._counts)
        before = self._weights
        shapes = weights.keys() | before.keys()
        moved = sum(abs(weights.get(shape, 0) - before.get(shape, 0)) for shape in shapes)
        if moved >= _MOVED:
            self._weights = weights
            self.mix = _mix(self.mix.version + 1, weights)


def _weights(counts: dict[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """Return how much the weightiest shapes weigh of all, in 65536ths.

    A shape weighs as much as it takes: the mean of its share of all virtual CPUs and of all memory
    asked for, with the square root of its requests in place of their number. By number, the one
    flavor that most ask for hides the few large ones, which fragments hurt first.
    """
    roots = {shape: isqrt(count << 2 * _ROOT_BITS) for shape, count in counts.items()}
    vcpus = sum(root * shape[0] for shape, root in roots.items())
    memory = sum(root * shape[1] for shape, root in roots.items())
    half = 1 << (WHOLE_BITS - 1)
    weights = {
        shape: root * shape[0] * half // vcpus + root * shape[1] * half // memory
        for shape, root in roots.items()
    }
    best = sorted(weights, key=lambda shape: (-weights[shape], shape))[:MAX_FLAVORS]
    return {shape: weights[shape] for shape in best}
