"""Replay: a decision of the log is judged again on the fleet of then, and comes out the same."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import acceptance
from tests.support.fleets import GIB, NOW, RATIOS, WEIGHTS, a_fleet, a_host, a_request, a_usage
from tests.unit.scheduler.placement.test_histories import Step, World, numbers, ratios, steps
from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.domain.hosts import MachineUsage
from unkai_scheduler.domain.instances import PlacementPolicy
from unkai_scheduler.domain.port_orders import NETWORKS
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.journal import Journal
from unkai_scheduler.placement.pipeline import Engine
from unkai_scheduler.placement.replay import Player, Replayed, replay, told, verify
from unkai_scheduler.placement.rulebook import OURS
from unkai_scheduler.placement.segments import Segment, UnreadableSegment, seal, unseal

MANY = 10_000 if acceptance.full_counts() else 100


more = st.one_of(
    st.tuples(
        st.just("ask"),
        st.builds(
            dict,
            preferred_traits=st.sampled_from([(), ("KVM",), ("KVM", "SSD")]),
            forbidden_traits=st.sampled_from([(), ("KVM",)]),
            zone=st.sampled_from(["", "default", "room-2"]),
            physical_networks=st.sampled_from([None, (), ("lan",)]),
        ),
    ),
    st.tuples(st.just("machines"), numbers, ratios),
    st.tuples(st.just("settle"), numbers, st.sampled_from([0.0, 20.0, 70.0])),
    st.tuples(st.just("describe"), numbers, st.sampled_from(["default", "room-2"]), st.booleans()),
)
Histories = st.lists(st.one_of(steps, steps, more), min_size=4, max_size=30)


class Logged(World):
    """A world with a journal, whose segments are small."""

    def __init__(self, segment_bytes: int) -> None:
        super().__init__()
        self.fleet.journal = Journal(self.fleet, WEIGHTS, segment_bytes=segment_bytes)
        self.decisions: list[Decision] = []

    def _ask(self, changes: dict[str, Any]) -> None:
        """Decide; that what is decided is right is another test's claim."""
        self.asked += 1
        request = a_request(f"{self.asked:03}", **changes)
        (decision,) = self.engine.decide([request], now=NOW, now_s=self.now_s)
        self.decisions.append(decision)
        if decision.host_id:
            self.claims[request.instance_id] = (decision.host_id, request)

    def _machines(self, number: int, load: float) -> None:
        """Let a host tell what its machines use, too."""
        ident = f"hst-h{number}"
        held = [name for name, claim in self.claims.items() if claim[0] == ident]
        told = [MachineUsage(name, load, load / 2, GIB) for name in held[1:]]
        usage = a_usage(cpu_used_ratio=load, machines_running=len(held))
        self.fleet.fold([(ident, usage, self.now_s)], {ident: told})

    def _settle(self, number: int, ago_s: float) -> None:
        """Let a machine of an earlier reign settle."""
        self.fleet.settle(f"hst-h{number}", 2, GIB, self.now_s - ago_s, instance_id=f"old-{number}")

    def _describe(self, number: int, zone: str, joined: bool) -> None:
        """Let more be known of a host."""
        ident = f"hst-h{number}"
        if ident in self.hosts:
            vcpus, memory, disk = self._claimed(ident)
            host = a_host(
                f"h{number}",
                zone=zone,
                features=(NETWORKS,),
                physical_networks=("lan",) if joined else (),
                network_problem="" if joined else "no OVN",
                cordon_reason="for repair" if joined else "",
                claimed_vcpus=vcpus,
                claimed_memory_bytes=memory,
                claimed_disk_bytes=disk,
            )
            self.fleet.upsert_host(host, RATIOS)

    def segments(self) -> list[Segment]:
        """Return all that was recorded."""
        journal = self.fleet.journal
        assert journal is not None
        journal.close()
        assert not journal.dropped
        return list(journal.closed)


def rounded(decision: Decision) -> Decision:
    """Leave out the figures that only explain, which are kept to three digits."""
    return replace(
        decision,
        candidates=tuple(
            replace(c, inputs={n: v for n, v in c.inputs.items() if n.startswith(KEPT)})
            for c in decision.candidates
        ),
    )


KEPT = ("recent_", "expected_", "sample_age_s")


def replayed(segment: Segment, instance_id: str = "ins-a", **changes: Any) -> Replayed:
    """Judge again a decision that is in the segment."""
    again = replay(segment, instance_id, NOW, **changes)
    assert again is not None
    return again


@given(Histories, st.sampled_from([1 << 10, 1 << 20]))
@settings(deadline=None, max_examples=MANY)
@pytest.mark.timeout(1800)
def test_whatever_happens_each_decision_is_replayed_as_it_was(
    history: list[Step], segment_bytes: int
) -> None:
    world = Logged(segment_bytes)
    for number in range(9):
        world.act(("come", number, ("KVM",) if number % 2 else (), False))
        world.act(("sample", number, 0.1 * number, 0.0, 0.1))
    for step in history:
        world.act(step)

    segments = [unseal(seal(segment)) for segment in world.segments()]

    assert [problem for segment in segments for problem in verify(segment)] == []
    assert sum(segment.header.decisions for segment in segments) == len(world.decisions)
    for decision in world.decisions[-1:]:
        again = replayed(segments[-1], decision.instance_id)
        assert again.differences == ()
        assert rounded(again.replayed) == rounded(decision)
        assert replace(again.recorded, summary="") == replace(again.replayed, summary="")


def a_segment(**changes: Any) -> tuple[Segment, Fleet]:
    """Return a segment with one decision, for `ins-a`, among h0 and h1."""
    fleet = a_fleet([a_host("h0", claimed_vcpus=8), a_host("h1")])
    fleet.journal = Journal(fleet, WEIGHTS, term=7)
    Engine(fleet, WEIGHTS).decide([a_request(**changes)], now=NOW, now_s=100.0)
    fleet.journal.close()
    (segment,) = fleet.journal.closed
    return segment, fleet


def test_a_decision_can_be_made_under_another_policy() -> None:
    segment, _ = a_segment()

    pack = replayed(segment, policy=PlacementPolicy.PACK)

    assert replayed(segment).replayed.host_name == "h1"
    assert (pack.recorded.host_name, pack.replayed.host_name) == ("h1", "h0")
    assert pack.replayed.candidates[0].terms[0].name == "pack"
    assert pack.differences[0] == "h1 was chosen, and now h0 is"


def test_a_decision_can_be_made_by_other_weights() -> None:
    segment, _ = a_segment()

    again = replayed(segment, weights={"policy": 200})

    assert again.replayed.candidates[0].terms[0].weight == 200
    with pytest.raises(ValueError, match="not within 0 to 255"):
        replay(segment, "ins-a", NOW, weights={"policy": 256})


def test_what_was_never_decided_is_not_in_the_log() -> None:
    segment, _ = a_segment()

    assert replay(segment, "ins-b", NOW) is None
    assert replay(segment, "ins-a", NOW + timedelta(seconds=1)) is None


def test_who_found_no_host_is_told_why_as_then() -> None:
    segment, _ = a_segment(memory_bytes=20 * GIB)

    again = replayed(segment)

    assert again.differences == ()
    assert again.recorded == again.replayed
    assert again.recorded.summary.startswith("no host fits: 2 of 2 lack memory (nearest: ")


def test_a_decision_is_told_without_judging() -> None:
    segment, _ = a_segment()
    player = Player(segment)

    (recorded,) = (told(player.fleet, OURS, r, segment.header.weights) for r in player.decisions())

    assert recorded.summary == "h1: best of 2 hosts that fit under spread"
    assert [c.host_name for c in recorded.candidates] == ["h1", "h0"]
    assert player.is_as_recorded
    assert segment.header.term == 7


def test_a_fleet_that_was_changed_behind_the_journals_back_is_told() -> None:
    fleet = a_fleet([a_host("h0"), a_host("h1")])
    fleet.journal = Journal(fleet, WEIGHTS)
    engine = Engine(fleet, WEIGHTS)
    engine.decide([a_request("a")], now=NOW, now_s=100.0)
    fleet.table("claimed_vcpus")[:] = 16
    engine = Engine(fleet, WEIGHTS)
    engine.decide([a_request("b")], now=NOW, now_s=100.0)
    fleet.journal.close()

    problems = list(verify(fleet.journal.closed[0]))

    assert "ins-b: no host was chosen, and now h1 is" in problems
    assert problems[-1] == "the fleet did not end as it was"


def test_while_nothing_is_decided_nothing_is_recorded() -> None:
    fleet = a_fleet([a_host("h0")])
    fleet.journal = Journal(fleet, WEIGHTS)
    fleet.fold([("hst-h0", a_usage(), 102.0)])
    fleet.claim("hst-h0", 1, GIB, 0, 102.0)

    assert not fleet.journal.is_open

    Engine(fleet, WEIGHTS).decide([a_request()], now=NOW, now_s=102.0)
    before = len(fleet.journal.so_far().records)
    for tick in range(100):
        fleet.fold([("hst-h0", a_usage(cpu_used_ratio=tick / 100), 104.0 + tick)])

    assert len(fleet.journal.so_far().records) < before + 200


def test_segments_that_nobody_stores_are_dropped_beyond_a_bound_and_counted() -> None:
    fleet = a_fleet([a_host("h0", cpus=64)])
    journal = fleet.journal = Journal(fleet, WEIGHTS, segment_bytes=1)
    for number in range(20):
        wanted = a_request(str(number), memory_bytes=1)
        Engine(fleet, WEIGHTS).decide([wanted], now=NOW, now_s=100.0)

    assert (len(journal.closed), journal.dropped) == (8, 11)


def test_a_damaged_segment_is_told_wherever_a_bit_is_wrong() -> None:
    stored = seal(a_segment()[0])
    for at in range(len(stored)):
        broken = bytearray(stored)
        broken[at] ^= 0x10
        with pytest.raises(UnreadableSegment):
            unseal(bytes(broken))


def test_a_segment_cut_short_is_told_wherever_it_is_cut() -> None:
    stored = seal(a_segment()[0])
    for length in range(len(stored)):
        with pytest.raises(UnreadableSegment):
            unseal(stored[:length])


def test_a_segment_of_a_later_format_is_told() -> None:
    stored = bytearray(seal(a_segment()[0]))
    stored[8] = 2
    with pytest.raises(UnreadableSegment, match="its format is 2, and this version reads 1"):
        unseal(bytes(stored))


def test_records_that_make_no_sense_are_told() -> None:
    segment, _ = a_segment()
    records = segment.records[:-9] + b"\x63" + segment.records[-8:]
    with pytest.raises(UnreadableSegment, match="makes no sense"):
        list(Player(unseal(seal(Segment(segment.header, records)))).decisions())
