"""Decisions: filters, explanations, errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.support.fleets import (
    GIB,
    LOADS,
    RATIOS,
    a_fleet,
    a_host,
    a_request,
    a_usage,
    place,
    sample_for,
)
from unkai_scheduler.domain.aggregates import Membership, OwnRatios
from unkai_scheduler.domain.decisions import MAX_STORED_BYTES, FilterResult
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.placement.allocation import AllocationRatios, claimable
from unkai_scheduler.placement.explain import no_capacity_error
from unkai_scheduler.placement.filters import format_bytes
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.pipeline import MAX_CANDIDATES
from unkai_scheduler.placement.requests import Weights
from unkai_scheduler.settings import WeightSettings
from unkai_scheduler.store import decisions
from unkai_wire.cluster_records import MOST_BYTES, MOST_CPUS

MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "changes", "request_changes", "sentence"),
    [
        ("state", {"state": HostState.UNKNOWN}, {}, "h2 is silent"),
        ("state", {"state": HostState.CONNECTING}, {}, "h2 does not answer yet"),
        ("cordon", {"cordoned": True, "cordon_reason": "fan"}, {}, "h2 is cordoned: fan"),
        ("cordon", {"cordoned": True}, {}, "h2 is cordoned"),
        ("traits", {}, {"required_traits": ("CPU_X86_64", "KVM")}, "h2 lacks KVM"),
        ("zone", {"zone": "a"}, {"zone": "b"}, "h2 is in zone a"),
        ("zone", {}, {"zone": "b"}, "h2 is in zone default"),
        (
            "forbidden_traits",
            {"traits": ("GPU", "KVM")},
            {"forbidden_traits": ("OLD", "GPU", "KVM")},
            "h2 has GPU, KVM",
        ),
        ("aggregate", {}, {"aggregate_id": "agg-1"}, "h2 is outside its aggregate"),
        (
            "dedicated",
            {"aggregates": (Membership("agg-1", "lab", project_ids=("prj-a",)),)},
            {"project_id": "prj-b"},
            "h2 is dedicated to other projects by aggregate lab",
        ),
        ("vcpus", {"claimed_vcpus": 15}, {"vcpus": 2}, "h2 lacks 1 vCPU"),
        (
            "memory",
            {"claimed_memory_bytes": 15 * GIB + 512 * MIB},
            {},
            "h2 lacks 512 MiB of memory",
        ),
        ("disk", {"claimed_disk_bytes": 195 * GIB}, {}, "h2 lacks 5 GiB of disk"),
        (
            "networks",
            {"physical_networks": ("outside",)},
            {"physical_networks": ()},
            "h2 has no virtual networks: its agent is not told of an OVN",
        ),
        (
            "networks",
            {"features": ("networks.v1",), "physical_networks": ("lab",)},
            {"physical_networks": ("lab", "outside")},
            "h2 is not attached to physical network outside",
        ),
        (
            "excluded",
            {},
            {"excluded_host_ids": ("hst-h2",)},
            "h2 has failed this instance before",
        ),
    ],
)
def test_a_filter_says_what_would_have_let_the_host_pass(
    name: str, changes: Mapping[str, Any], request_changes: Mapping[str, Any], sentence: str
) -> None:
    fleet = a_fleet([a_host("h2", **changes)])

    (decision,) = place(fleet, a_request(**request_changes))

    assert decision.host_id == ""
    assert [f for f in decision.filters if f.rejected_count] == [
        FilterResult(name, 1, ("h2",), sentence)
    ]


def test_who_has_no_ports_needs_no_networks_and_who_has_some_goes_where_they_are() -> None:
    wired = a_host("h1", features=("networks.v1",), physical_networks=("outside",))
    fleet = a_fleet([a_host("h2"), wired])

    (without,) = place(a_fleet([a_host("h2")]), a_request())
    (overlay,) = place(fleet.copy(), a_request(physical_networks=()))
    (outside,) = place(fleet, a_request(physical_networks=("outside",)))

    assert without.host_name == "h2"
    assert (overlay.host_name, outside.host_name) == ("h1", "h1")


def test_a_host_that_lacks_a_mapping_is_nearer_than_one_without_networks() -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2", features=("networks.v1",))])

    (decision,) = place(fleet, a_request(physical_networks=("outside",)))

    assert decision.summary == (
        "no host fits: 2 of 2 lack a network "
        "(nearest: h2 is not attached to physical network outside)"
    )


def test_a_switch_in_trouble_keeps_out_who_has_ports_and_nobody_else() -> None:
    said = "ovn-controller does not run"
    fleet = a_fleet([a_host("h1", features=("networks.v1",), network_problem=said)])

    (without,) = place(fleet.copy(), a_request())
    (wired,) = place(fleet, a_request(physical_networks=()))

    assert without.host_name == "h1"
    assert wired.summary == (
        f"no host fits: 1 of 1 lacks a network (nearest: h1's switch is in trouble: {said})"
    )


def test_a_switch_that_is_well_again_takes_instances_with_ports() -> None:
    ill = a_host("h1", features=("networks.v1",), network_problem="it is gone")
    fleet = a_fleet([ill])

    fleet.upsert_host(replace(ill, network_problem=""), RATIOS)
    (decision,) = place(fleet, a_request(physical_networks=()))

    assert decision.host_name == "h1"


def test_old_metrics_keep_a_host_out_and_say_how_old_they_are() -> None:
    fleet = a_fleet([a_host("h3")])

    (fresh,) = place(fleet.copy(), a_request(), now_s=110.0)
    (old,) = place(fleet, a_request(), now_s=114.0)

    assert fresh.host_name == "h3"
    assert old.filters[-1] == FilterResult("metrics", 1, ("h3",), "h3's metrics are 14 s old")


def test_a_host_that_never_sent_metrics_is_kept_out() -> None:
    fleet = Fleet()
    fleet.upsert_host(a_host("h1"), RATIOS)

    (decision,) = place(fleet, a_request())

    assert decision.filters[-1].nearest_miss == "h1 has sent no metrics yet"


def test_the_summary_counts_each_reason_and_names_the_nearest() -> None:
    full = 16 * GIB
    fleet = a_fleet(
        [
            a_host("h1", cordoned=True),
            a_host("h2", claimed_memory_bytes=full - 512 * MIB),
            a_host("h3", claimed_memory_bytes=full),
        ]
    )

    (decision,) = place(fleet, a_request())

    assert decision.summary == (
        "no host fits: 1 of 3 is cordoned, 2 lack memory (nearest: h2 lacks 512 MiB of memory)"
    )


def test_a_host_that_connects_is_nearer_than_one_that_is_silent() -> None:
    fleet = a_fleet(
        [a_host("h1", state=HostState.UNKNOWN), a_host("h2", state=HostState.CONNECTING)]
    )

    (decision,) = place(fleet, a_request())

    assert decision.summary == ("no host fits: 2 of 2 are not up (nearest: h2 does not answer yet)")


def test_without_hosts_the_summary_says_so() -> None:
    (decision,) = place(Fleet(), a_request())

    assert decision.summary == "no host fits: there are no hosts"
    assert no_capacity_error(decision).reasons == {}


def test_the_error_carries_the_count_of_each_reason() -> None:
    fleet = a_fleet([a_host("h1", cordoned=True), a_host("h2", claimed_vcpus=16)])
    (decision,) = place(fleet, a_request())

    error = no_capacity_error(decision)

    assert error.reasons == {"cordon": 1, "vcpus": 1}
    assert error.message == decision.summary
    assert error.metadata == {"instance_id": "ins-a", "host_count": "2"}


def test_a_filter_counts_only_hosts_that_passed_those_before() -> None:
    fleet = a_fleet([a_host("h1", cordoned=True, claimed_vcpus=16)])

    (decision,) = place(fleet, a_request())

    counts = {f.name: f.rejected_count for f in decision.filters}
    assert (counts["cordon"], counts["vcpus"]) == (1, 0)


def test_at_most_five_rejected_hosts_are_named() -> None:
    fleet = a_fleet([a_host(f"h{n}", cordoned=True) for n in range(8)])

    (decision,) = place(fleet, a_request())

    cordon = next(f for f in decision.filters if f.name == "cordon")
    assert (cordon.rejected_count, cordon.rejected_hosts) == (8, ("h0", "h1", "h2", "h3", "h4"))


def test_a_trait_no_host_has_is_explained() -> None:
    fleet = a_fleet([a_host("h1", traits=("CPU_X86_64", "KVM")), a_host("h2")])

    (decision,) = place(fleet, a_request(required_traits=("KVM", "GPU")))

    traits = next(f for f in decision.filters if f.name == "traits")
    assert traits.nearest_miss == "h1 lacks GPU"


def test_an_instance_that_asks_for_a_zone_goes_there_and_another_goes_anywhere() -> None:
    fleet = a_fleet([a_host("h1", zone="a"), a_host("h2", zone="b")])

    (asked,) = place(fleet.copy(), a_request(zone="b"))
    (nowhere,) = place(fleet.copy(), a_request(zone="c"))
    (anywhere,) = place(fleet, a_request())

    assert asked.host_name == "h2"
    assert nowhere.summary == (
        "no host fits: 2 of 2 are in another zone (nearest: h1 is in zone a)"
    )
    assert anywhere.host_name == "h1"


def test_who_asks_for_an_aggregate_goes_to_its_hosts_and_another_goes_anywhere() -> None:
    fast = (Membership("agg-1", "fast"),)
    fleet = a_fleet([a_host("h1"), a_host("h2", aggregates=fast), a_host("h3")])

    (asked,) = place(fleet.copy(), a_request(aggregate_id="agg-1"))
    (gone,) = place(fleet.copy(), a_request(aggregate_id="agg-2"))
    (anywhere,) = place(fleet, a_request())

    assert asked.host_name == "h2"
    assert gone.summary == "no host fits: 3 of 3 are outside its aggregate"
    assert anywhere.host_name == "h1"


def test_a_host_of_several_dedicated_aggregates_takes_whom_all_of_them_name() -> None:
    some = Membership("agg-1", "some", project_ids=("prj-a", "prj-b"))
    others = Membership("agg-2", "others", project_ids=("prj-b", "prj-c"))
    fleet = a_fleet([a_host("h1", aggregates=(some, others, Membership("agg-3", "open")))])

    placed = {
        project: place(fleet.copy(), a_request(project_id=project))[0]
        for project in ("prj-a", "prj-b", "prj-c", "")
    }

    assert {project for project, one in placed.items() if one.host_name} == {"prj-b"}
    assert placed["prj-a"].summary == (
        "no host fits: 1 of 1 is dedicated to others "
        "(nearest: h1 is dedicated to other projects by aggregate others, some)"
    )


def test_the_traits_of_its_aggregates_are_a_hosts_own() -> None:
    told = (Membership("agg-1", "fast", traits=("SSD", "GENERATION_3")),)
    fleet = a_fleet([a_host("h1"), a_host("h2", aggregates=told)])

    (required,) = place(fleet.copy(), a_request(required_traits=("CPU_X86_64", "GENERATION_3")))
    (forbidden,) = place(fleet.copy(), a_request(forbidden_traits=("SSD",)))
    fleet.upsert_host(a_host("h2"), RATIOS)
    (no_more,) = place(fleet, a_request(required_traits=("SSD",)))

    assert (required.host_name, forbidden.host_name, no_more.host_name) == ("h2", "h1", "")


def test_an_agent_cannot_put_its_host_into_a_zone_or_an_aggregate() -> None:
    forged = ("zone:b", "aggregate:agg-1", "project:prj-a", "CPU_X86_64")
    said = (Membership("agg-9", "lab", project_ids=("prj-b",)),)
    fleet = a_fleet([a_host("h1", traits=forged, aggregates=said)])

    for asked in ({"zone": "b"}, {"aggregate_id": "agg-1"}, {"project_id": "prj-a"}):
        (decision,) = place(fleet.copy(), a_request(**asked))
        assert decision.host_name == ""
    (trait,) = place(fleet, a_request(project_id="prj-b", required_traits=("CPU_X86_64",)))
    assert trait.host_name == "h1"


def test_a_host_whose_zone_changed_is_in_the_new_one_alone() -> None:
    fleet = a_fleet([a_host("h1", zone="a")])
    fleet.upsert_host(a_host("h1", zone="b"), RATIOS)

    (old,) = place(fleet.copy(), a_request(zone="a"))
    (new,) = place(fleet, a_request(zone="b"))

    assert (old.host_name, new.host_name) == ("", "h1")
    assert old.filters[3].nearest_miss == "h1 is in zone b"


def test_a_trait_that_no_host_has_is_forbidden_without_harm() -> None:
    (decision,) = place(a_fleet([a_host("h1")]), a_request(forbidden_traits=("GPU",)))

    assert decision.host_name == "h1"


def test_of_hosts_with_a_forbidden_trait_the_one_with_fewest_is_nearest() -> None:
    fleet = a_fleet([a_host("h1", traits=("GPU", "OLD")), a_host("h2", traits=("OLD",))])

    (decision,) = place(fleet, a_request(forbidden_traits=("GPU", "OLD")))

    assert decision.summary == ("no host fits: 2 of 2 have a forbidden trait (nearest: h2 has OLD)")


def test_a_host_with_more_of_the_preferred_traits_goes_first() -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2", traits=("SSD",)), a_host("h3", traits=("GPU",))])

    (decision,) = place(fleet, a_request(preferred_traits=("SSD", "FAST", "NONE_HAS")))

    shares = {c.host_name: {t.name: t for t in c.terms} for c in decision.candidates}
    terms = {name: of["preferred_traits"] for name, of in shares.items()}
    assert decision.host_name == "h2"
    assert {name: term.score for name, term in terms.items()} == {
        "h2": 65535 // 3,
        "h1": 0,
        "h3": 0,
    }
    assert {term.weight for term in terms.values()} == {WeightSettings().preferred_traits}
    assert decision.summary == "h2: best of 3 hosts that fit under spread"


def test_what_is_preferred_outweighs_spreading_and_no_load_gone_bad() -> None:
    fast, plain = a_host("h1", traits=("SSD",), claimed_vcpus=12), a_host("h2")
    fleet = a_fleet([fast, plain])
    loaded = fleet.copy()
    sample_for(loaded, {"hst-h1": a_usage(**LOADS["io"])}, from_s=102, until_s=120)

    (calm,) = place(fleet, a_request(preferred_traits=("SSD",)))
    (busy,) = place(loaded, a_request(preferred_traits=("SSD",)), now_s=121)

    assert (calm.host_name, busy.host_name) == ("h1", "h2")


def test_who_prefers_nothing_is_scored_without_that_term() -> None:
    (decision,) = place(a_fleet([a_host("h1")]), a_request())

    assert "preferred_traits" not in {t.name for t in decision.candidates[0].terms}


def test_a_host_with_the_traits_is_found_among_hundreds_of_traits() -> None:
    hosts = [a_host(f"h{n}", traits=tuple(f"T{n}_{k}" for k in range(20))) for n in range(9)]
    fleet = a_fleet(hosts)

    (decision,) = place(fleet, a_request(required_traits=("T7_3", "T7_19")))

    assert decision.host_name == "h7"


def test_the_winner_and_five_runners_up_are_kept_best_first() -> None:
    fleet = a_fleet([a_host(f"h{n}", claimed_vcpus=n) for n in range(9)])

    (decision,) = place(fleet, a_request())

    assert [c.host_name for c in decision.candidates] == ["h0", "h1", "h2", "h3", "h4", "h5"]
    totals = [c.total_score for c in decision.candidates]
    assert totals == sorted(totals, reverse=True)
    assert len(decision.candidates) == MAX_CANDIDATES


def test_a_candidates_total_is_the_weighted_mean_of_its_terms() -> None:
    fleet = a_fleet([a_host("h1", claimed_vcpus=5)])
    sample_for(fleet, {"hst-h1": a_usage(**LOADS["cpu"])}, from_s=102, until_s=110)

    (decision,) = place(fleet, a_request(), now_s=110)

    winner = decision.candidates[0]
    assert [t.name for t in winner.terms] == [
        "spread",
        "cpu_load",
        "cpu_wait",
        "memory_pressure",
        "io_pressure",
    ]
    weighted = sum(t.score * t.weight for t in winner.terms)
    assert winner.total_score == weighted // sum(t.weight for t in winner.terms)


def test_the_live_numbers_used_are_in_the_decision() -> None:
    fleet = a_fleet([a_host("h1")])
    sample_for(fleet, {"hst-h1": a_usage(**LOADS["io"])}, from_s=102, until_s=120)

    (decision,) = place(fleet, a_request(), now_s=121.5)

    inputs = decision.candidates[0].inputs
    assert inputs["io_pressure_ratio"] == 0.85
    assert inputs["sample_age_s"] == 1.5
    assert inputs["cpu_used_ratio"] == 0.025


def test_the_summary_names_a_host_passed_over_for_its_load() -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2")])
    sample_for(fleet, {"hst-h2": a_usage(**LOADS["io"])}, from_s=102, until_s=120)

    (decision,) = place(fleet, a_request(), now_s=121)

    assert decision.summary == (
        "h1: best of 2 hosts that fit under spread; loaded: h2 (io_pressure scores 0.00)"
    )


def test_the_summary_of_an_only_host_reads_well() -> None:
    (decision,) = place(a_fleet([a_host("h1")]), a_request())

    assert decision.summary == "h1: best of 1 host that fits under spread"


def test_a_decision_among_many_hosts_fits_into_its_row_with_all_runners_up() -> None:
    hosts = [a_host(f"host-{n:026}", cordoned=n % 3 == 0) for n in range(100)]
    fleet = a_fleet(hosts)
    uneven = a_usage(
        cpu_used_ratio=1 / 7,
        cpu_wait_cores=1 / 3,
        cpu_pressure_ratio=0.123456789,
        memory_pressure_ratio=1 / 9,
        io_pressure_ratio=1 / 13,
        memory_available_bytes=12_345_678_901,
    )
    sample_for(fleet, {host.id: uneven for host in hosts}, from_s=102, until_s=106)

    (decision,) = place(fleet, a_request("i" * 26), now_s=107)

    text = decisions.encode(decision)
    assert len(text.encode()) <= MAX_STORED_BYTES
    kept = decisions.decode(text)
    assert [c.host_name for c in kept.candidates] == [c.host_name for c in decision.candidates]
    assert len(kept.candidates) == 6


def test_claims_of_a_batch_are_seen_by_what_follows() -> None:
    fleet = a_fleet([a_host("h1", memory_bytes=2 * GIB)])

    decisions = place(fleet, a_request("a"), a_request("b"), a_request("c"))

    assert [d.host_name for d in decisions] == ["h1", "h1", ""]


def test_a_released_claim_can_be_had_again() -> None:
    fleet = a_fleet([a_host("h1", memory_bytes=GIB)])
    place(fleet, a_request("a"))
    fleet.release("hst-h1", 1, GIB, 10 * GIB, instance_id="ins-a")

    (decision,) = place(fleet, a_request("b"))

    assert decision.host_name == "h1"


def test_a_removed_host_is_not_chosen_and_the_others_keep_their_figures() -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2"), a_host("h3", claimed_vcpus=3)])
    fleet.remove_host("hst-h1")
    fleet.remove_host("hst-unheard-of")

    (decision,) = place(fleet, a_request())

    assert [c.host_name for c in decision.candidates] == ["h2", "h3"]
    assert "hst-h1" not in fleet


def test_a_copy_can_be_played_with_and_the_fleet_stays() -> None:
    fleet = a_fleet([a_host("h1")])
    before = place(fleet.copy(), a_request("a"), a_request("b"))
    place(fleet.copy(), a_request("c"))

    assert place(fleet, a_request("a"), a_request("b")) == before


def test_of_the_ratios_of_its_aggregates_the_smallest_counts() -> None:
    dense = Membership("agg-1", "dense", ratios=OwnRatios(cpu=8.0, memory=1.5))
    calm = Membership("agg-2", "calm", ratios=OwnRatios(cpu=6.0))
    host = a_host("h1", cpus=3, aggregates=(dense, calm))

    limits = claimable(host, AllocationRatios(vcpus=4.0, memory=1.0, disk=0.5))

    assert limits.vcpus == 18
    assert limits.memory_bytes == host.memory_bytes * 3 // 2
    assert limits.disk_bytes == host.disk_bytes // 2


def test_a_host_is_filled_up_to_the_ratios_of_its_aggregates() -> None:
    told = (Membership("agg-1", "calm", ratios=OwnRatios(cpu=1.0)),)
    fleet = a_fleet([a_host("h1", cpus=4, aggregates=told)])

    fits, does_not = place(fleet, a_request("a", vcpus=3), a_request("b", vcpus=2))

    assert (fits.host_name, does_not.host_name) == ("h1", "")
    assert does_not.summary == "no host fits: 1 of 1 lacks vCPUs (nearest: h1 lacks 1 vCPU)"


def test_what_may_be_claimed_follows_the_ratios() -> None:
    limits = claimable(a_host("h1", cpus=3), AllocationRatios(vcpus=1.5, memory=0.5, disk=2.0))

    assert (limits.vcpus, limits.memory_bytes, limits.disk_bytes) == (4, 8 * GIB, 400 * GIB)


@pytest.mark.parametrize(
    ("weights", "field"), [({"policy": 256}, "policy"), ({"io_pressure": -1}, "io")]
)
def test_a_weight_out_of_range_is_refused(weights: dict[str, int], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Weights(**{**WeightSettings().model_dump(), **weights})


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (512 * MIB, "512 MiB"),
        (GIB + GIB // 2, "1.5 GiB"),
        (100, "100 bytes"),
        (3 << 40, "3 TiB"),
        (2048, "2 KiB"),
    ],
)
def test_amounts_read_well(amount: int, text: str) -> None:
    assert format_bytes(amount) == text


def test_the_largest_host_that_is_believed_stops_no_decision_under_the_highest_ratios() -> None:
    most = {"cpus": MOST_CPUS, "memory_bytes": MOST_BYTES, "disk_bytes": MOST_BYTES}
    fleet = Fleet()
    for host in (a_host("h1", **most), a_host("h2")):
        fleet.upsert_host(host, AllocationRatios(vcpus=64.0, memory=4.0, disk=16.0))
        fleet.fold([(host.id, a_usage(), 100.0)])

    (decision,) = place(fleet, a_request("a"), now_s=101)

    assert {c.host_name for c in decision.candidates} == {"h1", "h2"}
