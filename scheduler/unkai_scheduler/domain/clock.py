"""Time as something passed in: logic never calls the wall clock.

What one scheduler writes another judges: deadlines, due times, ages. So the daemon goes by
`CloudClock`, the database's time, and not by the clock of the machine it happens to run on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

STEP_S = 2.0
"""A clock that went forward by more at once was set."""
BELIEVED_S = 86_400.0
"""A time that nobody has put right for so long is believed."""

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
        self._reached = self._zero
        """The same of `reached`."""
        self._doubted_s = 0.0
        """When we last had a doubt, by the monotonic clock."""

    def __call__(self) -> datetime:
        """Return the cloud's time."""
        return self._zero + timedelta(seconds=self.monotonic())

    def reached(self) -> datetime:
        """Return a time that has come by all we know, for what is lost for ever once it has.

        This machine's clock must have come so far, too. Where the cloud's time was set ahead, this
        goes on as before until that has stood for `BELIEVED_S`.
        """
        return min(self._reached + timedelta(seconds=self.monotonic()), self._wall())

    def doubt(self, last: datetime) -> None:
        """Let `reached` go on from the last time known of before, where the cloud's is later."""
        zero = last - timedelta(seconds=self.monotonic())
        self._reached = min(self._reached, zero)
        self._doubted_s = self.monotonic()

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
        moved_s = (self._zero - before).total_seconds()
        self._reach(moved_s)
        self._is_first = False
        return moved_s

    def _reach(self, moved_s: float) -> None:
        now_s = self.monotonic()
        if not self._is_first and moved_s > STEP_S:
            self._doubted_s = now_s
        waited = now_s - self._doubted_s >= BELIEVED_S
        near = self._zero - self._reached <= timedelta(seconds=STEP_S)
        if self._is_first or waited or near:
            self._reached = self._zero
