"""Hand changes of machines to watchers: all that is, then a mark, then each change.

Changes of one machine are merged while a watcher has not read them, so that a slow one costs at
most one entry a machine, and always ends up with the newest. What is merely underway waits a moment
for company: a create of a few quick steps costs the leader one transaction, not one a step.
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


LAZY_S = 0.2
"""Longest that a watcher waits for a change that may wait."""
Change = Machine | Tombstone | Synced | Alive


class MachineFeed:
    """Changes to any number of watchers. All methods belong to the event loop's thread."""

    def __init__(self, snapshot: Callable[[], Sequence[Machine | Tombstone]]) -> None:
        self._snapshot = snapshot
        self._watchers: set[_Watcher] = set()

    def publish(self, change: Machine | Tombstone, *, lazily: bool = False) -> None:
        """Tell all watchers; `lazily`: within `LAZY_S`, or with the next change that does not."""
        for watcher in self._watchers:
            watcher.pending.pop(change.instance_id, None)
            watcher.pending[change.instance_id] = change
            if lazily:
                watcher.be_ready_within(LAZY_S)
            else:
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
            watcher.end()


class _Watcher:
    """What one watcher has not read yet, oldest first."""

    def __init__(self) -> None:
        self.pending: dict[str, Machine | Tombstone] = {}
        self.ready = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def be_ready_within(self, seconds: float) -> None:
        """Be ready then, unless something makes it ready sooner."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def end(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self._timer = None
        if self.pending:
            self.ready.set()
