"""Time as something passed in: logic never calls the wall clock.

What one scheduler writes another judges: deadlines, due times, ages. So the daemon goes by
`CloudClock`, the database's time, and not by the clock of the machine it happens to run on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
"""Returns now, aware, UTC."""


def system_clock() -> datetime:
    """Return the machine's time: for composition roots only."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Reading:
    """A look at another clock, and our monotonic seconds before and after it."""

    began_s: float
    time: datetime
    ended_s: float


class CloudClock:
    """The cloud's time: the database's, kept between readings of it by our monotonic clock.

    A step of this machine's clock moves it no more than the machine's being slow does. Before the
    first reading it is the machine's time.
    """

    def __init__(
        self, *, wall: Clock = system_clock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self.monotonic = monotonic
        self._zero = wall() - timedelta(seconds=monotonic())
        """The cloud's time when the monotonic clock was 0."""
        self._is_first = True

    def __call__(self) -> datetime:
        """Return the cloud's time."""
        return self._zero + timedelta(seconds=self.monotonic())

    def ahead_s(self) -> float:
        """Return how far this machine's clock is ahead of the cloud's."""
        return (self._wall() - self()).total_seconds()

    def follow(self, reading: Reading) -> float:
        """Agree with a reading; return by how many seconds this went forward.

        The other clock was read at some moment between the two of ours. So a slow answer says
        little, and corrects only what it proves wrong.
        """
        earliest = reading.time - timedelta(seconds=reading.ended_s)
        latest = reading.time - timedelta(seconds=reading.began_s)
        before = self._zero
        if self._is_first:
            self._zero = earliest + (latest - earliest) / 2
        else:
            self._zero = min(max(before, earliest), latest)
        self._is_first = False
        return (self._zero - before).total_seconds()
