"""Live figures decide: a loaded host gets nothing while idle ones fit, and something later."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.fleets import GIB, LOADS, a_fleet, a_host, a_request, a_usage, place, sample_for
from unkai_scheduler.domain.hosts import MachineUsage
from unkai_scheduler.domain.instances import PlacementPolicy

POLICIES = list(PlacementPolicy)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("load", LOADS)
def test_a_loaded_host_gets_nothing_of_twenty_launched_at_once(
    load: str, policy: PlacementPolicy
) -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2"), a_host("h3")])
    sample_for(fleet, {"hst-h2": a_usage(**LOADS[load])}, from_s=102, until_s=108)

    decisions = place(fleet, *(a_request(str(n), policy=policy) for n in range(20)), now_s=109)

    hosts = Counter(d.host_name for d in decisions)
    assert hosts["h2"] == 0
    assert hosts["h1"] + hosts["h3"] == 20


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("load", LOADS)
def test_a_loaded_host_gets_nothing_though_the_idle_ones_are_claimed_fuller(
    load: str, policy: PlacementPolicy
) -> None:
    fuller = {"claimed_vcpus": 11, "claimed_memory_bytes": 11 * GIB}
    fleet = a_fleet([a_host("h1", **fuller), a_host("h2"), a_host("h3", **fuller)])
    sample_for(fleet, {"hst-h2": a_usage(**LOADS[load])}, from_s=102, until_s=108)

    decisions = place(fleet, *(a_request(str(n), policy=policy) for n in range(8)), now_s=109)

    assert {d.host_name for d in decisions} == {"h1", "h3"}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("load", LOADS)
def test_a_loaded_host_gets_nothing_of_launches_one_by_one_while_guests_boot(
    load: str, policy: PlacementPolicy
) -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2"), a_host("h3")])
    loaded = {"hst-h2": a_usage(**LOADS[load])}
    sample_for(fleet, loaded, from_s=102, until_s=108)
    placed: dict[str, list[str]] = {"hst-h1": [], "hst-h2": [], "hst-h3": []}
    for number in range(20):
        at_s = 109.0 + 2 * number
        (decision,) = place(fleet, a_request(str(number), policy=policy), now_s=at_s)
        placed[decision.host_id].append(decision.instance_id)
        # Every guest burns a core for its first two samples and waits for it, too.
        for host_id, names in placed.items():
            booting = names[-2:]
            usage = loaded.get(host_id) or a_usage(
                cpu_used_ratio=0.025 + len(booting) * 0.25,
                cpu_wait_cores=0.3 * len(booting),
                cpu_pressure_ratio=0.3 * len(booting),
                memory_available_bytes=15 * GIB - len(names) * GIB // 4,
            )
            machines = [
                MachineUsage(name, 1.0 if name in booting else 0.02, 0.3, GIB // 4)
                for name in names
            ]
            fleet.fold([(host_id, usage, at_s + 1)], {host_id: machines})

    assert placed["hst-h2"] == []


@pytest.mark.parametrize("load", LOADS)
def test_a_host_gets_some_again_within_thirty_seconds_after_its_load_ended(load: str) -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2"), a_host("h3")])
    sample_for(fleet, {"hst-h2": a_usage(**LOADS[load])}, from_s=102, until_s=162)
    sample_for(fleet, {}, from_s=164, until_s=192)

    decisions = place(fleet, *(a_request(str(n)) for n in range(6)), now_s=193)

    assert Counter(d.host_name for d in decisions) == {"h1": 2, "h2": 2, "h3": 2}


@pytest.mark.parametrize("load", LOADS)
def test_a_load_counts_within_two_samples(load: str) -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2")])
    sample_for(fleet, {}, from_s=102, until_s=140)
    sample_for(fleet, {"hst-h1": a_usage(**LOADS[load])}, from_s=142, until_s=144)

    (decision,) = place(fleet, a_request(), now_s=145)

    assert decision.host_name == "h2"


def test_one_short_spike_is_not_a_load() -> None:
    full = {"claimed_vcpus": 8, "claimed_memory_bytes": 8 * GIB}
    fleet = a_fleet([a_host("h1"), a_host("h2", **full)])
    sample_for(fleet, {}, from_s=102, until_s=140)
    spike = a_usage(cpu_used_ratio=1.0, cpu_used_cores=4.0)
    sample_for(fleet, {"hst-h1": spike}, from_s=142, until_s=142)
    sample_for(fleet, {}, from_s=144, until_s=146)

    (decision,) = place(fleet, a_request(), now_s=147)

    assert decision.host_name == "h1"


def test_of_two_loaded_hosts_the_less_loaded_is_chosen() -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2")])
    usages = {
        "hst-h1": a_usage(cpu_used_ratio=0.9, cpu_used_cores=3.6),
        "hst-h2": a_usage(cpu_used_ratio=0.7, cpu_used_cores=2.8),
    }
    sample_for(fleet, usages, from_s=102, until_s=120)

    (decision,) = place(fleet, a_request(), now_s=121)

    assert decision.host_name == "h2"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_burst_does_not_herd_onto_one_idle_looking_host(policy: PlacementPolicy) -> None:
    fleet = a_fleet([a_host(f"h{n}") for n in range(1, 5)])

    decisions = place(fleet, *(a_request(str(n), policy=policy) for n in range(24)))

    hosts = Counter(d.host_name for d in decisions)
    assert len(hosts) == 4
    assert max(hosts.values()) <= 12


def test_packing_fills_one_host_first_when_launches_have_settled() -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2"), a_host("h3")])
    names = []
    for number in range(4):
        now_s = 100.0 + 70 * number
        sample_for(fleet, {}, from_s=now_s - 10, until_s=now_s)
        request = a_request(str(number), policy=PlacementPolicy.PACK)
        names.append(place(fleet, request, now_s=now_s)[0].host_name)

    assert names == ["h1"] * 4


def test_a_booting_guest_of_ours_does_not_make_its_host_look_loaded() -> None:
    fleet = a_fleet([a_host("h1", cpus=2), a_host("h2", cpus=2)])
    (first,) = place(fleet, a_request("a", policy=PlacementPolicy.PACK))
    booting = a_usage(cpu_used_ratio=0.55, cpu_used_cores=1.1, cpu_wait_cores=0.2)
    machines = {first.host_id: [MachineUsage("ins-a", 1.0, 0.2, GIB // 4)]}
    for at_s in (102.0, 104.0, 106.0):
        fleet.fold([(first.host_id, booting, at_s)], machines)

    inputs = place(fleet, a_request("b"), now_s=107)[0].candidates
    on_first = next(c for c in inputs if c.host_id == first.host_id)

    assert on_first.inputs["recent_cpu_load_ratio"] < 0.1
    assert on_first.inputs["cpu_used_ratio"] == 0.55


def test_a_guest_without_figures_of_its_own_does_not_make_its_host_look_loaded() -> None:
    fleet = a_fleet([a_host("h1", cpus=2), a_host("h2", cpus=2)])
    place(fleet, a_request("a"))
    with_it = a_usage(cpu_used_ratio=0.5, cpu_wait_cores=0.9, cpu_pressure_ratio=0.9)
    for at_s in (102.0, 104.0, 106.0):  # it starts, and its host has not told of it yet
        fleet.fold([("hst-h1", with_it, at_s)])
    fleet.release("hst-h1", 1, GIB, 10 * GIB, instance_id="ins-a")
    fleet.fold([("hst-h1", with_it, 107.5)])  # it ended meanwhile
    (then,) = place(fleet, a_request("b", excluded_host_ids=("hst-h2",)), now_s=108)
    fleet.release("hst-h1", 1, GIB, 10 * GIB, instance_id="ins-b")
    for at_s in (110.5, 112.5, 114.5):
        fleet.fold([("hst-h1", with_it, at_s)])
    (later,) = place(fleet, a_request("c"), now_s=115)

    inputs = [c.inputs for d in (then, later) for c in d.candidates if c.host_name == "h1"]
    assert inputs[0]["recent_cpu_load_ratio"] < 0.1
    assert inputs[0]["recent_cpu_wait_ratio"] < 0.1
    assert inputs[1]["recent_cpu_load_ratio"] == pytest.approx(0.5, abs=0.01)
    assert inputs[1]["recent_cpu_wait_ratio"] == pytest.approx(0.45, abs=0.01)


def test_a_guest_without_figures_hides_no_load_that_was_there_before_it() -> None:
    fleet = a_fleet([a_host("h1", cpus=2)])
    sample_for(fleet, {}, from_s=102, until_s=130)
    burning = a_usage(cpu_used_ratio=0.65, cpu_wait_cores=0.6, cpu_pressure_ratio=0.6)
    fleet.fold([("hst-h1", burning, 132.0)])
    for at_s in (132.5, 134.5, 136.5):  # each is gone before the next comes
        (decision,) = place(fleet, a_request(f"at-{at_s}"), now_s=at_s)
        fleet.fold([("hst-h1", burning, at_s + 1.5)])
        fleet.release("hst-h1", 1, GIB, 10 * GIB, instance_id=decision.instance_id)

    (then,) = place(fleet, a_request("then"), now_s=138.5)

    inputs = then.candidates[0].inputs
    assert inputs["recent_cpu_load_ratio"] == pytest.approx(0.65, abs=0.01)
    assert inputs["recent_cpu_wait_ratio"] == pytest.approx(0.30, abs=0.01)


@pytest.mark.parametrize("policy", POLICIES)
def test_of_hosts_alike_the_one_with_the_least_load_is_chosen(policy: PlacementPolicy) -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2"), a_host("h3")])
    some = {name: a_usage(cpu_used_ratio=0.2) for name in ("hst-h1", "hst-h3")}
    sample_for(fleet, some, from_s=102, until_s=120)

    (decision,) = place(fleet, a_request(policy=policy), now_s=121)

    assert decision.host_name == "h2"


def test_memory_of_machines_without_figures_is_not_held_to_be_others() -> None:
    """An agent just restarted, or whose hypervisor hangs, tells how many run, and no more."""
    held = {"claimed_vcpus": 4, "claimed_memory_bytes": 12 * GIB}
    fleet = a_fleet([a_host("h1", **held), a_host("h2", **held)], at_s=50.0)
    ours = a_usage(memory_available_bytes=5 * GIB, machines_running=4)
    hog = a_usage(memory_available_bytes=5 * GIB, machines_running=0)
    sample_for(fleet, {"hst-h1": ours, "hst-h2": hog}, from_s=100, until_s=108)

    (decision,) = place(fleet, a_request(), now_s=109)

    inputs = {c.host_name: c.inputs for c in decision.candidates}
    assert inputs["h1"]["recent_memory_foreign_ratio"] == 0.0
    assert inputs["h2"]["recent_memory_foreign_ratio"] == pytest.approx(11 / 16, abs=0.01)


def test_what_a_machine_shows_counts_once_it_has_settled() -> None:
    fleet = a_fleet([a_host("h1", cpus=2)])
    place(fleet, a_request("a"))
    busy = a_usage(cpu_used_ratio=0.55, cpu_used_cores=1.1)
    for at_s in (170.0, 172.0, 174.0):
        fleet.fold([("hst-h1", busy, at_s)], {"hst-h1": [MachineUsage("ins-a", 1.0, 0.0, GIB)]})

    (decision,) = place(fleet, a_request("b"), now_s=175)

    assert decision.candidates[0].inputs["recent_cpu_load_ratio"] == pytest.approx(0.55, abs=0.01)


def test_expected_load_ends_with_the_machine() -> None:
    fleet = a_fleet([a_host("h1")])
    place(fleet, a_request("a"))
    fleet.release("hst-h1", 1, GIB, 10 * GIB, instance_id="ins-a")

    (decision,) = place(fleet, a_request("b"))

    assert decision.candidates[0].inputs["expected_cpu_cores"] == 0.0


def test_a_claim_taken_back_hides_no_load_of_its_host() -> None:
    fleet = a_fleet([a_host("h1", cpus=2)])
    place(fleet, a_request("a", vcpus=2))
    fleet.withdraw("hst-h1", 2, GIB, 10 * GIB, instance_id="ins-a")
    busy = a_usage(cpu_used_ratio=0.9, cpu_wait_cores=1.0, cpu_pressure_ratio=1.0)
    fleet.fold([("hst-h1", busy, 101.0)])
    fleet.fold([("hst-h1", busy, 103.0)])

    (decision,) = place(fleet, a_request("b"), now_s=104)

    inputs = decision.candidates[0].inputs
    assert inputs["recent_cpu_load_ratio"] == pytest.approx(0.9, abs=0.01)
    assert inputs["expected_cpu_cores"] == 0.0


def test_expected_load_fades_within_a_minute() -> None:
    expected = []
    for after_s in (1, 20, 40, 65):
        fleet = a_fleet([a_host("h1")])
        place(fleet, a_request("a", vcpus=4))
        fleet.fold([("hst-h1", a_usage(), 100.0 + after_s)])
        (decision,) = place(fleet, a_request("b"), now_s=100.0 + after_s)
        expected.append(decision.candidates[0].inputs["expected_cpu_cores"])

    assert expected[0] == 1.2
    assert expected == sorted(expected, reverse=True)
    assert 0 < expected[2] < expected[1] < expected[0]
    assert expected[3] == 0.0


def test_numbers_from_before_a_silence_are_forgotten() -> None:
    fleet = a_fleet([a_host("h1")])
    sample_for(fleet, {"hst-h1": a_usage(**LOADS["io"])}, from_s=102, until_s=120)
    fleet.fold([("hst-h1", a_usage(), 140.0)])

    (decision,) = place(fleet, a_request(), now_s=141)

    assert decision.candidates[0].inputs["recent_io_pressure_ratio"] == 0.01


def test_a_sample_older_than_the_newest_is_skipped() -> None:
    fleet = a_fleet([a_host("h1")])
    fleet.fold([("hst-h1", a_usage(cpu_used_ratio=0.9), 98.0)])

    (decision,) = place(fleet, a_request())

    assert decision.candidates[0].inputs["cpu_used_ratio"] == 0.025


def test_two_samples_of_a_host_in_one_batch_count_like_one_after_the_other() -> None:
    together, apart = a_fleet([a_host("h1")]), a_fleet([a_host("h1")])
    first = ("hst-h1", a_usage(cpu_used_ratio=0.9), 102.0)
    second = ("hst-h1", a_usage(cpu_used_ratio=0.3), 104.0)
    together.fold([first, second])
    apart.fold([first])
    apart.fold([second])

    assert place(together, a_request(), now_s=105) == place(apart, a_request(), now_s=105)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_writer_that_syncs_keeps_instances_away_though_it_waits_for_a_cpu_as_well(
    policy: PlacementPolicy,
) -> None:
    fuller = {"claimed_vcpus": 6, "claimed_memory_bytes": 6 * GIB}
    fleet = a_fleet([a_host("h1"), a_host("h2", **fuller), a_host("h3")])
    writer = {"hst-h1": a_usage(io_pressure_ratio=0.24)}
    sample_for(fleet, writer, from_s=102, until_s=130)

    (decision,) = place(fleet, a_request(policy=policy, excluded_host_ids=("hst-h3",)), now_s=131)

    assert decision.host_name == "h2"
