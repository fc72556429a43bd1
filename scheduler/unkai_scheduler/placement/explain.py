"""Explanations: the words of a decision. Pure; looks only at what the decision looked at.

A decision keeps, of each filter, how many hosts it removed, up to five names and the nearest
miss; of the winner and up to five runners-up, every term and the live numbers behind it; and one
sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unkai_scheduler.domain.decisions import Candidate, Decision, FilterResult, Term
from unkai_scheduler.placement.filters import BY_NAME, Filter
from unkai_scheduler.placement.fleet import Bools, Fleet, Ints
from unkai_scheduler.placement.live_figures import Sampled
from unkai_scheduler.placement.requests import PlacementRequest, Weights
from unkai_scheduler.placement.scores import EXPECTED_MILLICORES_PER_VCPU
from unkai_scheduler.placement.signals import FULL, Signal
from unkai_wire.errors import NoCapacity

MAX_REJECTED_NAMES = 5
HEAVY = FULL // 2
"""A load term below this is worth naming in the summary."""
_NO_LOADS = ("policy", "preferred_traits")
_SAMPLED = tuple(figure.name.lower() for figure in Sampled)
_RECENT = tuple(f"recent_{signal.name.lower()}_ratio" for signal in Signal)


def filter_result(
    rule: Filter, fleet: Fleet, request: PlacementRequest, rejected: Bools, now_s: float
) -> FilterResult:
    """Say what a filter did; `rejected`: one flag per host."""
    rows = np.flatnonzero(rejected)
    if not len(rows):
        return FilterResult(rule.name, 0)
    ranks = fleet.rank[rows]
    few = min(MAX_REJECTED_NAMES, len(rows))
    named = rows[np.argpartition(ranks, few - 1)[:few]]
    named = named[np.argsort(fleet.rank[named])]
    missing = rule.missing(fleet, request, now_s)[rows]
    least = rows[missing == missing.min()]
    nearest = int(least[np.argmin(fleet.rank[least])])
    return FilterResult(
        rule.name,
        len(rows),
        tuple(fleet.names[row] for row in named),
        rule.sentence(fleet, request, nearest, now_s),
    )


def candidate(
    fleet: Fleet,
    request: PlacementRequest,
    row: int,
    *,
    total: int,
    scores: Mapping[str, Ints],
    weights: Weights,
    now_s: float,
) -> Candidate:
    """Explain one host that passed all filters."""
    terms = tuple(
        Term(
            request.policy.value if name == "policy" else name,
            int(score[row]),
            getattr(weights, name),
        )
        for name, score in scores.items()
    )
    return Candidate(fleet.ids[row], fleet.names[row], total, terms, live_inputs(fleet, row, now_s))


def live_inputs(fleet: Fleet, row: int, now_s: float) -> dict[str, float]:
    """Return the live numbers that the scores of a host came from, by name with unit.

    First the newest sample as it came. Then what was scored: `recent_…`, the higher of mean and
    high quantile of each signal, less what machines just placed explain; and `expected_…` of those.
    """
    inputs = dict(zip(_SAMPLED, fleet.sampled_of(row), strict=True))
    for name, value in zip(_RECENT, fleet.recent_of(row), strict=True):
        inputs[name] = round(value / FULL, 3)
    vcpus = int(fleet.expected("expected_vcpus", now_s)[row]) / FULL
    inputs["expected_cpu_cores"] = round(vcpus * EXPECTED_MILLICORES_PER_VCPU / 1000, 2)
    inputs["expected_memory_mib"] = float(int(fleet.expected("expected_mib", now_s)[row]) // FULL)
    inputs["sample_age_s"] = round(fleet.age_s(row, now_s), 1)
    return inputs


def placed_summary(
    fleet: Fleet,
    request: PlacementRequest,
    winner: int,
    fitting: Bools,
    scores: Mapping[str, Ints],
) -> str:
    """Say in one sentence why the winner won."""
    count = int(fitting.sum())
    text = (
        f"{fleet.names[winner]}: best of {count} host{'s' * (count != 1)} that fit"
        f"{'s' * (count == 1)} under {request.policy.value}"
    )
    loads = [(name, score) for name, score in scores.items() if name not in _NO_LOADS]
    worst = np.minimum.reduce([score for _, score in loads])
    heavy = np.flatnonzero(fitting & (worst < HEAVY) & (worst < worst[winner]))
    if not len(heavy):
        return text
    first = int(heavy[np.lexsort((fleet.rank[heavy], worst[heavy]))[0]])
    name = min(loads, key=lambda load: int(load[1][first]))[0]
    others = f" and {len(heavy) - 1} more" if len(heavy) > 1 else ""
    return (
        f"{text}; loaded: {fleet.names[first]}{others} "
        f"({name} scores {int(worst[first]) / FULL:.2f})"
    )


def no_fit_summary(results: Sequence[FilterResult], host_count: int) -> str:
    """Say in one sentence why no host fits: "no host fits: 2 of 3 lack memory (nearest: …), …"."""
    if not host_count:
        return "no host fits: there are no hosts"
    parts: list[str] = []
    for result in results:
        if not result.rejected_count:
            continue
        rule = BY_NAME[result.name]
        words = rule.one if result.rejected_count == 1 else rule.many
        of = f" of {host_count}" if not parts else ""
        # The short form reads better where the sentence says no more than it does.
        says_more = result.nearest_miss != f"{result.rejected_hosts[0]} {rule.one}"
        nearest = f" (nearest: {result.nearest_miss})" if says_more else ""
        parts.append(f"{result.rejected_count}{of} {words}{nearest}")
    return "no host fits: " + ", ".join(parts)


def no_capacity_error(decision: Decision) -> NoCapacity:
    """Return the error of a decision that found no host."""
    reasons = {f.name: f.rejected_count for f in decision.filters if f.rejected_count}
    return NoCapacity(
        decision.summary or "no host fits",
        reasons=reasons,
        fix="ask for less, free capacity, add a host, or let the request wait with capacity_wait",
        metadata={"instance_id": decision.instance_id, "host_count": str(decision.host_count)},
    )
