"""The instance loop: takes what is due or changed, asks `next_action`, and acts.

A round reads the rows that are due by the database or marked by an observation, decides for all,
places those without a host in one batch, writes everything in **one** fenced transaction, and
only then has the orders given (`orders.py`), which run beside the loop. The loop never scans all
rows but at taking office and every `RESYNC_S`.

The trap: who has been ordered something is not looked at again before the order's end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.reconcile import changes, gangs, metrics
from unkai_scheduler.reconcile.actions import (
    Action,
    Ensure,
    Fail,
    Forget,
    Place,
    Reclaim,
    Release,
    Remove,
    Rules,
    Wait,
)
from unkai_scheduler.reconcile.changes import Change, Seen
from unkai_scheduler.reconcile.fleet_rows import FleetRows
from unkai_scheduler.reconcile.holders import Holders
from unkai_scheduler.reconcile.hosts import Hosts
from unkai_scheduler.reconcile.instances import next_action
from unkai_scheduler.reconcile.office import (
    Office,
    ReignEnded,
    growing_s,
    new_etag,
    wait_for,
)
from unkai_scheduler.reconcile.orders import Orders
from unkai_scheduler.reconcile.placing import Placer
from unkai_scheduler.store import instances
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire import tracing
from unkai_wire.errors import Unavailable

log = structlog.get_logger(__name__)

RESYNC_S = 30.0
"""Seconds between looks at every claimed row, whatever was observed."""
SHORTEST_PAUSE_S = 0.05
MAX_ORDERS = 512
"""Orders given and not yet answered; what is beyond stays marked."""


_MOVES = (Release, Fail, Forget, Reclaim)


class InstanceLoop:
    """Makes instances what they shall be."""

    def __init__(
        self,
        office: Office,
        hosts: Hosts,
        placer: Placer,
        rules: Rules,
        *,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        """Make one; `moved`: told when an instance came to a host, left one or is gone."""
        self._office = office
        self._moved = moved
        self._hosts = hosts
        self._holders = Holders(hosts, office.live)
        self._orders = Orders(office, hosts, self._holders)
        self._placer = placer
        self._rules = rules
        self._marked: dict[str, bool] = {}
        """Ids to look at; True: at once, whatever their due time says."""
        self._ordered: set[str] = set()
        self._failing: dict[str, str] = {}
        """Ids met with a bug, and which."""
        self._claims: dict[str, str] = {}
        self._kick = asyncio.Event()
        self._put_off: datetime | None = None
        """When the first of those is due that the last round has put off."""
        self._rows = FleetRows(office, hosts, placer)
        self._fleet_stale = True

    # Hints. Losing one costs time only.

    def mark(self, ids: Iterable[str], *, urgent: bool = False) -> None:
        """Look at these instances soon; `urgent`: without waiting for their due time."""
        for ident in ids:
            self._marked[ident] = urgent or self._marked.get(ident, False)
        self._kick.set()

    def mark_host(self, host_id: str) -> None:
        """Look at all a host holds: its state changed."""
        self._fleet_stale = True
        held = [ident for ident, claimant in self._claims.items() if claimant == host_id]
        self.mark(held, urgent=True)
        self.mark(self._placer.waiting(), urgent=True)

    def wake(self) -> None:
        """Look at what is due: something was written."""
        self._fleet_stale = True
        self._kick.set()

    def is_claimed(self, instance_id: str) -> bool:
        """Tell whether some host claims it, as last read or written."""
        return instance_id in self._claims

    # Rounds.

    async def run(self) -> None:
        """Go round until cancelled."""
        loop = asyncio.get_running_loop()
        resync_s, failures = loop.time(), 0
        async with asyncio.TaskGroup() as orders:
            while True:
                if loop.time() >= resync_s and await self._office.attempt("resync", self._resync):
                    resync_s = loop.time() + RESYNC_S
                self._kick.clear()
                if await self._office.attempt("instances", lambda: self._round(orders)):
                    failures = 0
                    await wait_for(self._kick, self._pause_s())
                else:
                    failures += 1
                    await asyncio.sleep(growing_s(failures))

    def _pause_s(self) -> float:
        """Return how long to wait for a hint: until what this round has put off is due again."""
        longest_s = self._office.settings.reconcile.resync_s
        if self._put_off is None:
            return longest_s
        left_s = (self._put_off - self._office.clock()).total_seconds()
        return min(longest_s, max(left_s, SHORTEST_PAUSE_S))

    async def _resync(self) -> None:
        longest = timedelta(seconds=2 * self._rules.backoff_cap_s)
        far = self._office.clock() + longest

        def work(conn: Connection) -> tuple[list[Instance], list[str]]:
            return instances.all_claimed(conn), instances.due_after(conn, far, MAX_ORDERS)

        rows, put_off = await self._office.uow.read(work)
        self._claims = {row.id: row.host_id for row in rows}
        self._fleet_stale = True
        self.mark(self._claims)
        # No pause is so long: the clock that said when has been put back.
        self.mark(put_off, urgent=True)

    async def _round(self, orders: asyncio.TaskGroup) -> None:
        now = self._office.clock()
        limit = self._office.settings.reconcile.batch_size
        room = max(0, min(limit, MAX_ORDERS - len(self._ordered)))
        ready = [ident for ident in self._marked if ident not in self._ordered]
        marked = (self._placer.in_line(ready) if len(ready) > room else ready)[:room]
        urgent = {ident for ident in marked if self._marked.pop(ident)}
        try:
            seen = await self._read(marked, urgent, now, room + len(self._ordered))
            decided = await self._decide(seen, urgent, now)
            written = await self._write(decided, now)
        except BaseException:
            self.mark(marked)
            self.mark(urgent, urgent=True)
            self._fleet_stale = True
            raise
        waits = [c.action.instance.due_time for c in written if isinstance(c.action, Wait)]
        self._put_off = min((due for due in waits if due is not None), default=None)
        for change in written:
            self._after(change, orders)
        if any(change.claim or isinstance(change.action, _MOVES) for change in written):
            self._moved()
        if len(ready) > room > 0 or len(seen) >= limit:
            self._kick.set()

    async def _read(
        self, marked: list[str], urgent: set[str], now: datetime, limit: int
    ) -> list[Seen]:
        """Read what is due or marked, and all of each gang of it, which `urgent` is given too."""

        def work(conn: Connection) -> tuple[list[Seen], set[str], set[str]]:
            rows = {row.id: row for row in instances.due(conn, now, limit)}
            for ident in marked:
                if ident not in rows and (row := instances.get(conn, ident)) is not None:
                    rows[ident] = row
            waiting_of = partial(instances.waiting_of_gang, conn)
            together, later = gangs.completed(rows, waiting_of, now=now, urgent=urgent, room=limit)
            return [changes.read(conn, row) for row in rows.values()], together, later

        seen, together, later = await self._office.uow.read(work)
        urgent |= together
        if later:  # to mark nobody is a hint, too
            self.mark(later, urgent=True)
        # What was adopted has a claim that this loop did not write.
        self._claims |= {s.instance.id: s.instance.host_id for s in seen if s.instance.host_id}
        return [s for s in seen if s.instance.id not in self._ordered]

    async def _decide(self, seen: list[Seen], urgent: set[str], now: datetime) -> list[Change]:
        decided: list[Change] = []
        places: list[tuple[Seen, Place]] = []
        for one in seen:
            try:
                action = self._next(one, now, urgent=one.instance.id in urgent)
            except Exception as error:  # noqa: BLE001 - a bug met at one must not stop the others
                self._stuck(one.instance.id, error)
                continue
            if isinstance(action, Place):
                places.append((one, action))
                continue
            if isinstance(action, Forget) and self._holders.may_yet_turn_up(one.instance):
                action = self._placer.hold(one, now)
            if one.instance.host_id or self._office.live.holders(one.instance.id):
                self._placer.leave_queue(one.instance.id)  # it waits for no capacity any more
            decided.append(Change(one, action))
        if places and self._hosts.is_new_here():
            decided += [Change(one, self._placer.hold(one, now)) for one, _ in places]
        elif places:
            # Asked before the fleet is read: who comes up meanwhile is not in it.
            learning = self._hosts.is_learning()
            if self._fleet_stale:
                self._fleet_stale = False
                await self._rows.refresh()
            decided += self._placer.decide(places, now, learning=learning)
        return decided

    async def fleet_now(self) -> Fleet:
        """Return a copy of the fleet as it is now; see `FleetRows.copy_now`."""
        return await self._rows.copy_now()

    def _next(self, seen: Seen, now: datetime, *, urgent: bool) -> Action:
        instance = replace(seen.instance, due_time=now) if urgent else seen.instance
        host_id, live = instance.host_id, self._office.live
        state = self._hosts.state(host_id) if host_id else None
        told = state is HostState.UP
        return next_action(
            instance,
            seen.operation,
            live.machine(host_id, instance.id) if told else None,
            live.tombstone(host_id, instance.id) if told else None,
            host_state=state,
            now=now,
            failed_hosts=seen.failed_hosts,
            held_by=self._holders.others(instance),
            rules=self._rules,
        )

    async def _write(self, decided: list[Change], now: datetime) -> list[Change]:
        """Write all changes in one transaction; return those that hold, read-only ones too."""
        same = [change for change in decided if not changes.differs(change)]
        batch = [replace(c, etag=new_etag()) for c in decided if changes.differs(c)]
        if not batch:
            return same
        try:
            kept = await self._commit(batch, now)
        except BaseException:
            self._placer.withdraw(batch)
            raise
        for change, is_kept in zip(batch, kept, strict=True):
            if not is_kept:
                self._placer.withdraw([change])
                self._fleet_stale = True
            if is_kept is False:
                self.mark([change.seen.instance.id], urgent=True)
        refused = [c.action for c, is_kept in zip(batch, kept, strict=True) if is_kept is False]
        for host_id in {a.instance.host_id for a in refused if isinstance(a, Reclaim)}:
            # It may have no row any more: asked again at once, it would be refused without end.
            await self._office.attempt("hosts", partial(self._hosts.check_written, host_id))
        return same + [change for change, is_kept in zip(batch, kept, strict=True) if is_kept]

    async def _commit(self, batch: list[Change], now: datetime) -> list[bool | None]:
        """Write a batch in one transaction; tell of each change whether it holds.

        None: it cannot be written, which is a bug; that holds up nothing else.
        """
        office = self._office

        def work(conn: Connection) -> list[bool | None]:
            instances.lock(conn, *(change.seen.instance.id for change in batch))
            office.plugs.lock(conn, [c.seen.instance.id for c in batch if changes.frees(c)])
            return list[bool | None](changes.write_all(conn, batch, office, now))

        ids = [c.action.operation.id for c in batch if c.action.operation is not None]
        began_s = time.perf_counter()
        try:
            kept = await office.lead(work, operation_ids=ids)
        except (ReignEnded, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001 - a bug at one must not stop all
            units = changes.units(batch)
            if len(units) == 1:
                for change in batch:
                    self._stuck(change.seen.instance.id, error)
                return [None] * len(batch)
            told: dict[str, bool | None] = {}
            for unit in units:
                ids = [change.seen.instance.id for change in unit]
                told |= zip(ids, await self._commit(unit, now), strict=True)
            return [told[change.seen.instance.id] for change in batch]
        took_s = time.perf_counter() - began_s
        for change in batch:
            self._failing.pop(change.seen.instance.id, None)
            if (operation := change.seen.operation) is not None:
                what = {"instance_id": change.seen.instance.id, "changes": str(len(batch))}
                tracing.record("transaction", operation.traceparent, took_s, what)
        return kept

    def _stuck(self, instance_id: str, error: Exception) -> None:
        """Note a bug met at one instance, which stays due; log it once."""
        metrics.LOOP_ERRORS.labels("instance").inc()
        if self._failing.get(instance_id) != repr(error):
            self._failing[instance_id] = repr(error)
            log.error("instance_stuck", instance=instance_id, error=str(error), exc_info=error)

    # Afterwards.

    def _after(self, change: Change, orders: asyncio.TaskGroup) -> None:
        action, before = change.action, change.seen.instance
        if isinstance(action, Ensure | Remove) or change.claim is not None:
            self._claims[before.id] = action.instance.host_id
            self._ordered.add(before.id)
            orders.create_task(self._order(action))
        elif isinstance(action, Release | Fail | Forget):
            self._claims.pop(before.id, None)
            self._placer.leave_queue(before.id)
            if before.host_id:
                self._placer.release(before, before.host_id)
                self.mark(self._placer.waiting(), urgent=True)
            if isinstance(action, Release):
                self.mark([before.id], urgent=True)
            if action.tombstone is not None:
                orders.create_task(self._orders.acknowledge(action.tombstone))
        elif not isinstance(action, Wait) and action.instance.due_time is not None:
            self.mark([before.id])
            # A claim that no placement made: the fleet takes it over from the rows.
            self._fleet_stale |= isinstance(action, Reclaim)

    async def _order(self, action: Action) -> None:
        ident = action.instance.id
        try:
            await self._orders.give(action)
        finally:
            self._ordered.discard(ident)
            self.mark([ident])
