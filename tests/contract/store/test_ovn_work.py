"""Work on OVN: nothing that changed is forgotten, and only what is known to be gone has a tomb."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection

from tests.support.builders import NOON
from tests.support.store import a_store
from unkai_scheduler.domain.ovn_work import Work
from unkai_scheduler.store import ovn_work
from unkai_scheduler.store.unit_of_work import UnitOfWork

LATER = NOON + timedelta(seconds=1)
PORT, NETWORK, BASE = "port:prt-1", "network:net-1", "cloud:base"


def everything(conn: Connection) -> dict[str, Work]:
    """Return all work by its unit."""
    return {work.key: work for work in ovn_work.due(conn, NOON + timedelta(days=9), 9999)}


async def test_marked_units_are_due_oldest_first(uow: UnitOfWork) -> None:
    def mark(conn: Connection) -> None:
        ovn_work.mark(conn, [PORT], LATER, "its address changed")
        ovn_work.mark(conn, [NETWORK, BASE, NETWORK], NOON, "made")
        ovn_work.mark(conn, [], NOON, "nothing")

    await uow.write(mark)

    assert [w.key for w in await uow.read(lambda conn: ovn_work.due(conn, NOON, 9))] == [
        BASE,
        NETWORK,
    ]
    due = await uow.read(lambda conn: ovn_work.due(conn, LATER, 9))
    assert [(w.key, w.due_time, w.attempt, w.reason) for w in due] == [
        (BASE, NOON, 0, "made"),
        (NETWORK, NOON, 0, "made"),
        (PORT, LATER, 0, "its address changed"),
    ]
    assert await uow.read(lambda conn: ovn_work.due(conn, LATER, 1)) == due[:1]
    assert await uow.read(ovn_work.count) == 3


async def test_what_changed_since_it_was_taken_is_not_settled(uow: UnitOfWork) -> None:
    await uow.write(lambda conn: ovn_work.mark(conn, [PORT, NETWORK], NOON, "made"))
    taken = await uow.read(everything)
    await uow.write(lambda conn: ovn_work.mark(conn, [PORT], LATER, "moved"))

    done = [(work.key, work.number) for work in taken.values()]
    await uow.write(lambda conn: ovn_work.settle(conn, done))

    left = await uow.read(everything)
    assert list(left) == [PORT]
    assert left[PORT].number > taken[PORT].number
    assert (left[PORT].reason, left[PORT].due_time) == ("moved", LATER)
    await uow.write(lambda conn: ovn_work.settle(conn, [(PORT, left[PORT].number)]))
    assert await uow.read(ovn_work.count) == 0


async def test_a_settling_that_comes_late_takes_no_newer_mark_away(uow: UnitOfWork) -> None:
    await uow.write(lambda conn: ovn_work.mark(conn, [PORT], NOON, "made"))
    first = (await uow.read(everything))[PORT]
    await uow.write(lambda conn: ovn_work.settle(conn, [(PORT, first.number)]))
    await uow.write(lambda conn: ovn_work.mark(conn, [PORT], LATER, "moved"))

    await uow.write(lambda conn: ovn_work.settle(conn, [(PORT, first.number)]))

    assert (await uow.read(everything))[PORT].reason == "moved"


async def test_what_fails_is_put_off_unless_it_changed_since(uow: UnitOfWork) -> None:
    await uow.write(lambda conn: ovn_work.mark(conn, [PORT, NETWORK], NOON, "made"))
    taken = await uow.read(everything)
    await uow.write(lambda conn: ovn_work.mark(conn, [NETWORK], NOON, "changed"))
    put_off = [
        replace(work, attempt=work.attempt + 1, due_time=LATER, reason="x" * 999)
        for work in taken.values()
    ]

    await uow.write(lambda conn: ovn_work.postpone(conn, put_off))

    left = await uow.read(everything)
    assert (left[PORT].attempt, left[PORT].due_time) == (1, LATER)
    assert left[PORT].reason.startswith("xxx")
    assert (left[NETWORK].attempt, left[NETWORK].reason) == (0, "changed")
    assert left[NETWORK].due_time == NOON
    await uow.write(lambda conn: ovn_work.mark(conn, [PORT], NOON, "changed"))
    again = (await uow.read(everything))[PORT]
    assert (again.attempt, again.due_time, again.number > taken[PORT].number) == (0, NOON, True)


async def test_marks_of_two_schedulers_at_once_are_all_counted(tmp_path: Path) -> None:
    async with a_store(tmp_path) as one, a_store(tmp_path) as other:
        writes = [
            uow.write(lambda conn: ovn_work.mark(conn, [PORT, NETWORK], NOON, "made"))
            for uow in (one, other) * 10
        ]
        await asyncio.gather(*writes)
        found = await one.read(everything)

    first = min(work.number for work in found.values())
    assert {work.number for work in found.values()} == {first}
    assert first % 1_000_000 == NOON.microsecond + 19


async def test_many_units_are_marked_and_entombed_at_once(uow: UnitOfWork) -> None:
    keys = [f"port:prt-{number:04}" for number in range(1201)]

    def work(conn: Connection) -> None:
        ovn_work.mark(conn, keys, NOON, "made")
        ovn_work.mark(conn, keys[:700], NOON, "changed")
        ovn_work.entomb(conn, keys, NOON)

    await uow.write(work)

    found = await uow.read(everything)
    assert sorted(found) == keys
    assert [found[key].reason for key in (keys[699], keys[700])] == ["changed", "made"]
    assert await uow.read(lambda conn: ovn_work.tombs(conn, [*keys, NETWORK])) == set(keys)


async def test_tombs_are_kept_until_they_are_old(uow: UnitOfWork) -> None:
    def work(conn: Connection) -> None:
        ovn_work.entomb(conn, [PORT, NETWORK], NOON)
        ovn_work.entomb(conn, [PORT], LATER)

    await uow.write(work)

    assert await uow.read(lambda conn: ovn_work.tombs(conn, [])) == set()
    assert await uow.read(lambda conn: ovn_work.tombs(conn, ["port:net-1", BASE])) == set()
    assert await uow.write(lambda conn: ovn_work.prune(conn, NOON, 9)) == 0
    assert await uow.write(lambda conn: ovn_work.prune(conn, LATER, 9)) == 1
    assert await uow.read(lambda conn: ovn_work.tombs(conn, [PORT, NETWORK])) == {PORT}
