"""Hearsay: what hosts say of terms, and how far they are believed.

Terms come from the database alone. A host may name a higher one than ours for three reasons: it
has met a newer leader (then the database refuses our next write, whatever we believe here); the
database is a restored one and has forgotten terms that it gave (then we must rise above them, or
that host never obeys again); or the host lies. To rise costs a reign, so each host is believed so
often in a day and no more; beyond that its refusal is its own affair, and an operator's.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

BELIEVED_TIMES = 3
"""A restored database needs one; two more for what else may happen in a day."""
WITHIN_S = 24 * 3600.0
LEAP = 1 << 32
"""Furthest that a word lifts the term: more reigns than a century has seconds. Past a leap that a
liar once made, honest hosts still lift a restored database's term, in several steps."""
MOST_TERM = 1 << 62
"""No reign has a higher number; the database's end at 2^63."""
_TERM_DIGITS = 20


def believable(said: int | str, term: int) -> int:
    """Return the term that a host says it has seen as far as we follow it from ours; 0: not at all.

    A hostile host must not exhaust the numbers.
    """
    text = str(said)
    number = int(text) if text.isdecimal() and len(text) < _TERM_DIGITS else 0
    return min(number, term + LEAP) if number <= MOST_TERM else 0


class Hearsay:
    """Counts how often each host's word cost a term. `now_s`: monotonic seconds."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._believed: defaultdict[str, deque[float]] = defaultdict(
            lambda: deque(maxlen=BELIEVED_TIMES)
        )
        self._reported: set[str] = set()

    def outranking(self, host_id: str, said: int | str, term: int) -> int:
        """Return the term that we must rise above, as this host refuses ours; 0: we need not."""
        number = believable(said, term)
        times_s, now_s = self._believed[host_id], self._now_s()
        often = len(times_s) == BELIEVED_TIMES and now_s - times_s[0] < WITHIN_S
        if number > term and not often:
            times_s.append(now_s)
            self._reported.discard(host_id)
            return number
        if host_id not in self._reported:
            self._reported.add(host_id)
            log.error("host_disputes_term", host=host_id, term=term, said=str(said)[:_TERM_DIGITS])
        return 0
