"""The decision log: closes the journal's segments in time, stores them, and drops the old ones.

Beside the leader's loops, never in the way of a decision: what cannot be stored waits, within a
bound, and then the oldest is dropped and counted. A leader that ends in order stores what it has; a
crash loses the segment under way. Nothing here knows what is in a segment.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from unkai_scheduler.decision_log.port import SegmentStore
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.placement.journal import Journal
from unkai_scheduler.placement.segments import Segment, SegmentName, seal, unseal
from unkai_scheduler.reconcile import metrics
from unkai_scheduler.reconcile.office import Office
from unkai_scheduler.settings import DecisionLogSettings
from unkai_wire.errors import UnkaiError

LOOK_S = 1.0
"""Seconds between looks at what is closed, or due to be."""
LAST_S = 2.0
"""Longest that the end of a reign waits for its last segments to be stored."""
PRUNE_S = 600.0
"""Seconds between looks for what is too old, beside when something was stored."""
MAX_UNSAVED = 16
"""Segments that wait to be stored, some MiB each; beyond, the oldest are dropped."""


class DecisionLog:
    """The segments of one scheduler's reigns, and the place they go to."""

    def __init__(
        self, store: SegmentStore, settings: DecisionLogSettings, clock: Clock, reached: Clock
    ) -> None:
        """Make one. `reached`: the clock that what is deleted by its age goes by."""
        self._store = store
        self._settings = settings
        self._clock = clock
        self._reached = reached
        self._journal: Journal | None = None
        self._unsaved: OrderedDict[str, bytes] = OrderedDict()
        self._pruned_s = float("-inf")

    @property
    def segment_bytes(self) -> int:
        """Return after how many bytes a journal shall close a segment."""
        return self._settings.segment_bytes

    async def keep(self, office: Office, journal: Journal) -> None:
        """Store what a reign's journal closes until cancelled; then close and store the rest."""
        self._journal = journal
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                await office.attempt("decision_log", lambda: self._round(journal))
        finally:
            journal.close()
            with suppress(TimeoutError, UnkaiError):
                async with asyncio.timeout(LAST_S):
                    await self._take(journal)
                    await self._save()
            self._journal = None

    async def unsaved(self) -> Sequence[Segment]:
        """Return what is not stored yet, the segment under way included; oldest first."""
        waiting = list(self._unsaved.values())
        recent: list[Segment] = []
        if self._journal is not None:
            recent = list(self._journal.closed)
            if self._journal.is_open:
                recent.append(self._journal.so_far())
        return [*await asyncio.to_thread(lambda: list(map(unseal, waiting))), *recent]

    async def _round(self, journal: Journal) -> None:
        age = self._clock() - journal.began_time
        if journal.is_open and age >= timedelta(seconds=self._settings.segment_s):
            journal.close()
        await self._take(journal)
        is_saved = await self._save()
        now_s = asyncio.get_running_loop().time()
        if is_saved or now_s - self._pruned_s >= PRUNE_S:
            self._pruned_s = now_s
            await self._prune()

    async def _take(self, journal: Journal) -> None:
        """Take over what the journal has closed."""
        while journal.closed:
            segment = journal.closed[0]
            sealed = await asyncio.to_thread(seal, segment)
            if journal.closed and journal.closed[0] is segment:
                journal.closed.popleft()
                self._unsaved[str(segment.header.name)] = sealed
        metrics.SEGMENTS.labels("dropped").inc(journal.dropped)
        journal.dropped = 0
        while len(self._unsaved) > MAX_UNSAVED:
            self._unsaved.popitem(last=False)
            metrics.SEGMENTS.labels("dropped").inc()

    async def _save(self) -> bool:
        """Store what waits; tell whether anything was."""
        is_saved = False
        for name, content in list(self._unsaved.items()):
            try:
                await self._store.put(name, content)
            except UnkaiError:
                metrics.SEGMENTS.labels("failed").inc()
                raise
            self._unsaved.pop(name, None)
            is_saved = True
            metrics.SEGMENTS.labels("stored").inc()
            metrics.SEGMENT_BYTES.inc(len(content))
        return is_saved

    async def _prune(self) -> None:
        """Delete the segments that are too old, or beyond the bytes that may be kept."""
        sizes = {
            name: size
            for text, size in (await self._store.list()).items()
            if (name := SegmentName.parse(text)) is not None
        }
        oldest = self._reached() - timedelta(seconds=self._settings.kept_s)
        room = self._settings.kept_bytes
        for name in sorted(sizes, reverse=True):
            room -= sizes[name]
            if room < 0 or name.ended_time < oldest:
                await self._store.delete(str(name))
