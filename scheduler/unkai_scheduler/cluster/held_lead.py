"""The lead while it is held: renewed on a thread of its own, watched over by the event loop.

A busy leader's loop may be late by seconds; its lease shall not end for that, so renewing does not
wait for the loop. But a loop that hangs leads nobody: unless it shows itself, renewing ends, and
the lease goes to somebody else. What is believed is our own clock's business (`believed_s`), and
read by both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from unkai_wire.errors import Unavailable

LEASE_MARGIN_S = 0.5
"""So much before the lease can end, by our clock, we stop to believe in it."""
RENEW_S = 0.8
RETRY_S = 0.3
LOOP_S = 8.0
"""A loop that has not shown itself for so long hangs."""

Renew = Callable[[float], float]
"""Renews within so many seconds; returns the time to live, 0 when the lead is another's. Raises
`Unavailable` when etcd does not answer."""


class HeldLead:
    """One lead. `keep` runs on the thread, all else on the loop."""

    def __init__(self, believed_s: float, clock: Callable[[], float]) -> None:
        """`believed_s`: until when, by the clock, the lead is ours."""
        self.is_lost = False
        self._clock = clock
        self._believed_s = believed_s
        self._shown_s = clock()
        self._over = threading.Event()

    def left_s(self) -> float:
        """Return for how long the lead may still be believed; the loop shows itself by asking."""
        self._shown_s = self._clock()
        return 0.0 if self.is_lost else self._believed_s - self._shown_s

    def end(self) -> None:
        """Let `keep` return, once its call has ended."""
        self._over.set()

    def keep(self, renew: Renew) -> None:
        """Renew until the lead is lost, no longer believed, or ended, or the loop hangs."""
        wait_s = RENEW_S
        while not self._over.wait(wait_s):
            started_s = self._clock()
            left_s = self._believed_s - started_s
            if left_s <= 0 or started_s - self._shown_s > LOOP_S:
                return
            try:
                ttl_s = renew(left_s)
            except Unavailable:
                wait_s = RETRY_S
                continue
            if not ttl_s:
                self.is_lost = True
                return
            self._believed_s, wait_s = started_s + ttl_s - LEASE_MARGIN_S, RENEW_S
