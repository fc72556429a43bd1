"""Lifetimes: what is learned of them, and the hosts that it prefers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unkai_scheduler.placement.lasting import COLUMN, COLUMN_SHAPE, COLUMN_TYPE, Lasting
from unkai_scheduler.placement.lifetimes import (
    AGE_EDGES_S,
    AGES,
    CLASSES,
    SPAN_MIDDLES_S,
    SPANS,
    Ints,
    LifetimeCounts,
    age_of,
    ages_of,
    alignment_score,
    class_of,
)
from unkai_scheduler.placement.signals import FULL

GIB = 1024
HOUR_S = 3600
acts = st.lists(
    st.tuples(
        st.sampled_from(["place", "place", "end", "withdraw", "look"]),
        st.integers(0, 9),
        st.integers(0, 3),
        st.integers(1, 64),
        st.integers(0, 4 * HOUR_S),
    ),
    max_size=60,
)


class Fleet:
    """Hosts with nothing but sums, and a clock."""

    def __init__(self, hosts: int = 4) -> None:
        self.columns = {COLUMN: np.zeros((hosts, *COLUMN_SHAPE), COLUMN_TYPE)}
        self.lasting = Lasting(self.columns)
        self.now_s = 0

    def place(self, name: str, row: int, vcpus: int = 1, gib: int = 4) -> None:
        """Place an instance now."""
        self.lasting.placed(
            name,
            row,
            vcpus=vcpus,
            memory_mib=gib * GIB * vcpus,
            since_s=self.now_s,
            now_s=self.now_s,
        )

    def live(self, count: int, lifetime_s: int, vcpus: int = 1) -> None:
        """Let so many instances come and go, one after the other."""
        for _ in range(count):
            self.place("passing", 0, vcpus)
            self.now_s += lifetime_s
            self.lasting.ended("passing", self.now_s)
        self.lasting.look_again(self.now_s)

    def scores(self, vcpus: int = 1, gib: int = 4) -> list[int]:
        """Score all hosts for a request."""
        sums: Ints = self.columns[COLUMN]
        of_class = class_of(vcpus, gib * GIB * vcpus)
        scores: list[int] = alignment_score(sums, of_class, self.lasting.table).tolist()
        return scores


def test_ages_begin_at_their_edges() -> None:
    assert ages_of(AGE_EDGES_S).tolist() == list(range(AGES))
    assert ages_of(AGE_EDGES_S[1:] - 1).tolist() == list(range(AGES - 1))
    assert ages_of(np.array([-5])).tolist() == [0]
    some_s = [-5, 0, 299, 300, 424, 86_400, 1 << 30]
    assert [age_of(seconds) for seconds in some_s] == ages_of(np.array(some_s)).tolist()


def test_sizes_double_from_class_to_class_and_memory_tells_kinds() -> None:
    assert class_of(1, GIB) == 0
    assert class_of(2, 4 * GIB) == class_of(3, 6 * GIB) == 5
    assert class_of(8, 64 * GIB) == 15
    assert class_of(4096, 4096 * 16 * GIB) == CLASSES - 1


def test_a_busy_host_is_better_than_an_empty_one() -> None:
    fleet = Fleet()
    fleet.place("a", 1)
    scores = fleet.scores()
    assert scores[1] > scores[0] == scores[2]


def test_a_host_whose_instances_are_old_is_better_than_one_with_young_ones() -> None:
    fleet = Fleet()
    fleet.live(50, 20 * 60)
    fleet.place("old", 1)
    fleet.now_s += 8 * HOUR_S
    fleet.place("young", 2)
    fleet.lasting.look_again(fleet.now_s)
    scores = fleet.scores()
    assert scores[1] > scores[2] > scores[0]


def test_short_lived_instances_cost_an_empty_host_less() -> None:
    fleet = Fleet()
    fleet.live(100, 10 * 60, vcpus=1)
    fleet.live(100, 24 * HOUR_S, vcpus=8)
    assert fleet.scores(vcpus=1)[3] > fleet.scores(vcpus=8)[3]


def test_a_class_without_history_is_predicted_as_all() -> None:
    counts = LifetimeCounts()
    for _ in range(1000):
        counts.ended_at(3, 2, 2)
    table = counts.table()
    assert table.lasting[7].tolist() == table.lasting[9].tolist()
    assert table.lasting[7][3] < FULL // 4


def test_predictions_only_fall_with_the_span_and_the_longer_lived_last_longer() -> None:
    counts = LifetimeCounts()
    for age in range(1, 20):
        counts.ended_at(4, 0, age)
    table = counts.table()
    assert (np.diff(table.lasting, axis=1) <= 0).all()
    assert (np.diff(table.losses, axis=2) <= 0).all()


@given(st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, AGES - 1)), max_size=50))
def test_tables_hold_whole_numbers_within_bounds(ends: list[tuple[int, int]]) -> None:
    counts = LifetimeCounts()
    for of_class, age in ends:
        counts.ended_at(of_class, 0, age)
    table = counts.table()
    assert table.lasting.shape == (CLASSES, SPANS) == (CLASSES, len(SPAN_MIDDLES_S))
    assert table.lasting.dtype == table.losses.dtype == np.int64
    assert table.lasting.min() >= 0
    assert table.lasting.max() <= FULL
    assert table.losses.min() >= 0


@given(acts)
def test_sums_are_those_of_what_is_on_the_hosts_and_scores_stay_in_bounds(
    drawn: list[tuple[str, int, int, int, int]],
) -> None:
    fleet = Fleet()
    there: dict[str, tuple[int, int]] = {}
    for act, number, row, vcpus, passed_s in drawn:
        name = f"i{number}"
        fleet.now_s += passed_s
        if act == "place" and name not in there:
            fleet.place(name, row, vcpus)
            there[name] = (row, vcpus)
        elif act == "end":
            fleet.lasting.ended(name, fleet.now_s)
            there.pop(name, None)
        elif act == "withdraw":
            fleet.lasting.withdrawn(name)
            there.pop(name, None)
        elif act == "look":
            fleet.lasting.look_again(fleet.now_s)
        busy = {row for row, _ in there.values()}
        sums = fleet.columns[COLUMN]
        assert sums.min() >= 0
        assert all(not sums[row].any() for row in range(4) if row not in busy)
        assert all(0 <= score <= FULL for score in fleet.scores(vcpus))
    assert len(fleet.lasting) == len(there)
    before = fleet.columns[COLUMN].copy()
    for name in there:
        fleet.lasting.ended(name, fleet.now_s)
    assert not fleet.columns[COLUMN].any(), before


def test_a_forgotten_host_takes_its_instances_along_and_a_moved_one_keeps_them() -> None:
    fleet = Fleet()
    fleet.place("a", 0)
    fleet.place("b", 3)
    fleet.lasting.forget_row(0)
    fleet.columns[COLUMN][0] = fleet.columns[COLUMN][3]
    fleet.columns[COLUMN][3] = 0
    fleet.lasting.moved_row(3, 0)
    fleet.lasting.look_again(fleet.now_s)
    assert fleet.columns[COLUMN][0].any()
    fleet.lasting.ended("b", fleet.now_s)
    assert not fleet.columns[COLUMN].any()
