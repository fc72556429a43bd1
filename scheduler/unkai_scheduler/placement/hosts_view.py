"""Hosts as filters and scores see them: columns of all hosts of a fleet, or of some.

Everything a rule reads comes from here, one value per host looked at, always in the same order.
So one rule serves both for the whole fleet and for the one host that has just moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from unkai_scheduler.placement.signals import Signal

if TYPE_CHECKING:
    from unkai_scheduler.placement.fleet import Fleet

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Figure_co = TypeVar("Figure_co", int, Ints, covariant=True)


class Some(Protocol[Figure_co]):
    """Hosts, or one: what the formulas of both read."""

    def column(self, name: str) -> Figure_co:
        """Return an integer column."""

    def recent(self, signal: Signal) -> Figure_co:
        """Return a live signal."""

    def expected(self, column: str) -> Figure_co:
        """Return what is expected of machines just placed."""


class OneHost:
    """The figures of one host, as plain integers; what is asked for most, and no more."""

    def __init__(self, fleet: Fleet, row: int) -> None:
        self._fleet = fleet
        self._row = row

    def column(self, name: str) -> int:
        """Return the figure of an integer column."""
        return self._fleet.table(name).item(self._row)

    def recent(self, signal: Signal) -> int:
        """Return a live signal: the higher of its mean and its high quantile."""
        return self._fleet.table("recent").item(self._row, signal)

    def expected(self, column: str) -> int:
        """Return what is expected of machines just placed, as `Hosts.expected`."""
        return self._fleet.expected_now(column).item(self._row)


class Hosts:
    """Columns of hosts; arrays read here belong to the reader when `rows` is given, else not."""

    def __init__(self, fleet: Fleet, rows: Ints | None = None) -> None:
        """`rows`: of the hosts to look at; None: all."""
        self._fleet = fleet
        self._rows = rows
        self.now_s = fleet.now_s
        """Monotonic seconds of the fleet's tick."""

    def __len__(self) -> int:
        return len(self._fleet) if self._rows is None else len(self._rows)

    def column(self, name: str) -> Ints:
        """Return an integer column."""
        return self._of(self._fleet.table(name))

    def flags(self, name: str) -> Bools:
        """Return a column of truth values."""
        return self._of(self._fleet.table(name)).astype(np.bool_, copy=False)

    def recent(self, signal: Signal) -> Ints:
        """Return a live signal: the higher of its mean and its high quantile."""
        return self._of(self._fleet.table("recent")[:, signal])

    def expected(self, column: str) -> Ints:
        """Return the sum of `expected_vcpus` or `expected_mib` of machines just placed, each
        weighted by how little of it can have shown yet, in fixed point.
        """
        return self._of(self._fleet.expected_now(column))

    def sampled_s(self) -> Floats:
        """Return when the newest sample came, monotonic seconds; minus infinity: never."""
        times: Floats = self._of(self._fleet.floats("sample_s"))
        return times

    def having(self, words: Sequence[str]) -> Bools:
        """Return which hosts have all of the words (traits, and what is kept as traits are)."""
        mask = self._fleet.words.mask(words)
        if mask is None:
            return np.zeros(len(self), np.bool_)
        found: Bools = ((self.column("words") & mask) == mask).all(axis=1)
        return found

    def among(self, host_ids: Sequence[str]) -> Bools:
        """Return which hosts are among some."""
        found = np.zeros(len(self._fleet), np.bool_)
        for host_id in host_ids:
            row = self._fleet.row_of(host_id)
            if row is not None:
                found[row] = True
        return found if self._rows is None else found[self._rows]

    def of_fleet(self, judge: Callable[[Fleet], npt.NDArray]) -> npt.NDArray:  # type: ignore[type-arg]
        """Return what is found by looking at the whole fleet, of the hosts looked at."""
        return self._of(judge(self._fleet))

    def _of(self, table: npt.NDArray[np.generic]) -> npt.NDArray:  # type: ignore[type-arg]
        if self._rows is None:
            return table[: len(self._fleet)]
        return table.take(self._rows, axis=0)
