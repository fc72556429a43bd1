"""What holds of placement whatever the fleet and the requests."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import acceptance
from tests.support.fleets import GIB, RATIOS, a_host, a_request, a_usage, place
from unkai_scheduler.domain.hosts import Host, HostState, HostUsage
from unkai_scheduler.domain.instances import PlacementPolicy
from unkai_scheduler.placement.allocation import claimable
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.requests import PlacementRequest

ratios = st.floats(0, 1)
usages = st.builds(
    lambda cpu, wait, memory, io, free: a_usage(
        cpu_used_ratio=cpu,
        cpu_wait_cores=wait * 4,
        cpu_pressure_ratio=wait,
        memory_pressure_ratio=memory,
        io_pressure_ratio=io,
        memory_available_bytes=int(free * 16 * GIB),
    ),
    ratios,
    ratios,
    ratios,
    ratios,
    ratios,
)
hosts = st.lists(
    st.tuples(
        st.builds(
            dict,
            state=st.sampled_from([HostState.UP, HostState.UP, HostState.UNKNOWN]),
            cordoned=st.sampled_from([False, False, True]),
            cpus=st.integers(1, 8),
            memory_bytes=st.integers(1, 16).map(lambda n: n * GIB),
            claimed_vcpus=st.integers(0, 8),
            claimed_memory_bytes=st.integers(0, 8).map(lambda n: n * GIB),
            traits=st.sampled_from([(), ("KVM",)]),
        ),
        usages,
    ),
    max_size=8,
)
requests = st.lists(
    st.builds(
        dict,
        vcpus=st.integers(1, 8),
        memory_bytes=st.integers(1, 8).map(lambda n: n * GIB),
        policy=st.sampled_from(PlacementPolicy),
        required_traits=st.sampled_from([(), (), ("KVM",)]),
    ),
    max_size=12,
)
HostDraw = list[tuple[dict[str, object], HostUsage]]
RequestDraw = list[dict[str, object]]


def build(drawn: HostDraw, order: list[int] | None = None) -> tuple[Fleet, list[Host]]:
    made = [a_host(f"h{n}", **values) for n, (values, _) in enumerate(drawn)]
    fleet = Fleet()
    for index in order if order is not None else range(len(made)):
        fleet.upsert_host(made[index], RATIOS)
    for at_s in (96.0, 98.0, 100.0):
        fleet.fold([(made[n].id, usage, at_s) for n, (_, usage) in enumerate(drawn)])
    return fleet, made


def asked(drawn: RequestDraw) -> list[PlacementRequest]:
    return [a_request(str(n), **values) for n, values in enumerate(drawn)]


@given(hosts, requests)
@settings(deadline=None, max_examples=acceptance.count(300))
def test_no_host_is_ever_claimed_over_its_capacity(h: HostDraw, r: RequestDraw) -> None:
    fleet, made = build(h)

    decisions = place(fleet, *asked(r))

    for host in made:
        mine = [q for q, d in zip(asked(r), decisions, strict=True) if d.host_id == host.id]
        limits = claimable(host, RATIOS)
        if mine:
            assert host.claimed_vcpus + sum(q.vcpus for q in mine) <= limits.vcpus
            memory = host.claimed_memory_bytes + sum(q.memory_bytes for q in mine)
            assert memory <= limits.memory_bytes


@given(hosts, requests)
@settings(deadline=None, max_examples=acceptance.count(300))
def test_who_is_chosen_is_up_and_not_cordoned_and_has_the_traits(
    h: HostDraw, r: RequestDraw
) -> None:
    fleet, made = build(h)
    by_id = {host.id: host for host in made}

    for request, decision in zip(asked(r), place(fleet, *asked(r)), strict=True):
        if decision.host_id:
            host = by_id[decision.host_id]
            assert host.state is HostState.UP
            assert not host.cordoned
            assert set(request.required_traits) <= set(host.traits)


@given(hosts, requests)
@settings(deadline=None, max_examples=acceptance.count(300))
def test_every_host_is_accounted_for_by_one_filter_or_fits(h: HostDraw, r: RequestDraw) -> None:
    fleet, made = build(h)

    for decision in place(fleet, *asked(r)):
        rejected = sum(f.rejected_count for f in decision.filters)
        assert decision.host_count == len(made)
        assert (rejected < len(made)) == bool(decision.host_id)
        assert min(len(made) - rejected, 6) == len(decision.candidates)


@given(hosts, requests, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=acceptance.count(300))
def test_the_order_of_rows_does_not_matter(h: HostDraw, r: RequestDraw, random: object) -> None:
    order = list(range(len(h)))
    random.shuffle(order)  # type: ignore[attr-defined]

    assert place(build(h)[0], *asked(r)) == place(build(h, order)[0], *asked(r))


@given(hosts, requests)
@settings(deadline=None, max_examples=acceptance.count(200))
def test_a_host_that_came_and_went_leaves_no_trace(h: HostDraw, r: RequestDraw) -> None:
    plain, _ = build(h)
    fleet = Fleet()
    fleet.upsert_host(a_host("passer-by"), RATIOS)
    for n, (values, _) in enumerate(h):
        fleet.upsert_host(a_host(f"h{n}", **values), RATIOS)
    fleet.remove_host("hst-passer-by")
    for at_s in (96.0, 98.0, 100.0):
        fleet.fold([(f"hst-h{n}", usage, at_s) for n, (_, usage) in enumerate(h)])

    assert place(fleet, *asked(r)) == place(plain, *asked(r))


@given(hosts, requests)
@settings(deadline=None, max_examples=acceptance.count(200))
def test_the_same_input_gives_the_same_decision(h: HostDraw, r: RequestDraw) -> None:
    assert place(build(h)[0], *asked(r)) == place(build(h)[0], *asked(r))


@given(hosts, requests)
@settings(deadline=None, max_examples=acceptance.count(200))
def test_placing_and_releasing_all_leaves_the_fleet_as_it_was(h: HostDraw, r: RequestDraw) -> None:
    fleet, _ = build(h)
    first = place(fleet, *asked(r))
    for request, decision in zip(asked(r), first, strict=True):
        if decision.host_id:
            fleet.release(
                decision.host_id,
                request.vcpus,
                request.memory_bytes,
                request.disk_bytes,
                instance_id=request.instance_id,
            )

    assert place(fleet, *asked(r)) == first


@given(
    st.integers(2, 6),
    st.sampled_from(PlacementPolicy),
    st.sampled_from(
        ["cpu_used_ratio", "cpu_wait_cores", "memory_pressure_ratio", "io_pressure_ratio"]
    ),
    st.floats(0.8, 1.0),
    st.lists(st.integers(0, 12), min_size=6, max_size=6),
    st.floats(0, 0.2),
)
@settings(deadline=None, max_examples=acceptance.count(300))
def test_a_host_under_heavy_pressure_loses_to_any_idle_one(
    count: int, policy: PlacementPolicy, figure: str, heavy: float, claimed: list[int], noise: float
) -> None:
    fleet = Fleet()
    for n in range(count):
        fleet.upsert_host(a_host(f"h{n}", claimed_vcpus=claimed[n]), RATIOS)
    value = heavy * 4 if figure == "cpu_wait_cores" else heavy
    quiet = a_usage(cpu_used_ratio=noise, io_pressure_ratio=noise, cpu_wait_cores=noise / 2)
    for at_s in (96.0, 98.0, 100.0):
        fleet.fold([("hst-h0", a_usage(**{figure: value}), at_s)])
        fleet.fold([(f"hst-h{n}", quiet, at_s) for n in range(1, count)])

    decisions = place(fleet, *(a_request(str(n), policy=policy) for n in range(3)))

    assert "h0" not in Counter(d.host_name for d in decisions)
