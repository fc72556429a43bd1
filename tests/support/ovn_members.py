"""Waiting for those who write to OVN's northbound database, and for what they hear."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from tests.support.ovn import PATIENCE_S
from unkai_scheduler.ovn.port import Changed, Northbound
from unkai_scheduler.ovn.rows import Outcome, Unit
from unkai_wire.errors import Unavailable


async def until_reached(member: Northbound) -> None:
    """Wait until a member can ask the database."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await member.inventory()
            except Unavailable:
                await asyncio.sleep(0.02)
            else:
                return


async def until_lost(member: Northbound) -> Unavailable:
    """Wait until a member cannot ask the database; its end may be noticed a moment later."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await member.inventory()
            except Unavailable as error:
                return error
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def hearing(member: Northbound) -> AsyncIterator[Hearing]:
    """Listen to what others do from now on."""
    heard = Hearing()
    task = asyncio.create_task(heard.listen(member))
    try:
        await heard.until(lambda: heard.everything > 0)
        heard.everything = 0
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Hearing:
    """What was heard."""

    def __init__(self) -> None:
        self.units: set[str] = set()
        self.everything = 0
        self._more = asyncio.Event()

    async def listen(self, member: Northbound) -> None:
        async for changed in member.changes():
            self.take(changed)

    def take(self, changed: Changed) -> None:
        self.units |= changed.units
        self.everything += changed.everything
        self._more.set()

    async def until(self, true: Any) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                self._more.clear()
                await self._more.wait()

    async def of(self, unit: str) -> None:
        """Wait until a unit was heard of."""
        await self.until(lambda: unit in self.units)
        self.units.clear()


async def applied(nb: Northbound, term: int, units: Sequence[Unit]) -> None:
    """Apply until it is done, as the leader does."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(Unavailable):
                found = await nb.apply(term, units)
                if len(found) == len(units) and set(found.values()) == {Outcome.DONE}:
                    return
            await asyncio.sleep(0.02)
