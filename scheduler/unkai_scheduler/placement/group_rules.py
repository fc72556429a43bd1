"""What placement groups say of hosts: a filter for those that are hard, a score for the others.

A place is one host, or all hosts of one zone. Members are counted where they have their hosts;
where nobody of the group is yet, any place will do. It is asked anew for each request of a group,
after the claims before it; the request says where the members are (`told`), so that what was
decided can be judged again. Pure; cost elementwise in the hosts, for each zone with members too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from unkai_scheduler.domain.placement_groups import GroupPolicy, GroupRule, GroupScope, Strictness
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.host_words import ZONE_WORD, zone_word
from unkai_scheduler.placement.hosts_view import Bools, Hosts, Ints
from unkai_scheduler.placement.requests import PlacementRequest, Weights
from unkai_scheduler.placement.signals import FULL

SCORE = "group"
"""The name of the score, and of its weight."""


@dataclass(frozen=True, slots=True)
class GroupTerm:
    """The term that a soft group adds to the scores of a request."""

    values: Ints
    """Per host, 0..65535."""
    weight: int


def is_hard(request: PlacementRequest) -> bool:
    """Tell whether a request is of a group that is kept without exception."""
    return request.group is not None and request.group.strictness is Strictness.HARD


def told(fleet: Fleet, request: PlacementRequest) -> PlacementRequest:
    """Return a request with where the members of its group are now, unless it says so itself."""
    if request.group is None or request.members is not None:
        return request
    return replace(request, members=tuple(sorted(fleet.members.hosts_of(request.group.id).items())))


def term(fleet: Fleet, request: PlacementRequest, weights: Weights) -> GroupTerm | None:
    """Return the term of a request's group, if that is soft."""
    if request.group is None or is_hard(request):
        return None
    return GroupTerm(_scores(fleet, request), weights.group)


def passes(hosts: Hosts, request: PlacementRequest) -> Bools:
    """Return which hosts are in a place where one more may be, or shall be."""
    group = _of(request)

    def judge(fleet: Fleet) -> Bools:
        counts = _counts(fleet, request)
        if group.policy is GroupPolicy.AFFINITY:
            return counts > 0 if counts.any() else np.ones(len(fleet), np.bool_)
        return counts < _limit(fleet, request, counts)

    found: Bools = hosts.of_fleet(judge)
    return found


def missing(hosts: Hosts, request: PlacementRequest) -> Ints:
    """Return how many members there are too many in each host's place."""
    found: Ints = hosts.of_fleet(lambda fleet: _counts(fleet, request))
    return found


def sentence(fleet: Fleet, request: PlacementRequest, row: int) -> str:
    """Say what keeps a host out."""
    group = _of(request)
    count = int(_counts(fleet, request)[row])
    holds = f"holds {count or 'none'} of group {group.name}" + " already" * bool(count)
    if group.scope is GroupScope.HOST:
        return f"{fleet.names[row]} {holds}"
    return f"{fleet.names[row]} is in zone {_zone(fleet, row)}, which {holds}"


def _of(request: PlacementRequest) -> GroupRule:
    assert request.group is not None
    return request.group


def _counts(fleet: Fleet, request: PlacementRequest) -> Ints:
    """Return, per host, how many members are in its place; the request is `told`."""
    counts = np.zeros(len(fleet), np.int64)
    for host_id, count in request.members or ():
        row = fleet.row_of(host_id)
        if row is not None:
            counts[row] = count
    if _of(request).scope is GroupScope.HOST:
        return counts
    by_zone: Counter[str] = Counter()
    for row in np.flatnonzero(counts).tolist():
        by_zone[_zone(fleet, row)] += int(counts[row])
    hosts, of_zones = Hosts(fleet), np.zeros(len(fleet), np.int64)
    for zone, count in by_zone.items():
        of_zones[hosts.having([zone_word(zone)])] = count
    return of_zones


def _limit(fleet: Fleet, request: PlacementRequest, counts: Ints) -> int:
    """Return how many members no place may come to have but by exception."""
    group = _of(request)
    if group.max_per_place:
        return group.max_per_place
    # Spread evenly: places that could have one more are compared, and those that have the fewest
    # get it.
    hosts = Hosts(fleet)
    is_open = hosts.flags("up") & ~hosts.flags("cordoned")
    if request.zone:
        is_open &= hosts.having([zone_word(request.zone)])
    return int(counts[is_open].min()) + 1 if is_open.any() else 1


def _scores(fleet: Fleet, request: PlacementRequest) -> Ints:
    """Return how good each host is: 1 where the policy is kept, less the more it is not."""
    counts = _counts(fleet, request)
    if _of(request).policy is GroupPolicy.AFFINITY:
        good = counts > 0 if counts.any() else np.ones(len(fleet), np.bool_)
        return good.astype(np.int64) * FULL
    excess = np.maximum(counts + 1 - _limit(fleet, request, counts), 0)
    scores: Ints = FULL // (excess + 1)
    return scores


def _zone(fleet: Fleet, row: int) -> str:
    return " ".join(fleet.words.after(fleet.table("words")[row], ZONE_WORD))
