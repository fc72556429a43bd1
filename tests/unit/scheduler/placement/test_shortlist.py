"""Shortlists: the best keys are those of all keys, however they change."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import acceptance
from unkai_scheduler.placement.shortlist import Shortlist

changes = st.lists(st.tuples(st.integers(0, 29), st.integers(-1, 999)), max_size=120)


@given(changes, st.integers(1, 6))
@settings(deadline=None, max_examples=acceptance.count(2000))
def test_the_best_are_the_best_of_all_whatever_changed(
    changed: list[tuple[int, int]], count: int
) -> None:
    # As a board's keys: no two are alike.
    keys = np.arange(30, dtype=np.int64)
    shortlist = Shortlist(size=6)
    shortlist.fill(keys)
    for place, value in changed:
        key = value * 30 + place if value >= 0 else -1
        shortlist.change(int(keys[place]), key)
        keys[place] = key
        wanted = sorted((k for k in keys.tolist() if k >= 0), reverse=True)
        if shortlist.is_dry(count, len(wanted)):
            shortlist.fill(keys)
        assert shortlist.best(count) == wanted[:count]
