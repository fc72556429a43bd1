"""Decisions as stored text: compact JSON that fits a bound by leaving out what matters least.

First the runners-up go, from the last; then the names of rejected hosts and the nearest misses;
then the winner's parts. What stays is always who won, why in a sentence, and each filter's count.

Candidates have the same terms and the same inputs, so their names are written once, as a *form*.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from unkai_scheduler.domain.decisions import (
    MAX_STORED_BYTES,
    Candidate,
    Decision,
    FilterResult,
    Term,
)
from unkai_scheduler.store.columns import NAME, TEXT, shortened

_Form = tuple[tuple[tuple[str, int], ...], tuple[str, ...]]
"""Names and weights of the terms, names of the inputs."""


def encode(decision: Decision) -> str:
    """Return the decision as JSON of at most `MAX_STORED_BYTES` bytes of UTF-8."""
    for candidate in _ever_smaller(decision):
        text = json.dumps(_plain(candidate), ensure_ascii=False, separators=(",", ":"))
        if len(text.encode()) <= MAX_STORED_BYTES:
            return text
    raise ValueError(f"the decision for {decision.instance_id} cannot be made to fit")


def decode(text: str) -> Decision:
    """Return the decision that `encode` wrote."""
    plain = json.loads(text)
    plain["decide_time"] = datetime.fromisoformat(plain["decide_time"])
    plain["filters"] = tuple(
        FilterResult(name, count, tuple(hosts), miss)
        for name, count, hosts, miss in plain["filters"]
    )
    forms = plain.pop("forms")
    plain["candidates"] = tuple(
        Candidate(host_id, host_name, total, *_parts(forms[form], scores, inputs))
        for form, host_id, host_name, total, scores, inputs in plain["candidates"]
    )
    return Decision(**plain)


def _parts(
    form: _Form, scores: Sequence[int], inputs: Sequence[float]
) -> tuple[tuple[Term, ...], dict[str, float]]:
    terms, names = form
    return (
        tuple(Term(name, s, weight) for (name, weight), s in zip(terms, scores, strict=True)),
        dict(zip(names, inputs, strict=True)),
    )


def _form(candidate: Candidate) -> _Form:
    return tuple((term.name, term.weight) for term in candidate.terms), tuple(candidate.inputs)


def _ever_smaller(decision: Decision) -> Iterator[Decision]:
    for count in range(len(decision.candidates), 0, -1):
        yield replace(decision, candidates=decision.candidates[:count])
    winner = decision.candidates[:1]
    decision = replace(decision, candidates=winner)
    yield decision
    filters = tuple(replace(f, rejected_hosts=()) for f in decision.filters)
    decision = replace(decision, filters=filters)
    yield decision
    filters = tuple(replace(f, nearest_miss=shortened(f.nearest_miss, 80)) for f in filters)
    decision = replace(decision, filters=filters, summary=shortened(decision.summary, TEXT))
    yield decision
    filters = tuple(replace(f, name=shortened(f.name, NAME), nearest_miss="") for f in filters)
    decision = replace(decision, filters=filters)
    yield decision
    decision = replace(decision, candidates=tuple(replace(c, inputs={}) for c in winner))
    yield decision
    decision = replace(decision, candidates=())
    yield decision
    for count in range(len(filters) - 1, -1, -1):
        yield replace(decision, filters=filters[:count])


def _plain(decision: Decision) -> dict[str, Any]:
    forms = list(dict.fromkeys(_form(candidate) for candidate in decision.candidates))
    return {
        "instance_id": decision.instance_id,
        "decide_time": decision.decide_time.isoformat(),
        "policy": decision.policy,
        "host_count": decision.host_count,
        "host_id": decision.host_id,
        "host_name": decision.host_name,
        "summary": decision.summary,
        "filters": [
            [f.name, f.rejected_count, list(f.rejected_hosts), f.nearest_miss]
            for f in decision.filters
        ],
        "forms": forms,
        "candidates": [
            [
                forms.index(_form(c)),
                c.host_id,
                c.host_name,
                c.total_score,
                [t.score for t in c.terms],
                [_rounded(value) for value in c.inputs.values()],
            ]
            for c in decision.candidates
        ],
    }


def _rounded(value: float) -> float:
    """Keep whole numbers whole, others to six digits: they are for reading."""
    return value if float(value).is_integer() else float(f"{value:.6g}")
