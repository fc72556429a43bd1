"""Contention scores: the same for one host and for many, worse with every load, by known tails."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import acceptance
from unkai_scheduler.placement import contention
from unkai_scheduler.placement.contention import CORE, ONE, Load, Newcomer
from unkai_scheduler.placement.signals import FULL

cores = st.integers(0, 512 * CORE)
variances = st.integers(0, 256 * CORE * CORE)
hosts = st.tuples(
    st.integers(1, 512).map(lambda n: n * CORE), cores, variances, st.integers(0, 500)
)
newcomers = st.builds(Newcomer, cores, variances)
COUNT = acceptance.count(2000)


def a_load(
    mean_cores: float, variance_cores: float = 1.0, machines: int = 10, cpus: int = 16
) -> Load[int]:
    return Load(cpus * CORE, int(mean_cores * CORE), int(variance_cores * CORE * CORE), machines)


A_NEWCOMER = Newcomer(CORE, CORE * CORE // 4)


def test_the_table_of_tails_is_the_same_on_every_machine() -> None:
    assert int(contention._TAILS.sum()) == (len(contention._TAILS) * ONE) // 2
    for deviations in (0.0, 0.5, 1.0, 2.0, 3.0):
        mean = (16 - deviations * math.sqrt(1 + 1 / 16)) * CORE
        chance = contention.overload_chance(16 * CORE, int(mean), CORE * CORE)
        assert abs(chance / ONE - math.erfc(deviations / math.sqrt(2)) / 2) < 0.01


@given(st.lists(hosts, min_size=1, max_size=5), newcomers)
@settings(deadline=None, max_examples=COUNT)
def test_one_host_scores_alone_as_among_many(
    some: list[tuple[int, int, int, int]], newcomer: Newcomer
) -> None:
    many = Load(*np.array(some, np.int64).T)
    for score in (contention.contention_score, contention.headroom_score):
        scores = score(many, newcomer)
        assert scores.dtype == np.int64
        assert scores.tolist() == [score(Load(*host), newcomer) for host in some]
        assert all(0 <= value <= FULL for value in scores.tolist())


@given(hosts, newcomers, cores)
@settings(deadline=None, max_examples=COUNT)
def test_a_busier_host_never_has_more_headroom(
    host: tuple[int, int, int, int], newcomer: Newcomer, more: int
) -> None:
    capacity, mean, variance, machines = host
    busier = Load(capacity, mean + more, variance, machines)
    assert contention.headroom_score(busier, newcomer) <= contention.headroom_score(
        Load(*host), newcomer
    )


@given(hosts, newcomers, st.integers(0, 100))
@settings(deadline=None, max_examples=COUNT)
def test_a_host_where_more_would_be_hurt_never_scores_better(
    host: tuple[int, int, int, int], newcomer: Newcomer, more: int
) -> None:
    capacity, mean, variance, machines = host
    fuller = Load(capacity, mean, variance, machines + more)
    assert contention.contention_score(fuller, newcomer) <= contention.contention_score(
        Load(*host), newcomer
    )


def test_a_host_far_from_contention_is_perfect() -> None:
    assert contention.contention_score(a_load(2.0), A_NEWCOMER) == FULL
    assert contention.headroom_score(a_load(2.0), A_NEWCOMER) == FULL


def test_a_host_in_contention_for_ever_hurts_the_newcomer_alone() -> None:
    hurt = contention.instances_hurt(a_load(40.0), A_NEWCOMER)
    assert hurt == ONE
    assert contention.contention_score(a_load(40.0), A_NEWCOMER) == FULL // 2


def test_tipping_a_host_over_hurts_all_that_are_there() -> None:
    big = Newcomer(8 * CORE, 0)
    assert contention.instances_hurt(a_load(12.0), big) > 10 * ONE
    assert contention.contention_score(a_load(12.0), big) < FULL // 10


def test_few_that_swing_far_need_more_room_than_many_that_swing_little() -> None:
    few, many = a_load(8.0, variance_cores=16.0), a_load(9.0, variance_cores=2.0)
    for score in (contention.contention_score, contention.headroom_score):
        assert score(few, A_NEWCOMER) < score(many, A_NEWCOMER)


def test_a_newcomer_that_swings_helps_nobody_out_of_contention() -> None:
    swinging = Newcomer(0, 100 * CORE * CORE)
    assert contention.instances_hurt(a_load(20.0), swinging) >= contention.overload_chance(
        16 * CORE, 20 * CORE, 101 * CORE * CORE
    )
