"""The pipeline: filters, then scores, then the best host; in a batch, each sees the claims before.

`decide` is the one brain for every placement. It is a function of the fleet, the requests, the
weights and the time given: the same input gives the same bits. Ties go to the host with the least
live load, then to the first by name.
Cost: O(hosts) elementwise a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from unkai_scheduler.domain.decisions import Decision, FilterResult
from unkai_scheduler.placement import explain
from unkai_scheduler.placement.filters import FILTERS
from unkai_scheduler.placement.fleet import Bools, Fleet, Ints
from unkai_scheduler.placement.requests import PlacementRequest, Weights
from unkai_scheduler.placement.scores import MOST_STEPS, SCORES, WISHES, Loads

MAX_CANDIDATES = 6
"""The winner and five runners-up."""


def decide(
    fleet: Fleet,
    requests: Sequence[PlacementRequest],
    *,
    weights: Weights,
    now: datetime,
    now_s: float,
) -> list[Decision]:
    """Choose a host for each request, in order; claim it in the fleet as it goes.

    `now` is written into the decisions; `now_s` is the monotonic clock of `Fleet.fold`. Whoever
    cannot commit a claim takes it back with `Fleet.withdraw`.
    """
    loads = Loads.of(fleet)
    return [
        _decide_one(fleet, request, weights, loads, now=now, now_s=now_s) for request in requests
    ]


def _decide_one(
    fleet: Fleet,
    request: PlacementRequest,
    weights: Weights,
    loads: Loads,
    *,
    now: datetime,
    now_s: float,
) -> Decision:
    fitting, results = _filter(fleet, request, now_s)
    if not fitting.any():
        return Decision(
            instance_id=request.instance_id,
            decide_time=now,
            policy=request.policy.value,
            host_count=len(fleet),
            filters=results,
            candidates=(),
            summary=explain.no_fit_summary(results, len(fleet)),
        )
    terms = WISHES if request.preferred_traits else SCORES
    scores = {name: score(fleet, request, loads, now_s) for name, score in terms}
    totals = _totals(scores, weights)
    best = _best_rows(fleet, fitting, totals, loads)
    winner = best[0]
    decision = Decision(
        instance_id=request.instance_id,
        decide_time=now,
        policy=request.policy.value,
        host_count=len(fleet),
        filters=results,
        candidates=tuple(
            explain.candidate(
                fleet,
                request,
                row,
                total=int(totals[row]),
                scores=scores,
                weights=weights,
                now_s=now_s,
            )
            for row in best
        ),
        host_id=fleet.ids[winner],
        host_name=fleet.names[winner],
        summary=explain.placed_summary(fleet, request, winner, fitting, scores),
    )
    fleet.claim(
        fleet.ids[winner],
        request.vcpus,
        request.memory_bytes,
        request.disk_bytes,
        now_s,
        instance_id=request.instance_id,
    )
    return decision


def _filter(
    fleet: Fleet, request: PlacementRequest, now_s: float
) -> tuple[Bools, tuple[FilterResult, ...]]:
    fitting = np.ones(len(fleet), np.bool_)
    results: list[FilterResult] = []
    for rule in FILTERS:
        passes = rule.passes(fleet, request, now_s)
        if passes.all():
            results.append(FilterResult(rule.name, 0))
            continue
        results.append(explain.filter_result(rule, fleet, request, fitting & ~passes, now_s))
        fitting &= passes
    return fitting, tuple(results)


def _totals(scores: dict[str, Ints], weights: Weights) -> Ints:
    """Return the weighted mean of the scores, rounded down."""
    weighted = [score * getattr(weights, name) for name, score in scores.items()]
    total: Ints = np.add.reduce(weighted) // sum(getattr(weights, name) for name in scores)
    return total


def _best_rows(fleet: Fleet, fitting: Bools, totals: Ints, loads: Loads) -> list[int]:
    """Return the rows of the best hosts that fit, best first; ties by load, then by rank."""
    # One integer each: no two hosts are equal, so that the row order cannot matter.
    merits = totals * MOST_STEPS + (MOST_STEPS - 1 - loads.steps)
    keys = np.where(fitting, merits * len(fleet) + (len(fleet) - 1 - fleet.rank), -1)
    best: list[int] = []
    # Looking six times for the greatest is quicker than any partial sort of them all.
    while len(best) < MAX_CANDIDATES and keys[row := int(keys.argmax())] >= 0:
        best.append(row)
        keys[row] = -1
    return best
