"""The flavor mix, and what it makes of hosts' leftovers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unkai_scheduler.placement.flavor_mix import (
    FREEZE_EVERY,
    MAX_FLAVORS,
    MAX_SHAPES,
    WHOLE_BITS,
    FlavorMix,
    Ints,
    Mix,
)
from unkai_scheduler.placement.fragmentation import (
    fragmentation_score,
    fullness_score,
    unusable_share,
)
from unkai_scheduler.placement.signals import FULL

GIB = 1024
sizes = st.tuples(st.integers(1, 512), st.integers(1, 4 << 20))
mixes = st.lists(sizes, max_size=40)
hosts = st.lists(
    st.tuples(sizes, st.integers(-8, 512), st.integers(-GIB, 4 << 20)), min_size=1, max_size=8
)


def a_mix(*shapes: tuple[int, int]) -> Mix:
    """Return the mix of requests of these shapes, frozen as they stand."""
    flavors = FlavorMix()
    for _ in range(FREEZE_EVERY):
        for vcpus, memory_mib in shapes:
            flavors.saw(vcpus, memory_mib)
    return flavors.mix


def ints(*values: int) -> Ints:
    """Return a column."""
    return np.array(values, np.int64)


def test_what_no_flavor_can_use_is_unusable() -> None:
    mix = a_mix((2, 4 * GIB))
    # One virtual CPU left with lots of memory; memory left for half a flavor; nothing left.
    share = unusable_share(
        ints(1, 8, 0), ints(32 * GIB, 2 * GIB, 0), ints(*[8] * 3), ints(*[32 * GIB] * 3), mix
    )
    assert share.tolist() == [FULL * 9 // 16, FULL * 17 // 32, 0]


def test_a_leftover_that_flavors_fill_exactly_is_worth_all() -> None:
    share = unusable_share(ints(8), ints(16 * GIB), ints(8), ints(32 * GIB), a_mix((2, 4 * GIB)))
    assert share.tolist() == [0]


def test_the_host_whose_leftover_stays_useful_is_best() -> None:
    # 2 virtual CPUs with 4 GiB are left on the first; on the second the larger flavor fits still.
    score = fragmentation_score(
        ints(4, 6),
        ints(8 * GIB, 12 * GIB),
        ints(8, 8),
        ints(32 * GIB, 32 * GIB),
        wanted_vcpus=2,
        wanted_memory_mib=4 * GIB,
        mix=a_mix((2, 4 * GIB), (4, 8 * GIB)),
    )
    assert score[1] > score[0]


def test_a_request_that_uses_up_what_was_unusable_scores_above_the_middle() -> None:
    score = fragmentation_score(
        ints(1),
        ints(16 * GIB),
        ints(8),
        ints(32 * GIB),
        wanted_vcpus=1,
        wanted_memory_mib=16 * GIB,
        mix=a_mix((2, 4 * GIB)),
    )
    assert score[0] > FULL // 2


def test_without_a_mix_all_hosts_are_alike() -> None:
    score = fragmentation_score(
        ints(1, 8),
        ints(GIB, 9),
        ints(8, 8),
        ints(GIB, GIB),
        wanted_vcpus=1,
        wanted_memory_mib=1,
        mix=FlavorMix().mix,
    )
    assert score.tolist() == [FULL // 2] * 2


def test_a_fuller_host_is_better_and_nearly_full_ones_are_nearly_alike() -> None:
    score = fullness_score(
        ints(8, 7, 2, 1),
        ints(*[GIB] * 4),
        ints(*[8] * 4),
        ints(*[8 * GIB] * 4),
        wanted_vcpus=1,
        wanted_memory_mib=GIB,
    ).tolist()
    assert score == sorted(score)
    assert score[1] - score[0] > 100 * (score[3] - score[2])
    assert score[3] == FULL


@given(mixes, hosts, sizes)
def test_scores_are_whole_numbers_within_bounds_and_each_host_stands_alone(
    shapes: list[tuple[int, int]],
    drawn: list[tuple[tuple[int, int], int, int]],
    wanted: tuple[int, int],
) -> None:
    flavors = FlavorMix()
    for shape in shapes:
        flavors.saw(*shape)

    def score(some: list[tuple[tuple[int, int], int, int]]) -> list[list[int]]:
        columns = (
            ints(*[free for _, free, _ in some]),
            ints(*[free for _, _, free in some]),
            ints(*[vcpus for (vcpus, _), _, _ in some]),
            ints(*[memory for (_, memory), _, _ in some]),
        )
        asked = {"wanted_vcpus": wanted[0], "wanted_memory_mib": wanted[1]}
        both = np.array(
            (
                fragmentation_score(*columns, **asked, mix=flavors.mix),
                fullness_score(*columns, **asked),
            )
        )
        assert both.dtype == np.int64
        scores: list[list[int]] = both.T.tolist()
        return scores

    together = score(drawn)
    assert all(0 <= value <= FULL for both in together for value in both)
    assert together == [score([one])[0] for one in drawn]


@given(mixes)
def test_a_mix_is_bounded_and_the_same_requests_make_the_same(
    shapes: list[tuple[int, int]],
) -> None:
    once, again = FlavorMix(), FlavorMix()
    for shape in shapes:
        once.saw(*shape)
        again.saw(*shape)
    assert len(once.mix.weights) <= MAX_FLAVORS
    assert 0 <= int(once.mix.weights.sum()) <= 1 << WHOLE_BITS
    for name in ("sizes", "weights"):
        assert getattr(once.mix, name).tolist() == getattr(again.mix, name).tolist()


def test_a_mix_that_has_not_moved_keeps_its_version() -> None:
    flavors = FlavorMix()
    for _ in range(FREEZE_EVERY):
        flavors.saw(1, GIB)
    version = flavors.mix.version
    for _ in range(4 * FREEZE_EVERY):
        flavors.saw(1, GIB)
    assert flavors.mix.version == version


def test_a_flavor_that_comes_later_is_in_the_mix_soon() -> None:
    flavors = FlavorMix()
    for _ in range(FREEZE_EVERY):
        flavors.saw(1, GIB)
    for _ in range(FREEZE_EVERY):
        flavors.saw(8, 64 * GIB)
    assert 8 in flavors.mix.sizes[0].tolist()


def test_ever_new_shapes_do_not_push_out_the_frequent_one() -> None:
    flavors = FlavorMix()
    for number in range(4 * MAX_SHAPES):
        flavors.saw(2, 4 * GIB)
        flavors.saw(1, GIB + number)
    assert flavors.mix.sizes[:, 0].tolist() == [2, 4 * GIB]
