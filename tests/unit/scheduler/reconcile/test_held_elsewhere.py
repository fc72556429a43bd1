"""What `next_action` answers while hosts hold machines of an instance without a claim."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders import NOON, an_instance, an_operation
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.domain.operations import Operation, Verb
from unkai_scheduler.reconcile.actions import Action, Forget, Reclaim, Release, Wait
from unkai_scheduler.reconcile.cases import Holder, excluded
from unkai_scheduler.reconcile.instances import next_action
from unkai_wire.errors import FailedPrecondition

S = InstanceState
HOST = "hst-1"
H7 = Holder("hst-7", "h7")
DISK_FULL = FailedPrecondition("the disk is full", reason="DISK_FULL").to_record()


def placed(**changes: Any) -> Instance:
    return an_instance(host_id=HOST, host_name="h1", **changes)


def host_of(row: Instance) -> HostState | None:
    return HostState.UP if row.host_id else None


def a_tombstone(row: Instance) -> Tombstone:
    return Tombstone(row.id, HOST, row.generation, row.run_epoch, NOON)


def decide(
    row: Instance,
    operation: Operation | None,
    tombstone: Tombstone | None = None,
    **more: Any,
) -> Action:
    return next_action(row, operation, None, tombstone, host_state=host_of(row), now=NOON, **more)


@pytest.mark.parametrize("is_claimed", [False, True])
def test_what_a_silent_host_holds_is_not_said_to_be_adoptable_now(is_claimed: bool) -> None:
    row = placed() if is_claimed else an_instance()
    silent, other = replace(H7, speaks=False), Holder("hst-8", "h8")
    fixes = []
    for held_by in ([silent], [silent, other], [H7, other]):
        action = decide(row, an_operation(), held_by=held_by)
        fixes.append((action.instance.state_reason or {})["fix"])

    assert all(fix.startswith("cancel the operation") == is_claimed for fix in fixes)
    assert "bring host h7 back" in fixes[0]
    assert "refused until then" in fixes[0]
    assert f"'unkai instance adopt {row.id}' takes it" in fixes[1]
    assert "hosts h7, h8" in fixes[2]
    assert "--host HOST" in fixes[2]


def test_why_a_host_failed_it_is_not_forgotten_while_another_holds_it() -> None:
    row = an_instance(state_reason=excluded(DISK_FULL, HOST))

    action = decide(row, an_operation(), failed_hosts=[HOST], held_by=[H7])

    assert isinstance(action, Wait)
    assert action.instance.state_reason == row.state_reason
    assert action.operation is not None
    assert "host h7 holds a machine of it" in action.operation.progress_message


def test_what_hosts_hold_without_a_claim_is_claimed_for_one_that_speaks() -> None:
    row = an_instance(state=S.DELETING, delete_requested=True)
    silent = Holder("hst-2", "h2", speaks=False)

    action = decide(row, an_operation(verb=Verb.DELETE), held_by=[silent, H7])

    assert isinstance(action, Reclaim)
    assert (action.instance.host_id, action.instance.host_name) == ("hst-7", "h7")
    assert isinstance(decide(row, None, held_by=[silent]), Reclaim)


def test_what_a_host_without_a_row_holds_is_not_forgotten() -> None:
    row = an_instance(state=S.DELETING, delete_requested=True)
    stranger = replace(H7, is_written=False)

    action = decide(row, an_operation(verb=Verb.DELETE), held_by=[stranger])

    assert isinstance(action, Wait)
    assert action.operation is not None
    assert "h7" in action.operation.progress_message


def test_what_never_ran_is_removed_from_each_host_that_holds_it() -> None:
    row = placed(state=S.DELETING, delete_requested=True)
    operation = an_operation(verb=Verb.DELETE)

    action = decide(row, operation, a_tombstone(row), held_by=[H7])

    assert isinstance(action, Release)
    assert action.operation is not None
    assert not action.operation.state.ended
    assert action.instance.host_id == ""
    ran = replace(row, has_run=True)
    assert isinstance(decide(ran, operation, a_tombstone(ran), held_by=[H7]), Forget)
