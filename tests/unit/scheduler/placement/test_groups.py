"""Placement groups: members apart or near each other, on hosts or in zones, hard or soft."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import a_placement_group
from tests.support.fleets import (
    GIB,
    NOW,
    RATIOS,
    WEIGHTS,
    a_fleet,
    a_host,
    a_request,
    a_usage,
    place,
)
from tests.unit.scheduler.placement.test_simulation import done
from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.placement_groups import (
    GroupPolicy,
    GroupScope,
    PlacementGroup,
    Strictness,
)
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.groups import Members
from unkai_scheduler.placement.journal import Journal
from unkai_scheduler.placement.replay import replay, verify
from unkai_scheduler.placement.segments import seal, unseal
from unkai_scheduler.placement.simulation import Place, Simulation

APART = a_placement_group(name="web")
NEAR = a_placement_group(name="cache", policy=GroupPolicy.AFFINITY, max_per_place=0)


def soft(group: PlacementGroup) -> PlacementGroup:
    return _changed(group, strictness=Strictness.SOFT)


def in_zones(group: PlacementGroup, most: int = 0) -> PlacementGroup:
    return _changed(group, scope=GroupScope.ZONE, max_per_place=most)


def _changed(group: PlacementGroup, **changes: Any) -> PlacementGroup:
    values = {name: getattr(group, name) for name in PlacementGroup.__dataclass_fields__}
    return a_placement_group(**(values | changes))


def hosts(count: int, **changes: Any) -> Fleet:
    return a_fleet(a_host(f"h{number}", **changes) for number in range(1, count + 1))


def zoned(**zones: str) -> Fleet:
    """Return a fleet of hosts by their zones."""
    return a_fleet(a_host(name, zone=zone) for name, zone in zones.items())


def ask(
    fleet: Fleet, group: PlacementGroup, count: int, first: int = 0, **changes: Any
) -> list[Decision]:
    some = [a_request(f"{first + n}", group=group.rule, **changes) for n in range(count)]
    return place(fleet, *some)


def where(decisions: Sequence[Decision]) -> list[str]:
    return [decision.host_name for decision in decisions]


def test_those_that_must_be_apart_are_and_the_next_is_told_why_not() -> None:
    decisions = ask(hosts(3), APART, 4)

    assert sorted(where(decisions)) == ["", "h1", "h2", "h3"]
    last = decisions[3]
    assert last.summary == (
        "no host fits: 3 of 3 are kept out by its placement group "
        "(nearest: h1 holds 1 of group web already)"
    )
    assert {f.name: f.rejected_count for f in last.filters if f.rejected_count} == {"group": 3}


def test_as_many_may_share_a_host_as_the_group_says() -> None:
    decisions = ask(hosts(2), _changed(APART, max_per_place=2), 5)
    assert Counter(where(decisions)) == {"h1": 2, "h2": 2, "": 1}


def test_those_that_must_be_near_follow_the_first() -> None:
    fleet = hosts(3)
    decisions = ask(fleet, NEAR, 4, vcpus=1)
    assert len(set(where(decisions))) == 1

    (full,) = ask(fleet, NEAR, 1, first=9, memory_bytes=13 * GIB)

    assert full.host_name == ""
    rejected = {f.name: (f.rejected_count, f.nearest_miss) for f in full.filters}
    others = sorted({"h1", "h2", "h3"} - set(where(decisions)))
    assert rejected["group"] == (2, f"{others[0]} holds none of group cache")
    assert rejected["memory"][0] == 1


def test_other_groups_and_instances_of_none_see_nothing_of_it() -> None:
    fleet = hosts(2)
    ask(fleet, APART, 2)

    other = a_placement_group(name="db")
    assert "" not in where(ask(fleet, other, 2, first=5))
    (alone,) = place(fleet, a_request("alone"))
    assert alone.host_name
    assert "group" not in {term.name for term in alone.candidates[0].terms}


def test_zones_that_must_not_be_shared_are_not() -> None:
    fleet = zoned(a1="a", a2="a", b1="b")
    decisions = ask(fleet, in_zones(APART, 1), 3)

    assert sorted(name[:1] for name in where(decisions)) == ["", "a", "b"]
    rejected = {f.name: f for f in decisions[2].filters}["group"]
    assert rejected.rejected_count == 3
    assert rejected.nearest_miss == "a1 is in zone a, which holds 1 of group web already"


def test_members_are_spread_evenly_over_zones_whatever_their_hosts() -> None:
    fleet = zoned(a1="a", a2="a", a3="a", b1="b", c1="c")
    decisions = ask(fleet, in_zones(APART), 9)

    zones = [name[:1] for name in where(decisions)]
    assert [sorted(zones[n : n + 3]) for n in (0, 3, 6)] == [["a", "b", "c"]] * 3


def test_a_zone_that_takes_nothing_holds_up_no_other() -> None:
    fleet = zoned(a1="a", b1="b", c1="c")
    fleet.set_state("hst-c1", HostState.UNKNOWN)
    decisions = ask(fleet, in_zones(APART), 4)
    assert Counter(where(decisions)) == {"a1": 2, "b1": 2}


def test_who_asks_for_a_zone_is_compared_within_it() -> None:
    fleet = zoned(a1="a", a2="a", b1="b")
    assert "" not in where(ask(fleet, in_zones(APART), 3, zone="a"))


def test_those_near_by_zone_share_it_and_not_their_hosts() -> None:
    fleet = zoned(a1="a", a2="a", b1="b", b2="b")
    decisions = ask(fleet, in_zones(NEAR), 4)

    assert len({name[:1] for name in where(decisions)}) == 1
    assert len(set(where(decisions))) == 2


def test_soft_groups_give_way_where_nothing_better_is_to_be_had() -> None:
    fleet = hosts(2)
    decisions = ask(fleet, soft(APART), 5)

    assert sorted(where(decisions[:2])) == ["h1", "h2"]
    assert Counter(where(decisions)).most_common()[1][1] == 2
    for decision in decisions:
        (term,) = [term for term in decision.candidates[0].terms if term.name == "group"]
        assert term.weight == WEIGHTS.group
        for candidate in decision.candidates:
            weights = sum(term.weight for term in candidate.terms)
            weighted = sum(term.score * term.weight for term in candidate.terms)
            assert candidate.total_score == weighted // weights


def test_a_soft_group_outweighs_packing_and_not_a_host_gone_bad() -> None:
    fleet = hosts(2)
    (first,) = ask(fleet, soft(NEAR), 1)
    assert where(ask(fleet, soft(NEAR), 1, first=1)) == [first.host_name]

    bad = a_usage(io_pressure_ratio=0.9, io_full_pressure_ratio=0.8, memory_pressure_ratio=0.5)
    for at_s in range(102, 130, 2):
        fleet.fold([(first.host_id, bad, float(at_s))])
        other = next(ident for ident in fleet.ids if ident != first.host_id)
        fleet.fold([(other, a_usage(), float(at_s))])
    (moved,) = place(fleet, a_request("later", group=soft(NEAR).rule), now_s=130.0)
    assert moved.host_name != first.host_name


@pytest.mark.parametrize("lets_go", ["release", "withdraw"])
def test_who_is_let_go_makes_room_for_the_next(lets_go: str) -> None:
    fleet = hosts(2)
    first, _ = ask(fleet, APART, 2)
    assert where(ask(fleet, APART, 1, first=5)) == [""]

    getattr(fleet, lets_go)(first.host_id, 1, GIB, 10 * GIB, instance_id=first.instance_id)

    assert where(ask(fleet, APART, 1, first=6)) == [first.host_name]


def test_what_the_store_says_of_a_host_replaces_what_was_known() -> None:
    fleet = hosts(2)
    fleet.members.put("hst-h1", {"ins-x": APART.id, "ins-y": "pgr-other"})
    assert where(ask(fleet, APART, 1)) == ["h2"]
    fleet.members.put("hst-h1", {"ins-y": "pgr-other"})
    assert where(ask(fleet, APART, 1, first=1)) == ["h1"]


def test_a_host_that_left_and_came_back_holds_nobody() -> None:
    fleet = hosts(2)
    (placed,) = ask(fleet, APART, 1)
    fleet.remove_host(placed.host_id)
    fleet.upsert_host(a_host(placed.host_name), RATIOS)
    assert fleet.members.hosts_of(APART.id) == {}


def test_a_copy_of_the_fleet_has_members_of_its_own() -> None:
    fleet = hosts(2)
    ask(fleet, APART, 1)
    copy = fleet.copy()
    assert copy.members.hosts_of(APART.id) == fleet.members.hosts_of(APART.id) != {}
    ask(fleet, APART, 1, first=1)
    assert len(copy.members.hosts_of(APART.id)) == 1


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "release", "withdraw", "put"]),
        st.integers(0, 11),
        st.sampled_from([0, 1, 2]),
    ),
    max_size=40,
)


@given(acts=ACTS)
def test_a_hard_group_is_never_broken_and_the_count_is_of_who_is_there(
    acts: list[tuple[str, int, int]],
) -> None:
    fleet = a_fleet(
        a_host(f"h{n}", zone=f"z{n % 3}", memory_bytes=64 * GIB, cpus=64) for n in range(5)
    )
    groups = [APART, _changed(APART, id="pgr-2", max_per_place=2), in_zones(APART, 1)]
    groups[2] = _changed(groups[2], id="pgr-3")
    there: dict[str, tuple[str, PlacementGroup]] = {}
    for number, (act, which, of) in enumerate(acts):
        ident = f"ins-{number}-{which}"
        if act == "ask":
            (decision,) = place(
                fleet,
                a_request(ident.removeprefix("ins-"), group=groups[of].rule, memory_bytes=1 << 20),
            )
            if decision.host_id:
                there[ident] = (decision.host_id, groups[of])
        elif act == "put":
            host_id = f"hst-h{which % 5}"
            held = {i: group.id for i, (host, group) in there.items() if host == host_id}
            fleet.members.put(host_id, held)
        elif there:
            gone = sorted(there)[which % len(there)]
            host_id, _ = there.pop(gone)
            getattr(fleet, act)(host_id, 1, 1 << 20, 10 * GIB, instance_id=gone)
        for group in groups:
            on = Counter(host for host, of_it in there.values() if of_it is group)
            assert dict(fleet.members.hosts_of(group.id)) == dict(on)
            places = Counter[str]()
            for host, count in on.items():
                by_zone = group.scope is GroupScope.ZONE
                places[f"z{int(host[-1]) % 3}" if by_zone else host] += count
            assert not places or max(places.values()) <= group.max_per_place


def test_members_are_counted_once_however_often_they_are_told() -> None:
    members = Members()
    members.add("h1", "a", "g")
    members.add("h1", "a", "g")
    members.add("h1", "b", "")
    members.remove("h2", "a")
    assert members.hosts_of("g") == {"h1": 1}
    members.remove("h1", "a")
    assert members.hosts_of("g") == {}


def test_what_was_decided_in_a_group_can_be_judged_again() -> None:
    fleet = zoned(a1="a", a2="a", b1="b")
    fleet.journal = journal = Journal(fleet, WEIGHTS)
    made = [
        *ask(fleet, in_zones(APART, 1), 3),
        *ask(fleet, _changed(soft(APART), id="pgr-s"), 4, first=5),
    ]
    journal.close()
    (segment,) = [unseal(seal(each)) for each in journal.closed]

    assert list(verify(segment)) == []
    for decision in made:
        again = replay(segment, decision.instance_id, decision.decide_time)
        assert again is not None
        assert again.differences == ()
        assert (again.recorded.host_id, again.replayed.host_id) == (decision.host_id,) * 2
        assert [f.nearest_miss for f in again.recorded.filters] == [
            f.nearest_miss for f in decision.filters
        ]
        assert [c.terms for c in again.recorded.candidates] == [
            c.terms for c in decision.candidates
        ]


def test_a_lost_host_holds_nobody_for_who_looks_for_another() -> None:
    fleet = hosts(3)
    members = [a_request(f"{n}", group=NEAR.rule) for n in range(3)]
    placed = place(fleet, *members)
    held = [(d.host_id, request) for d, request in zip(placed, members, strict=True)]
    simulation = Simulation(fleet, WEIGHTS, RATIOS, held, now=NOW)

    loss = done(simulation.lose(placed[0].host_id, members))

    assert (loss.outcome.placed_count, loss.outcome.host_count) == (3, 1)
    assert dict(fleet.members.hosts_of(NEAR.id)) == {placed[0].host_id: 3}


def test_a_simulation_places_what_the_group_lets_it() -> None:
    fleet = hosts(3)
    ask(fleet, APART, 1)
    wanted = Place(a_request("", group=APART.rule), 4)
    (outcome,) = done(Simulation(fleet.copy(), WEIGHTS, RATIOS, [], now=NOW).run([wanted])).outcomes
    assert (outcome.placed_count, outcome.refusals[0].count) == (2, 2)
