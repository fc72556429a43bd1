"""Deadlines: finds the operations whose time is over and has them ended.

An instance's operation is ended by `next_action`, together with its instance; here it is only
pointed out. What has lost its resource, or is not an instance's, is ended here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime

from unkai_scheduler.domain.operations import Operation, OperationState, end
from unkai_scheduler.reconcile import operations as progress
from unkai_scheduler.reconcile.changes import write_operation
from unkai_scheduler.reconcile.office import Office
from unkai_scheduler.store import instances, operations
from unkai_scheduler.store.unit_of_work import Connection

LOOK_S = 1.0
BATCH = 256


class Deadlines:
    """Watches the deadlines. `late` is told the ids of instances to look at."""

    def __init__(self, office: Office, late: Callable[[Iterable[str]], None]) -> None:
        self._office = office
        self._late = late

    async def run(self) -> None:
        """Look every second until cancelled."""
        while True:
            await self._office.attempt("deadlines", self._round)
            await asyncio.sleep(LOOK_S)

    async def _round(self) -> None:
        now = self._office.clock()

        def work(conn: Connection) -> tuple[list[str], list[Operation]]:
            theirs: list[str] = []
            ours: list[Operation] = []
            for operation in operations.expired(conn, now, BATCH):
                if instances.get(conn, operation.resource_id) is not None:
                    theirs.append(operation.resource_id)
                else:
                    ours.append(operation)
            return theirs, ours

        theirs, ours = await self._office.uow.read(work)
        if theirs:
            self._late(theirs)
        if ours:
            await self._office.lead(
                lambda conn: self._end(conn, ours, now), operation_ids=[o.id for o in ours]
            )

    def _end(self, conn: Connection, late: list[Operation], now: datetime) -> None:
        for seen in late:
            operation = operations.locked(conn, seen.id)
            if operation is None or operation.state.ended:
                continue
            why = progress.too_late(operation).to_record()
            ended = end(operation, OperationState.FAILED, now, why)
            write_operation(conn, operation, ended, name="", office=self._office, now=now)
