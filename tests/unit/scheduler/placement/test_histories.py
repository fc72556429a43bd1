"""Histories of a fleet: whatever happened before, a decision is what a newcomer would decide.

The engine keeps what it found for earlier requests. Each decision is made again by an engine that
has seen nothing, and held against a slow and obvious model of claims and filters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import acceptance
from tests.support.fleets import GIB, NOW, RATIOS, WEIGHTS, a_fleet, a_host, a_request, a_usage
from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import PlacementPolicy
from unkai_scheduler.domain.placement_groups import GroupPolicy, GroupRule, Strictness
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.pipeline import Engine
from unkai_scheduler.placement.requests import PlacementRequest

CPUS, MEMORY_BYTES, DISK_BYTES = 4, 16 * GIB, 200 * GIB
numbers = st.integers(0, 10)
ratios = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
APART = GroupRule("pgr-a", "a", GroupPolicy.ANTI_AFFINITY, max_per_place=2)
NEAR = GroupRule("pgr-n", "n", GroupPolicy.AFFINITY)
GROUPS = (
    APART,
    NEAR,
    *(replace(g, id=f"{g.id}s", strictness=Strictness.SOFT) for g in (APART, NEAR)),
)
shapes = st.builds(
    dict,
    vcpus=st.integers(1, 6),
    memory_bytes=st.integers(1, 8).map(lambda n: n * GIB),
    disk_bytes=st.sampled_from([0, 10 * GIB, 90 * GIB]),
    policy=st.sampled_from(PlacementPolicy),
    required_traits=st.sampled_from([(), (), ("KVM",)]),
    excluded_host_ids=st.sampled_from([(), (), ("hst-h1",), ("hst-h0", "hst-h9")]),
    group=st.sampled_from([None, None, *GROUPS]),
)
steps = st.one_of(
    st.tuples(st.just("ask"), shapes),
    st.tuples(st.just("ask"), shapes),
    st.tuples(st.just("ask"), st.builds(dict)),
    st.tuples(st.just("end"), st.integers(0, 30)),
    st.tuples(st.just("undo"), st.integers(0, 30)),
    st.tuples(st.just("come"), numbers, st.sampled_from([(), ("KVM",)]), st.booleans()),
    st.tuples(st.just("go"), numbers),
    st.tuples(st.just("state"), numbers, st.sampled_from(HostState)),
    st.tuples(st.just("sample"), numbers, ratios, ratios, ratios),
    st.tuples(st.just("time"), st.sampled_from([0.1, 0.3, 2.0, 7.0, 30.0])),
)
histories = st.lists(steps, min_size=4, max_size=40)
Step = tuple[Any, ...]
MANY = 10_000 if acceptance.full_counts() else 200


class World:
    """A fleet, the engine under test, and an obvious record of what is so."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.fleet = Fleet()
        self.engine = Engine(self.fleet, WEIGHTS)
        self.hosts: dict[str, dict[str, Any]] = {}
        self.claims: dict[str, tuple[str, PlacementRequest]] = {}
        self.asked = 0

    def act(self, step: Step) -> None:
        """Let one step happen, and check what it decides."""
        getattr(self, "_" + step[0])(*step[1:])

    def _come(self, number: int, traits: tuple[str, ...], cordoned: bool) -> None:
        ident = f"hst-h{number}"
        known = self.hosts.setdefault(ident, {"state": HostState.UP, "sample_s": None})
        known |= {"traits": traits, "cordoned": cordoned}
        vcpus, memory, disk = self._claimed(ident)
        self.fleet.upsert_host(
            a_host(
                f"h{number}",
                state=known["state"],
                traits=traits,
                cordoned=cordoned,
                claimed_vcpus=vcpus,
                claimed_memory_bytes=memory,
                claimed_disk_bytes=disk,
            ),
            RATIOS,
        )

    def _go(self, number: int) -> None:
        ident = f"hst-h{number}"
        self.hosts.pop(ident, None)
        self.claims = {i: c for i, c in self.claims.items() if c[0] != ident}
        self.fleet.remove_host(ident)

    def _state(self, number: int, state: HostState) -> None:
        ident = f"hst-h{number}"
        if ident in self.hosts:
            self.hosts[ident]["state"] = state
        self.fleet.set_state(ident, state)

    def _sample(self, number: int, cpu: float, wait: float, memory: float) -> None:
        ident = f"hst-h{number}"
        usage = a_usage(
            cpu_used_ratio=cpu,
            cpu_wait_cores=4 * wait,
            memory_available_bytes=int((1 - memory) * MEMORY_BYTES),
        )
        self.fleet.fold([(ident, usage, self.now_s)])
        if ident in self.hosts:
            self.hosts[ident]["sample_s"] = self.now_s

    def _time(self, seconds: float) -> None:
        self.now_s += seconds

    def _end(self, number: int) -> None:
        self._leave(number, self.fleet.release)

    def _undo(self, number: int) -> None:
        self._leave(number, self.fleet.withdraw)

    def _leave(self, number: int, leave: Any) -> None:
        if not self.claims:
            return
        ident = sorted(self.claims)[number % len(self.claims)]
        host_id, request = self.claims.pop(ident)
        sizes = (request.vcpus, request.memory_bytes, request.disk_bytes)
        leave(host_id, *sizes, instance_id=ident)

    def _ask(self, changes: dict[str, Any]) -> None:
        self.asked += 1
        request = a_request(f"{self.asked:03}", **changes)
        newcomer = Engine(self.fleet.copy(), WEIGHTS)

        (decision,) = self.engine.decide([request], now=NOW, now_s=self.now_s)

        assert [decision] == newcomer.decide([request], now=NOW, now_s=self.now_s)
        self._check(request, decision)
        if decision.host_id:
            self.claims[request.instance_id] = (decision.host_id, request)

    def _check(self, request: PlacementRequest, decision: Decision) -> None:
        out = {ident: self._kept_out_by(ident, request) for ident in self.hosts}
        for result in decision.filters:
            held = sorted(i.removeprefix("hst-") for i, name in out.items() if name == result.name)
            assert (result.rejected_count, list(result.rejected_hosts)) == (len(held), held[:5])
            assert bool(result.nearest_miss) == bool(held)
            assert not held or result.nearest_miss.startswith(tuple(held))
        fit = {ident for ident, name in out.items() if name is None}
        assert {c.host_id for c in decision.candidates} <= fit
        assert len(decision.candidates) == min(6, len(fit))
        assert (decision.host_id in fit) == bool(fit)

    def _kept_out_by(self, ident: str, request: PlacementRequest) -> str | None:
        """Return the first filter that keeps a host out."""
        host, (vcpus, memory, disk) = self.hosts[ident], self._claimed(ident)
        tick_s = self.now_s // 0.25 * 0.25
        is_fresh = host["sample_s"] is not None and tick_s - host["sample_s"] <= 10.0
        checks = {
            "excluded": ident not in request.excluded_host_ids,
            "state": host["state"] is HostState.UP,
            "cordon": not host["cordoned"],
            "traits": set(request.required_traits) <= set(host["traits"]),
            "networks": True,
            "group": self._suits_group(ident, request.group),
            "vcpus": vcpus + request.vcpus <= CPUS * RATIOS.vcpus,
            "memory": memory + request.memory_bytes <= MEMORY_BYTES,
            "disk": disk + request.disk_bytes <= DISK_BYTES,
            "metrics": is_fresh,
        }
        return next((name for name, passes in checks.items() if not passes), None)

    def _suits_group(self, ident: str, group: GroupRule | None) -> bool:
        if group is None or group.strictness is Strictness.SOFT:
            return True
        on = [host_id for host_id, request in self.claims.values() if request.group == group]
        if group.policy is GroupPolicy.AFFINITY:
            return not on or ident in on
        return on.count(ident) < group.max_per_place

    def _claimed(self, ident: str) -> tuple[int, int, int]:
        mine = [request for host_id, request in self.claims.values() if host_id == ident]
        return (
            sum(request.vcpus for request in mine),
            sum(request.memory_bytes for request in mine),
            sum(request.disk_bytes for request in mine),
        )


@given(histories)
@settings(deadline=None, max_examples=MANY)
@pytest.mark.timeout(1800)
def test_a_decision_is_the_same_whatever_was_asked_before_and_all_it_says_is_true(
    history: list[Step],
) -> None:
    world = World()
    for number in range(9):
        world.act(("come", number, ("KVM",) if number % 2 else (), False))
        world.act(("sample", number, 0.1 * number, 0.0, 0.1))
    for step in history:
        world.act(step)


def test_who_is_nearest_is_looked_for_again_once_that_host_fits_or_is_fuller() -> None:
    fleet = a_fleet(
        a_host(f"h{n}", claimed_memory_bytes=(16 if n != 7 else 12) * GIB) for n in range(9)
    )
    engine = Engine(fleet, WEIGHTS)

    def nearest() -> str:
        # More than any host has left; so nothing is ever claimed.
        wanted = a_request(memory_bytes=5 * GIB, policy=PlacementPolicy.PACK)
        (decision,) = engine.decide([wanted], now=NOW, now_s=100.0)
        return next(f.nearest_miss for f in decision.filters if f.name == "memory")

    assert nearest() == "h7 lacks 1 GiB of memory"
    fleet.claim("hst-h7", 1, 4 * GIB, 0, 100.0, instance_id="ins-x")
    assert nearest() == "h0 lacks 5 GiB of memory"
    fleet.release("hst-h8", 0, 2 * GIB, 0)
    assert nearest() == "h8 lacks 3 GiB of memory"
    fleet.release("hst-h7", 1, 3 * GIB, 0, instance_id="ins-x")
    assert nearest() == "h7 lacks 2 GiB of memory"
