"""A board: all hosts judged for one shape of request, kept as the fleet moves.

Most requests are like others before them, and between two of them few hosts have moved. So each
shape has a board, which judges anew only the hosts that have moved, and only by the filters and
scores that look at what moved of them. It never decides anything by itself: `pipeline.py` does.

The trap: a board is right only after `refresh`, until the fleet changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unkai_scheduler.placement.filters import Filter
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.group_rules import GroupTerm
from unkai_scheduler.placement.hosts_view import Hosts, Ints, OneHost
from unkai_scheduler.placement.moves import Aspect
from unkai_scheduler.placement.requests import PlacementRequest, Weights
from unkai_scheduler.placement.rulebook import Bits, RuleBook
from unkai_scheduler.placement.scores import MOST_STEPS, load_steps
from unkai_scheduler.placement.shortlist import Shortlist

Terms = npt.NDArray[np.uint16]

RANK_BITS = 24
MAX_HOSTS = 1 << RANK_BITS
MAX_REJECTED = 5
"""Hosts kept of those that one filter keeps out."""
_TIE_BITS = RANK_BITS + (MOST_STEPS - 1).bit_length()
_FEW = 48
"""Up to so many hosts that moved are looked at one by one."""


@dataclass(slots=True)
class Rejection:
    """Whom one filter keeps out, who passed all before it."""

    rows: list[int]
    """The first five by rank, in that order."""
    nearest: int
    """The row of the one that lacks least, the first by rank of those."""
    missing: int
    """How much that one lacks."""


class Board:
    """All hosts judged for one shape. Cost of `refresh`: elementwise in the hosts that moved."""

    def __init__(
        self, fleet: Fleet, request: PlacementRequest, weights: Weights, book: RuleBook
    ) -> None:
        """`request`: any of the shape."""
        self._fleet = fleet
        self._book = book
        self._request = request
        self.scores = [score for score in book.scores if score.applies(request)]
        self._claim_scores = [
            (i, score) for i, score in enumerate(self.scores) if score.reads & Aspect.CLAIMS
        ]
        self.weights: list[int] = [getattr(weights, score.name) for score in self.scores]
        self._weight_column = np.array(self.weights, np.int64)
        self._weight_sum = sum(self.weights)
        self._position = -1
        self.fails: Bits = np.zeros(0, np.int32)
        """Per host a bit for each filter, by its place in the rule book, that keeps it out."""
        self.terms: Terms = np.zeros((len(self.scores), 0), np.uint16)
        """Per score and host, 0..65535."""
        self.keys: Ints = np.zeros(0, np.int64)
        """Per host its merit: total, then least load, then rank; no two alike. -1: kept out."""
        self._weighted: Bits = np.zeros(0, np.int32)
        """Per host the weighted sum of its terms."""
        self._ties: Bits = np.zeros(0, np.int32)
        """Per host what breaks ties: the low bits of its key."""
        self.counts: list[int] = []
        """Per filter, how many hosts it keeps out that passed all before it; last, who fits."""
        self.known_as: tuple[object, int] = (None, 0)
        """By what number whom knows its shape (journal.py)."""
        self._rejections: dict[int, Rejection] = {}
        self._shortlist = Shortlist()
        self._is_filled = False

    @property
    def fitting(self) -> int:
        """Return how many hosts fit."""
        return self.counts[-1]

    def refresh(self) -> None:
        """Judge the hosts that moved since the last time."""
        moves = self._fleet.moves
        moved = moves.since(self._position)
        self._position = moves.position
        if moved is None:
            self._begin()
            return
        if not moved:
            return
        aspects, single, many = 0, set(), []
        for rows, aspect in moved:
            aspects |= aspect
            if isinstance(rows, int):
                single.add(rows)
            else:
                many.append(rows)
        if many or len(single) > _FEW:
            self._judge_many(self._gathered(single, many), aspects)
        else:
            self._judge_few(list(single), aspects)

    def best(self, count: int) -> list[int]:
        """Return the rows of the best hosts that fit, best first."""
        if not self._is_filled or self._shortlist.is_dry(count, self.fitting):
            self._shortlist.fill(self.keys)
            self._is_filled = True
        return [self._row(key) for key in self._shortlist.best(count)]

    def rejection(self, index: int) -> Rejection:
        """Return whom a filter keeps out; its count is above 0."""
        found = self._rejections.get(index)
        if found is None:
            # No lower bit, and its own.
            rows = np.flatnonzero(self.fails & (2 << index) - 1 == 1 << index)
            rule = self._book.filters[index]
            found = self._rejections[index] = rejection(self._fleet, self._request, rule, rows)
        return found

    def total(self, row: int, more: GroupTerm | None = None) -> int:
        """Return the weighted mean of a fitting host's scores, rounded down; `more`: one more."""
        weighted: int = self._weighted.item(row)
        if more is None:
            return weighted // self._weight_sum
        return (weighted + more.values.item(row) * more.weight) // (self._weight_sum + more.weight)

    def keys_with(self, more: GroupTerm | None) -> Ints:
        """Return the keys as they are with one more term; those of who is kept out say nothing."""
        if more is None:
            return self.keys
        weighted = self._weighted + more.values * more.weight
        keys: Ints = weighted // (self._weight_sum + more.weight) << _TIE_BITS | self._ties
        return keys

    def totals(self, rows: Iterable[int]) -> list[int]:
        """Return `total` of several hosts."""
        weighted, weight_sum = self._weighted, self._weight_sum
        return [weighted.item(row) // weight_sum for row in rows]

    # Judging.

    def _begin(self) -> None:
        count = len(self._fleet)
        if count >= MAX_HOSTS:
            raise ValueError(f"{count} hosts: a fleet has fewer than {MAX_HOSTS}")
        self.fails, self._weighted, self._ties = (np.zeros(count, np.int32) for _ in range(3))
        self.terms = np.zeros((len(self.scores), count), np.uint16)
        self.keys = np.zeros(count, np.int64)
        self.counts = []
        self._rejections.clear()
        self._judge_many(None, Aspect.ALL)

    def _gathered(self, single: Iterable[int], many: list[Ints]) -> Ints | None:
        flags = np.zeros(len(self._fleet), np.bool_)
        flags[list(single)] = True
        for rows in many:
            flags[rows] = True
        found = np.flatnonzero(flags)
        return None if 2 * len(found) > len(flags) else found

    def _judge_many(self, rows: Ints | None, aspects: int) -> None:
        where = slice(None) if rows is None else rows
        before = self.fails[where].copy()
        self._judge(where, Hosts(self._fleet, rows), aspects)
        self._is_filled = False
        # Ages grow with every tick, so who is nearest to being fresh again moves, too.
        forgotten = [i for i in self._rejections if self._book.filters[i].reads & aspects]
        if not np.array_equal(before, self.fails[where]) or not self.counts:
            first = self._book.first_of_each(self.fails)
            self.counts = self._book.counts(first)
            changed = first[where], self._book.first_of_each(before)
            differ = changed[0] != changed[1]
            forgotten += [i for found in changed for i in np.unique(found[differ]).tolist()]
        for index in forgotten:
            self._rejections.pop(index, None)

    def _judge_few(self, rows: list[int], aspects: int) -> None:
        if aspects == Aspect.CLAIMS:
            for row in rows:
                self._judge_one(row)
            return
        index = np.array(rows)
        fails, keys = self.fails[index].tolist(), self.keys[index].tolist()
        self._judge(index, Hosts(self._fleet, index), aspects)
        for row, old_fails, old_key in zip(rows, fails, keys, strict=True):
            self._settle(row, old_fails, old_key)

    def _judge_one(self, row: int) -> None:
        """Judge a host of which only claims have moved, which is what happens most."""
        fleet, request, terms = self._fleet, self._request, self.terms
        old_fails, old_key = self.fails.item(row), self.keys.item(row)
        host, fails, weighted = OneHost(fleet, row), old_fails, self._weighted.item(row)
        for bit, rule in self._book.of_claims:
            seen = host if rule.of_one else Hosts(fleet, np.array([row]))
            fails = fails & ~bit if rule.passes(seen, request) else fails | bit
        for index, score in self._claim_scores:
            seen = host if score.of_one else Hosts(fleet, np.array([row]))
            value = int(score.of(seen, request))
            weighted += (value - terms.item(index, row)) * self.weights[index]
            terms[index, row] = value
        self.fails[row], self._weighted[row] = fails, weighted
        total = weighted // self._weight_sum
        self.keys[row] = -1 if fails else total << _TIE_BITS | self._ties.item(row)
        self._settle(row, old_fails, old_key)

    def _settle(self, row: int, old_fails: int, old_key: int) -> None:
        """Take what one host is now into the counts and the shortlist."""
        new_fails = self.fails.item(row)
        if old_fails or new_fails:
            self._recount(row, self._book.first(old_fails), self._book.first(new_fails))
        if self._is_filled:
            self._shortlist.change(old_key, self.keys.item(row))

    def _judge(self, where: slice | Ints, hosts: Hosts, aspects: int) -> None:
        fails = self.fails[where]
        for bit, rule in enumerate(self._book.filters):
            if rule.reads & aspects and rule.applies is None:
                out = ~rule.passes(hosts, self._request)
                fails = fails & ~(1 << bit) | out.astype(np.int32) << bit
        for term, score in enumerate(self.scores):
            if score.reads & aspects:
                self.terms[term, where] = score.of(hosts, self._request)
        weighted = self._weight_column @ self.terms[:, where]
        ranks = self._fleet.rank[where]
        ties = (MOST_STEPS - 1 - load_steps(hosts)) << RANK_BITS | (MAX_HOSTS - 1 - ranks)
        self.fails[where], self._weighted[where], self._ties[where] = fails, weighted, ties
        totals = weighted // self._weight_sum
        self.keys[where] = np.where(fails == 0, totals << _TIE_BITS | ties, -1)

    def _recount(self, row: int, was: int, now: int) -> None:
        self.counts[was] -= 1
        self.counts[now] += 1
        for index in {was, now}:
            known = self._rejections.get(index)
            if known is None:
                continue
            if row == known.nearest or row in known.rows:
                del self._rejections[index]
            elif index == now:
                self._add(known, row, index)

    def _add(self, known: Rejection, row: int, index: int) -> None:
        """Take in one more that a filter keeps out, or that lacks more or less than before."""
        ranks = self._fleet.rank
        if len(known.rows) < MAX_REJECTED or ranks[row] < ranks[known.rows[-1]]:
            del self._rejections[index]
            return
        lone = Hosts(self._fleet, np.array([row]))
        missing = int(self._book.filters[index].missing(lone, self._request)[0])
        if (missing, ranks[row]) < (known.missing, ranks[known.nearest]):
            known.nearest, known.missing = row, missing

    def _row(self, key: int) -> int:
        return self._fleet.row_at(MAX_HOSTS - 1 - (key & (MAX_HOSTS - 1)))


def rejection(fleet: Fleet, request: PlacementRequest, rule: Filter, rows: Ints) -> Rejection:
    """Say whom a filter keeps out; `rows`: of all those, one at least."""
    ranks = fleet.rank[rows]
    few = min(MAX_REJECTED, len(rows))
    named = rows[np.argpartition(ranks, few - 1)[:few]]
    named = named[np.argsort(fleet.rank[named])]
    missing = rule.missing(Hosts(fleet, rows), request)
    least = int(missing.min())
    nearest = rows[missing == least]
    return Rejection(named.tolist(), int(nearest[np.argmin(fleet.rank[nearest])]), least)
