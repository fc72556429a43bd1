"""The decision log: what is stored and when, what is kept, and what happens where it cannot be."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.fleets import GIB, NOW, WEIGHTS, a_fleet, a_host, a_request
from unkai_scheduler.decision_log.fake import FakeSegments
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.journal import Journal
from unkai_scheduler.placement.pipeline import Engine
from unkai_scheduler.placement.segments import SegmentName, unseal
from unkai_scheduler.reconcile import decision_log
from unkai_scheduler.reconcile.decision_log import DecisionLog
from unkai_scheduler.settings import DecisionLogSettings, ImageSettings, Settings
from unkai_wire.errors import Unavailable


class World:
    """A fleet with a journal, the log, and a clock that is put on by hand."""

    def __init__(self, **settings: Any) -> None:
        self.now = NOW
        self.store = FakeSegments()
        self.log = DecisionLog(self.store, DecisionLogSettings(**settings), self.clock, self.clock)
        self.fleet: Fleet = a_fleet([a_host("h0", cpus=64)])
        self.journal = Journal(self.fleet, WEIGHTS, term=3)
        self.fleet.journal = self.journal
        self.asked = 0

    def clock(self) -> datetime:
        """Return the time."""
        return self.now

    def decide(self) -> None:
        """Make one decision."""
        self.asked += 1
        wanted = a_request(str(self.asked), memory_bytes=1)
        Engine(self.fleet, WEIGHTS).decide([wanted], now=self.now, now_s=100.0)

    async def look(self, *, after_s: float = 0.0) -> None:
        """Let the log look once, some time later."""
        self.now += timedelta(seconds=after_s)
        await self.log._round(self.journal)

    def stored(self) -> list[SegmentName]:
        """Return what is in the store."""
        return [name for text in sorted(self.store.kept) if (name := SegmentName.parse(text))]


async def test_a_segment_is_stored_when_it_is_old_enough_and_says_its_times() -> None:
    world = World(segment_s=300)
    world.decide()
    await world.look(after_s=100)
    world.decide()
    await world.look(after_s=199)
    assert world.stored() == []

    await world.look(after_s=1)

    (name,) = world.stored()
    assert (name.began_time, name.ended_time) == (NOW, NOW + timedelta(seconds=100))
    assert name.term == 3
    assert unseal(world.store.kept[str(name)]).header.decisions == 2


async def test_what_is_not_stored_yet_is_at_hand() -> None:
    world = World(segment_s=1)
    world.store.error = Unavailable("away", reason="DECISION_LOG_UNAVAILABLE")
    keeping = asyncio.create_task(world.log.keep(FakeOffice(), world.journal))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    world.decide()
    with pytest.raises(Unavailable):
        await world.look(after_s=1)
    world.decide()
    world.journal.close()
    world.decide()

    segments = await world.log.unsaved()

    assert [segment.header.number for segment in segments] == [1, 2, 3]
    world.store.error = None
    keeping.cancel()
    await asyncio.wait([keeping])
    assert len(world.stored()) == 3


class FakeOffice:
    """An office whose loops never come to their turn."""

    async def attempt(self, loop: str, work: Any) -> bool:
        """Do nothing."""
        return True


async def test_a_reign_that_ends_in_order_stores_the_segment_under_way() -> None:
    world = World()
    keeping = asyncio.create_task(world.log.keep(FakeOffice(), world.journal))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    world.decide()

    keeping.cancel()
    await asyncio.wait([keeping])

    assert len(world.stored()) == 1


async def test_what_cannot_be_stored_waits_within_a_bound_and_decisions_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decision_log, "MAX_UNSAVED", 2)
    world = World(segment_s=1)
    world.store.error = Unavailable("away", reason="DECISION_LOG_UNAVAILABLE")
    for _ in range(4):
        world.decide()
        with pytest.raises(Unavailable):
            await world.look(after_s=1)

    world.store.error = None
    await world.look()

    assert [name.number for name in world.stored()] == [3, 4]


async def test_what_is_too_old_goes_by_the_clock_that_deletes_by_age() -> None:
    world = World(segment_s=1, kept_s=1300)
    for _ in range(3):
        world.decide()
        await world.look(after_s=400)
    assert [name.number for name in world.stored()] == [1, 2, 3]

    world.decide()
    await world.look(after_s=400)

    assert [name.number for name in world.stored()] == [2, 3, 4]


async def test_beyond_the_bytes_that_may_be_kept_the_oldest_go() -> None:
    world = World(segment_s=1, kept_bytes=1 << 20)
    for number in range(3):
        name = SegmentName(NOW, NOW + timedelta(seconds=number), 1, number)
        world.store.kept[str(name)] = bytes(400 << 10)
    world.store.kept["of somebody else"] = bytes(4 << 20)

    await world.look()

    assert [name.number for name in world.stored()] == [1, 2]
    assert "of somebody else" in world.store.kept


@pytest.mark.parametrize(
    "text", ["", "a.segment", "a-b-c-d.segment", "20260101T000000.0Z-x-1-1.segment", "1-2-3-4"]
)
def test_other_names_are_no_segments(text: str) -> None:
    assert SegmentName.parse(text) is None


def test_a_name_is_read_as_it_was_written() -> None:
    name = SegmentName(NOW, NOW + timedelta(microseconds=1), 12, 3)

    assert str(name) == "20261122T120000.000000Z-20261122T120000.000001Z-12-3.segment"
    assert SegmentName.parse(str(name)) == name


async def test_a_clock_that_is_put_back_is_in_the_segments_times() -> None:
    world = World(segment_s=1)
    world.decide()
    world.now -= timedelta(hours=1)
    world.decide()
    await world.look(after_s=7200)

    (name,) = world.stored()
    assert (name.began_time, name.ended_time) == (NOW - timedelta(hours=1), NOW)


def test_claims_of_a_gib_are_a_few_bytes() -> None:
    world = World()
    world.decide()
    before = len(world.journal.so_far().records)
    for _ in range(100):
        world.fleet.claim("hst-h0", 0, GIB, 0, 100.0)
        world.fleet.release("hst-h0", 0, GIB, 0)

    assert len(world.journal.so_far().records) - before < 100 * 110


@pytest.mark.parametrize(
    ("images", "own", "where"),
    [
        ("file:///srv/images/", "", "file:///srv/images-decisions"),
        ("s3://bucket/cloud", "", "s3://bucket/cloud-decisions"),
        ("s3://bucket", "", "s3://bucket/decisions"),
        ("s3://bucket", "file:///srv/log", "file:///srv/log"),
    ],
)
def test_the_log_is_beside_the_images_unless_said_otherwise(
    images: str, own: str, where: str
) -> None:
    settings = Settings(images=ImageSettings(url=images), decision_log=DecisionLogSettings(url=own))

    assert settings.decision_log_url == where
