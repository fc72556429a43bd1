"""The one order of events: stamped by the leader, resumed by revision, pruned from the old end."""

from __future__ import annotations

import itertools
import random
from datetime import timedelta

import pytest
from sqlalchemy import Connection

from tests.support.builders import NOON, an_event
from unkai_scheduler.domain.events import Event, EventType, Revision
from unkai_scheduler.store import events, history
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.errors import AlreadyExists, FailedPrecondition, InvalidArgument

START = Revision(1, 0)


async def _insert(uow: UnitOfWork, *made: Event) -> None:
    await uow.write(lambda conn: [events.insert(conn, event) for event in made])


async def _stamp(uow: UnitOfWork, limit: int = 100) -> int:
    return await uow.write(lambda conn: events.stamp(conn, limit))


async def _after(uow: UnitOfWork, revision: Revision, limit: int = 100) -> list[Event]:
    return await uow.read(lambda conn: events.after(conn, revision, limit=limit))


async def test_an_event_comes_back_as_it_went_with_its_revision(uow: UnitOfWork) -> None:
    event = an_event(
        type=EventType.WARNING,
        state="LOST",
        reason="DISK_MISSING",
        message="the disk is gone",
        attributes={"path": "root.qcow2"},
        request_id="r-1",
    )
    await _insert(uow, event)
    await _stamp(uow)

    (found,) = await _after(uow, START)

    assert found.revision == Revision(1, 1)
    assert found == _stamped(event, 1)


async def test_nobody_sees_an_event_before_it_is_stamped(uow: UnitOfWork) -> None:
    await _insert(uow, an_event())

    assert await _after(uow, START) == []
    assert await uow.read(lambda conn: events.list_page(conn, after=None, limit=9)) == []
    assert await uow.read(events.newest) == START
    assert await uow.read(events.any_unstamped)
    await _stamp(uow)
    assert not await uow.read(events.any_unstamped)


async def test_how_many_wait_for_their_number_and_since_when_is_told(uow: UnitOfWork) -> None:
    assert await uow.read(events.unstamped) == (0, None)
    early, late = an_event(create_time=NOON), an_event(create_time=NOON + timedelta(seconds=9))
    await _insert(uow, late, early)
    assert await uow.read(events.unstamped) == (2, NOON)
    await _stamp(uow, limit=1)
    assert await uow.read(events.unstamped) == (1, NOON)


async def test_events_are_numbered_without_gaps_in_the_order_of_insertion(uow: UnitOfWork) -> None:
    made = [an_event() for _ in range(7)]
    # Ids are no order: another replica's clock may be ahead.
    random.Random(7).shuffle(made)
    await _insert(uow, *made[:4])
    counts = [await _stamp(uow, limit=3), await _stamp(uow, limit=3)]
    await _insert(uow, *made[4:])
    counts += [await _stamp(uow), await _stamp(uow)]

    found = await _after(uow, START)

    assert counts == [3, 1, 3, 0]
    assert [event.id for event in found] == [event.id for event in made]
    assert [event.revision for event in found] == [Revision(1, n) for n in range(1, 8)]
    assert await uow.read(events.newest) == Revision(1, 7)


async def test_a_watcher_that_resumes_anywhere_misses_nothing(uow: UnitOfWork) -> None:
    batches = [[an_event() for _ in range(size)] for size in (1, 4, 2, 5)]
    seen: list[str] = []
    revision = START
    for batch, limit in zip(batches, itertools.cycle([2, 3]), strict=False):
        await _insert(uow, *batch)
        await _stamp(uow)
        for event in await _after(uow, revision, limit=limit):
            assert event.revision is not None
            revision = event.revision
            seen.append(event.id)
    seen += [event.id for event in await _after(uow, revision)]

    assert seen == [event.id for batch in batches for event in batch]


async def test_events_are_selected_by_kind_project_and_resource(uow: UnitOfWork) -> None:
    image = an_event(resource_kind="image")
    foreign = an_event(project_id="prj-2")
    mine = an_event()
    await _insert(uow, image, foreign, mine)
    await _stamp(uow)

    def ids(conn: Connection) -> list[list[str]]:
        return [
            [event.id for event in events.after(conn, START, limit=9, **filters)]
            for filters in (
                {"kinds": ["image", "host"]},
                {"kinds": []},
                {"project_id": "prj-2"},
                {"resource_id": mine.resource_id, "project_id": mine.project_id},
            )
        ]

    assert await uow.read(ids) == [
        [image.id],
        [image.id, foreign.id, mine.id],
        [foreign.id],
        [mine.id],
    ]


async def test_pages_go_from_new_to_old(uow: UnitOfWork) -> None:
    made = [an_event() for _ in range(5)]
    await _insert(uow, *made)
    await _stamp(uow)

    first = await uow.read(lambda conn: events.list_page(conn, after=None, limit=2))
    key = [str(first[-1].revision)]
    rest = await uow.read(lambda conn: events.list_page(conn, after=key, limit=9))

    assert [event.id for event in first + rest] == [event.id for event in reversed(made)]
    with pytest.raises(InvalidArgument):
        await uow.read(lambda conn: events.list_page(conn, after=["x"], limit=9))


async def test_pruned_history_cannot_be_resumed_from(uow: UnitOfWork) -> None:
    made = [an_event() for _ in range(10)]
    await _insert(uow, *made)
    await _stamp(uow)
    await _insert(uow, an_event())
    gone = await uow.write(lambda conn: events.prune(conn, 4, 5))
    gone += await uow.write(lambda conn: events.prune(conn, 4, 5))

    kept = await _after(uow, Revision(1, 6))
    with pytest.raises(FailedPrecondition) as caught:
        await _after(uow, Revision(1, 5))

    assert gone == 6
    assert [event.id for event in kept] == [event.id for event in made[6:]]
    assert caught.value.reason == "REVISION_GONE"
    assert await uow.write(lambda conn: events.prune(conn, 4, 5)) == 0
    assert await _stamp(uow) == 1


async def test_pruning_everything_keeps_the_numbers_rising(uow: UnitOfWork) -> None:
    await _insert(uow, an_event(), an_event())
    await _stamp(uow)
    await uow.write(lambda conn: events.prune(conn, 0, 9))
    event = an_event()
    await _insert(uow, event)
    await _stamp(uow)

    assert await _after(uow, Revision(1, 2)) == [_stamped(event, 3)]


async def test_a_revision_of_another_epoch_or_of_the_future_is_gone(uow: UnitOfWork) -> None:
    await _insert(uow, an_event(), an_event())
    await _stamp(uow)
    assert await uow.write(history.raise_epoch) == 2
    await _insert(uow, an_event())
    await _stamp(uow)

    for revision in (Revision(1, 1), Revision(3, 1), Revision(2, 99)):
        with pytest.raises(FailedPrecondition) as caught:
            await _after(uow, revision)
        assert caught.value.reason == "REVISION_GONE"

    assert await uow.read(history.epoch) == 2
    (found,) = await _after(uow, Revision(2, 2))
    assert found.revision == Revision(2, 3)


async def test_a_long_message_is_cut_and_an_event_is_written_once(uow: UnitOfWork) -> None:
    event = an_event(message="x" * 5000)
    await _insert(uow, event)
    with pytest.raises(AlreadyExists):
        await _insert(uow, event)
    await _stamp(uow)

    (found,) = await _after(uow, START)

    assert found.message == "x" * 1023 + "…"


def _stamped(event: Event, number: int) -> Event:
    values = {name: getattr(event, name) for name in Event.__dataclass_fields__}
    return Event(**values | {"revision": Revision(1, number)})
