"""When this host last heard of a leader, and so how long a machine waits for its word.

Architecture, the run permit: a machine whose writable disks all lie here is started without a
leader's leave when none answered for it within 30 s. A leader that is there has as long again,
since it may only have come a moment ago. One that is there and silent about the machine knows
nothing of it (its database was restored or lost): had the claim moved, it would answer with a
removal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class LeaderContact:
    """Notes each word from a leader. `monotonic` in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._heard_s = float("-inf")
        self._watching = 0

    def heard(self) -> None:
        """Note an order, or a term announced, that passed the fence."""
        self._heard_s = self._monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note for as long as it lasts that a leader watches this host's machines."""
        self._watching += 1
        try:
            yield
        finally:
            self._watching -= 1
            self.heard()

    @property
    def is_watched(self) -> bool:
        """Tell whether a leader watches this host's machines now."""
        return self._watching > 0

    def silent_since(self, moment_s: float) -> bool:
        """Tell whether no leader was heard since then."""
        return not self._watching and self._heard_s < moment_s
