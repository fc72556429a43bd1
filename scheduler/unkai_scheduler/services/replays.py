"""Replays: past decisions of placement, judged again on the hosts as they were.

Segments of the decision log are read from where the leader stores them, by any scheduler; what it
has not stored yet it has at hand. One is played in a thread, one at a time: it takes a second of a
processor, and the leader has decisions to make.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Protocol

from unkai_scheduler.decision_log.port import SegmentStore
from unkai_scheduler.domain.instances import PlacementPolicy
from unkai_scheduler.placement.replay import Replayed, replay
from unkai_scheduler.placement.requests import Weights
from unkai_scheduler.placement.rulebook import OURS, RuleBook
from unkai_scheduler.placement.segments import (
    Segment,
    SegmentName,
    UnreadableSegment,
    unseal,
)
from unkai_scheduler.services.checks import Violations
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.placement import PlacementService
from unkai_scheduler.settings import DecisionLogSettings
from unkai_wire.errors import FailedPrecondition, InvalidArgument, NotFound, UnkaiError
from unkai_wire.ids import check_id

_WEIGHTS = tuple(field.name for field in fields(Weights))


class Unsaved(Protocol):
    """The part of the decision log that is not stored yet: the leader's."""

    async def unsaved(self) -> Sequence[Segment]:
        """Return those segments, oldest first; none where nobody leads."""


class ReplaysService:
    """Use cases of the decision log."""

    def __init__(
        self,
        context: ServiceContext,
        store: SegmentStore,
        unsaved: Unsaved,
        settings: DecisionLogSettings,
        book: RuleBook = OURS,
    ) -> None:
        """`book`: what placement goes by."""
        self._clock = context.clock
        self._placement = PlacementService(context)
        self._store = store
        self._unsaved = unsaved
        self._settings = settings
        self._book = book
        self._turn = asyncio.Lock()

    async def replay(
        self,
        instance_id: str,
        decide_time: datetime | None = None,
        *,
        policy: PlacementPolicy | None = None,
        weights: Mapping[str, int],
    ) -> Replayed:
        """Judge a decision again; `decide_time`: which, by default the instance's last one.

        `policy`, `weights` (by name, those that are to differ): in the place of those of then.
        """
        _check(instance_id, weights)
        if decide_time is None:
            decide_time = (await self._placement.explain(instance_id)).decide_time
        async with self._turn:
            async for where, segment in self._segments(decide_time):
                try:
                    found = await asyncio.to_thread(
                        replay,
                        segment,
                        instance_id,
                        decide_time,
                        policy=policy,
                        weights=weights,
                        book=self._book,
                    )
                except UnreadableSegment as error:
                    raise _damaged(where, error) from error
                except ValueError as error:
                    raise InvalidArgument.field(
                        "weights", str(error), reason="WEIGHT_OUT_OF_RANGE"
                    ) from error
                if found is not None:
                    return found
        raise await self._missing(instance_id, decide_time)

    async def _segments(self, decide_time: datetime) -> AsyncIterator[tuple[str, Segment]]:
        """Yield the segments that a decision may be in, by name; the newest first."""
        for segment in reversed(await self._unsaved.unsaved()):
            name = segment.header.name
            if name.began_time <= decide_time <= name.ended_time:
                yield str(name), segment
        for name in reversed(await self._names()):
            if name.began_time <= decide_time <= name.ended_time:
                try:
                    stored = await self._store.get(str(name))
                except NotFound:
                    continue  # too old since a moment ago
                try:
                    yield str(name), await asyncio.to_thread(unseal, stored)
                except UnreadableSegment as error:
                    raise _damaged(str(name), error) from error

    async def _names(self) -> list[SegmentName]:
        """Return the names of the segments that are stored, oldest first."""
        names = map(SegmentName.parse, await self._store.list())
        return sorted(name for name in names if name is not None)

    async def _missing(self, instance_id: str, decide_time: datetime) -> UnkaiError:
        """Say why a decision is not in the log."""
        names, kept = await self._names(), timedelta(seconds=self._settings.kept_s)
        moment = decide_time.isoformat()
        if self._clock() - decide_time > kept:
            why = "it is older than what is kept"
            fix = "let decisions be kept for longer: decision_log.kept_s"
        elif names and decide_time < names[0].began_time:
            why = "what was logged then made room for what is newer"
            fix = "let more be kept: decision_log.kept_bytes"
        else:
            why = "no segment has it: the leader crashed before it was stored, or did not log"
            fix = (
                "look at decision_log.enabled, at decision_log.url, which all schedulers share, "
                "and let segments be stored sooner: decision_log.segment_s"
            )
        return FailedPrecondition(
            f"the decision of {moment} for instance {instance_id} is not in the log: {why}",
            reason="DECISION_NOT_LOGGED",
            fix=fix,
            metadata={"instance_id": instance_id, "decide_time": moment},
        )


def _check(instance_id: str, weights: Mapping[str, int]) -> None:
    with Violations() as wrong:
        with wrong.collect():
            check_id("instance", instance_id, "instance_id")
        for name, weight in list(weights.items())[: 2 * len(_WEIGHTS)]:
            wrong.require(
                name in _WEIGHTS,
                "weights",
                f"there is no weight {name[:64]!r}; there are {', '.join(_WEIGHTS)}",
                "UNKNOWN_WEIGHT",
            )
            wrong.require(
                0 <= weight <= 255,
                "weights",
                f"{name[:64]} must be 0 to 255, not {weight}",
                "WEIGHT_OUT_OF_RANGE",
            )


def _damaged(where: str, error: UnreadableSegment) -> FailedPrecondition:
    return FailedPrecondition(
        f"segment {where} of the decision log cannot be read: {error}",
        reason="DECISION_LOG_DAMAGED",
        fix="put it back from a copy, or replay another decision",
        metadata={"segment": where},
    )
