"""The pipeline: filters, then scores, then the best host; in a batch, each sees the claims before.

The `Engine` is the one brain for every placement. What it decides is a function of the fleet, the
request, the weights and the fleet's tick: the same input gives the same bits, whatever was asked
before. Ties go to the host with the least live load, then to the first by name.
Cost: O(hosts that moved) elementwise a request; O(hosts) for the first of its shape, after a fold,
and for who asks for more than a shape (`Filter.applies`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.placement import explain, group_rules
from unkai_scheduler.placement.board import Board, Rejection, rejection
from unkai_scheduler.placement.filters import Filter
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.group_rules import GroupTerm
from unkai_scheduler.placement.hosts_view import Hosts
from unkai_scheduler.placement.requests import PlacementRequest, Weights
from unkai_scheduler.placement.rulebook import OURS, Bits, RuleBook

Singly = Sequence[tuple[int, Filter]]
"""Filters with their places in the rule book."""
MAX_CANDIDATES = 6
"""The winner and five runners-up."""
MAX_BOARDS = 40
"""Shapes of which a board is kept, the last used: each costs some 32 bytes a host."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found for one request. Rows are good until a host leaves the fleet."""

    request: PlacementRequest
    board: Board
    """Of its shape; as it was found until the fleet changes."""
    best: Sequence[int]
    """Rows of the winner and the runners-up, best first; empty: no host fits."""
    counts: Sequence[int]
    """Per filter, how many hosts it keeps out that passed all before it; last, who fits."""
    rejections: Mapping[int, Rejection]
    """Whom each filter keeps out, by its place; those that keep nobody out are not in it."""
    fails: Bits
    """Per host a bit for each filter that keeps it out."""
    group_term: GroupTerm | None = None
    """What its group, if that is soft, adds to the scores of its board."""


class Engine:
    """Decides on a fleet, by weights. Not safe for threads."""

    def __init__(self, fleet: Fleet, weights: Weights, book: RuleBook = OURS) -> None:
        self._fleet = fleet
        self._weights = weights
        self.book = book
        self._boards: OrderedDict[tuple[object, ...], Board] = OrderedDict()

    def judge(self, request: PlacementRequest) -> Verdict:
        """Find the best hosts for a request at the fleet's tick; claim nothing."""
        request = group_rules.told(self._fleet, request)
        board = self._board(request)
        board.refresh()
        singly = self.book.singly(request)
        if singly or request.group is not None:
            return self._judge_singly(request, board, singly)
        counts = board.counts.copy()
        rejections = {i: board.rejection(i) for i, count in enumerate(counts[:-1]) if count}
        return Verdict(request, board, board.best(MAX_CANDIDATES), counts, rejections, board.fails)

    def place(self, request: PlacementRequest, *, now: datetime, now_s: float) -> Verdict:
        """Find the best host at the tick of `now_s`, log the decision and claim the host."""
        self._fleet.advance(now_s)
        verdict = self.judge(request)
        self._log(verdict, now)
        if verdict.best:
            self.claim(verdict, now_s)
        return verdict

    def claim(self, verdict: Verdict, now_s: float) -> None:
        """Take what a request asks for of the host found for it."""
        request = verdict.request
        self._fleet.claim(
            self._fleet.ids[verdict.best[0]],
            request.vcpus,
            request.memory_bytes,
            request.disk_bytes,
            now_s,
            instance_id=request.instance_id,
            group_id=request.group.id if request.group else "",
        )

    def decide(
        self, requests: Sequence[PlacementRequest], *, now: datetime, now_s: float
    ) -> list[Decision]:
        """Choose a host for each request, in order; claim it in the fleet as it goes.

        `now` is written into the decisions; `now_s` is the monotonic clock of `Fleet.fold`.
        Whoever cannot commit a claim takes it back with `Fleet.withdraw`.
        """
        self._fleet.advance(now_s)
        decisions: list[Decision] = []
        for request in requests:
            verdict = self.judge(request)
            self._log(verdict, now)
            decisions.append(explain.decision(self._fleet, self.book, verdict, now))
            if verdict.best:
                self.claim(verdict, now_s)
        return decisions

    def _log(self, verdict: Verdict, now: datetime) -> None:
        if self._fleet.journal is not None:
            self._fleet.journal.decided(verdict, now)

    def _board(self, request: PlacementRequest) -> Board:
        shape = request.shape
        board = self._boards.get(shape)
        if board is None:
            board = self._boards[shape] = Board(self._fleet, request, self._weights, self.book)
            if len(self._boards) > MAX_BOARDS:
                self._boards.popitem(last=False)
        else:
            self._boards.move_to_end(shape)
        return board

    def _judge_singly(self, request: PlacementRequest, board: Board, singly: Singly) -> Verdict:
        """Judge a request that asks for more than its shape."""
        fleet, hosts = self._fleet, Hosts(self._fleet)
        fails = board.fails.copy()
        for bit, rule in singly:
            fails |= (~rule.passes(hosts, request)).astype(np.int32) << bit
        first = self.book.first_of_each(fails)
        counts = self.book.counts(first)
        rejections = {
            index: rejection(
                fleet, request, self.book.filters[index], np.flatnonzero(first == index)
            )
            for index, count in enumerate(counts[:-1])
            if count
        }
        group_term = group_rules.term(fleet, request, self._weights)
        keys = np.where(fails == 0, board.keys_with(group_term), -1)
        best: list[int] = []
        # Looking six times for the greatest is quicker than any partial sort of them all.
        while len(best) < min(MAX_CANDIDATES, counts[-1]):
            best.append(row := int(keys.argmax()))
            keys[row] = -1
        return Verdict(request, board, best, counts, rejections, fails, group_term)


def decide(
    fleet: Fleet,
    requests: Sequence[PlacementRequest],
    *,
    weights: Weights,
    now: datetime,
    now_s: float,
) -> list[Decision]:
    """Decide once, as `Engine.decide`: for who has no engine of the fleet at hand."""
    return Engine(fleet, weights).decide(requests, now=now, now_s=now_s)
