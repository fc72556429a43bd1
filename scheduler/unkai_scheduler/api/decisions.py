"""Decisions of placement, as host.v1 has them."""

from __future__ import annotations

from unkai.host.v1 import placement_pb2
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.domain.decisions import Candidate, Decision


def decision_message(decision: Decision) -> placement_pb2.Decision:
    """Write a decision."""
    kind = placement_pb2.Decision
    return kind(
        instance_id=decision.instance_id,
        decide_time=timestamp(decision.decide_time),
        policy=decision.policy,
        host_id=decision.host_id,
        host_name=decision.host_name,
        host_count=decision.host_count,
        filters=[
            kind.Filter(
                name=result.name,
                rejected_count=result.rejected_count,
                rejected_hosts=result.rejected_hosts,
                nearest_miss=result.nearest_miss,
            )
            for result in decision.filters
        ],
        candidates=map(_candidate, decision.candidates),
        summary=decision.summary,
    )


def _candidate(candidate: Candidate) -> placement_pb2.Decision.Candidate:
    kind = placement_pb2.Decision
    return kind.Candidate(
        host_id=candidate.host_id,
        host_name=candidate.host_name,
        total_score=candidate.total_score,
        terms=[
            kind.Term(name=term.name, score=term.score, weight=term.weight)
            for term in candidate.terms
        ],
        inputs=dict(candidate.inputs),
    )
