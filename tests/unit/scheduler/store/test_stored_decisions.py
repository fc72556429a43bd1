"""Decisions fit their bound by leaving out what matters least, and come back as they were."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import NOON, a_decision, an_instance
from unkai_scheduler.domain.decisions import (
    MAX_STORED_BYTES,
    Candidate,
    Decision,
    FilterResult,
    Term,
)
from unkai_scheduler.store import decisions, instances
from unkai_scheduler.store.unit_of_work import UnitOfWork


async def test_the_last_decision_is_kept_with_the_instance(uow: UnitOfWork) -> None:
    row = an_instance()
    first, last = a_decision(row.id, candidates=0), a_decision(row.id, candidates=2)
    await uow.write(lambda conn: instances.insert(conn, row))
    before = await uow.read(lambda conn: instances.decision(conn, row.id))
    for decision in (first, last):
        await uow.write(lambda conn, d=decision: instances.save_decision(conn, d))
    await uow.write(lambda conn: instances.replace(conn, row, etag=row.etag))

    assert before is None
    assert await uow.read(lambda conn: instances.decision(conn, row.id)) == last


def test_runners_up_go_first_and_from_the_last() -> None:
    decision = a_decision("ins-1", candidates=6)
    longer = tuple(
        replace(c, inputs={f"input_{n}_ratio": 0.5 for n in range(140)})
        for c in decision.candidates
    )

    kept = decisions.decode(decisions.encode(replace(decision, candidates=longer)))

    assert 1 <= len(kept.candidates) < 6
    assert kept.candidates == longer[: len(kept.candidates)]
    assert kept.filters == decision.filters


def test_live_numbers_are_kept_to_six_digits_and_bytes_exactly() -> None:
    inputs = {"cpu_used_ratio": 0.123456789, "memory_available_bytes": 16_777_216_123.0}
    decision = a_decision("ins-1")
    winner = replace(decision.candidates[0], inputs=inputs)

    kept = decisions.decode(decisions.encode(replace(decision, candidates=(winner,))))

    assert kept.candidates[0].inputs == {
        "cpu_used_ratio": 0.123457,
        "memory_available_bytes": 16_777_216_123.0,
    }


_words = st.text(max_size=600)
_filters = st.builds(
    FilterResult, _words, st.integers(0, 1 << 31), st.lists(_words, max_size=5).map(tuple), _words
)
_terms = st.builds(Term, _words, st.integers(0, 65535), st.integers(0, 255))
_candidates = st.builds(
    Candidate,
    st.just("hst-00000000000000000000000000"),
    st.text("abc-", max_size=63),
    st.integers(0, 1 << 40),
    st.lists(_terms, max_size=8).map(tuple),
    st.dictionaries(_words, st.floats(allow_nan=False, allow_infinity=False), max_size=20),
)


@given(
    filters=st.lists(_filters, max_size=12).map(tuple),
    candidates=st.lists(_candidates, max_size=6).map(tuple),
    summary=st.text(max_size=5000),
)
@settings(max_examples=60, deadline=None)
def test_any_decision_fits_and_still_says_who_won(
    filters: tuple[FilterResult, ...], candidates: tuple[Candidate, ...], summary: str
) -> None:
    decision = Decision(
        "ins-1", NOON, "pack", 10_000, filters, candidates, "hst-1", "host-1", summary
    )

    text = decisions.encode(decision)

    kept = decisions.decode(text)
    assert len(text.encode()) <= MAX_STORED_BYTES
    assert json.loads(text)["host_count"] == 10_000
    assert (kept.instance_id, kept.host_id, kept.host_name) == ("ins-1", "hst-1", "host-1")
    assert [c.host_id for c in kept.candidates] == [
        c.host_id for c in candidates[: len(kept.candidates)]
    ]
