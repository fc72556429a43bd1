"""Hand changes of machines to watchers: all that is, then a mark, then each change.

Changes of one machine are merged while a watcher has not read them, so that a slow one costs at
most one entry a machine, and always ends up with the newest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from unkai_agent.domain.machines import Machine, Tombstone


@dataclass(frozen=True, slots=True)
class Synced:
    """All that the host holds has been sent; changes follow."""


@dataclass(frozen=True, slots=True)
class Alive:
    """Nothing changed for a while."""


Change = Machine | Tombstone | Synced | Alive


class MachineFeed:
    """Changes to any number of watchers. All methods belong to the event loop's thread."""

    def __init__(self, snapshot: Callable[[], Sequence[Machine | Tombstone]]) -> None:
        self._snapshot = snapshot
        self._watchers: set[_Watcher] = set()

    def publish(self, change: Machine | Tombstone) -> None:
        """Tell all watchers."""
        for watcher in self._watchers:
            watcher.pending.pop(change.instance_id, None)
            watcher.pending[change.instance_id] = change
            watcher.ready.set()

    async def watch(self, alive_s: float) -> AsyncIterator[Change]:
        """Yield all there is, `Synced`, then changes; `Alive` after `alive_s` without any."""
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            for item in self._snapshot():
                yield item
            yield Synced()
            while True:
                try:
                    async with asyncio.timeout(alive_s):
                        await watcher.ready.wait()
                except TimeoutError:
                    yield Alive()
                watcher.ready.clear()
                while watcher.pending:
                    yield watcher.pending.pop(next(iter(watcher.pending)))
        finally:
            self._watchers.discard(watcher)


class _Watcher:
    """What one watcher has not read yet, oldest first."""

    def __init__(self) -> None:
        self.pending: dict[str, Machine | Tombstone] = {}
        self.ready = asyncio.Event()
