"""What is said of others' doings, until the one reader asks: coalesced, and so bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from unkai_scheduler.ovn.port import Changed

MAX_UNITS = 10_000
"""More than that is everything."""


class Hearsay:
    """Touched units, or word that all is unknown, as at the beginning."""

    def __init__(self) -> None:
        self._units: set[str] = set()
        self._everything = True
        self._said = asyncio.Event()
        self._said.set()

    def units(self, keys: Iterable[str]) -> None:
        """Somebody touched these."""
        self._units.update(keys)
        if len(self._units) > MAX_UNITS:
            self.everything()
        self._said.set()

    def everything(self) -> None:
        """Nothing is known."""
        self._everything = True
        self._units.clear()
        self._said.set()

    async def next(self) -> Changed:
        """Return what has been said since, once there is anything."""
        await self._said.wait()
        self._said.clear()
        changed = Changed(frozenset(self._units), self._everything)
        self._units.clear()
        self._everything = False
        return changed
