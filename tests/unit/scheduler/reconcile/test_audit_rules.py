"""What the audit finds, and what it may remove: only what a tombstone of the store covers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.builders import NOON, an_instance
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.machines import Machine, MachineState, Tombstone
from unkai_scheduler.reconcile.audit import AHEAD, MISSING, ORPHAN, UNCLAIMED, Report, examine

HOST, OTHER = "hst-1", "hst-2"


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
) -> Report:
    by_id: dict[str, list[Tombstone]] = {}
    for tombstone in known or []:
        by_id.setdefault(tombstone.instance_id, []).append(tombstone)
    return examine(
        machines, buried or [], frozenset({HOST}), {row.id: row for row in rows or []}, by_id
    )


def test_what_is_claimed_and_held_is_in_order() -> None:
    row = a_row()

    assert audit([a_machine(row.id)], [row]) == Report()


def test_a_machine_the_database_never_heard_of_is_an_orphan_and_kept() -> None:
    report = audit([a_machine("ins-x")])

    assert [f.kind for f in report.findings] == [ORPHAN]
    assert report.removals == ()


def test_a_machine_on_a_host_that_does_not_claim_it_is_kept_without_a_tombstone() -> None:
    row = a_row(host_id=OTHER)

    report = audit([a_machine(row.id)], [row])

    assert [f.kind for f in report.findings] == [UNCLAIMED]
    assert report.removals == ()


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

    assert [f.kind for f in report.findings] == [ORPHAN]
    assert report.removals == ()


def test_a_tombstone_never_removes_what_the_host_claims() -> None:
    row = a_row()

    report = audit([a_machine(row.id)], [row], [Tombstone(row.id, HOST, 9, 9, NOON)])

    assert report.removals == ()


def test_a_claim_that_its_host_does_not_hold_is_found_once_it_should_be_there() -> None:
    assert [f.kind for f in audit([], [a_row()]).findings] == [MISSING]
    assert audit([], [a_row(state=InstanceState.PROVISIONING)]).findings == ()
    assert audit([], [a_row(operation_id="opr-1")]).findings == ()
    assert audit([], [a_row(host_id=OTHER)]).findings == (), "that host is not in sync"


def test_a_machine_newer_than_the_database_is_found() -> None:
    row = a_row()

    assert [f.kind for f in audit([a_machine(row.id, generation=7)], [row]).findings] == [AHEAD]


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
