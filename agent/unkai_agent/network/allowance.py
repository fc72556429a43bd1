"""How often guests may ask: a bucket that time fills."""

from __future__ import annotations

import time
from collections.abc import Callable

_BURST_S = 5.0


class Allowance:
    """So many a second on average, and five seconds' worth at once."""

    def __init__(self, rate: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._monotonic = rate, monotonic
        self._left, self._since_s = rate * _BURST_S, monotonic()

    def take(self) -> bool:
        """Tell whether one more may be answered now."""
        now_s = self._monotonic()
        self._left = min(self._rate * _BURST_S, self._left + (now_s - self._since_s) * self._rate)
        self._since_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
