"""Read-modify-write through several writers on one file: nothing is lost, nobody waits for ever."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection

from tests.support.builders import an_instance
from tests.support.store import a_store, open_store, store_url
from unkai_scheduler.store import instances, sqlite, writer
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_scheduler.store.writer import Writer
from unkai_wire.errors import AlreadyExists, Unavailable


async def test_a_database_locked_by_another_process_is_unavailable_then_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.01)
    pauses: list[float] = []
    monkeypatch.setattr(writer.time, "sleep", pauses.append)
    async with a_store(tmp_path) as uow:
        other = sqlite3.connect(tmp_path / "unkai.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable) as caught:
            await uow.write(lambda conn: instances.insert(conn, an_instance()))
        other.execute("ROLLBACK")
        other.close()

        await uow.write(lambda conn: instances.insert(conn, an_instance()))

    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    assert len(pauses) == writer.ATTEMPTS - 1


async def test_readers_see_one_snapshot_and_cannot_write(uow: UnitOfWork) -> None:
    with pytest.raises(Unavailable):
        await uow.read(lambda conn: instances.insert(conn, an_instance()))

    page = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=10))

    assert page == []


async def test_a_failing_work_leaves_nothing_behind(uow: UnitOfWork) -> None:
    first = an_instance(name="one")

    def insert_twice(conn: Connection) -> None:
        instances.insert(conn, first)
        instances.insert(conn, an_instance(name="one"))

    with pytest.raises(AlreadyExists) as caught:
        await uow.write(insert_twice)

    assert caught.value.reason == "INSTANCE_EXISTS"
    assert caught.value.__cause__ is not None
    assert await uow.read(lambda conn: instances.get(conn, first.id)) is None


async def test_a_transaction_that_sqlite_ended_by_itself_is_never_taken_for_committed(
    uow: UnitOfWork,
) -> None:
    def insert_and_lose(conn: Connection) -> None:
        instances.insert(conn, an_instance())
        conn.exec_driver_sql("ROLLBACK")

    with pytest.raises(Unavailable):
        await uow.write(insert_and_lose)
    with pytest.raises(Unavailable):
        await asyncio.gather(*(uow.write_grouped(insert_and_lose) for _ in range(3)))


async def test_cancelled_callers_break_neither_the_writer_nor_its_transactions(
    uow: UnitOfWork,
) -> None:
    rows = [an_instance() for _ in range(200)]
    tasks = [
        asyncio.ensure_future(uow.write_grouped(lambda conn, row=row: instances.insert(conn, row)))
        for row in rows
    ]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    await uow.write(lambda conn: instances.insert(conn, an_instance()))
    kept = [row for row, outcome in zip(rows, outcomes, strict=True) if outcome is None]
    found = await uow.read(lambda conn: [instances.get(conn, row.id) for row in kept])
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])
    assert len(kept) == 100
    assert None not in found


async def test_work_that_raises_stop_iteration_leaves_no_caller_waiting(uow: UnitOfWork) -> None:
    def work(_conn: Connection) -> None:
        raise StopIteration

    for write in (uow.write, uow.write_grouped):
        with pytest.raises(RuntimeError):
            await asyncio.wait_for(write(work), 30)


async def test_a_closed_store_is_unavailable(tmp_path: Path) -> None:
    uow = await open_store(tmp_path)
    await uow.close()
    await uow.close()

    for call in (uow.read, uow.write, uow.write_grouped):
        with pytest.raises(Unavailable):
            await call(lambda conn: instances.get(conn, "ins-x"))


async def test_work_queued_before_closing_is_done(tmp_path: Path) -> None:
    uow = await open_store(tmp_path)
    row = an_instance()
    queued = asyncio.ensure_future(uow.write_grouped(lambda conn: instances.insert(conn, row)))
    await asyncio.sleep(0)
    await uow.close()
    await queued

    async with a_store(tmp_path) as again:
        assert await again.read(lambda conn: instances.get(conn, row.id)) == row


async def test_a_full_queue_refuses_work(tmp_path: Path) -> None:
    engine = sqlite.writer_engine(store_url(tmp_path))
    queue = Writer(engine, group_window_s=60.0, max_waiting=2)
    waiting = [queue.submit(lambda _conn: 1, grouped=True) for _ in range(2)]

    with pytest.raises(Unavailable):
        queue.submit(lambda _conn: 1, grouped=True)

    queue.close()
    engine.dispose()
    assert [future.result(0) for future in waiting] == [1, 1]


async def test_work_whose_turn_does_not_come_is_refused_while_others_still_hold_it(
    uow: UnitOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), list[str]()

    def long(_conn: Connection) -> str:
        begun.set()
        go_on.wait(30)
        return "done"

    holder = asyncio.create_task(uow.write(long))
    assert await asyncio.to_thread(begun.wait, 20)
    monkeypatch.setattr(writer, "PATIENCE_S", 0.2)
    calls = [write(lambda _conn: done.append("late")) for write in (uow.write, uow.write_grouped)]
    refused = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(error, "reason", error) for error in refused] == ["DATABASE_UNAVAILABLE"] * 2
    assert not holder.done(), "what has begun is awaited, however long it takes"
    monkeypatch.undo()
    go_on.set()
    assert await holder == "done"
    await uow.write(lambda _conn: None)
    assert done == [], "who was refused was told that nothing was changed"


def test_the_database_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    engine = sqlite.writer_engine(store_url(tmp_path / "state"))
    with engine.connect() as conn:
        journal = conn.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        synchronous = conn.exec_driver_sql("PRAGMA synchronous").scalar_one()
    engine.dispose()

    assert (tmp_path / "state" / "unkai.db").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert (journal, synchronous) == ("wal", 2)
