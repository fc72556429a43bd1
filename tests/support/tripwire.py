"""A tripwire: lets a scheduler die at a chosen one of its effects on store and agents.

Each effect has two sides: the call may be lost before it took place, or its answer after. The
`at`-th side crossed is the last thing the scheduler does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

EFFECTS = frozenset(
    {
        "read",
        "lead",
        "take_term",
        "describe",
        "announce_term",
        "ensure_machine",
        "remove_machine",
        "acknowledge_tombstones",
        "evict_image",
    }
)
"""What a scheduler does to its store and its agents."""


class Tripwire:
    """Counts the sides crossed; kills at one of them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.crossed = 0
        self.died = asyncio.Event()
        self.place = ""

    def around(self, target: Any) -> Any:
        """Return the store or the agents with the wire around its effects."""
        return _Wired(target, self)

    async def cross(self, place: str) -> None:
        """Cross one side: go on, or never."""
        self.crossed += 1
        if self.crossed == self.at:
            self.place = place
            self.died.set()
        if self.died.is_set():
            # Nothing of a dead process runs on: wait here for the cancellation.
            await asyncio.Event().wait()


class _Wired:
    def __init__(self, target: Any, wire: Tripwire) -> None:
        self._target = target
        self._wire = wire

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        return self._guarded(name, found) if name in EFFECTS else found

    def _guarded(
        self, name: str, effect: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            await self._wire.cross(f"before {name}")
            answer = await effect(*args, **kwargs)
            await self._wire.cross(f"after {name}")
            return answer

        return guarded
