"""Moves: which rows of the fleet moved; what is derived is made anew for those alone.

Whoever derives something keeps the position up to which it has read. What is too far back, or lies
before a change of the rows themselves, is answered with None: derive all anew.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

MAX_ENTRIES = 4096
"""Longer than a burst between two decisions for one shape of request; it bounds the memory."""


class Aspect:
    """What of a host moved; bits, plain integers because they are looked at for every decision."""

    HOST: Final = 1
    """What its row says: state, cordon, traits, what may be claimed."""
    CLAIMS: Final = 2
    """What is claimed, and what is expected of machines just placed."""
    LIVE: Final = 4
    """Samples, their age, and how far expectations have faded."""
    ALL: Final = 7


class Moves:
    """The log of moves."""

    def __init__(self) -> None:
        self._entries: list[tuple[int | Rows, int]] = []
        self._first = 0
        """Position of the first entry."""

    @property
    def position(self) -> int:
        """Return the position after the newest entry."""
        return self._first + len(self._entries)

    def note(self, row: int, aspect: int) -> None:
        """Note that one row moved."""
        self._append(row, aspect)

    def note_many(self, rows: Rows, aspect: int) -> None:
        """Note that some rows moved."""
        if len(rows):
            self._append(rows, aspect)

    def void(self) -> None:
        """Make all that was derived before void: rows came, went or changed their order."""
        self._first = self.position + 1
        self._entries.clear()

    def since(self, position: int) -> list[tuple[int | Rows, int]] | None:
        """Return what moved from a position on; None: it is not known any more."""
        if position < self._first:
            return None
        return self._entries[position - self._first :]

    def _append(self, rows: int | Rows, aspect: int) -> None:
        if len(self._entries) >= MAX_ENTRIES:
            del self._entries[: MAX_ENTRIES // 2]
            self._first += MAX_ENTRIES // 2
        self._entries.append((rows, aspect))
