"""Several writers on one file of a real database: nothing is lost while each locks at its begin."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from tests.support.builders import an_instance
from tests.support.store import a_store, store_url
from unkai_scheduler.store import instances, sqlite, writer
from unkai_scheduler.store.unit_of_work import SqliteUnitOfWork, UnitOfWork
from unkai_scheduler.store.writer import Writer
from unkai_wire.deadlines import WRITE_S
from unkai_wire.errors import Unavailable


async def test_writes_that_meet_a_locked_file_are_refused_before_their_deadline(
    tmp_path: Path,
) -> None:
    async with a_store(tmp_path) as uow, AsyncExitStack() as stack:
        holder = sqlite.writer_engine(store_url(tmp_path))
        stack.callback(holder.dispose)
        connection = stack.enter_context(holder.connect())
        connection.begin()
        async with asyncio.timeout(WRITE_S):
            calls = [uow.write_grouped(lambda conn: None) for _ in range(3)]
            calls += [uow.write(lambda conn: None) for _ in range(3)]
            ended = await asyncio.gather(*calls, return_exceptions=True)
        connection.rollback()
        await uow.write(lambda conn: None)

    assert [type(each) for each in ended] == [Unavailable] * 6


WRITERS = 4
UPDATES = 100


def _writer_of(folder: Path, *, locks_at_begin: bool) -> UnitOfWork:
    url = store_url(folder)
    engine = sqlite.writer_engine(url)
    if not locks_at_begin:
        event.remove(engine, "begin", sqlite.begin_immediate)
        event.remove(engine, "commit", sqlite.refuse_lost_transaction)
    return SqliteUnitOfWork(Writer(engine), engine, sqlite.reader_engine(url))


@pytest.mark.parametrize("locks_at_begin", [True, False])
async def test_concurrent_updates_are_lost_only_without_the_lock_at_begin(
    tmp_path: Path, locks_at_begin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four writers wait for one lock 400 times on a busy machine: time is not what is tested.
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 60.0)
    monkeypatch.setattr(writer, "PATIENCE_S", 600.0)
    instance = an_instance(attempt=0)

    def add_one(conn: Connection) -> None:
        row = instances.get(conn, instance.id)
        assert row is not None
        instances.replace(conn, replace(row, attempt=row.attempt + 1), etag=None)

    async with AsyncExitStack() as stack:
        uow = await stack.enter_async_context(a_store(tmp_path))
        await uow.write(lambda conn: instances.insert(conn, instance))
        units = [_writer_of(tmp_path, locks_at_begin=locks_at_begin) for _ in range(WRITERS)]
        for unit in units:
            stack.push_async_callback(unit.close)
        await asyncio.gather(*(unit.write(add_one) for unit in units for _ in range(UPDATES)))
        row = await uow.read(lambda conn: instances.get(conn, instance.id))

    assert row is not None
    lost = WRITERS * UPDATES - row.attempt
    assert (lost == 0) is locks_at_begin


async def test_what_is_written_after_another_process_has_read_the_file_is_not_lost(
    tmp_path: Path,
) -> None:
    """Whoever closes the file last removes its log; our lock tells others that we have it open."""
    row = an_instance()
    async with a_store(tmp_path) as uow:
        assert await _rows_another_process_sees(tmp_path) == 0
        await uow.write(lambda conn: instances.insert(conn, row))

        assert await _rows_another_process_sees(tmp_path) == 1
        assert await uow.read(lambda conn: instances.get(conn, row.id)) == row


async def _rows_another_process_sees(folder: Path) -> int:
    """Read the file as an operator's script or a backup does: open, look, close."""
    script = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
        "print(*db.execute('SELECT COUNT(*) FROM instances').fetchone()); db.close()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(folder / "unkai.db"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return int(out)


def test_a_scheduler_on_sqlite_never_loads_a_servers_driver() -> None:
    """Its memory is bounded, and the drivers are of no use to it."""
    script = (
        "import unkai_scheduler.main, sys, asyncio, tempfile, pathlib;"
        "from tests.support.store import open_store;"
        "asyncio.run(open_store(pathlib.Path(tempfile.mkdtemp())));"
        "print([m for m in ('asyncpg', 'asyncmy', 'sqlalchemy.ext.asyncio') if m in sys.modules])"
    )
    environment = {"PATH": "/usr/bin:/bin", "UNKAI_TEST_DATABASE": "sqlite"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
