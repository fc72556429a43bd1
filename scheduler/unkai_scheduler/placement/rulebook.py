"""The rule book: the filters and scores in force, in their order.

A scheduler has the ones of `filters.py` and `scores.py`, and the filters that other packages add.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unkai_scheduler.placement.filters import FILTERS, Filter
from unkai_scheduler.placement.moves import Aspect
from unkai_scheduler.placement.requests import PlacementRequest
from unkai_scheduler.placement.scores import SCORES, Score

Bits = npt.NDArray[np.int32]
MAX_FILTERS = 20
"""Each is a bit of what keeps a host out, and doubles the table of first bits."""


class RuleBook:
    """Filters and scores. A filter's place is its bit."""

    def __init__(self, added: Sequence[Filter] = ()) -> None:
        """`added`: filters beside our own. Raises `ValueError` for a name that is taken."""
        self.filters: tuple[Filter, ...] = (*FILTERS, *added)
        names = [rule.name for rule in self.filters]
        if len(set(names)) < len(names):
            raise ValueError(f"two filters have one name: {', '.join(names)}")
        if len(names) > MAX_FILTERS:
            raise ValueError(f"{len(names)} filters: at most {MAX_FILTERS} can be in force")
        self.scores: tuple[Score, ...] = SCORES
        self.nobody = len(self.filters)
        """The place that stands for no filter: who fits."""
        self.of_claims = [
            (1 << place, rule)
            for place, rule in enumerate(self.filters)
            if rule.reads & Aspect.CLAIMS and rule.applies is None
        ]
        """With their bits, those that look at claims."""
        self._first = np.array([self.first(fails) for fails in range(1 << self.nobody)], np.uint8)

    def first(self, fails: int) -> int:
        """Return the place of the first filter that keeps a host out."""
        return (fails & -fails).bit_length() - 1 if fails else self.nobody

    def first_of_each(self, fails: Bits) -> npt.NDArray[np.uint8]:
        """Return, of each host, the place of the first filter that keeps it out."""
        return self._first.take(fails)

    def counts(self, first: npt.NDArray[np.uint8]) -> list[int]:
        """Return how many hosts each filter keeps out that passed all before; last, who fit."""
        counts: list[int] = np.bincount(first, minlength=self.nobody + 1).tolist()
        return counts

    def singly(self, request: PlacementRequest) -> list[tuple[int, Filter]]:
        """Return, with their places, the filters that look at more of a request than its shape."""
        return [
            (place, rule)
            for place, rule in enumerate(self.filters)
            if rule.applies is not None and rule.applies(request)
        ]

    def named(self, name: str) -> Filter:
        """Return a filter by its name."""
        return next(rule for rule in self.filters if rule.name == name)


OURS = RuleBook()
"""Without anything added."""
