"""The audit: compares what the database owns with what the hosts hold, and says what does not fit.

It removes a machine only where the store holds a tombstone of that id on that host with generation
and run epoch at or above those found; all else is kept and reported, once, as a WARNING event and
as long as it lasts by metric. It also records tombstones that hosts still remember, so that they
may forget them. It runs when a host has come into sync, when an unclaimed machine shows up, and on
a timer.

The trap: live state and database are read at two moments. What is live is read first, and looked
at again before anything is removed.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.machines import Machine, MachineState, Tombstone
from unkai_scheduler.reconcile import metrics
from unkai_scheduler.reconcile.hosts import Hosts
from unkai_scheduler.reconcile.office import Office, wait_for
from unkai_scheduler.store import events, instances, tombstones
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.errors import UnkaiError

log = structlog.get_logger(__name__)

SETTLE_S = 0.2
"""A kick waits so long for others, so that a host's machines are audited together."""
MAX_WARNINGS = 1000
"""Events about one host in one reign; beyond, the metric alone counts."""
MAX_CALLS = 32
"""Hosts asked at the same time."""
ORPHAN = "orphan"
UNCLAIMED = "unclaimed_machine"
MISSING = "claim_without_machine"
AHEAD = "machine_ahead"
KINDS = (ORPHAN, UNCLAIMED, MISSING, AHEAD)
_SETTLED = frozenset(
    {
        InstanceState.RUNNING,
        InstanceState.STOPPED,
        InstanceState.AWAITING_PERMIT,
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not fit."""

    kind: str
    host_id: str
    instance_id: str
    name: str
    project_id: str
    generation: int
    message: str

    @property
    def reason(self) -> str:
        """Its name in events."""
        return self.kind.upper()


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


def examine(
    machines: Sequence[Machine],
    buried: Sequence[Tombstone],
    synced: frozenset[str],
    rows: Mapping[str, Instance],
    known: Mapping[str, Sequence[Tombstone]],
) -> Report:
    """Compare what hosts hold with the database; pure.

    `rows`: by id, all claimed instances, and what exists of the other ids that hosts name.
    `known`: by id, the store's tombstones of machines and tombstones without a claim.
    """
    findings: list[Finding] = []
    removals: list[tuple[Machine, Tombstone]] = []
    held = {(machine.host_id, machine.instance_id) for machine in machines}
    for machine in machines:
        row = rows.get(machine.instance_id)
        if row is not None and not _stray(machine, rows):
            if machine.generation > row.generation or machine.run_epoch > row.run_epoch:
                findings.append(_of_machine(AHEAD, machine, "is newer than the database knows"))
            continue
        right = _right_to_remove(machine, known.get(machine.instance_id, ()))
        if right is not None:
            removals.append((machine, right))
        elif row is None:
            findings.append(_of_machine(ORPHAN, machine, "is not in the database; it is kept"))
        else:
            findings.append(_of_machine(UNCLAIMED, machine, "is not claimed there; it is kept"))
    lasting = [tombstone for tombstone in buried if _stray(tombstone, rows)]
    remembered = {(t.host_id, t.instance_id) for t in buried}
    for row in rows.values():
        place = (row.host_id, row.id)
        if row.host_id in synced and place not in held and place not in remembered:
            findings += _missing(row)
    have, lack = _split(lasting, known)
    return Report(tuple(findings), tuple(removals), have, lack)


def _of_machine(kind: str, machine: Machine, what: str) -> Finding:
    name = machine.name or machine.instance_id
    return Finding(
        kind=kind,
        host_id=machine.host_id,
        instance_id=machine.instance_id,
        name=machine.name,
        project_id=machine.project_id,
        generation=machine.generation,
        message=f"machine {name} on host {machine.host_id} {what}",
    )


def _missing(row: Instance) -> list[Finding]:
    if row.state not in _SETTLED or row.operation_id:
        return []
    return [
        Finding(
            kind=MISSING,
            host_id=row.host_id,
            instance_id=row.id,
            name=row.spec.name,
            project_id=row.project_id,
            generation=row.generation,
            message=f"host {row.host_name} does not hold instance {row.spec.name}, which it claims",
        )
    ]


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


class Audit:
    """Runs the audit and does what follows."""

    def __init__(self, office: Office, hosts: Hosts) -> None:
        self._office = office
        self._hosts = hosts
        self._kick = asyncio.Event()
        self._reported: set[Finding] = set()
        self._warnings: Counter[str] = Counter()
        self._calls = asyncio.Semaphore(MAX_CALLS)

    def kick(self) -> None:
        """Audit soon."""
        self._kick.set()

    async def run(self) -> None:
        """Audit until cancelled."""
        try:
            while True:
                if await wait_for(self._kick, self._office.settings.reconcile.audit_s):
                    await asyncio.sleep(SETTLE_S)
                    self._kick.clear()
                await self._office.attempt("audit", self._round)
        finally:
            # Who leads next finds it again; what we found is no longer ours to say.
            for kind in KINDS:
                metrics.INVARIANT_VIOLATIONS.labels(kind).set(0)

    async def _round(self) -> None:
        live = self._office.live
        synced = frozenset(
            host_id for host_id in live.hosts() if self._hosts.state(host_id) is HostState.UP
        )
        machines = [machine for host_id in synced for machine in live.machines(host_id)]
        buried = [tombstone for host_id in synced for tombstone in live.tombstones(host_id)]
        report = await self._compare(machines, buried, synced)
        counts = Counter(finding.kind for finding in report.findings)
        for kind in KINDS:
            metrics.INVARIANT_VIOLATIONS.labels(kind).set(counts[kind])
        await self._record(report)
        await self._remove(report.removals)
        await self._acknowledge(report.recorded + report.unrecorded)

    async def _compare(
        self, machines: list[Machine], buried: list[Tombstone], synced: frozenset[str]
    ) -> Report:
        def work(conn: Connection) -> Report:
            rows = {row.id: row for row in instances.all_claimed(conn)}
            named: list[Machine | Tombstone] = [*machines, *buried]
            for ident in {x.instance_id for x in named} - rows.keys():
                row = instances.get(conn, ident)
                if row is not None:
                    rows[ident] = row
            strays = {x.instance_id for x in named if _stray(x, rows)}
            known = {ident: tombstones.of_instance(conn, ident) for ident in strays}
            return examine(machines, buried, synced, rows, known)

        return await self._office.uow.read(work)

    async def _record(self, report: Report) -> None:
        """Write what hosts remember, and a WARNING for each finding that is new."""
        new = [finding for finding in report.findings if finding not in self._reported]
        self._reported = set(report.findings) - set(new)
        told = self._bounded(new)
        if told or report.unrecorded:
            await self._office.lead(lambda conn: self._write(conn, told, report.unrecorded))
        self._reported |= set(new)

    def _bounded(self, findings: Sequence[Finding]) -> list[Finding]:
        """Return those that may still be told of: no host fills the history of events."""
        told = []
        for finding in findings:
            self._warnings[finding.host_id] += 1
            if self._warnings[finding.host_id] <= MAX_WARNINGS:
                told.append(finding)
            elif self._warnings[finding.host_id] == MAX_WARNINGS + 1:
                log.error("audit_findings_without_end", host=finding.host_id)
        return told

    def _write(
        self, conn: Connection, new: list[Finding], unrecorded: tuple[Tombstone, ...]
    ) -> None:
        now = self._office.clock()
        for tombstone in unrecorded:
            # Kept from now on: hosts' clocks do not say for how long.
            tombstones.insert(conn, replace(tombstone, remove_time=now))
        for finding in new:
            if not _told_before(conn, finding):
                warning = self._office.event(
                    "instance",
                    finding.instance_id,
                    finding.name,
                    project_id=finding.project_id,
                    type=EventType.WARNING,
                    reason=finding.reason,
                    message=finding.message,
                    attributes={
                        "host_id": finding.host_id,
                        "generation": str(finding.generation),
                    },
                )
                events.insert(conn, warning)
                log.warning("audit_finding", kind=finding.kind, message=finding.message)

    async def _remove(self, removals: Sequence[tuple[Machine, Tombstone]]) -> None:
        by_host: defaultdict[str, list[tuple[Machine, Tombstone]]] = defaultdict(list)
        for machine, right in removals:
            by_host[machine.host_id].append((machine, right))
        async with asyncio.TaskGroup() as group:
            for host_id, strays in by_host.items():
                group.create_task(self._remove_on(host_id, strays))

    async def _remove_on(self, host_id: str, strays: Sequence[tuple[Machine, Tombstone]]) -> None:
        """Remove one host's strays, one after the other: a host that hangs delays its own alone."""
        office = self._office
        for machine, right in strays:
            now = office.live.machine(host_id, machine.instance_id)
            if self._hosts.state(host_id) is not HostState.UP:
                return
            if now is None or now.generation != machine.generation:
                continue
            fence = office.fence(right.generation, right.run_epoch)
            try:
                async with self._calls:
                    answer = await office.agents.remove_machine(
                        office.endpoint(host_id), fence, machine.instance_id
                    )
            except UnkaiError as error:
                office.check_still_leading(host_id, error)
                log.info("stray_not_removed", host=host_id, reason=error.reason)
                continue
            log.info("stray_removed", host=host_id, instance=machine.instance_id)
            office.live.put_answer(answer)
            self.kick()

    async def _acknowledge(self, recorded: Sequence[Tombstone]) -> None:
        by_host: defaultdict[str, list[Tombstone]] = defaultdict(list)
        for tombstone in recorded:
            by_host[tombstone.host_id].append(tombstone)
        async with asyncio.TaskGroup() as group:
            for host_id, tombstones_of in by_host.items():
                group.create_task(self._acknowledge_on(host_id, tombstones_of))

    async def _acknowledge_on(self, host_id: str, recorded: Sequence[Tombstone]) -> None:
        office = self._office
        try:
            async with self._calls:
                await office.agents.acknowledge_tombstones(
                    office.endpoint(host_id), office.term, recorded
                )
        except UnkaiError as error:
            office.check_still_leading(host_id, error)
            return
        for tombstone in recorded:
            office.live.drop_tombstone(tombstone)


def _stray(found: Machine | Tombstone, rows: Mapping[str, Instance]) -> bool:
    row = rows.get(found.instance_id)
    return row is None or row.host_id != found.host_id


def _told_before(conn: Connection, finding: Finding) -> bool:
    """Tell whether an earlier reign has reported this already."""
    earlier = events.list_page(conn, resource_id=finding.instance_id, after=None, limit=50)
    return any(
        event.type is EventType.WARNING
        and event.reason == finding.reason
        and event.attributes.get("host_id") == finding.host_id
        and event.attributes.get("generation") == str(finding.generation)
        for event in earlier
    )
