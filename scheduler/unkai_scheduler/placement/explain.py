"""Explanations: the words of a decision. Pure; looks only at what the decision looked at.

A decision keeps, of each filter, how many hosts it removed, up to five names and the nearest
miss; of the winner and up to five runners-up, every term and the live numbers behind it; and one
sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from unkai_scheduler.domain.decisions import Candidate, Decision, FilterResult, Term
from unkai_scheduler.domain.instances import PlacementPolicy
from unkai_scheduler.placement import group_rules
from unkai_scheduler.placement.board import Rejection
from unkai_scheduler.placement.filters import Filter
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.live_figures import Sampled
from unkai_scheduler.placement.requests import PlacementRequest
from unkai_scheduler.placement.rulebook import RuleBook
from unkai_scheduler.placement.scores import EXPECTED_MILLICORES_PER_VCPU
from unkai_scheduler.placement.signals import FULL, Signal
from unkai_wire.errors import NoCapacity

if TYPE_CHECKING:
    from unkai_scheduler.placement.pipeline import Verdict

HEAVY = FULL // 2
"""A load term below this is worth naming in the summary."""
_SAMPLED = tuple(figure.name.lower() for figure in Sampled)
_RECENT = tuple(f"recent_{signal.name.lower()}_ratio" for signal in Signal)


def decision(fleet: Fleet, book: RuleBook, verdict: Verdict, now: datetime) -> Decision:
    """Put what was found into words, before anything of it is claimed."""
    request, count = verdict.request, len(fleet)
    results = tuple(
        filter_result(rule, fleet, request, verdict.counts[index], verdict.rejections.get(index))
        for index, rule in enumerate(book.filters)
    )
    winner = verdict.best[0] if verdict.best else None
    return Decision(
        instance_id=request.instance_id,
        decide_time=now,
        policy=request.policy.value,
        host_count=count,
        filters=results,
        candidates=tuple(candidate(fleet, verdict, row) for row in verdict.best),
        host_id="" if winner is None else fleet.ids[winner],
        host_name="" if winner is None else fleet.names[winner],
        summary=(
            no_fit_summary(book, results, count)
            if winner is None
            else placed_summary(fleet, verdict)
        ),
    )


def filter_result(
    rule: Filter, fleet: Fleet, request: PlacementRequest, count: int, found: Rejection | None
) -> FilterResult:
    """Say what a filter did."""
    if found is None:
        return FilterResult(rule.name, 0)
    return FilterResult(
        rule.name,
        count,
        tuple(fleet.names[row] for row in found.rows),
        rule.sentence(fleet, request, found.nearest),
    )


def candidate(fleet: Fleet, verdict: Verdict, row: int) -> Candidate:
    """Explain one host that passed all filters."""
    request, board, more = verdict.request, verdict.board, verdict.group_term
    terms = tuple(
        Term(request.policy.value if score.name == "policy" else score.name, value, weight)
        for score, value, weight in zip(
            board.scores, board.terms[:, row].tolist(), board.weights, strict=True
        )
    )
    if more is not None:
        terms += (Term(group_rules.SCORE, int(more.values[row]), more.weight),)
    total = board.total(row, more)
    return Candidate(fleet.ids[row], fleet.names[row], total, terms, live_inputs(fleet, row))


def live_inputs(fleet: Fleet, row: int) -> dict[str, float]:
    """Return the live numbers that the scores of a host came from, by name with unit.

    First the newest sample as it came. Then what was scored: `recent_…`, the higher of mean and
    high quantile of each signal, less what machines just placed explain; and `expected_…` of those.
    """
    inputs = dict(zip(_SAMPLED, fleet.sampled_of(row), strict=True))
    for name, value in zip(_RECENT, fleet.recent_of(row), strict=True):
        inputs[name] = round(value / FULL, 3)
    vcpus = fleet.expected_now("expected_vcpus").item(row) / FULL
    inputs["expected_cpu_cores"] = round(vcpus * EXPECTED_MILLICORES_PER_VCPU / 1000, 2)
    inputs["expected_memory_mib"] = float(fleet.expected_now("expected_mib").item(row) // FULL)
    inputs["sample_age_s"] = round(fleet.age_s(row), 1)
    return inputs


def placed_summary(fleet: Fleet, verdict: Verdict) -> str:
    """Say in one sentence why the winner won."""
    count, winner, rank = verdict.counts[-1], verdict.best[0], fleet.rank
    text = best_of(fleet.names[winner], count, verdict.request.policy)
    board = verdict.board
    loads = [(s.name, board.terms[i]) for i, s in enumerate(board.scores) if s.is_load]
    worst = np.minimum.reduce([score for _, score in loads])
    heavy = np.flatnonzero((verdict.fails == 0) & (worst < HEAVY) & (worst < worst[winner]))
    if not len(heavy):
        return text
    first = int(heavy[np.lexsort((rank[heavy], worst[heavy]))[0]])
    name = min(loads, key=lambda load: int(load[1][first]))[0]
    others = f" and {len(heavy) - 1} more" if len(heavy) > 1 else ""
    return (
        f"{text}; loaded: {fleet.names[first]}{others} "
        f"({name} scores {int(worst[first]) / FULL:.2f})"
    )


def best_of(winner: str, count: int, policy: PlacementPolicy) -> str:
    """Say of how many hosts that fit the winner is the best."""
    fit = f"{count} hosts that fit" if count != 1 else "1 host that fits"
    return f"{winner}: best of {fit} under {policy.value}"


def no_fit_summary(book: RuleBook, results: Sequence[FilterResult], host_count: int) -> str:
    """Say in one sentence why no host fits: "no host fits: 2 of 3 lack memory (nearest: …), …"."""
    if not host_count:
        return "no host fits: there are no hosts"
    parts: list[str] = []
    for result in results:
        if not result.rejected_count:
            continue
        rule = book.named(result.name)
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
