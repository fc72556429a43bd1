"""The sequencer: gives committed events their revision, in one order.

Cheap when idle: it is kicked by our own writes and by wakes, and looks by itself, without writing,
for what other schedulers wrote.
"""

from __future__ import annotations

import asyncio
import time

from unkai_scheduler.reconcile import metrics
from unkai_scheduler.reconcile.office import Office, growing_s, wait_for
from unkai_scheduler.store import events
from unkai_scheduler.store.unit_of_work import Connection

BATCH = 1000
GATHER_S = 0.01
"""How long a written event waits for company: an act's next step often follows at once."""


class Sequencer:
    """Stamps events."""

    def __init__(self, office: Office) -> None:
        self._office = office

    async def run(self) -> None:
        """Stamp until cancelled."""
        office, failures = self._office, 0
        pause_s = office.settings.reconcile.sequencer_s
        while True:
            work, hinted = self._look, await wait_for(office.written, pause_s)
            began_s = time.perf_counter()
            if hinted:
                await asyncio.sleep(GATHER_S)
                office.written.clear()
                work = self._stamp_all
            went_well = await office.attempt("sequencer", work)
            if hinted and went_well:
                metrics.EVENT_LAG_SECONDS.observe(time.perf_counter() - began_s)
            failures = 0 if went_well else failures + 1
            if failures:
                await asyncio.sleep(growing_s(failures))

    async def _look(self) -> None:
        if await self._office.uow.read(events.any_unstamped):
            await self._stamp_all()

    async def _stamp_all(self) -> None:
        stamped = BATCH
        while stamped == BATCH:
            stamped = await self._office.lead(_stamp, tells=False)
            metrics.EVENTS_STAMPED.inc(stamped)
            if stamped:
                self._office.audience.stamped()


def _stamp(conn: Connection) -> int:
    return events.stamp(conn, BATCH)
