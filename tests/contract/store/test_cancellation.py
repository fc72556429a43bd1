"""A caller that is cancelled is let go: whoever loses the lead must end at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, text

from tests.support.builders import an_instance
from unkai_scheduler.store import instances, servers
from unkai_scheduler.store.unit_of_work import UnitOfWork

SLOW = {"postgresql": "SELECT pg_sleep(3)", "mariadb": "SELECT SLEEP(3)"}


class Slow:
    """Work that takes 3 s in the database; SQLite's is in its thread until it is let go."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._may_end = threading.Event()
        self._begun = 0

    def __call__(self, conn: Connection) -> None:
        self._begun += 1
        if self._database in SLOW:
            conn.execute(text(SLOW[self._database]))
        else:
            self._may_end.wait(30)

    async def begins(self, at_once: int = 1) -> None:
        """Wait until it is under way so often; SQLite writes one at a time."""
        count = at_once if self._database in SLOW else 1
        async with asyncio.timeout(30):
            while self._begun < count:  # noqa: ASYNC110 - another thread changes it
                await asyncio.sleep(0.01)

    def let_go(self) -> None:
        self._may_end.set()


@pytest.fixture
def slow(uow: UnitOfWork, database: str) -> Iterator[Slow]:
    """One that is let go before the store is closed."""
    work = Slow(database)
    yield work
    work.let_go()


@pytest.mark.parametrize("how", ["read", "write"])
async def test_who_is_cancelled_in_the_middle_of_a_transaction_is_let_go(
    uow: UnitOfWork, slow: Slow, how: str
) -> None:
    await uow.read(lambda conn: None)
    call = asyncio.ensure_future(getattr(uow, how)(slow))
    await slow.begins()
    call.cancel()
    done, _ = await asyncio.wait([call], timeout=2)

    assert done, "it went on"
    assert call.cancelled()


@pytest.mark.parametrize("how", ["write", "write_grouped"])
async def test_work_whose_caller_left_before_its_turn_is_not_done(
    uow: UnitOfWork, slow: Slow, how: str
) -> None:
    rows = [an_instance() for _ in range(20)]
    busy = [asyncio.ensure_future(uow.write(slow)) for _ in range(servers.CONNECTIONS)]
    await slow.begins(servers.CONNECTIONS)
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
    slow.let_go()
    await uow.write(lambda conn: None)
    stored = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=99))

    assert all(call.cancelled() for call in calls)
    assert stored == []
