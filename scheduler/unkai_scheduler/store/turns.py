"""Turns at a database server: who may use one of the few connections now, and for how long.

A scheduler has few connections and may have many callers. Each call waits for its turn no longer
than its caller listens, and its statements end before its caller's deadline: who cannot be served
in time hears UNAVAILABLE, with nothing written. A turn comes with a slot, the row by which a lost
answer to COMMIT is settled (`settlements`).

Its trap: `has_begun` says whether a call that nobody waits for any more may still be dropped.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from unkai_scheduler.store.failures import crowded
from unkai_scheduler.store.servers import ATTEMPT_S, CONNECT_S
from unkai_scheduler.store.writer import PATIENCE_S

RETRY_S = 8.0
"""Time after which a call's transaction is not begun anew; its statements end `CONNECT_S` later.
With what giving a connection back may take, a write ends before its caller's deadline."""


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _patient_s() -> float:
    return RETRY_S + CONNECT_S


@dataclass(slots=True, eq=False)
class Call:
    """When a call came and how long its statements may last; whether its turn has come."""

    began_s: float = field(default_factory=_now_s)
    lasts_s: float = field(default_factory=_patient_s)
    has_begun: bool = False

    def left_s(self) -> float:
        """Return how long its statements may still last."""
        return max(0.0, min(ATTEMPT_S, self.began_s + self.lasts_s - _now_s()))

    def may_try_again(self) -> bool:
        """Tell whether its transaction may be begun anew."""
        return _now_s() < self.began_s + RETRY_S


@dataclass(slots=True)
class Slot:
    """A row that one transaction at a time marks."""

    name: str
    is_open: bool = False


class Turns:
    """So many turns at a time; who came first has the first that comes free."""

    def __init__(self, count: int) -> None:
        writer = secrets.token_hex(8)
        self.slots = [f"{writer}-{number}" for number in range(count)]
        self._free: asyncio.LifoQueue[Slot] = asyncio.LifoQueue()
        for name in self.slots:
            self._free.put_nowait(Slot(name))

    @asynccontextmanager
    async def taken(self, call: Call) -> AsyncIterator[Slot]:
        """Wait for a turn; raise `Unavailable` when none comes in time."""
        try:
            async with asyncio.timeout_at(call.began_s + PATIENCE_S):
                slot = await self._free.get()
        except TimeoutError as error:
            raise crowded() from error
        call.has_begun = True
        try:
            yield slot
        finally:
            self._free.put_nowait(slot)
