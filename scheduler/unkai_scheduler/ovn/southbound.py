"""The reader of OVN's southbound database: a child of its own fills its sight of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from unkai_scheduler.ovn import frames
from unkai_scheduler.ovn.keeper import Child, Keeper
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_scheduler.ovn.sight import Sight


class OvnSouthbound(Keeper):
    """Keeps what is seen up to date. For one reader of what moved."""

    module = "unkai_scheduler.ovn.child.southbound"
    database = "OVN_Southbound"

    def __init__(
        self, settings: OvnSettings, *, jitter: Callable[[], float] = random.random
    ) -> None:
        super().__init__(settings, jitter=jitter)
        self.sight = Sight()
        self._moved: set[str] | None = None
        self._told = asyncio.Event()

    async def moved(self) -> set[str] | None:
        """Return the names of ports that moved since, once some have; None: any may have."""
        await self._told.wait()
        self._told.clear()
        moved, self._moved = self._moved, set()
        return moved

    def forget_moves(self) -> None:
        """Say of everything that it may have moved: another reader begins."""
        self._moved = None
        if self.sight.is_known:
            self._told.set()

    def _hear(self, child: Child, message: frames.Message) -> None:
        match message.get("event"):
            case "anew":
                self.sight.clear()
                self._moved = None
            case "seen":
                ports = self.sight.take(message["rows"])
                if self._moved is not None:
                    self._moved |= ports
                if child.is_live:
                    self._told.set()

    def _unknown(self) -> None:
        """Let everything count as moved, once it is live and so read whole."""
        self._moved = None
        if self._child is not None and self._child.is_live:
            self.sight.is_known = True
            self._told.set()
