"""What-ifs: as many as would really be placed, where they would really be, and nothing moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import acceptance
from tests.support.fleets import (
    GIB,
    NOW,
    RATIOS,
    WEIGHTS,
    a_fleet,
    a_host,
    a_request,
    place,
    sample_for,
)
from tests.unit.scheduler.placement.test_placement_properties import (
    HostDraw,
    RequestDraw,
    asked,
    build,
    hosts,
    requests,
)
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.placement import simulation
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.requests import PlacementRequest
from unkai_scheduler.placement.simulation import (
    MAX_MORE,
    AddHosts,
    Amounts,
    LoseHosts,
    Loss,
    Place,
    Simulated,
    Simulation,
    Step,
)
from unkai_scheduler.placement.tally import StepOutcome

T = TypeVar("T")
Held = list[tuple[str, PlacementRequest]]


def done(work: Generator[None, None, T]) -> T:
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def a_simulation(fleet: Fleet, held: Held | None = None) -> Simulation:
    return Simulation(fleet.copy(), WEIGHTS, RATIOS, held or [], now=NOW)


def of_host(host_id: str, held: Held) -> list[PlacementRequest]:
    return [request for holder_id, request in held if holder_id == host_id]


def simulated(fleet: Fleet, *steps: Step, held: Held | None = None) -> Simulated:
    return done(a_simulation(fleet, held).run(steps))


def contents(fleet: Fleet) -> list[Any]:
    """Return all that a fleet is, as plain values."""
    columns = [(name, fleet.table(name)[: len(fleet)].tolist()) for name in fleet._columns]
    states = [fleet.state_of(row) for row in range(len(fleet))]
    settling = [dict(fleet._settling._machines), dict(fleet._settling._left)]
    return [columns, states, fleet.ids, fleet.names, fleet.now_s, settling, fleet.moves.position]


def test_so_many_fit_and_the_rest_is_told_why() -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2", cordoned=True), a_host("h3")])

    found = simulated(fleet, Place(a_request(memory_bytes=5 * GIB), 10))

    (outcome,) = found.outcomes
    assert (outcome.asked_count, outcome.placed_count, outcome.host_count) == (10, 6, 2)
    (refusal,) = outcome.refusals
    assert (refusal.count, refusal.instance_ids) == (4, ())
    assert refusal.decision.summary == (
        "no host fits: 1 of 3 is cordoned, 2 lack memory (nearest: h1 lacks 4 GiB of memory)"
    )
    assert [(c.host_name, c.placed_count) for c in found.changes] == [("h1", 3), ("h3", 3)]


def test_the_capacity_before_and_after_is_that_of_hosts_that_take_instances() -> None:
    fleet = a_fleet([a_host("h1", claimed_vcpus=2), a_host("h2"), a_host("h3", cordoned=True)])

    found = simulated(fleet, Place(a_request(vcpus=2), 3))

    claimable = Amounts(32, 32 * GIB, 400 * GIB)
    assert (found.before.host_count, found.before.empty_host_count) == (2, 1)
    assert (found.before.claimed, found.before.claimable) == (Amounts(2), claimable)
    assert (found.after.host_count, found.after.empty_host_count) == (2, 0)
    assert found.after.claimed == Amounts(8, 3 * GIB, 30 * GIB)
    assert found.after.claimable == claimable


def test_how_many_more_would_fit_is_counted_and_none_of_them_stays() -> None:
    fleet = a_fleet([a_host("h1")])

    found = simulated(fleet, Place(a_request(memory_bytes=3 * GIB), 2))
    vast = simulated(a_fleet([a_host(f"h{n}", cpus=64) for n in range(70)]), Place(a_request(), 1))

    assert found.outcomes[0].more_count == 3
    assert found.after.claimed.memory_bytes == 6 * GIB
    assert vast.outcomes[0].more_count == MAX_MORE


def test_added_hosts_take_what_did_not_fit() -> None:
    fleet = a_fleet([a_host("h1")])
    added = AddHosts((a_host("new-1"), a_host("new-2", zone="b")))
    wanted = Place(a_request(memory_bytes=8 * GIB), 5)

    alone, more = simulated(fleet, wanted), simulated(fleet, added, wanted)

    assert alone.outcomes[0].placed_count == 2
    assert [outcome.placed_count for outcome in more.outcomes] == [0, 5]
    assert [(c.host_name, c.added) for c in more.changes] == [
        ("h1", False),
        ("new-1", True),
        ("new-2", True),
    ]
    assert sorted(c.placed_count for c in more.changes) == [1, 2, 2]
    assert (more.before.host_count, more.after.host_count) == (1, 3)


def test_what_a_lost_host_held_is_placed_elsewhere_as_each_asked_for() -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2", traits=("KVM",)), a_host("h3")])
    held = [
        ("hst-h1", a_request("1", memory_bytes=10 * GIB, required_traits=("KVM",))),
        ("hst-h1", a_request("2", memory_bytes=10 * GIB, required_traits=("KVM",))),
        ("hst-h1", a_request("3")),
    ]

    found = simulated(fleet, LoseHosts(("hst-h1",)), held=held)

    (outcome,) = found.outcomes
    assert (outcome.asked_count, outcome.placed_count) == (3, 2)
    (refusal,) = outcome.refusals
    assert (refusal.count, refusal.instance_ids) == (1, ("ins-2",))
    assert refusal.decision.summary == (
        "no host fits: 1 of 3 is not up (nearest: h1 is silent), 1 lacks a trait "
        "(nearest: h3 lacks KVM), 1 lacks memory (nearest: h2 lacks 4 GiB of memory)"
    )
    lost = next(change for change in found.changes if change.lost)
    assert (lost.host_name, lost.placed_count) == ("h1", 0)
    assert found.after.host_count == 2


def test_who_is_served_first_is_placed_first_whatever_host_it_was_on() -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2"), a_host("h3")])
    wide = {"memory_bytes": 16 * GIB}
    held = [
        ("hst-h2", a_request("9", **wide)),
        ("hst-h1", a_request("1", **wide)),
        ("hst-h1", a_request("2", **wide)),
    ]

    found = simulated(fleet, LoseHosts(("hst-h1", "hst-h2")), held=held)

    (refusal,) = found.outcomes[0].refusals
    assert refusal.instance_ids == ("ins-1", "ins-2")


def test_what_was_placed_a_step_before_is_lost_with_its_host_too() -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2")])

    found = simulated(
        fleet,
        Place(a_request(memory_bytes=8 * GIB), 3),
        LoseHosts(("hst-h1",)),
        LoseHosts(("hst-h2",)),
    )

    first, second, third = found.outcomes
    assert first.placed_count == 3
    assert second.asked_count == 3 - third.asked_count + second.placed_count
    assert (second.asked_count, third.placed_count) in {(1, 0), (2, 0)}
    assert third.asked_count == 3 - second.asked_count + second.placed_count


def test_of_many_hosts_that_would_change_those_that_matter_most_are_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(simulation, "MAX_CHANGES", 2)
    fleet = a_fleet([a_host("h1", memory_bytes=4 * GIB), a_host("h2"), a_host("h3")])

    found = simulated(fleet, Place(a_request(memory_bytes=4 * GIB), 7), LoseHosts(("hst-h2",)))

    assert [change.host_name for change in found.changes] == ["h2", "h3"]
    assert found.change_count == 3


def test_each_loss_alone_is_told_and_leaves_all_as_it_was() -> None:
    made = [a_host(f"h{n}", claimed_memory_bytes=10 * GIB, claimed_vcpus=1) for n in range(3)]
    fleet = a_fleet(made).copy()
    held = [(h.id, a_request(f"{h.name}-{n}", memory_bytes=5 * GIB)) for h in made for n in (1, 2)]
    what_if = Simulation(fleet, WEIGHTS, RATIOS, (), now=NOW)
    before = contents(fleet)[:-1]

    losses = [done(what_if.lose(host.id, of_host(host.id, held))) for host in made]
    again = [done(what_if.lose(host.id, of_host(host.id, held))) for host in made]

    assert contents(fleet)[:-1] == before
    assert again == losses
    assert [absorbed(loss) for loss in losses] == [True, True, True]
    assert {loss.outcome.host_count for loss in losses} == {2}


def absorbed(loss: Loss) -> bool:
    return loss.outcome.placed_count == loss.outcome.asked_count


def test_a_host_that_is_down_already_is_told_of_as_well() -> None:
    fleet = a_fleet([a_host("h1", state=HostState.UNKNOWN), a_host("h2")])

    loss = done(a_simulation(fleet).lose("hst-h1", [a_request()]))

    assert (loss.outcome.asked_count, loss.outcome.placed_count) == (1, 1)


def test_instances_of_many_projects_are_refused_as_one_kind() -> None:
    fleet = a_fleet([a_host("h1")])
    held = [("hst-h1", a_request(str(n), project_id=f"prj-{n}")) for n in range(9)]

    found = simulated(fleet, LoseHosts(("hst-h1",)), held=held)

    (refusal,) = found.outcomes[0].refusals
    assert refusal.count == 9


def test_an_empty_host_is_no_loss() -> None:
    loss = done(a_simulation(a_fleet([a_host("h1")])).lose("hst-h1", ()))

    assert loss == Loss("hst-h1", "h1", StepOutcome())


@given(hosts, requests, st.integers(1, 20))
@settings(deadline=None, max_examples=acceptance.count(200))
def test_so_many_are_placed_as_would_really_be_and_nothing_real_is_moved(
    h: HostDraw, r: RequestDraw, count: int
) -> None:
    fleet, _ = build(h)
    place(fleet, *asked(r))
    before = contents(fleet)
    steps = [Place(request, count) for request in asked(r)[:3]]
    alike = [
        replace(step.request, instance_id=f"ins-{n}-{k}")
        for n, step in enumerate(steps)
        for k in range(count)
    ]

    found = simulated(fleet, *steps)

    assert contents(fleet) == before
    decisions = place(fleet, *alike)
    for n, outcome in enumerate(found.outcomes):
        real = decisions[n * count : (n + 1) * count]
        placed = [decision for decision in real if decision.host_id]
        assert outcome.placed_count == len(placed)
        refused = [decision for decision in real if not decision.host_id]
        assert sum(refusal.count for refusal in outcome.refusals) == len(refused)
        for refusal in outcome.refusals:
            assert refusal.decision == replace(refused[0], instance_id=refusal.decision.instance_id)
    on_hosts = Counter(decision.host_name for decision in decisions if decision.host_id)
    assert {c.host_name: c.placed_count for c in found.changes} == dict(on_hosts)


@given(hosts, requests, st.integers(0, 7))
@settings(deadline=None, max_examples=acceptance.count(200))
def test_a_lost_host_is_foretold_as_it_comes(h: HostDraw, r: RequestDraw, lost: int) -> None:
    fleet, made = build(h)
    held: Held = [
        (decision.host_id, request)
        for request, decision in zip(asked(r), place(fleet, *asked(r)), strict=True)
        if decision.host_id
    ]
    if lost >= len(made):
        return
    gone = made[lost].id
    alone = done(a_simulation(fleet).lose(gone, of_host(gone, held)))

    found = simulated(fleet, LoseHosts((gone,)), held=held)

    fleet.set_state(gone, HostState.UNKNOWN)
    decisions = place(fleet, *of_host(gone, held))
    assert found.outcomes[0] == alone.outcome
    assert found.outcomes[0].placed_count == sum(bool(d.host_id) for d in decisions)
    on_hosts = Counter(decision.host_name for decision in decisions if decision.host_id)
    took = {c.host_name: c.placed_count for c in found.changes if c.placed_count}
    assert took == dict(on_hosts)


def test_a_copy_of_a_fleet_decides_and_moves_as_the_fleet_does() -> None:
    fleet = a_fleet([a_host(f"h{n}") for n in range(5)])
    place(fleet, *(a_request(str(n)) for n in range(12)))
    fleet.remove_host("hst-h1")
    copy = fleet.copy()
    assert contents(copy)[:-1] == contents(fleet)[:-1]
    assert np.array_equal(copy.rank, fleet.rank)

    told: list[Sequence[Any]] = []
    for one in (fleet, copy):
        one.upsert_host(a_host("h9", traits=("A", "B")), RATIOS)
        sample_for(one, {}, from_s=102.0, until_s=140.0)
        one.release("hst-h2", 1, GIB, 10 * GIB, instance_id="ins-2")
        told.append(place(one, *(a_request(f"b{n}") for n in range(9)), now_s=141.0))

    assert told[0] == told[1]
    assert contents(copy)[:-1] == contents(fleet)[:-1]


def test_a_copy_of_a_fleet_knows_all_and_shares_nothing_that_changes() -> None:
    fleet = a_fleet([a_host(f"h{n}", traits=("A",), cordon_reason="x") for n in range(3)])
    place(fleet, *(a_request(str(n)) for n in range(6)), now_s=104.0)
    fleet.release("hst-h1", 1, GIB, 10 * GIB, instance_id="ins-1")
    copy = fleet.copy()
    made_anew = {"_rank", "_by_rank", "_weights"}
    looked_into = {"members", "words", "_settling"}
    derived = {"moves", "journal", "_live", "_columns", "_expected", *looked_into}
    parts = [(getattr(fleet, name), getattr(copy, name)) for name in sorted(looked_into)]

    for one, other in ((fleet, copy), *parts):
        for name in vars(one).keys() - derived:
            value, copied = getattr(one, name), getattr(other, name)
            plain = isinstance(value, (dict, list, np.ndarray, float, int, type(None)))
            assert plain, f"{name}: say in Fleet.copy what becomes of it, and here"
            assert np.array_equal(value, copied) if name in made_anew else value == copied, name
            if isinstance(value, dict | list) and name not in made_anew:
                assert copied is not value, name
