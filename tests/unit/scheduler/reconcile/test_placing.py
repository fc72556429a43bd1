"""The placer: samples and settings reach the decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.support.builders import an_instance, an_operation
from tests.support.fleets import GIB, NOW, a_host, a_usage
from unkai_scheduler.agents.port import UsageSample
from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.domain.hosts import HostMark, HostState, HostUsage, MachineUsage
from unkai_scheduler.domain.instances import Claim, InstanceState
from unkai_scheduler.reconcile.actions import Fail, Place, Rules, Wait
from unkai_scheduler.reconcile.changes import Seen
from unkai_scheduler.reconcile.hosts import LEARNING_S
from unkai_scheduler.reconcile.live import ReceivedSample
from unkai_scheduler.reconcile.placing import CapacityQueue, Placer
from unkai_scheduler.settings import PlacementSettings, Settings


def a_placer(now_s: float, **placement: object) -> Placer:
    settings = Settings(name="s1", placement=PlacementSettings.model_validate(placement))
    placer = Placer(settings, Rules(), lambda: now_s)
    placer.refresh([a_host("h1")], {"hst-h1": HostState.UP})
    return placer


def receive(placer: Placer, usage: HostUsage, at_s: float) -> None:
    placer.receive(ReceivedSample(UsageSample("hst-h1", usage, ()), NOW, at_s))


def decision_of(placer: Placer) -> Decision:
    instance = an_instance(state=InstanceState.PROVISIONING, host_id="", host_name="")
    seen = Seen(instance, None)
    (change,) = placer.decide([(seen, Place(instance, None))], NOW, learning=False)
    assert change.decision is not None
    return change.decision


def test_samples_that_come_together_all_count() -> None:
    busy, idle = a_usage(cpu_used_ratio=0.9), a_usage(cpu_used_ratio=0.1)
    together, apart = a_placer(106.5), a_placer(106.5)
    for at_s, usage in ((102.0, busy), (104.0, busy), (106.0, idle)):
        receive(together, usage, at_s)
        receive(apart, usage, at_s)
        apart.fold()

    (told,), (expected,) = decision_of(together).candidates, decision_of(apart).candidates

    assert told.inputs == expected.inputs
    assert told.inputs["recent_cpu_load_ratio"] > 0.8


def test_the_age_from_which_samples_are_stale_is_the_settings() -> None:
    patient, strict = a_placer(112.0, max_metric_age_s=15), a_placer(112.0, max_metric_age_s=5)
    for placer in (patient, strict):
        receive(placer, a_usage(), 102.0)

    assert decision_of(patient).host_name == "h1"
    refused = decision_of(strict)
    assert refused.host_name == ""
    assert refused.summary == (
        "no host fits: 1 of 1 has no fresh metrics (nearest: h1's metrics are 10 s old)"
    )


def test_a_host_moved_when_its_row_did_or_somebody_else_claimed_of_it() -> None:
    placer = a_placer(101.0)
    receive(placer, a_usage(), 100.0)
    assert placer.moved({"hst-h1": HostMark("e", 0, 0, 0), "hst-h2": HostMark("e", 0, 0, 0)}) == [
        "hst-h2"
    ]

    decision_of(placer)

    spec = an_instance().spec
    committed = HostMark("e", spec.vcpus, spec.memory_bytes, spec.disk_bytes)
    assert placer.moved({"hst-h1": committed}) == []
    assert placer.moved({"hst-h1": replace(committed, etag="cordoned")}) == ["hst-h1"]
    assert placer.moved({"hst-h1": replace(committed, claimed_vcpus=9)}) == ["hst-h1"]


def test_a_host_that_falls_silent_is_not_chosen_though_its_row_says_nothing_yet() -> None:
    placer = a_placer(101.0)
    receive(placer, a_usage(), 100.0)

    placer.refresh([], {"hst-h1": HostState.UNKNOWN})
    silent = decision_of(placer)
    placer.refresh([], {"hst-h1": HostState.UP})
    back = decision_of(placer)

    assert silent.summary == "no host fits: 1 of 1 is not up (nearest: h1 is silent)"
    assert back.host_name == "h1"


def test_a_host_that_is_gone_from_the_store_is_gone_from_the_fleet() -> None:
    placer = a_placer(101.0)

    placer.refresh([], {})

    assert decision_of(placer).summary == "no host fits: there are no hosts"
    assert placer.moved({"hst-h1": HostMark("e", 0, 0, 0)}) == ["hst-h1"]


def test_places_in_the_queue_are_by_age_whoever_asks_first() -> None:
    old, middle, young = (an_instance(create_time=NOW + timedelta(seconds=n)) for n in range(3))
    queue = CapacityQueue()

    assert [queue.join(one) for one in (young, old, middle)] == [1, 1, 2]
    assert [queue.join(one) for one in (young, old, middle)] == [3, 1, 2]
    assert queue.ids() == [old.id, middle.id, young.id]


def test_places_in_the_queue_are_by_priority_first() -> None:
    queue = CapacityQueue()
    low, high = an_instance(create_time=NOW), an_instance(create_time=NOW, priority=3)
    later = an_instance(create_time=NOW + timedelta(seconds=1), priority=3)

    assert [queue.join(row) for row in (low, later, high)] == [1, 1, 1]

    assert queue.ids() == [high.id, later.id, low.id]
    assert queue.in_order([low.id, "x", high.id, "y"]) == ["x", "y", high.id, low.id]


def test_who_leaves_the_queue_makes_room_and_may_leave_twice() -> None:
    old, young = (an_instance(create_time=NOW + timedelta(seconds=n)) for n in range(2))
    queue = CapacityQueue()
    for one in (old, young):
        queue.join(one)

    queue.leave(old.id)
    queue.leave(old.id)

    assert queue.join(young) == 1
    assert queue.ids() == [young.id]


def a_claim(made_s_ago: float, **changes: Any) -> Claim:
    """Return a claim on h1 that an earlier reign made."""
    values: dict[str, Any] = {
        "instance_id": "ins-a",
        "host_id": "hst-h1",
        "vcpus": 2,
        "memory_bytes": GIB,
        "disk_bytes": GIB,
        "run_epoch": 1,
        "create_time": NOW - timedelta(seconds=made_s_ago),
    }
    return Claim(**{**values, **changes})


def inputs_after(claims: Sequence[Claim]) -> Mapping[str, float]:
    """Return the inputs of a decision in a reign that began with these claims made of late."""
    placer = a_placer(106.5)
    placer.recall(claims, NOW)
    booting = a_usage(cpu_used_ratio=0.5, cpu_used_cores=2.0)
    machine = MachineUsage("ins-a", 2.0, 0.0, GIB // 4)
    for at_s in (102.0, 104.0, 106.0):
        placer.receive(ReceivedSample(UsageSample("hst-h1", booting, (machine,)), NOW, at_s))
    return decision_of(placer).candidates[0].inputs


def test_a_guest_that_boots_as_a_reign_begins_does_not_make_its_host_look_loaded() -> None:
    with_it, stranger = inputs_after([a_claim(5)]), inputs_after([])

    assert with_it["recent_cpu_load_ratio"] < 0.05 < stranger["recent_cpu_load_ratio"]
    assert with_it["expected_cpu_cores"] > stranger["expected_cpu_cores"] == 0.0


def test_what_an_earlier_reign_placed_settles_from_its_claim_on() -> None:
    expected = [inputs_after([a_claim(age_s)])["expected_cpu_cores"] for age_s in (1, 30, 59)]

    assert expected == sorted(expected, reverse=True)
    assert expected[0] > expected[2]


def test_a_claim_of_a_clock_that_runs_ahead_was_made_now() -> None:
    assert inputs_after([a_claim(-3600)]) == inputs_after([a_claim(0)])


def test_a_recalled_claim_takes_no_capacity_twice() -> None:
    placer = a_placer(106.5)
    receive(placer, a_usage(), 106.0)
    placer.recall([a_claim(5, memory_bytes=16 * GIB)], NOW)  # all that the host has

    assert decision_of(placer).host_name == "h1"


def test_a_claim_on_a_host_that_is_gone_is_passed_over() -> None:
    assert inputs_after([a_claim(5, host_id="hst-gone")]) == inputs_after([])


def test_no_capacity_is_said_at_last_though_some_host_comes_and_goes() -> None:
    now_s = [100.0]
    placer = Placer(Settings(name="s1"), Rules(), lambda: now_s[0])
    placer.refresh([a_host("h1")], {"hst-h1": HostState.UP})
    operation = an_operation(create_time=NOW, capacity_deadline_time=NOW)
    instance = an_instance(
        state=InstanceState.PROVISIONING, host_id="", host_name="", memory_bytes=17 * GIB
    )
    actions = []
    for now_s[0] in (100.0, 105.0, 100.0 + LEARNING_S, 101.0 + LEARNING_S):
        seen = Seen(instance, operation)
        (change,) = placer.decide([(seen, Place(instance, operation))], NOW, learning=True)
        actions.append(type(change.action))

    assert actions == [Wait, Wait, Wait, Fail]
