"""When work on one machine that failed is tried again: a backoff that doubles, with jitter.

`worker.py` says what failed and what went well. A guest that its host's full disk paused is
trouble that passes and comes back with the next write: going well for a moment ends no backoff
then. A look that the hypervisor merely does not answer is no failure; it, too, is tried ever more
seldom.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from unkai_agent.settings import ConvergeSettings

CALM_S = 60.0
"""After trouble that comes back, it must have gone well for so long."""


class Retries:
    """Failures of one machine's work since it last went well."""

    def __init__(
        self, settings: ConvergeSettings, rng: random.Random, now_s: Callable[[], float]
    ) -> None:
        """`now_s`: monotonic seconds."""
        self._settings = settings
        self._rng = rng
        self._now_s = now_s
        self._failures = 0
        self._silences = 0
        self._generation = 0
        self._not_before_s = float("-inf")
        self._troubled_until_s = float("-inf")

    def begin(self, generation: int) -> None:
        """Note which generation is worked on: a newer one begins afresh."""
        if generation != self._generation:
            self._failures = 0
        self._generation = generation

    def ordered(self, generation: int) -> None:
        """Note an order: one that was not tried yet waits for nothing."""
        if generation != self._generation:
            self.forget()

    def forget(self) -> None:
        """Begin afresh, at once."""
        self._failures = 0
        self._not_before_s = float("-inf")

    def left_s(self) -> float:
        """Return how long to wait before the next try; infinity when it was given up."""
        return max(0.0, self._not_before_s - self._now_s())

    def failed(self, *, for_good: bool) -> float | None:
        """Count a failure; return the wait before the next try, None when there shall be none.

        `for_good`: it can never work, or was tried often enough.
        """
        self._failures += 1
        wait_s = None if for_good else self._backoff_s(self._failures)
        self._not_before_s = float("inf") if wait_s is None else self._now_s() + wait_s
        return wait_s

    def is_last(self) -> bool:
        """Tell whether one more failure makes as many as a create may have."""
        return self._failures + 1 >= self._settings.create_tries

    def trouble(self) -> None:
        """Note that what fails now will seem to go well for a moment."""
        self._troubled_until_s = self._now_s() + CALM_S

    def silence(self) -> float:
        """Count a look that nobody answered; return the wait before the next."""
        self._silences += 1
        return self._backoff_s(self._silences)

    def answered(self) -> None:
        """Note that a look was answered."""
        self._silences = 0

    @property
    def calm(self) -> bool:
        """Tell whether no trouble that comes back is to be expected any more."""
        return self._now_s() >= self._troubled_until_s

    def went_well(self) -> bool:
        """Note that it is as it should be; tell whether that ends what failed before."""
        if not self.calm:
            return False
        self.forget()
        return True

    def _backoff_s(self, failures: int) -> float:
        settings = self._settings
        doubled_s = settings.backoff_base_s * 2.0 ** min(failures - 1, 30)
        return min(settings.backoff_cap_s, doubled_s) * self._rng.uniform(0.5, 1.0)
