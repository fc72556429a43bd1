"""Drops what is kept only for a time: events, ended operations, request ids, tombstones.

Looks on a timer, deletes in small fenced transactions, so that a backlog never holds the database
up, and is told nothing by anybody: what it missed it finds at the next round.

What is deleted does not come back when a clock is put right. So ages go by a clock of their own,
which a wrong one takes along late (`CloudClock.reached`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.reconcile.office import Office
from unkai_scheduler.store import events, operations, ovn_work, requests, tombstones
from unkai_scheduler.store.unit_of_work import Connection

BATCH = 500
"""Rows deleted in one transaction: some milliseconds."""


class Retention:
    """Prunes all histories."""

    def __init__(self, office: Office, reached: Clock) -> None:
        self._office = office
        self._reached = reached

    async def run(self) -> None:
        """Prune on a timer until cancelled."""
        while True:
            await asyncio.sleep(self._office.settings.retention.prune_s)
            await self._office.attempt("retention", self._round)

    async def _round(self) -> None:
        kept, now = self._office.settings.retention, self._reached()

        def before(kept_s: float) -> datetime:
            return now - timedelta(seconds=kept_s)

        await self._prune_all(lambda conn: events.prune(conn, kept.events, BATCH))
        await self._prune_all(lambda conn: operations.prune(conn, before(kept.operations_s), BATCH))
        await self._prune_all(lambda conn: requests.expire(conn, before(kept.requests_s), BATCH))
        await self._prune_all(lambda conn: tombstones.prune(conn, before(kept.tombstones_s), BATCH))
        await self._prune_all(lambda conn: ovn_work.prune(conn, before(kept.tombstones_s), BATCH))

    async def _prune_all(self, prune: Callable[[Connection], int]) -> None:
        """Repeat a pruning of one batch until nothing is left for it."""
        gone = BATCH
        while gone == BATCH:
            gone = await self._office.lead(prune, tells=False)
