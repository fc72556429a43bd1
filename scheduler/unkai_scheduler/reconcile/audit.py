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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.findings import Audited, Finding, FindingKind, Remedy
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.machines import Machine, Tombstone
from unkai_scheduler.placement.allocation import AllocationRatios
from unkai_scheduler.reconcile import metrics
from unkai_scheduler.reconcile.findings import Books, Report, examine, is_stray
from unkai_scheduler.reconcile.hosts import Hosts
from unkai_scheduler.reconcile.office import Office, wait_for
from unkai_scheduler.store import events, hosts, instances, tombstones
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.errors import Unavailable, UnkaiError

log = structlog.get_logger(__name__)

SETTLE_S = 0.2
"""A kick waits so long for others, so that a host's machines are audited together."""
MAX_WARNINGS = 1000
"""Events about one host in one reign; beyond, the metric alone counts."""
WRITTEN_AT_ONCE = 200
"""Findings or tombstones written in one transaction: some tenths of a second. A restored database
may lack thousands, and whoever else writes waits meanwhile."""
MAX_CALLS = 32
"""Hosts asked at the same time."""
PATIENCE_S = 30.0
"""What the leader mends is counted once it has been found for so long."""
_WARNED_OF = frozenset(
    {
        FindingKind.ORPHAN,
        FindingKind.UNCLAIMED_MACHINE,
        FindingKind.CLAIM_WITHOUT_MACHINE,
        FindingKind.MACHINE_AHEAD,
        FindingKind.SPEC_MISMATCH,
        FindingKind.OVN_ORPHAN,
        FindingKind.OVN_REFUSED,
        FindingKind.PORT_MISPLACED,
    }
)
"""Kinds of which an event tells; the others have events of their own, or are mended at once."""


T = TypeVar("T")
_Key = tuple[str, str, str, int]


class Audit:
    """Runs the audit and does what follows."""

    def __init__(
        self, office: Office, hosts: Hosts, more: Callable[[], Sequence[Finding]] = tuple
    ) -> None:
        """Make one; `more`: what others have found that is no host's."""
        self._more = more
        self._office = office
        self._hosts = hosts
        self._kick = asyncio.Event()
        self._reported: set[_Key] = set()
        self._found_s: dict[_Key, float] = {}
        """When each finding of the newest audit was first found."""
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
            for kind in FindingKind:
                metrics.INVARIANT_VIOLATIONS.labels(kind.value).set(0)

    # What others ask.

    async def look(self) -> Audited:
        """Compare now, and change nothing.

        Raises `Unavailable` / HOSTS_UNREAD in the first moments of a reign.
        """
        unseen = self._hosts.untold()
        if unseen is None:
            raise Unavailable(
                "the leader has not read yet which hosts there are",
                reason="HOSTS_UNREAD",
                fix="try again in a few seconds; if it stays so, see whether etcd answers",
                retry_after_s=1.0,
            )
        report = await self._compare()
        return Audited(self._office.clock(), report.findings, tuple(unseen))

    def holders(self, instance_id: str) -> list[Machine]:
        """Return the machines of an instance on all hosts that are in sync."""
        found = (self._office.live.machine(host_id, instance_id) for host_id in self._synced())
        return [machine for machine in found if machine is not None]

    # Rounds.

    def _synced(self) -> list[str]:
        live = self._office.live
        return [i for i in live.hosts() if self._hosts.state(i) is HostState.UP]

    async def _round(self) -> None:
        report = await self._compare()
        self._count(report.findings)
        await self._record(report)
        await self._remove(report.removals)
        await self._acknowledge(report.recorded + report.unrecorded)

    def _count(self, findings: Sequence[Finding]) -> None:
        now_s = self._office.live.now_s()
        self._found_s = {f.key: self._found_s.get(f.key, now_s) for f in findings}
        counts = Counter(
            finding.kind
            for finding in findings
            if finding.remedy is Remedy.OPERATOR or now_s - self._found_s[finding.key] >= PATIENCE_S
        )
        for kind in FindingKind:
            metrics.INVARIANT_VIOLATIONS.labels(kind.value).set(counts[kind])

    async def _compare(self) -> Report:
        live, synced = self._office.live, frozenset(self._synced())
        machines = [machine for host_id in synced for machine in live.machines(host_id)]
        buried = [tombstone for host_id in synced for tombstone in live.tombstones(host_id)]
        given = self._office.settings.placement.ratios
        ratios = AllocationRatios(given.cpu, given.memory, given.disk)

        def work(conn: Connection) -> Report:
            return examine(books_of(conn, machines, buried, synced, ratios))

        report = await self._office.uow.read(work)
        return replace(report, findings=(*report.findings, *self._more()))

    async def _record(self, report: Report) -> None:
        """Write what hosts remember, and a WARNING for each finding that is new."""
        findings = [f for f in report.findings if f.kind in _WARNED_OF]
        new = [finding for finding in findings if finding.key not in self._reported]
        self._reported &= {finding.key for finding in findings}
        told = self._bounded(new)
        for some in _by(WRITTEN_AT_ONCE, report.unrecorded):
            await self._office.lead(partial(self._write, new=(), unrecorded=some))
        for few in _by(WRITTEN_AT_ONCE, told):
            await self._office.lead(partial(self._write, new=few, unrecorded=()))
            # Each at once: a later portion may fail, and these are told of.
            self._note(few)
        self._note([finding for finding in new if finding.key not in self._reported])

    def _bounded(self, findings: Sequence[Finding]) -> list[Finding]:
        """Return those that may still be told of: no host fills the history of events."""
        told, warnings = [], self._warnings.copy()
        for finding in findings:
            warnings[finding.host_id] += 1
            if warnings[finding.host_id] <= MAX_WARNINGS:
                told.append(finding)
        return told

    def _note(self, findings: Sequence[Finding]) -> None:
        """Count what is told of, or is too much to be: it is not looked at again."""
        for finding in findings:
            self._reported.add(finding.key)
            self._warnings[finding.host_id] += 1
            if self._warnings[finding.host_id] == MAX_WARNINGS + 1:
                log.error("audit_findings_without_end", host=finding.host_id)

    def _write(
        self, conn: Connection, *, new: Sequence[Finding], unrecorded: Sequence[Tombstone]
    ) -> None:
        now = self._office.clock()
        for tombstone in unrecorded:
            # Kept from now on: hosts' clocks do not say for how long.
            tombstones.insert(conn, replace(tombstone, remove_time=now))
        for finding in new:
            if not _told_before(conn, finding):
                warning = self._office.event(
                    finding.resource_kind or "instance",
                    finding.resource_id or finding.instance_id,
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
                log.warning("audit_finding", kind=finding.kind.value, message=finding.message)

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


def _by(count: int, all_of_them: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(all_of_them), count):
        yield all_of_them[start : start + count]


def books_of(
    conn: Connection,
    machines: Sequence[Machine],
    buried: Sequence[Tombstone],
    synced: frozenset[str],
    ratios: AllocationRatios,
) -> Books:
    """Read what is compared with what hosts hold: few statements, however much that is."""
    rows = {row.id: row for row in instances.all_claimed(conn)}
    named: list[Machine | Tombstone] = [*machines, *buried]
    unclaimed = {x.instance_id for x in named} - rows.keys()
    rows |= {row.id: row for row in instances.list_some(conn, unclaimed)}
    strays = {x.instance_id for x in named if is_stray(x, rows)}
    known = tombstones.of_instances(conn, strays)
    known_hosts = {host.id: host for host in hosts.list_all(conn)}
    return Books(machines, buried, synced, rows, known, known_hosts, ratios)


def _told_before(conn: Connection, finding: Finding) -> bool:
    """Tell whether an earlier reign has reported this already."""
    about = finding.resource_id or finding.instance_id
    earlier = events.list_page(conn, resource_id=about, after=None, limit=50)
    return any(
        event.type is EventType.WARNING
        and event.reason == finding.reason
        and event.attributes.get("host_id", "") == finding.host_id
        and event.attributes.get("generation") == str(finding.generation)
        for event in earlier
    )
