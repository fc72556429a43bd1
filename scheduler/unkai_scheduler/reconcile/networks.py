"""The leader's loop for networks: brings to OVN what of it is not as the store says.

Work is rows of `ovn_work`. Due units are derived from one read of the store and applied under the
leader's term; those that OVN has are settled, unless they were marked again meanwhile. It also
compares: everything when a reign begins, after a lost connection and on a timer, single units once
others touched them. What differs goes to the work as damaged, and an event says what was mended.

One task does both, in turns, so that nothing is compared while it is being changed. The trap: a
unit without rows is removed, so what the store knows nothing of must never be derived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.findings import Finding
from unkai_scheduler.domain.ovn_work import Work
from unkai_scheduler.ovn.northbound.units import BASE
from unkai_scheduler.ovn.port import Changed, Northbound
from unkai_scheduler.ovn.rows import Outcome
from unkai_scheduler.reconcile import metrics, network_findings
from unkai_scheduler.reconcile.network_units import Derived, derive
from unkai_scheduler.reconcile.office import Office, ReignEnded, closing, growing_s, wait_for
from unkai_scheduler.store import events, ovn_units, ovn_work
from unkai_wire.errors import Conflict

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

log = structlog.get_logger(__name__)

BATCH = 200
"""Units taken, derived and applied together."""
GATHER_S = 0.02
"""A hint waits so long for others: what is made together is brought together."""
SOON_S = 0.3
"""Until the next look while something waits for what is about to be there."""
REFUSED_FIRST_S, REFUSED_CAP_S = 30.0, 600.0
"""Waits before what breaks a rule of the database is tried again."""
DAMAGED = "damaged"
"""How the reason of work begins that undoes what somebody did to OVN."""
MAX_EVENTS = 200
"""Events of mended units in one round. Beyond, one says how many more: a database that was wiped is
one thing that happened, not thousands."""
MAX_FINDINGS = 1000
"""Kept at once of a kind."""
_WAITING = frozenset({Outcome.IN_USE, Outcome.LACKS_PARENT})


class NetworkLoop:
    """See the module."""

    def __init__(self, office: Office, northbound: Northbound) -> None:
        self._office = office
        self._northbound = northbound
        self._dns_servers = office.settings.network.dns_servers
        self._kick = asyncio.Event()
        self._touched: set[str] = set()
        self._is_all_unknown = True
        self._compare_at_s = 0.0
        self._is_waiting = False
        self._refused: dict[str, Finding] = {}
        self._orphans: dict[str, Finding] = {}
        self._mended = 0
        """Units of this round that were damaged, and are whole."""

    def wake(self) -> None:
        """Look at once: something was written."""
        self._kick.set()

    def findings(self) -> list[Finding]:
        """Return what an operator has to see to."""
        return [*self._refused.values(), *self._orphans.values()]

    async def run(self) -> None:
        """Bring and compare until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._work())

    async def _listen(self) -> None:
        """Take in what others do to OVN."""
        async with closing(self._northbound.changes()) as changes:
            async for changed in changes:
                self._hear(changed)

    def _hear(self, changed: Changed) -> None:
        self._is_all_unknown |= changed.everything
        self._touched |= changed.units
        self._kick.set()

    async def _work(self) -> None:
        office, failures = self._office, 0
        while True:
            failures = 0 if await office.attempt("networks", self._round) else failures + 1
            resync_s = office.settings.reconcile.resync_s
            if failures:
                await asyncio.sleep(growing_s(failures))
            elif await wait_for(self._kick, SOON_S if self._is_waiting else resync_s):
                await asyncio.sleep(GATHER_S)
                self._kick.clear()

    async def _round(self) -> None:
        self._is_waiting, self._mended = False, 0
        if self._is_all_unknown:
            await self._begin_anew()
        await self._bring()
        if self._touched:
            await self._compare_touched()
        now_s = asyncio.get_running_loop().time()
        if self._is_all_unknown or now_s >= self._compare_at_s:
            await self._compare_everything()
            self._compare_at_s = now_s + self._office.settings.network.compare_s
        await self._bring()
        if self._mended > MAX_EVENTS:
            await self._office.lead(partial(self._tell_rest, self._mended))

    async def _begin_anew(self) -> None:
        """Have the rows of the whole cloud made where OVN never had any: that mends nothing.

        Before anything is brought, as afterwards they would look as if somebody had removed them.
        """
        if await self._northbound.inventory():
            return
        if not await self._office.uow.read(ovn_units.is_any_brought):
            reasons = {BASE: "there is nothing of ours in OVN yet"}
            await self._office.lead(partial(self._mark, reasons))

    # Bringing.

    async def _bring(self) -> None:
        """Bring what is due, as long as there is any."""
        while await self._bring_some() == BATCH:
            pass

    async def _bring_some(self) -> int:
        """Bring one batch; return how many units it had."""
        now, servers = self._office.clock(), self._dns_servers

        def read(conn: Connection) -> tuple[list[Work], Derived]:
            work = ovn_work.due(conn, now, BATCH)
            return work, derive(conn, [some.key for some in work], servers)

        due, derived = await self._office.uow.read(read)
        if not due:
            return 0
        try:
            outcomes = await self._northbound.apply(self._office.term, derived.units)
        except Conflict as error:
            self._check_still_leading(error)
            raise
        for outcome in outcomes.values():
            metrics.OVN_UNITS.labels(outcome.value).inc()
        await self._settle(due, derived.unheard, outcomes)
        return len(due)

    def _check_still_leading(self, error: Conflict) -> None:
        """Raise `ReignEnded` when OVN has seen a higher term than ours."""
        if error.reason == "NOT_LEADER":
            office, said = self._office, error.metadata.get("current_term", "")
            if highest := office.hearsay.outranking("ovn", said, office.term):
                raise ReignEnded(error.message, highest) from error

    async def _settle(
        self, due: Sequence[Work], unheard: Collection[str], outcomes: Mapping[str, Outcome]
    ) -> None:
        """Take away the work that is done; say when to try the rest again, and what was mended."""
        done = [work for work in due if outcomes.get(work.key) is Outcome.DONE]
        over = [(work.key, work.number) for work in due if work in done or work.key in unheard]
        later = [
            self._again(work, outcomes[work.key])
            for work in due
            if outcomes.get(work.key, Outcome.DONE) is not Outcome.DONE
        ]
        mended = [work for work in done if work.reason.startswith(DAMAGED)]
        told = mended[: max(0, MAX_EVENTS - self._mended)]

        def write(conn: Connection) -> None:
            ovn_work.settle(conn, over)
            ovn_work.postpone(conn, later)
            self._tell(conn, told)

        await self._office.lead(write, tells=bool(told))
        self._note_refusals(due, outcomes)
        self._mended += len(mended)
        self._is_waiting |= any(outcomes[work.key] in _WAITING for work in later)

    def _note_refusals(self, due: Sequence[Work], outcomes: Mapping[str, Outcome]) -> None:
        for work in due:
            outcome = outcomes.get(work.key)
            if outcome is Outcome.REFUSED and len(self._refused) < MAX_FINDINGS:
                why = self._northbound.why_refused(work.key)
                self._refused[work.key] = network_findings.refused(work.key, why)
            elif outcome is not None:
                self._refused.pop(work.key, None)

    def _again(self, work: Work, outcome: Outcome) -> Work:
        """Return work that is to be tried again: what is unknown at once, as it is looked at."""
        wait_s = 0.0
        if outcome in _WAITING:
            wait_s = growing_s(work.attempt, cap_s=30.0)
        elif outcome is Outcome.REFUSED:
            wait_s = growing_s(work.attempt, first_s=REFUSED_FIRST_S, cap_s=REFUSED_CAP_S)
        first, _, _ = work.reason.partition(";")
        return replace(
            work,
            due_time=self._office.clock() + timedelta(seconds=wait_s),
            attempt=work.attempt + 1,
            reason=f"{first}; {outcome.value}",
        )

    def _tell(self, conn: Connection, mended: Sequence[Work]) -> None:
        """Write what of OVN was mended."""
        names = ovn_units.called(conn, [work.key for work in mended])
        for work in mended:
            kind, _, ident = work.key.partition(":")
            name, project_id = names.get(work.key, (ident, ""))
            what = work.reason.removeprefix(DAMAGED).removeprefix(": ").partition(";")[0]
            event = self._office.event(
                kind,
                ident,
                name,
                project_id=project_id,
                type=EventType.WARNING,
                reason="OVN_REPAIRED",
                message=f"{kind.replace('_', ' ')} {name} was not as it shall be in OVN's "
                f"northbound database: {what}; it was put right",
                attributes={"unit": work.key},
            )
            events.insert(conn, event)
            log.warning("ovn_repaired", unit=work.key, what=what)

    def _tell_rest(self, mended: int, conn: Connection) -> None:
        message = (
            f"{mended} units of OVN's northbound database were not as they shall be, and were put "
            f"right; the first {MAX_EVENTS} have events of their own"
        )
        kind, _, ident = BASE.partition(":")
        event = self._office.event(
            kind, ident, ident, type=EventType.WARNING, reason="OVN_REPAIRED", message=message
        )
        events.insert(conn, event)
        log.warning("ovn_repaired_more", units=mended)

    # Comparing.

    async def _compare_everything(self) -> None:
        self._is_all_unknown = False
        try:
            inventory = await self._northbound.inventory()
            seen: set[str] = set()
            for kind in ("cloud", *ovn_units.KINDS):
                seen |= await self._compare_kind(kind, inventory)
            # Work was done meanwhile: what it removed is there no more, and no damage.
            still = await self._northbound.inventory()
            self._orphans.clear()
            await self._judge([key for key in inventory if key in still and key not in seen])
        except BaseException:
            self._is_all_unknown = True
            raise

    async def _compare_kind(self, kind: str, inventory: Mapping[str, int]) -> set[str]:
        """Compare all units of a kind, some at a time, with due work between."""
        if kind == "cloud":
            await self._compare([BASE], inventory)
            return {BASE}
        seen: set[str] = set()
        after, idents = "", [""]
        while idents:
            page = partial(ovn_units.page, kind=kind, after=after, limit=BATCH)
            idents = await self._office.uow.read(page)
            keys = [f"{kind}:{ident}" for ident in idents]
            seen.update(keys)
            await self._compare(keys, inventory)
            await self._bring()
            after = idents[-1] if idents else ""
        return seen

    async def _compare_touched(self) -> None:
        inventory = await self._northbound.inventory()
        self._orphans = {key: of for key, of in self._orphans.items() if key in inventory}
        while self._touched:
            some = sorted(self._touched)[:BATCH]
            there = await self._office.uow.read(partial(ovn_units.called, keys=some))
            await self._compare([key for key in some if key in there or key == BASE], inventory)
            await self._judge([key for key in some if key not in there and key in inventory])
            self._touched.difference_update(some)

    async def _compare(self, keys: Sequence[str], inventory: Mapping[str, int]) -> None:
        """Put those units among the work that differ, and are not there already."""
        servers = self._dns_servers
        derived = await self._office.uow.read(lambda conn: derive(conn, keys, servers))
        differing = set(await self._northbound.compare(derived.units)) if derived.units else set()
        if not differing:
            return
        reasons = {
            unit.key: _what(len(unit.rows), inventory.get(unit.key, 0))
            for unit in derived.units
            if unit.key in differing
        }
        await self._office.lead(partial(self._mark, reasons))

    async def _judge(self, keys: Iterable[str]) -> None:
        """Let what was removed go from OVN; keep what the store never heard of."""
        unwanted = [key for key in keys if key != BASE]

        def read(conn: Connection) -> set[str]:
            # A port of a router, say, is there, and yet no unit.
            return ovn_work.tombs(conn, unwanted) | ovn_units.called(conn, unwanted).keys()

        known = await self._office.uow.read(read) if unwanted else set()
        for key in unwanted[:MAX_FINDINGS]:
            if key not in known:
                self._orphans[key] = network_findings.orphan(key)
        reasons = dict.fromkeys(known, f"{DAMAGED}: its rows were there again")
        if reasons:
            await self._office.lead(partial(self._mark, reasons))

    def _mark(self, reasons: Mapping[str, str], conn: Connection) -> None:
        """Mark units, each with its reason; those on which work is under way are none of ours."""
        waiting = ovn_work.waiting(conn, reasons)
        now = self._office.clock()
        for reason in sorted(set(reasons.values())):
            keys = [key for key, of in reasons.items() if of == reason and key not in waiting]
            ovn_work.mark(conn, keys, now, reason)


def _what(wanted: int, there: int) -> str:
    """Say in which way a unit differs."""
    if not there:
        return f"{DAMAGED}: its rows were gone"
    if there < wanted:
        return f"{DAMAGED}: {wanted - there} of its {wanted} rows were gone"
    if there > wanted:
        return f"{DAMAGED}: {there - wanted} rows were there that are not its own"
    return f"{DAMAGED}: its rows had been altered"
