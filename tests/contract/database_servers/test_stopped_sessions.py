"""A scheduler that is stopped within a transaction: its locks are not waited for without end.

On PostgreSQL a statement takes several messages. A session whose client stops between two of them
is not idle, so the server's own limits let it be (docs: extended query protocol).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import databases
from tests.support.store import a_store
from unkai_scheduler.store.servers import IDLE_IN_TRANSACTION_S
from unkai_scheduler.store.unit_of_work import UnitOfWork

LOCKED = "SELECT term FROM leader_term FOR UPDATE"
BETWEEN = "SELECT project_id FROM instances WHERE id = $1"


@asynccontextmanager
async def stopped_between_messages(folder: Path, locked: str) -> AsyncIterator[Any]:
    """Hold a session that has a lock and has sent one half of its next statement."""
    import asyncpg

    settings = databases.settings_of(folder)
    password = settings.password_file.read_text().strip() if settings.password_file else None
    session = await asyncpg.connect(
        settings.url,
        password=password,
        server_settings={
            "application_name": "unkai-scheduler",
            "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S}s",
            "statement_timeout": "10s",
        },
    )
    try:
        await session.execute("BEGIN")
        await session.execute(locked)
        await session.prepare(BETWEEN)
        yield session
    finally:
        session.terminate()


@pytest.fixture
async def uow(tmp_path: Path) -> AsyncIterator[UnitOfWork]:
    async with a_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def postgresql(database: str) -> None:
    """Skip what is of one server's protocol alone."""
    if database != "postgresql":
        pytest.skip("a statement is one message of MariaDB's protocol")


@pytest.mark.usefixtures("postgresql")
async def test_another_takes_the_term_that_a_stopped_leader_has_locked(
    uow: UnitOfWork, tmp_path: Path
) -> None:
    first = await uow.take_term(0)
    async with stopped_between_messages(tmp_path, LOCKED) as session:
        await _is_active(uow, session)
        began_s = time.monotonic()

        assert await uow.take_term(0) == first + 1

        assert time.monotonic() - began_s < 20
        await _has_ended(uow, session)


@pytest.mark.usefixtures("postgresql")
async def test_a_write_gets_the_lock_of_a_stopped_scheduler(
    uow: UnitOfWork, tmp_path: Path
) -> None:
    term = await uow.take_term(0)
    async with stopped_between_messages(tmp_path, LOCKED) as session:
        await _is_active(uow, session)

        assert await uow.lead(term, lambda conn: 7) == 7


@pytest.mark.usefixtures("postgresql")
async def test_who_works_is_let_be(uow: UnitOfWork) -> None:
    def slow(conn: Any) -> int:
        conn.exec_driver_sql(f"SELECT pg_sleep({IDLE_IN_TRANSACTION_S + 2})")
        return 7

    working = asyncio.ensure_future(uow.write(slow))
    await asyncio.sleep(IDLE_IN_TRANSACTION_S + 1)

    await uow.take_term(0)

    assert await working == 7


async def _is_active(uow: UnitOfWork, session: Any) -> None:
    """Wait until the server would have ended an idle one, and see that it has not this one."""
    await asyncio.sleep(IDLE_IN_TRANSACTION_S + 1)
    query = f"SELECT state FROM pg_stat_activity WHERE pid = {session.get_server_pid()}"
    state = await uow.read(lambda conn: conn.exec_driver_sql(query).scalar_one())
    assert state == "active"


async def _has_ended(uow: UnitOfWork, session: Any) -> None:
    query = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {session.get_server_pid()}"
    async with asyncio.timeout(5):
        while await uow.read(lambda conn: conn.exec_driver_sql(query).scalar_one()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
