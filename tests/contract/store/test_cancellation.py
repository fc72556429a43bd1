"""A caller that is cancelled is let go: whoever loses the lead must end at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, text

from tests.support.builders import an_instance
from unkai_scheduler.store import instances, servers
from unkai_scheduler.store.unit_of_work import UnitOfWork

SLOW = {"postgresql": "SELECT pg_sleep(3)", "mariadb": "SELECT SLEEP(3)"}


@pytest.fixture
def slow(database: str) -> Callable[[Connection], None]:
    """Work that takes 3 s in the database; SQLite's is in its thread."""

    def work(conn: Connection) -> None:
        if database in SLOW:
            conn.execute(text(SLOW[database]))
        else:
            time.sleep(1)

    return work


@pytest.mark.parametrize("how", ["read", "write"])
async def test_who_is_cancelled_in_the_middle_of_a_transaction_is_let_go(
    uow: UnitOfWork, slow: Callable[[Connection], None], how: str
) -> None:
    await uow.read(lambda conn: None)
    call = asyncio.ensure_future(getattr(uow, how)(slow))
    await asyncio.sleep(0.3)
    call.cancel()
    done, _ = await asyncio.wait([call], timeout=2)

    assert done, "it went on"
    assert call.cancelled()


@pytest.mark.parametrize("how", ["write", "write_grouped"])
async def test_work_whose_caller_left_before_its_turn_is_not_done(
    uow: UnitOfWork, slow: Callable[[Connection], None], how: str
) -> None:
    rows = [an_instance() for _ in range(20)]
    busy = [asyncio.ensure_future(uow.write(slow)) for _ in range(servers.CONNECTIONS)]
    await asyncio.sleep(0.3)
    calls = [
        asyncio.ensure_future(getattr(uow, how)(lambda conn, r=row: instances.insert(conn, r)))
        for row in rows
    ]
    await asyncio.sleep(0.1)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    for each in busy:
        each.cancel()
    await uow.write(lambda conn: None)
    stored = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=99))

    assert all(call.cancelled() for call in calls)
    assert stored == []
