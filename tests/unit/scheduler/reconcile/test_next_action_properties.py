"""Whatever happens to an instance: it is never doubled, and it gets where its user wants it.

The model is one instance and a few hosts that keep the agents' promises. A history is a list of
things that happen, drawn at random, with the reconciler's rounds between them; then all is quiet
and enough rounds must reach what is desired.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import acceptance
from tests.support.builders import NOON, a_host, an_instance, an_operation
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import Instance, InstanceState, Power, check_move
from unkai_scheduler.domain.machines import Machine, MachineState, Tombstone
from unkai_scheduler.domain.operations import Operation, OperationState, Verb
from unkai_scheduler.reconcile.actions import (
    Action,
    Ensure,
    Fail,
    Forget,
    Place,
    Release,
    Remove,
    Rules,
)
from unkai_scheduler.reconcile.instances import fail_create, next_action
from unkai_wire.errors import FailedPrecondition, NoCapacity

S, M = InstanceState, MachineState
RULES = Rules(backoff_base_s=0.5, backoff_cap_s=4.0)
HAPPENINGS = (
    "work",
    "work",
    "look",
    "look",
    "silence",
    "return",
    "lose orders",
    "pass orders",
    "crash",
    "power off",
    "reboot host",
    "break",
    "mend",
    "stop",
    "start",
    "reboot",
    "delete",
    "cancel",
    "pass time",
)


@dataclass
class HostModel:
    """A host as far as one instance goes."""

    id: str
    machine: Machine | None = None
    tombstone: Tombstone | None = None
    wants_power: bool = True
    permitted: bool = True
    reboot_serial: int = 0
    silent: bool = False
    broken: bool = False
    has_disk: bool = False
    must_exist: bool = False

    def ensure(self, row: Instance) -> None:
        buried = self.tombstone
        if buried is not None and row.generation <= buried.generation:
            return
        held = self.machine
        if held is not None and held.state is M.REMOVING and row.generation <= held.generation:
            return
        if held is not None and (row.generation, row.run_epoch) < (
            held.generation,
            held.run_epoch,
        ):
            return
        base = held or Machine(row.id, self.id, row.generation, 0, row.run_epoch, M.CONVERGING)
        self.machine = replace(
            base, generation=row.generation, run_epoch=row.run_epoch, state=M.CONVERGING
        )
        self.wants_power, self.permitted = row.desired_power is Power.ON, True
        self.reboot_serial, self.must_exist = row.reboot_serial, row.has_run

    def remove(self, row: Instance) -> None:
        if self.machine is None:
            self._bury(row.generation, row.run_epoch)
        elif row.generation >= self.machine.generation:
            self.machine = replace(
                self.machine,
                state=M.REMOVING,
                generation=row.generation,
                run_epoch=max(row.run_epoch, self.machine.run_epoch),
            )

    def _bury(self, generation: int, run_epoch: int) -> None:
        self.tombstone = Tombstone("ins", self.id, generation, run_epoch, NOON)
        self.machine, self.has_disk = None, False

    def work(self, now: datetime) -> None:
        """Converge by one step."""
        held = self.machine
        if held is None:
            return
        if held.state is M.REMOVING:
            self._bury(held.generation, held.run_epoch)
        elif held.state is M.CONVERGING and self.permitted:
            self.machine = self._converged(held, now)

    def _converged(self, held: Machine, now: datetime) -> Machine:
        reached = replace(held, observed_generation=held.generation, error=None)
        if self.must_exist and not self.has_disk:
            return replace(reached, state=M.LOST)
        if not self.wants_power:
            self.has_disk = True
            return replace(reached, state=M.STOPPED, start_time=None)
        if self.broken:
            error = FailedPrecondition("broken", reason="BROKEN").to_record()
            return replace(reached, state=M.FAILED, error=error, start_time=None)
        self.has_disk = True
        return replace(
            reached,
            state=M.RUNNING,
            guest_shutdown=False,
            reboot_serial=self.reboot_serial,
            start_time=held.start_time or now,
        )

    def ends(self, state: MachineState, *, by_guest: bool = False) -> None:
        """End a running machine."""
        if self.machine is not None and self.machine.state is M.RUNNING:
            self.permitted = by_guest
            self.machine = replace(
                self.machine, state=state, guest_shutdown=by_guest, start_time=None
            )


@dataclass
class World:
    """The instance, its operation and the hosts; `happen` and `look` move it on."""

    instance: Instance | None
    operation: Operation | None
    hosts: dict[str, HostModel]
    now: datetime = NOON
    orders_lost: bool = False
    failed_hosts: list[str] = field(default_factory=list)
    ended: list[Operation] = field(default_factory=list)

    @property
    def host(self) -> HostModel | None:
        return self.hosts.get(self.instance.host_id) if self.instance else None

    # What happens.

    def happen(self, what: str) -> None:
        self.now += timedelta(seconds=1)
        host = self.host
        match what:
            case "work":
                for each in self.hosts.values():
                    each.work(self.now)
            case "look":
                self.look()
            case "pass time":
                self.now += timedelta(seconds=20)
            case "lose orders" | "pass orders":
                self.orders_lost = what == "lose orders"
            case "stop" | "start" | "reboot" | "delete" | "cancel":
                self._ask(what)
            case _ if host is not None:
                self._strike(host, what)

    def _strike(self, host: HostModel, what: str) -> None:
        match what:
            case "silence" | "return":
                host.silent = what == "silence"
            case "break" | "mend":
                host.broken = what == "break"
            case "power off":
                host.ends(M.STOPPED, by_guest=True)
            case "crash" | "reboot host":
                host.ends(M.AWAITING_PERMIT)

    def _ask(self, what: str) -> None:
        row, busy = self.instance, self.operation
        if row is None or row.delete_requested:
            return
        if what == "cancel":
            if busy is not None:
                self.operation = replace(busy, cancel_requested_time=self.now)
                self.instance = replace(row, due_time=self.now)
            return
        allowed = {
            "stop": busy is None and row.state in {S.RUNNING, S.UNKNOWN, S.AWAITING_PERMIT},
            "start": busy is None and row.state is S.STOPPED,
            "reboot": busy is None and row.state is S.RUNNING,
            "delete": True,
        }
        if not allowed[what]:
            return
        if busy is not None:
            self.ended.append(replace(busy, state=OperationState.CANCELLED))
        self.operation = an_operation(
            verb=Verb[what.upper()],
            resource_id=row.id,
            create_time=self.now,
            deadline_time=self.now + timedelta(seconds=600),
        )
        changes: dict[str, object] = {
            "stop": {"desired_power": Power.OFF},
            "start": {"desired_power": Power.ON},
            "reboot": {"reboot_serial": row.reboot_serial + 1},
            "delete": {"delete_requested": True, "state": S.DELETING},
        }[what]
        self.instance = replace(
            row,
            generation=row.generation + 1,
            operation_id=self.operation.id,
            due_time=self.now,
            attempt=0,
            **changes,  # type: ignore[arg-type]
        )

    # What the loop does.

    def look(self) -> None:
        """Let the reconciler decide once and carry it out, as the loop does."""
        row, host = self.instance, self.host
        if row is None:
            return
        told = host is not None and not host.silent
        action = next_action(
            row,
            self.operation,
            host.machine if host and told else None,
            host.tombstone if host and told else None,
            host_state=None if host is None else HostState.UP if told else HostState.UNKNOWN,
            now=self.now,
            failed_hosts=tuple(self.failed_hosts),
            rules=RULES,
        )
        self._check(row, host, action)
        self._write(row, action)
        if not self.orders_lost and not isinstance(action, Place):
            self._send(action)

    def _check(self, row: Instance, host: HostModel | None, action: Action) -> None:
        if isinstance(action, Place):
            assert not row.host_id
            assert not row.has_run, "what has run is never placed anew"
            assert all(h.machine is None for h in self.hosts.values() if h.id != row.host_id)
        if isinstance(action, Ensure | Remove):
            assert host is not None
            assert not host.silent, "nothing is ordered from a silent host"
        if isinstance(action, Release | Fail | Forget) and row.host_id:
            assert host is not None
            assert host.machine is None, "a claim is dropped only when nothing is left"
            assert host.tombstone is not None
        if row.has_run:
            assert action.instance.has_run, "a disk that must exist stays so"
        assert action.instance.generation >= row.generation
        assert action.instance.run_epoch >= row.run_epoch

    def _write(self, row: Instance, action: Action) -> None:
        before = self.operation
        after = action.operation
        instance: Instance | None = action.instance
        if isinstance(action, Place):
            instance, after = self._placed(row, before)
        elif isinstance(action, Forget):
            instance = None
        if instance is not None:
            check_move(row, instance.state)
            if isinstance(action, Release | Fail):
                if row.host_id:
                    self.failed_hosts.append(row.host_id)
                instance = replace(instance, host_id="")
        if after is not None and after.state.ended:
            self.ended.append(after)
            after = None
            instance = instance and replace(instance, operation_id="")
        self.instance, self.operation = instance, after

    def _placed(
        self, row: Instance, operation: Operation | None
    ) -> tuple[Instance, Operation | None]:
        free = [h for h in self.hosts.values() if h.id not in self.failed_hosts and not h.silent]
        if not free:
            failed = fail_create(row, operation, NoCapacity("no host fits"), self.now)
            return failed.instance, failed.operation
        placed = replace(row, host_id=free[0].id, state_reason=None, attempt=1, due_time=self.now)
        return placed, operation

    def _send(self, action: Action) -> None:
        host = self.host
        if host is None or host.silent:
            return
        if isinstance(action, Ensure):
            host.ensure(action.instance)
        elif isinstance(action, Remove):
            host.remove(action.instance)

    def settle(self, rounds: int = 60) -> None:
        """Let all be well, for long enough."""
        self.orders_lost = False
        for host in self.hosts.values():
            host.silent = host.broken = False
        for _ in range(rounds):
            self.now += timedelta(seconds=5)
            for host in self.hosts.values():
                host.work(self.now)
            self.look()


def a_world() -> World:
    operation = an_operation(deadline_time=NOON + timedelta(seconds=600))
    row = an_instance(operation_id=operation.id, due_time=NOON)
    hosts = [HostModel(a_host().id) for _ in range(5)]
    return World(row, replace(operation, resource_id=row.id), {h.id: h for h in hosts})


def running_copies(world: World) -> list[str]:
    return [
        h.id for h in world.hosts.values() if h.machine is not None and h.machine.state is M.RUNNING
    ]


@settings(max_examples=acceptance.count(1500), deadline=None)
@given(st.lists(st.sampled_from(HAPPENINGS), max_size=60))
def test_no_history_makes_two_copies_and_every_history_ends_as_desired(history: list[str]) -> None:
    world = a_world()
    for what in history:
        world.happen(what)
        assert len(running_copies(world)) <= 1
        assert sum(h.machine is not None for h in world.hosts.values()) <= 1

    world.settle()

    assert world.operation is None, "every operation ends"
    row = world.instance
    if row is None:
        assert all(h.machine is None for h in world.hosts.values())
    elif row.state is S.FAILED:
        assert not row.host_id
        assert all(h.machine is None for h in world.hosts.values())
    else:
        wanted = S.RUNNING if row.desired_power is Power.ON else S.STOPPED
        assert row.state is wanted
        assert running_copies(world) == ([row.host_id] if wanted is S.RUNNING else [])
        assert row.observed_generation == row.generation
        assert row.due_time is None


@settings(max_examples=acceptance.count(700), deadline=None)
@given(st.lists(st.sampled_from(HAPPENINGS), max_size=40))
def test_looking_twice_at_the_same_moment_orders_nothing_twice(history: list[str]) -> None:
    world = a_world()
    for what in history:
        world.happen(what)
    world.orders_lost = True
    world.look()
    row, operation = world.instance, world.operation
    if row is None or not row.host_id or row.due_time is None or row.due_time <= world.now:
        return

    world.look()

    assert world.instance is not None
    assert world.instance.attempt == row.attempt
    assert world.operation == operation or (operation is not None and world.operation is None)
