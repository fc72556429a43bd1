"""What `next_action` answers, case by case."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.builders import NOON, an_instance, an_operation
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import Instance, InstanceState, Power
from unkai_scheduler.domain.machines import Machine, MachineState, Tombstone
from unkai_scheduler.domain.operations import Operation, OperationState, Verb
from unkai_scheduler.reconcile.actions import (
    Action,
    Ensure,
    Fail,
    Finish,
    Forget,
    Place,
    Release,
    Remove,
    Rules,
    Settle,
    Wait,
    backoff,
)
from unkai_scheduler.reconcile.cases import Holder, excluded
from unkai_scheduler.reconcile.instances import next_action
from unkai_wire.errors import FailedPrecondition, Unavailable

S, M = InstanceState, MachineState
HOST = "hst-1"
H7 = Holder("hst-7", "h7")
ON_HOST: dict[str, Any] = {"host_id": HOST, "host_name": "h1"}
LONG_AGO = NOON - timedelta(hours=1)
DISK_FULL = FailedPrecondition("the disk is full", reason="DISK_FULL").to_record()
PASSING = Unavailable("the image cannot be fetched", reason="IMAGE_SOURCE").to_record()


def a_machine(instance: Instance, state: MachineState = M.RUNNING, **changes: Any) -> Machine:
    base = Machine(
        instance_id=instance.id,
        host_id=HOST,
        generation=instance.generation,
        observed_generation=instance.generation,
        run_epoch=instance.run_epoch,
        state=state,
        reboot_serial=instance.reboot_serial,
    )
    return replace(base, **changes)


def a_tombstone(instance: Instance, **changes: Any) -> Tombstone:
    base = Tombstone(instance.id, HOST, instance.generation, instance.run_epoch, NOON)
    return replace(base, **changes)


def decide(
    instance: Instance,
    operation: Operation | None = None,
    machine: Machine | None = None,
    tombstone: Tombstone | None = None,
    *,
    host: HostState | None = HostState.UP,
    **more: Any,
) -> Action:
    return next_action(instance, operation, machine, tombstone, host_state=host, now=NOON, **more)


def placed(**changes: Any) -> Instance:
    return an_instance(**{**ON_HOST, **changes})


def settled(state: InstanceState = S.RUNNING, **changes: Any) -> Instance:
    return placed(state=state, has_run=True, **changes)


class TestCreate:
    def test_what_no_host_claims_is_placed(self) -> None:
        assert isinstance(decide(an_instance(), an_operation(), host=None), Place)

    def test_what_a_host_holds_is_placed_nowhere_and_says_how_to_take_it_back(self) -> None:
        row = an_instance()

        action = decide(row, an_operation(), host=None, held_by=[H7])

        assert isinstance(action, Wait)
        assert action.instance.due_time is not None
        reason = action.instance.state_reason or {}
        assert reason["reason"] == "MACHINE_HELD"
        assert "h7" in reason["message"]
        assert f"unkai instance adopt {row.id}" in reason["fix"]
        assert action.operation is not None
        assert row.id in action.operation.progress_message
        assert isinstance(decide(action.instance, an_operation(), host=None), Wait)
        later = replace(action.instance, due_time=NOON)
        let_go = decide(later, an_operation(), host=None)
        assert isinstance(let_go, Settle)
        assert let_go.instance.state_reason is None
        assert isinstance(decide(let_go.instance, an_operation(), host=None), Place)

    def test_what_another_host_holds_is_not_made_on_the_claiming_one(self) -> None:
        row = placed()

        action = decide(row, an_operation(), held_by=[H7])

        assert isinstance(action, Wait)
        assert "cancel" in (action.instance.state_reason or {})["fix"]
        cancelled = an_operation(cancel_requested_time=NOON)
        assert isinstance(decide(action.instance, cancelled, held_by=[H7]), Wait | Remove)
        gone = decide(action.instance, cancelled, None, a_tombstone(row), held_by=[H7])
        assert isinstance(gone, Fail)

    def test_what_another_host_says_holds_up_no_machine_that_is_there(self) -> None:
        row, was = placed(), settled()
        operation = an_operation()
        for machine in (a_machine(row, M.CONVERGING), a_machine(row)):
            action = decide(row, operation, machine, held_by=[H7])
            assert action == decide(row, operation, machine)
        assert isinstance(decide(was, None, held_by=[H7]), Ensure), "its disk must exist"

    def test_a_claim_without_a_machine_is_ordered(self) -> None:
        action = decide(placed(), an_operation())

        assert isinstance(action, Ensure)
        assert action.instance.attempt == 1
        assert action.instance.due_time is not None
        assert action.instance.due_time > NOON

    def test_an_order_under_way_is_not_repeated_before_it_is_due(self) -> None:
        row = placed(due_time=NOON + timedelta(seconds=1))

        assert isinstance(decide(row, an_operation()), Wait)

    def test_running_finishes_it_and_its_disk_must_exist_from_then_on(self) -> None:
        row = placed()

        action = decide(row, an_operation(), a_machine(row, start_time=NOON, accelerator="kvm"))

        assert isinstance(action, Finish)
        assert action.operation is not None
        assert action.operation.state is OperationState.SUCCEEDED
        assert action.operation.progress_percent == 100
        assert action.instance.has_run
        assert action.instance.accelerator == "kvm"

    def test_a_guest_that_is_off_again_before_we_looked_has_run(self) -> None:
        row = placed()
        machine = a_machine(row, M.STOPPED, guest_shutdown=True)

        action = decide(row, an_operation(), machine)

        assert isinstance(action, Finish)
        assert action.instance.has_run
        assert (action.instance.state, action.instance.desired_power) == (S.STOPPED, Power.OFF)
        assert action.instance.generation == row.generation + 1

    def test_a_failure_before_the_first_run_leaves_the_host(self) -> None:
        row = placed()
        marked = decide(row, an_operation(), a_machine(row, M.FAILED, error=DISK_FULL))
        assert isinstance(marked, Settle)

        removal = decide(marked.instance, an_operation(), a_machine(row, M.FAILED))
        assert isinstance(removal, Remove)

        release = decide(removal.instance, an_operation(), None, a_tombstone(row))
        assert isinstance(release, Release)
        assert release.instance.host_id == ""
        assert release.instance.run_epoch == row.run_epoch + 1

    def test_a_passing_failure_is_left_to_the_host_for_a_while(self) -> None:
        row = placed()
        machine = a_machine(row, M.FAILED, error=PASSING, retry_time=NOON)

        assert isinstance(decide(row, an_operation(), machine), Wait)
        impatient = decide(replace(row, attempt=8), an_operation(), machine)
        assert isinstance(impatient, Settle)
        assert impatient.instance.state_reason == excluded(PASSING, HOST)

    def test_a_host_that_gave_up_for_a_passing_reason_is_asked_again(self) -> None:
        row = placed(attempt=1)
        machine = a_machine(row, M.FAILED, error=PASSING)

        assert isinstance(decide(row, an_operation(), machine), Ensure)

    def test_three_hosts_that_failed_it_are_enough(self) -> None:
        row = an_instance(state_reason=DISK_FULL)

        action = decide(row, an_operation(), host=None, failed_hosts=("a", "b", "c"))

        assert isinstance(action, Fail)
        assert action.instance.state is S.FAILED
        assert action.operation is not None
        assert action.operation.error == DISK_FULL

    def test_a_cancelled_create_without_a_claim_fails_at_once(self) -> None:
        operation = an_operation(cancel_requested_time=NOON)

        action = decide(an_instance(), operation, host=None)

        assert isinstance(action, Fail)
        assert action.operation is not None
        assert action.operation.state is OperationState.CANCELLED

    @pytest.mark.parametrize("operation", [None, an_operation(deadline_time=NOON)])
    @pytest.mark.parametrize(
        "told",
        [
            {"state": M.RUNNING, "start_time": LONG_AGO},
            {"state": M.RUNNING, "start_time": NOON + timedelta(minutes=30)},  # its clock is ahead
            {"state": M.STOPPED, "start_time": LONG_AGO},
            {"state": M.AWAITING_PERMIT, "start_time": LONG_AGO},
            {"state": M.FAILED, "start_time": LONG_AGO},
            {"state": M.STOPPED, "generation": 7, "observed_generation": 7},
        ],
    )
    def test_a_guest_that_a_restored_database_takes_for_a_late_create_is_kept(
        self, operation: Operation | None, told: dict[str, Any]
    ) -> None:
        row = placed()
        for _ in range(4):
            action = decide(row, operation, a_machine(placed(), **told))
            assert not isinstance(action, Remove | Fail | Forget | Release), action
            row, operation = action.instance, action.operation

    def test_an_unanswered_cancel_of_a_restored_database_removes_no_newer_guest(self) -> None:
        row, operation = placed(), an_operation(cancel_requested_time=NOON)
        machine = a_machine(row, generation=7, observed_generation=7)
        for _ in range(4):
            action = decide(row, operation, machine)
            assert not isinstance(action, Remove | Fail | Forget | Release), action
            row = action.instance
            operation = action.operation

    def test_a_cancelled_create_is_removed_first(self) -> None:
        row, operation = placed(), an_operation(cancel_requested_time=NOON)

        assert isinstance(decide(row, operation, a_machine(row, M.CONVERGING)), Remove)
        done = decide(row, operation, None, a_tombstone(row))
        assert isinstance(done, Fail)
        assert done.tombstone is not None

    def test_a_create_out_of_time_ends_its_operation_while_its_host_is_silent(self) -> None:
        row, late = placed(), an_operation(deadline_time=NOON)

        action = decide(row, late, host=HostState.UNKNOWN)

        assert isinstance(action, Wait)
        assert action.operation is not None
        assert action.operation.state is OperationState.FAILED
        later = replace(action.instance, due_time=NOON)
        assert isinstance(decide(later, None, a_machine(row), host=HostState.UP), Remove)


class TestHost:
    @pytest.mark.parametrize("state", [S.RUNNING, S.STOPPED, S.STARTING, S.AWAITING_PERMIT])
    def test_a_silent_host_makes_it_unknown(self, state: InstanceState) -> None:
        action = decide(settled(state), host=HostState.UNKNOWN)

        assert isinstance(action, Settle)
        assert action.instance.state is S.UNKNOWN
        assert action.instance.state_reason is not None
        assert action.instance.state_reason["reason"] == "HOST_UNREACHABLE"

    @pytest.mark.parametrize("state", [S.LOST, S.DELETED_ON_HOST])
    def test_what_is_gone_for_good_stays_so_when_its_host_is_silent(
        self, state: InstanceState
    ) -> None:
        assert decide(settled(state), host=HostState.UNKNOWN).instance.state is state

    def test_a_host_that_is_connecting_changes_nothing(self) -> None:
        row = settled()

        action = decide(row, host=HostState.CONNECTING)

        assert isinstance(action, Wait)
        assert action.instance == row

    def test_a_host_that_has_lost_the_machine_is_told_that_its_disk_must_exist(self) -> None:
        action = decide(settled())

        assert isinstance(action, Ensure)
        assert action.instance.has_run

    def test_a_host_that_holds_an_older_run_epoch_gets_the_new_order(self) -> None:
        row = settled(run_epoch=3)

        assert isinstance(decide(row, None, a_machine(row, run_epoch=2)), Ensure)

    @pytest.mark.parametrize(
        ("state", "wants_power", "power"),
        [
            (M.STOPPED, None, Power.OFF),
            (M.STOPPED, False, Power.OFF),
            (M.STOPPED, True, Power.ON),
            (M.RUNNING, None, Power.ON),
            (M.RUNNING, True, Power.ON),
            (M.STOPPING, False, Power.OFF),
        ],
    )
    def test_what_a_host_ahead_was_last_told_is_taken_over_and_nothing_is_ordered(
        self, state: M, wants_power: bool | None, power: Power
    ) -> None:
        row = settled(S.UNKNOWN, generation=2, run_epoch=1, desired_power=Power.OFF)
        machine = a_machine(row, state, generation=9, observed_generation=9, run_epoch=3)
        machine = replace(machine, wants_power=wants_power, reboot_serial=4)

        action = decide(row, None, machine)

        assert isinstance(action, Settle)
        assert action.instance.state.value == state.value
        assert (action.instance.generation, action.instance.run_epoch) == (9, 3)
        assert action.instance.reboot_serial == 4
        assert action.instance.desired_power is power
        if (state, power) in {(M.STOPPED, Power.OFF), (M.RUNNING, Power.ON)}:
            assert isinstance(decide(action.instance, None, machine), Settle), "it stays so"

    @pytest.mark.parametrize("power", list(Power))
    def test_a_host_ahead_that_asks_whether_to_run_is_answered(self, power: Power) -> None:
        row = settled(generation=2, run_epoch=1, desired_power=power)
        machine = a_machine(row, M.AWAITING_PERMIT, generation=9, run_epoch=4)

        overtaken = decide(row, None, machine)

        assert isinstance(overtaken, Settle)
        assert (overtaken.instance.generation, overtaken.instance.run_epoch) == (10, 4)
        # Only what shall run asks; that the user wished so is newer than the backup.
        assert overtaken.instance.desired_power is Power.ON
        assert isinstance(decide(overtaken.instance, None, machine), Ensure)

    @pytest.mark.parametrize("verb", [Verb.STOP, Verb.DELETE])
    def test_a_host_ahead_is_overtaken_when_the_user_asks(self, verb: Verb) -> None:
        deleting = verb is Verb.DELETE
        row = settled(generation=2, run_epoch=1, delete_requested=deleting)
        if deleting:
            row = replace(row, state=S.DELETING)

        action = decide(row, an_operation(verb=verb), a_machine(row, generation=9, run_epoch=4))

        assert isinstance(action, Settle)
        assert (action.instance.generation, action.instance.run_epoch) == (10, 4)

    def test_a_tombstone_we_did_not_ask_for_is_reported(self) -> None:
        row = settled()

        action = decide(row, None, None, a_tombstone(row))

        assert action.instance.state is S.DELETED_ON_HOST

    def test_an_older_tombstone_does_not_keep_the_machine_from_being(self) -> None:
        row = settled(generation=3, run_epoch=2)

        assert isinstance(decide(row, None, None, a_tombstone(row, generation=2)), Ensure)


class TestPower:
    @pytest.mark.parametrize(
        ("verb", "power", "machine_state", "ends"),
        [
            (Verb.START, Power.ON, M.RUNNING, S.RUNNING),
            (Verb.STOP, Power.OFF, M.STOPPED, S.STOPPED),
            (Verb.REBOOT, Power.ON, M.RUNNING, S.RUNNING),
        ],
    )
    def test_it_ends_when_the_machine_has_reached_our_generation(
        self, verb: Verb, power: Power, machine_state: MachineState, ends: InstanceState
    ) -> None:
        row = settled(S.STOPPING, desired_power=power, generation=4, reboot_serial=1)
        operation = an_operation(verb=verb)

        early = decide(row, operation, a_machine(row, machine_state, observed_generation=3))
        done = decide(row, operation, a_machine(row, machine_state))

        assert not isinstance(early, Finish)
        assert isinstance(done, Finish)
        assert done.instance.state is ends

    def test_a_reboot_is_not_done_before_its_serial_is(self) -> None:
        row = settled(reboot_serial=2)

        action = decide(row, an_operation(verb=Verb.REBOOT), a_machine(row, reboot_serial=1))

        assert not isinstance(action, Finish)
        assert action.instance.state is S.REBOOTING

    def test_a_start_that_fails_is_undone(self) -> None:
        row = settled(S.STARTING, generation=3)
        machine = a_machine(row, M.FAILED, error=DISK_FULL)

        action = decide(row, an_operation(verb=Verb.START), machine)

        assert action.operation is not None
        assert action.operation.error == DISK_FULL
        assert action.instance.desired_power is Power.OFF
        assert action.instance.generation == 4

    def test_a_cancelled_start_is_undone(self) -> None:
        row = settled(S.STARTING)
        operation = an_operation(verb=Verb.START, cancel_requested_time=NOON)

        action = decide(row, operation, a_machine(row, M.CONVERGING, observed_generation=0))

        assert action.operation is not None
        assert action.operation.state is OperationState.CANCELLED
        assert action.instance.desired_power is Power.OFF

    def test_a_crash_is_permitted_at_once_the_first_time_and_later_with_backoff(self) -> None:
        row = settled(start_time=NOON - timedelta(seconds=5))
        machine = a_machine(row, M.AWAITING_PERMIT)

        first = decide(row, None, machine)
        again = decide(replace(row, attempt=3), None, machine)
        long_ago = NOON - timedelta(seconds=900)
        steady = replace(row, attempt=3, start_time=long_ago, update_time=long_ago)

        assert isinstance(first, Ensure)
        assert isinstance(again, Settle)
        assert again.instance.due_time is not None
        assert again.instance.due_time > NOON
        assert isinstance(decide(steady, None, machine), Ensure)

    def test_lost_ends_the_operation_and_orders_nothing(self) -> None:
        row = settled(S.STARTING)

        action = decide(row, an_operation(verb=Verb.START), a_machine(row, M.LOST))

        assert action.instance.state is S.LOST
        assert action.operation is not None
        assert action.operation.state is OperationState.FAILED

    def test_a_host_whose_clock_is_late_does_not_spare_a_crash_its_wait(self) -> None:
        late = NOON - timedelta(hours=1)
        row = settled(start_time=late, update_time=NOON - timedelta(seconds=2), attempt=3)

        action = decide(row, None, a_machine(row, M.AWAITING_PERMIT))

        assert isinstance(action, Settle)
        assert action.instance.due_time is not None
        assert action.instance.due_time > NOON

    def test_a_reboot_asked_of_a_restored_database_is_done(self) -> None:
        row = settled(reboot_serial=2)
        machine = a_machine(row, generation=9, observed_generation=9, reboot_serial=5)

        asked = decide(row, an_operation(verb=Verb.REBOOT), machine)
        later = decide(row, an_operation(verb=Verb.STOP), machine)

        assert asked.instance.reboot_serial == 6
        assert later.instance.reboot_serial == 5


class TestDelete:
    def deleting(self, **changes: Any) -> Instance:
        return settled(S.DELETING, delete_requested=True, generation=2, **changes)

    def test_what_was_never_placed_is_forgotten_at_once(self) -> None:
        row = an_instance(state=S.DELETING, delete_requested=True)

        action = decide(row, an_operation(verb=Verb.DELETE), host=None)

        assert isinstance(action, Forget)
        assert action.operation is not None
        assert action.operation.state is OperationState.SUCCEEDED

    def test_the_host_removes_it_first(self) -> None:
        row = self.deleting()

        assert isinstance(decide(row, an_operation(verb=Verb.DELETE), a_machine(row)), Remove)

    def test_only_a_tombstone_that_covers_it_lets_it_be_forgotten(self) -> None:
        row, operation = self.deleting(run_epoch=2), an_operation(verb=Verb.DELETE)

        old = decide(row, operation, None, a_tombstone(row, generation=1))
        other = decide(row, operation, None, a_tombstone(row, run_epoch=1))
        covers = decide(row, operation, None, a_tombstone(row))

        assert isinstance(old, Remove)
        assert isinstance(other, Remove)
        assert isinstance(covers, Forget)
        assert covers.tombstone is not None

    @pytest.mark.parametrize("host", [HostState.UNKNOWN, HostState.CONNECTING, None])
    def test_a_silent_host_makes_it_wait_whatever_it_said_before(
        self, host: HostState | None
    ) -> None:
        row = self.deleting()

        action = decide(row, an_operation(verb=Verb.DELETE), None, a_tombstone(row), host=host)

        assert isinstance(action, Wait)
        assert action.operation is not None
        assert "silent" in action.operation.progress_message


class TestAbsurdHost:
    """A host that names numbers which no database can have given: nobody follows it there."""

    @pytest.mark.parametrize("field", ["generation", "run_epoch", "reboot_serial"])
    @pytest.mark.parametrize("state", [M.AWAITING_PERMIT, M.RUNNING, M.FAILED])
    @pytest.mark.parametrize("deletes", [True, False])
    def test_its_numbers_are_not_overtaken(
        self, field: str, state: MachineState, deletes: bool
    ) -> None:
        row = settled(S.DELETING, delete_requested=True) if deletes else settled()
        operation = an_operation(verb=Verb.DELETE) if deletes else None
        machine = a_machine(row, state, **{field: (1 << 63) - 1})

        action = decide(row, operation, machine)

        assert isinstance(action, Wait)
        assert (action.instance.generation, action.instance.run_epoch) == (
            row.generation,
            row.run_epoch,
        )

    def test_a_restored_database_is_behind_by_less(self) -> None:
        row = settled(S.DELETING, delete_requested=True)
        machine = a_machine(row, generation=1_000_000)

        action = decide(row, an_operation(verb=Verb.DELETE), machine)

        assert action.instance.generation == 1_000_001


def test_backoff_grows_to_its_cap_and_spreads_a_crowd() -> None:
    rules = Rules(backoff_base_s=1.0, backoff_cap_s=30.0)

    waits = [backoff(rules, "ins-1", attempt).total_seconds() for attempt in range(20)]
    crowd = {backoff(rules, f"ins-{n}", 3) for n in range(100)}

    assert waits[0] < 1.3
    assert max(waits) <= 37.5
    assert waits[-1] >= 22.5
    assert len(crowd) > 90
