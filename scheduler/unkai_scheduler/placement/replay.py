"""Replay: past decisions, as they were recorded and as they are judged again. Pure.

A segment of the decision log (journal.py) is played on a fleet of its own, through the mutators
that the leader's fleet has; at each decision that fleet is as it was, and the same engine judges
again. What it finds is compared with the record, number by number: who was chosen, all totals and
terms, how many and who were kept out, and what the nearest lacked.

Hosts are compared by name, filters and terms by name too, so that a segment of another version is
read and its differences are told.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from unkai_scheduler.domain.decisions import Candidate, Decision, FilterResult, Term
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import PlacementPolicy
from unkai_scheduler.domain.placement_groups import GroupPolicy, GroupRule, GroupScope, Strictness
from unkai_scheduler.placement import explain, journal, snapshots
from unkai_scheduler.placement.board import Rejection
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.group_rules import SCORE
from unkai_scheduler.placement.journal import Kind
from unkai_scheduler.placement.pipeline import Engine, Verdict
from unkai_scheduler.placement.requests import PlacementRequest, Weights
from unkai_scheduler.placement.rulebook import OURS, RuleBook
from unkai_scheduler.placement.segments import Segment, UnreadableSegment
from unkai_scheduler.placement.settling import SettlingMachine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Place:
    """A host among the best of a decision."""

    row: int
    total: int
    terms: Mapping[str, int]
    """0..65535 by the score's name."""


@dataclass(frozen=True, slots=True)
class KeptOut:
    """Whom a filter keeps out."""

    count: int
    found: Rejection


@dataclass(frozen=True, slots=True)
class Findings:
    """What is found for a request, in numbers: what is compared."""

    best: tuple[Place, ...]
    fitting: int
    kept_out: Mapping[str, KeptOut]
    """By the filter's name."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A decision of the log."""

    request: PlacementRequest
    decide_time: datetime
    findings: Findings


@dataclass(frozen=True, slots=True)
class Replayed:
    """A decision of the log, and what is decided now on the same fleet."""

    recorded: Decision
    replayed: Decision
    differences: tuple[str, ...]
    """In what the replayed one differs; a sentence each, none when all numbers are the same."""


class Player:
    """Plays one segment, once."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self.fleet = Fleet()
        """As it was when the decision was made that `decisions` has just given."""
        self._requests: list[tuple[dict[str, Any], list[str]]] = []
        self._time = _EPOCH
        self.is_as_recorded: bool | None = None
        """After the last decision: whether the fleet ended as it was; None: nobody knows yet."""
        self._acts: dict[int, Callable[[memoryview], None]] = {
            Kind.SNAPSHOT: self._restore,
            Kind.TICK: lambda body: self.fleet.advance(*journal.TICK.unpack(body)),
            Kind.FOLDED: self._fold,
            Kind.HOST: lambda body: snapshots.put_row(self.fleet, body),
            Kind.STATE: self._set_state,
            Kind.REMOVED: lambda body: self.fleet.remove_host(self._id(body)),
            Kind.CLAIM: self._claim,
            Kind.SETTLE: self._settle,
            Kind.GIVEN_BACK: self._give_back,
            Kind.REQUEST: self._read_request,
            Kind.TIME: self._read_time,
            Kind.END: self._end,
        }

    def decisions(self) -> Iterator[Recorded]:
        """Yield each decision; raise `UnreadableSegment` for what nobody can have written."""
        try:
            for kind, body in self._segment.entries():
                if kind == Kind.DECISION:
                    yield self._decision(body)
                else:
                    self._acts[kind](body)
        except (struct.error, ValueError, KeyError, IndexError) as error:
            raise UnreadableSegment(f"a record of it makes no sense: {error!r}") from error

    def _restore(self, body: memoryview) -> None:
        self.fleet = snapshots.restored(body)

    def _id(self, body: memoryview) -> str:
        (row,) = journal.ROW.unpack_from(body)
        ident: str = self.fleet.ids[row]
        return ident

    def _fold(self, body: memoryview) -> None:
        (count,) = journal.ROW.unpack_from(body)
        body = body[journal.ROW.size :]
        rows = np.frombuffer(body, "<u4", count).astype(np.int64)
        body, figures = body[rows.size * 4 :], {}
        for name in snapshots.FIGURES:
            figures[name], body = snapshots.read_figures(self.fleet, name, count, body)
        self.fleet.take_over(rows, figures)

    def _set_state(self, body: memoryview) -> None:
        state = HostState(bytes(body[journal.ROW.size :]).decode())
        self.fleet.set_state(self._id(body), state)

    def _claim(self, body: memoryview) -> None:
        row, vcpus, memory_bytes, disk_bytes, now_s = journal.CLAIM.unpack(body)
        self.fleet.claim(self.fleet.ids[row], vcpus, memory_bytes, disk_bytes, now_s)

    def _settle(self, body: memoryview) -> None:
        row, vcpus, memory_bytes, since_s = journal.SETTLE.unpack(body)
        self.fleet.settle(self.fleet.ids[row], vcpus, memory_bytes, since_s)

    def _give_back(self, body: memoryview) -> None:
        row, vcpus, memory_bytes, disk_bytes, *settling = journal.GIVEN_BACK.unpack(body)
        was = None if settling[0] < 0 else SettlingMachine(*settling)
        self.fleet.give_back(row, vcpus, memory_bytes, disk_bytes, was)

    def _read_time(self, body: memoryview) -> None:
        self._time = _EPOCH + timedelta(microseconds=journal.TIME.unpack(body)[0])

    def _end(self, body: memoryview) -> None:
        (checksum,) = journal.END.unpack(body)
        self.is_as_recorded = checksum == snapshots.checksum(self.fleet)

    def _read_request(self, body: memoryview) -> None:
        asked = json.loads(bytes(body))
        terms = asked.pop("terms")
        asked["policy"] = PlacementPolicy(asked["policy"])
        if asked.get("group"):
            asked["group"] = _group(asked["group"])
        known = {name for name in PlacementRequest.__dataclass_fields__ if name in asked}
        self._requests.append(({name: _frozen(asked[name]) for name in known}, terms))

    def _decision(self, body: memoryview) -> Recorded:
        number, fitting, *lengths = journal.DECISION.unpack_from(body)
        id_length, best, terms, filters = lengths
        asked, names = self._requests[number]
        at = journal.DECISION.size
        request = PlacementRequest(bytes(body[at : at + id_length]).decode(), **asked)
        at += id_length
        rows = struct.unpack_from(f"<{best}I", body, at)
        at += 4 * best
        totals = struct.unpack_from(f"<{best}H", body, at)
        at += 2 * best
        scores = np.frombuffer(body, "<u2", terms * best, at).reshape(terms, best).tolist()
        at += 2 * terms * best
        places = tuple(
            Place(row, total, {name: of[i] for name, of in zip(names, scores, strict=True)})
            for i, (row, total) in enumerate(zip(rows, totals, strict=True))
        )
        kept_out: dict[str, KeptOut] = {}
        for _ in range(filters):
            index, count = journal.KEPT_OUT.unpack_from(body, at)
            at += journal.KEPT_OUT.size
            nearest, missing, named = journal.FOUND.unpack_from(body, at)
            at += journal.FOUND.size
            found = Rejection(list(struct.unpack_from(f"<{named}I", body, at)), nearest, missing)
            at += 4 * named
            kept_out[self._segment.header.filters[index]] = KeptOut(count, found)
        return Recorded(request, self._time, Findings(places, fitting, kept_out))


def replay(
    segment: Segment,
    instance_id: str,
    decide_time: datetime,
    *,
    policy: PlacementPolicy | None = None,
    weights: Mapping[str, int] | None = None,
    book: RuleBook = OURS,
) -> Replayed | None:
    """Judge one decision again; None: the segment does not have it. Cost: O(the segment).

    `policy`, `weights` (by name, those that are to differ): in the place of those of then. Raise
    `UnreadableSegment` as `Player.decisions` does, `ValueError` for weights that cannot be.
    """
    player = Player(segment)
    for recorded in player.decisions():
        request = recorded.request
        if request.instance_id == instance_id and recorded.decide_time == decide_time:
            break
    else:
        return None
    engine = Engine(player.fleet, _weights({**segment.header.weights, **(weights or {})}), book)
    asked = request if policy is None else replace(request, policy=policy)
    verdict = engine.judge(asked)
    return Replayed(
        told(player.fleet, book, recorded, segment.header.weights),
        explain.decision(player.fleet, book, verdict, decide_time),
        tuple(differences(player.fleet, recorded.findings, findings(book, verdict))),
    )


def verify(segment: Segment, book: RuleBook = OURS) -> Iterator[str]:
    """Judge all decisions of a segment again; yield in what they differ, a sentence each."""
    player, engine, fleet = Player(segment), None, None
    weights = _weights(segment.header.weights)
    for recorded in player.decisions():
        if engine is None or fleet is not player.fleet:
            fleet = player.fleet
            engine = Engine(fleet, weights, book)
        found = findings(book, engine.judge(recorded.request))
        for difference in differences(fleet, recorded.findings, found):
            yield f"{recorded.request.instance_id}: {difference}"
    if not player.is_as_recorded:
        yield "the fleet did not end as it was"


def findings(book: RuleBook, verdict: Verdict) -> Findings:
    """Return the numbers of a verdict."""
    board, more = verdict.board, verdict.group_term
    names = [score.name for score in board.scores]
    of_group = {} if more is None else {row: {SCORE: int(more.values[row])} for row in verdict.best}
    return Findings(
        tuple(
            Place(
                row,
                board.total(row, more),
                dict(zip(names, board.terms[:, row].tolist(), strict=True)) | of_group.get(row, {}),
            )
            for row in verdict.best
        ),
        verdict.counts[-1],
        {
            book.filters[index].name: KeptOut(verdict.counts[index], found)
            for index, found in verdict.rejections.items()
        },
    )


def told(fleet: Fleet, book: RuleBook, recorded: Recorded, weights: Mapping[str, int]) -> Decision:
    """Put a recorded decision into words without judging; `fleet`: as it was."""
    request, found = recorded.request, recorded.findings
    names, rules = fleet.names, {rule.name: rule for rule in book.filters}
    filters = []
    for name in dict.fromkeys((*rules, *found.kept_out)):
        kept_out = found.kept_out.get(name)
        if kept_out is None:
            filters.append(FilterResult(name, 0))
            continue
        hosts = tuple(names[row] for row in kept_out.found.rows)
        rule = rules.get(name)
        miss = rule.sentence(fleet, request, kept_out.found.nearest) if rule else ""
        filters.append(FilterResult(name, kept_out.count, hosts, miss))
    candidates = tuple(_candidate(fleet, request, place, weights) for place in found.best)
    winner = found.best[0].row if found.best else None
    known = [result for result in filters if result.name in rules]
    return Decision(
        instance_id=request.instance_id,
        decide_time=recorded.decide_time,
        policy=request.policy.value,
        host_count=len(fleet),
        filters=tuple(filters),
        candidates=candidates,
        host_id="" if winner is None else fleet.ids[winner],
        host_name="" if winner is None else names[winner],
        summary=(
            explain.no_fit_summary(book, known, len(fleet))
            if winner is None
            else explain.best_of(names[winner], found.fitting, request.policy)
        ),
    )


def differences(fleet: Fleet, one: Findings, other: Findings) -> Iterator[str]:
    """Yield in what the other findings differ from the one, a sentence each."""
    if one == other:
        return
    names = fleet.names
    order = [names[p.row] for p in one.best], [names[p.row] for p in other.best]
    if order[0][:1] != order[1][:1]:
        yield f"{_winner(order[0])} was chosen, and now {_winner(order[1])} is"
    elif order[0] != order[1]:
        yield f"the best were {', '.join(order[0])}, and now are {', '.join(order[1])}"
    now = {place.row: place for place in other.best}
    for place in one.best:
        again = now.get(place.row)
        if again is None:
            continue
        if place.total != again.total:
            yield f"{names[place.row]} had {place.total} in all, and now has {again.total}"
        for term in dict.fromkeys((*place.terms, *again.terms)):
            was, value = place.terms.get(term), again.terms.get(term)
            if was != value:
                yield f"{names[place.row]} had {term} {was}, and now has {value}"
    if one.fitting != other.fitting:
        yield f"{one.fitting} hosts fitted, and now {other.fitting} do"
    for name in dict.fromkeys((*one.kept_out, *other.kept_out)):
        if (kept := one.kept_out.get(name)) != (keeps := other.kept_out.get(name)):
            yield f"filter {name} kept out {_out(names, kept)}, and now {_out(names, keeps)}"


def _winner(names: list[str]) -> str:
    return names[0] if names else "no host"


def _out(names: list[str], kept_out: KeptOut | None) -> str:
    if kept_out is None:
        return "none"
    found = kept_out.found
    some = ", ".join(names[row] for row in found.rows)
    return f"{kept_out.count} ({some}; {names[found.nearest]} lacks least: {found.missing})"


def _candidate(
    fleet: Fleet, request: PlacementRequest, place: Place, weights: Mapping[str, int]
) -> Candidate:
    terms = tuple(
        Term(request.policy.value if name == "policy" else name, score, weights.get(name, 0))
        for name, score in place.terms.items()
    )
    inputs = explain.live_inputs(fleet, place.row)
    return Candidate(fleet.ids[place.row], fleet.names[place.row], place.total, terms, inputs)


def _group(told: Mapping[str, Any]) -> GroupRule:
    return GroupRule(
        told["id"],
        told["name"],
        GroupPolicy(told["policy"]),
        Strictness(told["strictness"]),
        GroupScope(told["scope"]),
        told["max_per_place"],
    )


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _weights(known: Mapping[str, int]) -> Weights:
    """Return weights by name; scores that there were none of then count nothing."""
    return Weights(**{name: known.get(name, 0) for name in Weights.__dataclass_fields__})
