"""One machine's leave to run: from a leader's order, or from a leader's long silence about it.

Architecture, the run permit. Every writable disk lies on this host alone (it knows no others), so
a machine that no leader answers for may be started without one: after `permit_autonomy_s`, twice
as long while a leader is there and silent about this machine (`contact.py` says why). The leave is
used up by what it was given for, and is meant to be forgotten with the process.
"""

from __future__ import annotations

from unkai_agent.converge.contact import LeaderContact


class Permit:
    """The leave of one machine; moments in monotonic seconds."""

    def __init__(self, contact: LeaderContact, autonomy_s: float) -> None:
        self._contact = contact
        self._autonomy_s = autonomy_s
        self._waits_since_s: float | None = None
        self.is_given = False

    def give(self) -> None:
        """Allow it to run."""
        self.is_given = True

    def use_up(self) -> None:
        """The next run needs another."""
        self.is_given = False

    def end_wait(self) -> None:
        """It waits for none, for now."""
        self._waits_since_s = None

    def begin_wait(self, now_s: float) -> None:
        """It waits from now on, unless it does already."""
        if self._waits_since_s is None:
            self._waits_since_s = now_s

    def left_s(self, now_s: float, ready_s: float) -> float:
        """Return how long it still has to wait for a leader's word; `ready_s`: since when leaders
        could reach this host."""
        since_s = max(ready_s, now_s if self._waits_since_s is None else self._waits_since_s)
        left_s = since_s + self._autonomy_s - now_s
        if not self._contact.silent_since(since_s):
            left_s += self._autonomy_s
        return max(0.0, left_s)
