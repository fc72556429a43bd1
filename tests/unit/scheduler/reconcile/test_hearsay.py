"""How far hosts are believed that name a term higher than ours."""

from __future__ import annotations

import pytest

from unkai_scheduler.reconcile.hearsay import (
    BELIEVED_TIMES,
    LEAP,
    WITHIN_S,
    Hearsay,
    believable,
)

now_s = [0.0]


@pytest.fixture
def hearsay() -> Hearsay:
    now_s[0] = 0.0
    return Hearsay(lambda: now_s[0])


def test_a_host_is_believed_so_often_in_a_day(hearsay: Hearsay) -> None:
    told = [hearsay.outranking("hst-a", str(term + 1), term) for term in range(1, 9)]

    assert told == [2, 3, 4, 0, 0, 0, 0, 0]
    now_s[0] = WITHIN_S - 1
    assert hearsay.outranking("hst-a", "99", 9) == 0
    now_s[0] = WITHIN_S
    assert hearsay.outranking("hst-a", "99", 9) == 99


def test_one_that_is_not_believed_takes_nothing_from_the_others(hearsay: Hearsay) -> None:
    for term in range(1, 9):
        hearsay.outranking("hst-a", term + 1, term)

    assert hearsay.outranking("hst-b", 41, 9) == 41


@pytest.mark.parametrize("said", ["", "7", "6", "-8", "8.0", "eight", "9" * 19, "9" * 400])
def test_what_is_no_higher_term_is_not_believed(hearsay: Hearsay, said: str) -> None:
    assert hearsay.outranking("hst-a", said, 7) == 0
    assert hearsay.outranking("hst-a", "8", 7) == 8


def test_no_word_lifts_the_term_by_more_than_a_leap() -> None:
    assert believable(1 << 60, 7) == 7 + LEAP


def test_a_restored_database_rises_above_honest_hosts_though_a_liar_once_made_a_leap(
    hearsay: Hearsay,
) -> None:
    honest, term, tries = LEAP + 12, 5, 0
    while term <= honest and tries < BELIEVED_TIMES:
        term, tries = hearsay.outranking("hst-a", str(honest), term) + 1, tries + 1

    assert term > honest
