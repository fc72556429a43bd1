"""Transactions whose outcome is known, whatever the network does to the answer to COMMIT.

Each marks its writer's slot (`settlements`). Whether a COMMIT without an answer was done is read
from there, never guessed. Below `server_unit_of_work`, which says whose turn it is and what is
tried again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.store import servers, settlements
from unkai_scheduler.store.failures import DatabaseFailure, Failure
from unkai_scheduler.store.servers import ATTEMPT_S, Classify, connected
from unkai_scheduler.store.turns import Call, Slot

T = TypeVar("T")

COMMIT_S = 10.0
"""Longest wait for the answer to COMMIT."""
SETTLE_S = 15.0
"""Longest that a lost answer to COMMIT is looked into."""
SETTLE_PAUSE_S = 0.2


class SettledTransactions:
    """Transactions on one engine that writes."""

    def __init__(self, engine: AsyncEngine, classify: Classify, clock: Clock) -> None:
        self._engine = engine
        self._classify = classify
        self._clock = clock
        self._tokens = itertools.count(1)

    async def run(self, work: Callable[[Connection], T], slot: Slot, call: Call) -> T:
        """Run one transaction, once; raise `DatabaseFailure`: `UNKNOWN` alone may have written."""
        if not slot.is_open:
            opening = partial(settlements.open_slot, slot=slot.name, now=self._clock())
            await self._in_own_transaction(opening, call.left_s())
            slot.is_open = True
        return await self._settle(work, slot, call)

    async def _settle(self, work: Callable[[Connection], T], slot: Slot, call: Call) -> T:
        """Run one transaction that marks the slot, and make sure of what became of it."""
        token, now = next(self._tokens), self._clock()
        async with connected(self._engine, self._classify) as conn:
            async with limited(call.left_s()):
                await conn.begin()
                result = await conn.run_sync(work)
                try:
                    await conn.run_sync(settlements.mark, slot.name, token, now)
                except DatabaseFailure:
                    slot.is_open = False
                    raise
            lost = await _commit(conn)
        if lost is not None and not await self._was_committed(slot, token, lost):
            kind = Failure.FULL if lost.kind is Failure.FULL else Failure.LOST
            raise DatabaseFailure(kind, str(lost)) from lost
        return result

    async def _was_committed(self, slot: Slot, token: int, lost: DatabaseFailure) -> bool:
        """Tell whether a transaction was committed; `UNKNOWN` when it cannot be known in time."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + SETTLE_S
        while loop.time() < end_s:
            try:
                async with connected(self._engine, self._classify) as conn, limited(ATTEMPT_S):
                    await conn.begin()
                    stored = await conn.run_sync(settlements.settled, slot.name)
                    await conn.rollback()
            except DatabaseFailure:
                await asyncio.sleep(SETTLE_PAUSE_S)
                continue
            if stored is not None:
                return stored == token
            break
        slot.is_open = False
        raise DatabaseFailure(Failure.UNKNOWN, str(lost)) from lost

    async def close_slots(self, names: list[str]) -> None:
        """Drop the slots, if the database answers: others drop them when they are old."""
        with suppress(DatabaseFailure, TimeoutError):
            async with asyncio.timeout(servers.CONNECT_S):
                closing = partial(settlements.close_slots, slots=names)
                await self._in_own_transaction(closing, servers.CONNECT_S)

    async def dispose(self) -> None:
        """Let the connections go."""
        await self._engine.dispose()

    async def _in_own_transaction(
        self, work: Callable[[Connection], None], longest_s: float
    ) -> None:
        async with (
            connected(self._engine, self._classify) as conn,
            limited(longest_s),
            conn.begin(),
        ):
            await conn.run_sync(work)


@asynccontextmanager
async def limited(longest_s: float) -> AsyncIterator[None]:
    """Let statements last no longer than a transaction may, whatever the network does."""
    try:
        async with asyncio.timeout(longest_s):
            yield
    except TimeoutError as error:
        raise DatabaseFailure(Failure.LOST, "the transaction took too long") from error


async def _commit(conn: AsyncConnection) -> DatabaseFailure | None:
    """Commit; return what kept the answer from us."""
    try:
        async with asyncio.timeout(COMMIT_S):
            await conn.commit()
    except DatabaseFailure as failure:
        return failure
    except TimeoutError:
        return DatabaseFailure(Failure.LOST, "COMMIT was not answered")
    return None
