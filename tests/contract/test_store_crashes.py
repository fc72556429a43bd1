"""What a killed process and a full disk leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import event

from tests.support.builders import an_instance
from tests.support.store import a_store, store_url
from unkai_scheduler.store import instances, operations, sqlite
from unkai_scheduler.store.unit_of_work import SqliteUnitOfWork
from unkai_scheduler.store.writer import Writer

ROOT = Path(__file__).parents[2]
CHILD = [sys.executable, "-m", "tests.support.store_child"]


async def test_a_killed_writer_leaves_whole_transactions_and_all_it_acknowledged(
    tmp_path: Path,
) -> None:
    acknowledged: set[str] = set()
    for lines in (1, 17, 60):
        acknowledged |= _write_and_kill(tmp_path, after_lines=lines)

        async with a_store(tmp_path) as uow:
            rows = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=99_999))
            ended = await uow.read(
                lambda conn: operations.list_page(conn, after=None, limit=99_999)
            )
        with sqlite3.connect(tmp_path / "unkai.db") as conn:
            integrity = conn.execute("PRAGMA integrity_check").fetchone()
            broken = conn.execute("PRAGMA foreign_key_check").fetchall()
        conn.close()

        stored = {row.id for row in rows}
        assert acknowledged <= stored
        assert stored == {operation.resource_id for operation in ended}
        assert (integrity, broken) == (("ok",), [])


def _write_and_kill(folder: Path, *, after_lines: int) -> set[str]:
    """Let a child write, kill it while it goes on, and return what it acknowledged."""
    child = subprocess.Popen(
        [*CHILD, "write", str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(after_lines)]
        child.kill()
        told += child.stdout.read().splitlines(keepends=True)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == -9
    return {line.strip() for line in told if line.endswith("\n")}


async def test_a_database_that_may_not_grow_is_full_until_it_may(tmp_path: Path) -> None:
    async with a_store(tmp_path) as made:
        used = await made.read(lambda conn: conn.exec_driver_sql("PRAGMA page_count").scalar_one())
    engine = sqlite.writer_engine(store_url(tmp_path))
    pages = [used + 64]

    def limit(connection: sqlite3.Connection, _record: object, _proxy: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages[0]}")

    event.listen(engine, "checkout", limit)
    uow = SqliteUnitOfWork(Writer(engine), engine, sqlite.reader_engine(store_url(tmp_path)))
    rows = [an_instance(user_data=b"x" * 60_000) for _ in range(9)]
    outcomes = await asyncio.gather(
        *(uow.write_grouped(lambda conn, row=row: instances.insert(conn, row)) for row in rows),
        return_exceptions=True,
    )
    kept = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=99))
    pages[0] = 10_000
    late = an_instance(user_data=b"x" * 60_000)
    await uow.write(lambda conn: instances.insert(conn, late))
    found = await uow.read(lambda conn: instances.get(conn, late.id))
    await uow.close()

    failures = [outcome for outcome in outcomes if outcome is not None]
    written = {row.id for row, outcome in zip(rows, outcomes, strict=True) if outcome is None}
    assert written
    assert {getattr(failure, "reason", failure) for failure in failures} == {"DATABASE_FULL"}
    assert {row.id for row in kept} == written
    assert found is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_told_and_the_store_goes_on_when_there_is_room(tmp_path: Path) -> None:
    # The mount lives in a namespace of the child's own and goes with it.
    script = 'mount -t tmpfs -o size=3m tmpfs "$1" && shift && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), *CHILD, "fill"]
    ended = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, timeout=90, cwd=ROOT, check=False
    )

    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    done = told["done"]
    assert done > 0
    assert told["reasons"] == ["DATABASE_FULL"] * 3
    assert told["kept_when_full"] == [done, done]
    assert told["kept_after"] == told["kept_reopened"] == [done + 1, done + 1]
