"""What the audit finds, and what it may remove: only what a tombstone of the store covers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.builders import NOON, a_host, an_instance
from unkai_scheduler.domain.aggregates import Membership, OwnRatios
from unkai_scheduler.domain.findings import FindingKind, Remedy
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.machines import Machine, MachineState, Tombstone
from unkai_scheduler.reconcile.findings import Books, Report, examine

HOST, OTHER = "hst-1", "hst-2"
K = FindingKind


def a_machine(ident: str, *, generation: int = 3, run_epoch: int = 2) -> Machine:
    return Machine(ident, HOST, generation, generation, run_epoch, MachineState.RUNNING, name="vm")


def a_row(**changes: object) -> Instance:
    base = an_instance(host_id=HOST, state=InstanceState.RUNNING, generation=3, run_epoch=2)
    return replace(base, **changes)  # type: ignore[arg-type]


def audit(
    machines: list[Machine],
    rows: list[Instance] | None = None,
    known: list[Tombstone] | None = None,
    buried: list[Tombstone] | None = None,
    hosts: list[Host] | None = None,
) -> Report:
    by_id: dict[str, list[Tombstone]] = {}
    for tombstone in known or []:
        by_id.setdefault(tombstone.instance_id, []).append(tombstone)
    return examine(
        Books(
            machines,
            buried or [],
            frozenset({HOST}),
            {row.id: row for row in rows or []},
            by_id,
            {host.id: host for host in hosts or []},
        )
    )


def test_what_is_claimed_and_held_is_in_order() -> None:
    row = a_row()

    assert audit([a_machine(row.id)], [row]) == Report()


def test_a_machine_the_database_never_heard_of_is_an_orphan_and_kept() -> None:
    report = audit([a_machine("ins-x")])

    assert [f.kind for f in report.findings] == [K.ORPHAN]
    assert report.removals == ()


def test_a_machine_on_a_host_that_does_not_claim_it_is_kept_without_a_tombstone() -> None:
    row = a_row(host_id=OTHER)

    report = audit([a_machine(row.id)], [row])

    assert [f.kind for f in report.findings] == [K.UNCLAIMED_MACHINE]
    assert report.removals == ()


@pytest.mark.parametrize(
    ("state", "deleting", "kind"),
    [
        (InstanceState.FAILED, False, K.ORPHAN),
        (InstanceState.PROVISIONING, False, K.ORPHAN),
        (InstanceState.FAILED, True, K.UNCLAIMED_MACHINE),
        (InstanceState.DELETING, True, K.UNCLAIMED_MACHINE),
    ],
)
def test_a_machine_of_an_instance_on_no_host_is_offered_unless_it_is_being_deleted(
    state: InstanceState, deleting: bool, kind: K
) -> None:
    row = a_row(host_id="", state=state, delete_requested=deleting)

    (finding,) = audit([a_machine(row.id)], [row]).findings

    assert finding.kind is kind
    assert ("unkai instance adopt" in finding.fix) is (kind is K.ORPHAN)


@pytest.mark.parametrize(
    ("generation", "run_epoch", "may_go"),
    [(3, 2, True), (9, 9, True), (2, 2, False), (3, 1, False), (2, 9, False)],
)
def test_only_a_tombstone_at_or_above_generation_and_run_epoch_removes_it(
    generation: int, run_epoch: int, may_go: bool
) -> None:
    row, machine = a_row(host_id=OTHER), a_machine("ins-x")
    machine = replace(machine, instance_id=row.id)
    known = [Tombstone(row.id, HOST, generation, run_epoch, NOON)]

    report = audit([machine], [row], known)

    assert bool(report.removals) is may_go
    assert bool(report.findings) is not may_go


def test_a_tombstone_of_another_instance_removes_nothing() -> None:
    report = audit([a_machine("ins-x")], known=[Tombstone("ins-y", HOST, 9, 9, NOON)])

    assert report.removals == ()


def test_what_another_host_says_it_removed_is_no_leave_to_remove_it_here() -> None:
    report = audit([a_machine("ins-x")], known=[Tombstone("ins-x", OTHER, 9, 9, NOON)])

    assert [f.kind for f in report.findings] == [K.ORPHAN]
    assert report.removals == ()


def test_a_tombstone_never_removes_what_the_host_claims() -> None:
    row = a_row()

    report = audit([a_machine(row.id)], [row], [Tombstone(row.id, HOST, 9, 9, NOON)])

    assert report.removals == ()


def test_a_claim_that_its_host_does_not_hold_is_found_once_it_should_be_there() -> None:
    assert [f.kind for f in audit([], [a_row()]).findings] == [K.CLAIM_WITHOUT_MACHINE]
    assert audit([], [a_row(state=InstanceState.PROVISIONING)]).findings == ()
    assert audit([], [a_row(operation_id="opr-1")]).findings == ()
    assert audit([], [a_row(host_id=OTHER)]).findings == (), "that host is not in sync"


def test_a_machine_newer_than_the_database_is_found() -> None:
    row = a_row()

    assert [f.kind for f in audit([a_machine(row.id, generation=7)], [row]).findings] == [
        K.MACHINE_AHEAD
    ]


def test_tombstones_are_recorded_before_they_are_acknowledged() -> None:
    known = Tombstone("ins-a", HOST, 3, 1, NOON)
    new = Tombstone("ins-b", HOST, 3, 1, NOON)

    report = audit([], known=[known], buried=[known, new])

    assert report.recorded == (known,)
    assert report.unrecorded == (new,)


def test_the_tombstone_of_a_claim_is_left_to_the_instance() -> None:
    row = a_row()

    report = audit([], [row], buried=[Tombstone(row.id, HOST, 3, 2, NOON)])

    assert report == Report()


@pytest.mark.parametrize(
    ("machine", "row", "kind", "remedy"),
    [
        ({"generation": 2}, {}, K.MACHINE_BEHIND, Remedy.LEADER),
        ({"run_epoch": 1}, {}, K.MACHINE_BEHIND, Remedy.LEADER),
        ({"generation": 4}, {}, K.MACHINE_AHEAD, Remedy.LEADER),
        ({"generation": 1 << 40}, {}, K.MACHINE_AHEAD, Remedy.OPERATOR),
        ({"state": MachineState.STOPPED}, {}, K.STATE_MISMATCH, Remedy.LEADER),
        ({"vcpus": 2}, {}, K.SPEC_MISMATCH, Remedy.OPERATOR),
        ({"memory_bytes": 1 << 20}, {}, K.SPEC_MISMATCH, Remedy.OPERATOR),
        ({"disk_bytes": 1 << 20}, {}, K.SPEC_MISMATCH, Remedy.OPERATOR),
        ({}, {"state": InstanceState.LOST}, K.LOST, Remedy.OPERATOR),
        ({}, {"state": InstanceState.DELETED_ON_HOST}, K.DELETED_ON_HOST, Remedy.OPERATOR),
    ],
)
def test_drift_says_whose_turn_it_is(
    machine: dict[str, object], row: dict[str, object], kind: FindingKind, remedy: Remedy
) -> None:
    instance = a_row(**row)
    held = replace(a_machine(instance.id), **machine)  # type: ignore[arg-type]

    (finding,) = audit([held], [instance]).findings

    assert (finding.kind, finding.remedy) == (kind, remedy)
    assert finding.fix
    assert finding.instance_id == instance.id


@pytest.mark.parametrize("row", [{"operation_id": "opr-1"}, {"state": InstanceState.PROVISIONING}])
def test_an_instance_that_is_at_work_does_not_drift(row: dict[str, object]) -> None:
    instance = a_row(**row)
    machine = replace(a_machine(instance.id, generation=2), state=MachineState.STOPPED)

    assert audit([machine], [instance]).findings == ()


def test_an_orphan_on_two_hosts_names_the_other_and_how_to_choose() -> None:
    machine = a_machine("ins-x")
    here, there = audit([machine, replace(machine, host_id=OTHER)]).findings

    assert OTHER in here.message
    assert "--host" in here.fix
    assert HOST in there.message


def test_the_ratios_of_a_hosts_aggregates_say_what_is_too_much() -> None:
    told = (Membership("agg-1", "dense", ratios=OwnRatios(cpu=6.0)),)
    full = a_host(id=HOST, cpus=2, claimed_vcpus=12, aggregates=told)
    over = a_host(id=OTHER, cpus=2, claimed_vcpus=13, aggregates=told)

    report = audit([], hosts=[full, over])

    assert [(f.kind, f.host_id) for f in report.findings] == [(K.HOST_OVERSOLD, OTHER)]


def test_a_host_is_oversold_when_its_claims_exceed_what_its_ratios_allow() -> None:
    full = a_host(id=HOST, cpus=2, claimed_vcpus=8)
    over = a_host(id=OTHER, cpus=2, claimed_vcpus=9)

    report = audit([], hosts=[full, over])

    assert [(f.kind, f.host_id) for f in report.findings] == [(K.HOST_OVERSOLD, OTHER)]
