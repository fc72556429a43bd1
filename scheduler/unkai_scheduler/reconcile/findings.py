"""The audit's rules: compare what the database owns with what hosts hold. Pure.

A machine may be removed only where the store holds a tombstone of that id on that host with
generation and run epoch at or above those found; all else is kept, and is a finding that says
whether the leader mends it or an operator has to.

The trap: what is compared is of two moments. A finding that the leader mends may be over already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unkai_scheduler.domain.findings import Finding, FindingKind, Remedy
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.domain.instances import Instance, InstanceState, may_be_adopted
from unkai_scheduler.domain.machines import LEAP, Machine, MachineState, Tombstone
from unkai_scheduler.placement.allocation import AllocationRatios, claimable

_SETTLED = frozenset({InstanceState.RUNNING, InstanceState.STOPPED, InstanceState.AWAITING_PERMIT})
_SAME = {
    MachineState.RUNNING: InstanceState.RUNNING,
    MachineState.STOPPED: InstanceState.STOPPED,
}
_LEFT_BEHIND = {
    InstanceState.DELETED_ON_HOST: FindingKind.DELETED_ON_HOST,
    InstanceState.LOST: FindingKind.LOST,
}


@dataclass(frozen=True, slots=True)
class Books:
    """What is compared: the database's side and the hosts' side."""

    machines: Sequence[Machine]
    buried: Sequence[Tombstone]
    """Tombstones that hosts remember."""
    synced: frozenset[str]
    """Hosts that have told all they hold."""
    rows: Mapping[str, Instance]
    """By id, all claimed instances, and what exists of the other ids that hosts name."""
    known: Mapping[str, Sequence[Tombstone]]
    """By id, the store's tombstones of machines and tombstones without a claim."""
    hosts: Mapping[str, Host] = field(default_factory=dict)
    ratios: AllocationRatios = AllocationRatios()  # noqa: RUF009 - frozen

    def host_name(self, host_id: str) -> str:
        """Return a host's name; its id when it has no row."""
        host = self.hosts.get(host_id)
        return host.name if host else host_id


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found, and what follows from it."""

    findings: tuple[Finding, ...] = ()
    removals: tuple[tuple[Machine, Tombstone], ...] = ()
    """Machines that may go, each with the tombstone that says so."""
    recorded: tuple[Tombstone, ...] = ()
    """Tombstones of hosts that the store has; they may be acknowledged."""
    unrecorded: tuple[Tombstone, ...] = ()
    """Tombstones of hosts to record first."""


def examine(books: Books) -> Report:
    """Compare what hosts hold with the database."""
    findings: list[Finding] = []
    removals: list[tuple[Machine, Tombstone]] = []
    holders: defaultdict[str, list[str]] = defaultdict(list)
    for machine in books.machines:
        holders[machine.instance_id].append(machine.host_id)
    for machine in books.machines:
        row = books.rows.get(machine.instance_id)
        if row is not None and not is_stray(machine, books.rows):
            findings += _claimed(books, machine, row)
            continue
        right = _right_to_remove(machine, books.known.get(machine.instance_id, ()))
        if right is not None:
            removals.append((machine, right))
        elif row is None or may_be_adopted(row):
            findings.append(_orphan(books, machine, row, holders[machine.instance_id]))
        else:
            findings.append(_unclaimed(books, machine, row))
    findings += _without_machine(books)
    findings += _oversold(books)
    have, lack = _split([t for t in books.buried if is_stray(t, books.rows)], books.known)
    return Report(
        tuple(findings),
        tuple(removals),
        have,
        lack,
    )


def is_stray(found: Machine | Tombstone, rows: Mapping[str, Instance]) -> bool:
    """Tell whether a host speaks of an instance that it does not hold by right."""
    row = rows.get(found.instance_id)
    return row is None or row.host_id != found.host_id


# Machines without a claim.


def _orphan(
    books: Books, machine: Machine, row: Instance | None, holders: Sequence[str]
) -> Finding:
    what = "one that the database does not know"
    if row is not None:
        what = f"of instance {row.spec.name}, which is {row.state.value} and on no host"
    others = [books.host_name(i) for i in holders if i != machine.host_id]
    also = f", and which is on {', '.join(others[:3])}, too" if others else ""
    flag = f" --host {books.host_name(machine.host_id)}" if others else ""
    return _of_machine(
        books,
        FindingKind.ORPHAN,
        machine,
        f"is {what}{also}; it is kept",
        remedy=Remedy.OPERATOR,
        fix=f"'unkai instance adopt {machine.instance_id}{flag}' takes it into the database",
    )


def _unclaimed(books: Books, machine: Machine, row: Instance) -> Finding:
    holder = row.host_name or row.host_id or "no host"
    fix = (
        "see which of the two is right; once the instance is deleted, what is left here can be "
        "adopted"
    )
    if row.delete_requested:
        fix = "if it is still here when the deletion has ended, it can be adopted"
    elif not row.has_run:
        fix = (
            f"cancel the operation, then 'unkai instance adopt {row.id}'; to delete the instance "
            "removes this machine, too"
        )
    return _of_machine(
        books,
        FindingKind.UNCLAIMED_MACHINE,
        machine,
        f"is of an instance that {holder} holds by right; it is kept",
        remedy=Remedy.OPERATOR,
        fix=fix,
    )


def _right_to_remove(machine: Machine, known: Sequence[Tombstone]) -> Tombstone | None:
    for tombstone in known:
        if (
            # What one host says of its own removals is no leave to remove anything elsewhere.
            tombstone.host_id == machine.host_id
            and tombstone.generation >= machine.generation
            and tombstone.run_epoch >= machine.run_epoch
            and machine.state is not MachineState.REMOVING
        ):
            return tombstone
    return None


# Machines with a claim.


def _claimed(books: Books, machine: Machine, row: Instance) -> Iterator[Finding]:
    leaps = machine.generation > row.generation + LEAP or machine.run_epoch > row.run_epoch + LEAP
    if leaps:
        yield _of_machine(
            books,
            FindingKind.MACHINE_AHEAD,
            machine,
            f"is said to be at generation {machine.generation}, which cannot be",
            remedy=Remedy.OPERATOR,
            fix="mistrust the host: look at its agent, and give the host a new certificate",
        )
    elif machine.generation > row.generation or machine.run_epoch > row.run_epoch:
        yield _of_machine(
            books,
            FindingKind.MACHINE_AHEAD,
            machine,
            "is newer than the database knows",
            remedy=Remedy.LEADER,
            fix="the leader takes over what the host was last told",
        )
    elif row.state in _SETTLED and not row.operation_id:
        yield from _settled(books, machine, row)


def _settled(books: Books, machine: Machine, row: Instance) -> Iterator[Finding]:
    """Compare a machine with an instance that nobody is at work on."""
    if machine.generation < row.generation or machine.run_epoch < row.run_epoch:
        what = f"is at generation {machine.generation}, the instance at {row.generation}"
        fix = "the leader orders it again"
        yield _of_machine(
            books, FindingKind.MACHINE_BEHIND, machine, what, remedy=Remedy.LEADER, fix=fix
        )
        return
    state = _SAME.get(machine.state)
    if state is not None and state is not row.state:
        what = f"is {machine.state.value}, the instance {row.state.value}"
        fix = "the leader takes the host's word, then does what the user asked for"
        yield _of_machine(
            books, FindingKind.STATE_MISMATCH, machine, what, remedy=Remedy.LEADER, fix=fix
        )
    differs = [
        f"{figure} {held} for {wanted}"
        for figure, held, wanted in (
            ("vcpus", machine.vcpus, row.spec.vcpus),
            ("memory_bytes", machine.memory_bytes, row.spec.memory_bytes),
            ("disk_bytes", machine.disk_bytes, row.spec.disk_bytes),
        )
        if held not in (0, wanted)
    ]
    if differs:
        yield _of_machine(
            books,
            FindingKind.SPEC_MISMATCH,
            machine,
            f"has other figures than the instance: {', '.join(differs)}",
            remedy=Remedy.OPERATOR,
            fix="stop and start the instance, which then gets the figures that the database says",
        )


# Claims.


def _without_machine(books: Books) -> Iterator[Finding]:
    held = {(machine.host_id, machine.instance_id) for machine in books.machines}
    remembered = {(t.host_id, t.instance_id) for t in books.buried}
    for row in books.rows.values():
        place = (row.host_id, row.id)
        if row.state in _LEFT_BEHIND and not row.delete_requested and row.host_id:
            yield _left_behind(row)
        elif row.host_id in books.synced and place not in held and place not in remembered:
            yield from _missing(row)


def _missing(row: Instance) -> Iterator[Finding]:
    if row.state not in _SETTLED or row.operation_id:
        return
    yield _of_row(
        FindingKind.CLAIM_WITHOUT_MACHINE,
        row,
        f"host {row.host_name} does not hold instance {row.spec.name}, which it claims",
        Remedy.LEADER,
        "the leader orders it anew from its disk; without its disk the instance becomes LOST",
    )


def _left_behind(row: Instance) -> Finding:
    what = (
        f"a disk of instance {row.spec.name} is gone from host {row.host_name}"
        if row.state is InstanceState.LOST
        else f"instance {row.spec.name} was removed on host {row.host_name} before the database "
        "was restored"
    )
    fix = f"'unkai instance delete {row.id}'; create it anew if it is still wanted"
    return _of_row(_LEFT_BEHIND[row.state], row, what, Remedy.OPERATOR, fix)


def _oversold(books: Books) -> Iterator[Finding]:
    for host in books.hosts.values():
        most = claimable(host, books.ratios)
        over = [
            f"{figure} {claimed} of {allowed}"
            for figure, claimed, allowed in (
                ("vcpus", host.claimed_vcpus, most.vcpus),
                ("memory_bytes", host.claimed_memory_bytes, most.memory_bytes),
                ("disk_bytes", host.claimed_disk_bytes, most.disk_bytes),
            )
            if claimed > allowed
        ]
        if over:
            yield Finding(
                FindingKind.HOST_OVERSOLD,
                host.id,
                host.name,
                f"host {host.name} holds more than may be claimed of it: {', '.join(over)}",
                Remedy.OPERATOR,
                "delete or stop what it can do without, or raise the allocation ratios; nothing "
                "is placed there meanwhile",
            )


# Words.


def _of_machine(
    books: Books, kind: FindingKind, machine: Machine, what: str, *, remedy: Remedy, fix: str
) -> Finding:
    name, host_name = machine.name or machine.instance_id, books.host_name(machine.host_id)
    told: dict[str, Any] = {
        "instance_id": machine.instance_id,
        "name": machine.name,
        "project_id": machine.project_id,
        "generation": machine.generation,
        "machine_state": machine.state.value,
        "vcpus": machine.vcpus,
        "memory_bytes": machine.memory_bytes,
    }
    message = f"machine {name} on host {host_name} {what}"
    return Finding(kind, machine.host_id, host_name, message, remedy, fix, **told)


def _of_row(kind: FindingKind, row: Instance, what: str, remedy: Remedy, fix: str) -> Finding:
    return Finding(
        kind,
        row.host_id,
        row.host_name,
        what,
        remedy,
        fix,
        instance_id=row.id,
        name=row.spec.name,
        project_id=row.project_id,
        generation=row.generation,
    )


# Tombstones.


def _split(
    buried: Iterable[Tombstone], known: Mapping[str, Sequence[Tombstone]]
) -> tuple[tuple[Tombstone, ...], tuple[Tombstone, ...]]:
    have: list[Tombstone] = []
    lack: list[Tombstone] = []
    for tombstone in buried:
        recorded = any(
            t.host_id == tombstone.host_id
            and t.generation >= tombstone.generation
            and t.run_epoch >= tombstone.run_epoch
            for t in known.get(tombstone.instance_id, ())
        )
        (have if recorded else lack).append(tombstone)
    return tuple(have), tuple(lack)
