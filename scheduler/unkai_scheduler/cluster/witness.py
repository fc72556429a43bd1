"""Whether the leader is gone, seen sooner than its lease ends: its machine refuses us.

A leader that was killed leaves a lease of 3 s. But its machine says at once that nobody listens
any more where the leader did. That is taken for its end only where it has let us in before, under
the same lead: an address that never worked says nothing. Silence says nothing either: a machine
that is gone, a process that is stopped and a cut cable all look alike, and the lease decides.

To be wrong does no harm: the term fences who was deposed. It is the lead that would go back and
forth, and it does not, because each lead is believed in anew until it has let us in and refuses.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

KNOCK_S = 0.2
"""Longest that a machine may take to answer; one that takes longer has not refused."""


class Witness:
    """Looks after the leader from one event loop; one knock at a time."""

    def __init__(self) -> None:
        # Of its own: to resolve a name may take many seconds, and nothing else shall wait for it.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="witness")
        self._knock: asyncio.Future[bool | None] | None = None
        self._lead = 0
        self._let_in = False

    async def is_gone(self, lead: int, address: str) -> bool:
        """Tell whether the leader at `HOST:PORT` is gone. `lead`: what tells its lead from others.

        Returns within `KNOCK_S` or little more.
        """
        if lead != self._lead:
            self._lead, self._let_in = lead, False
            self._forget()
        if self._knock is None:
            loop = asyncio.get_running_loop()
            self._knock = loop.run_in_executor(self._executor, knock, address)
        await asyncio.wait({self._knock}, timeout=2 * KNOCK_S)
        if not self._knock.done():
            return False
        let_in = self._knock.result()
        self._forget()
        self._let_in = self._let_in or let_in is True
        return self._let_in and let_in is False

    def close(self) -> None:
        """Stop; a knock under way ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _forget(self) -> None:
        self._knock = None


def knock(address: str) -> bool | None:
    """Tell whether somebody listens at `HOST:PORT`: True, False when refused, None when unknown."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S):
            return True
    except ConnectionRefusedError:
        return False
    except (OSError, ValueError):
        return None
