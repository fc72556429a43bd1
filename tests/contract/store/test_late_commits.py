"""An event that is committed late is numbered late: who watches misses none."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from sqlalchemy.util.concurrency import await_

from tests.support import databases
from tests.support.acceptance import Shows
from tests.support.builders import an_event
from tests.support.store import a_store
from unkai_scheduler.store import events
from unkai_scheduler.store.unit_of_work import Connection


async def test_an_event_committed_after_a_later_one_was_seen_is_seen_too(
    tmp_path: Path, database: str, shows: Shows
) -> None:
    slow, quick = an_event(resource_name="a"), an_event(resource_name="b")
    inside, go_on = threading.Event(), threading.Event()

    def insert_slowly(conn: Connection) -> None:
        events.insert(conn, slow)
        inside.set()
        while not go_on.is_set():
            if database == databases.SQLITE:
                go_on.wait(0.02)
            else:
                await_(asyncio.sleep(0.02))

    async with a_store(tmp_path) as one, a_store(tmp_path) as two:
        term = await two.take_term(0)

        async def stamp() -> int:
            return await two.lead(term, lambda conn: events.stamp(conn, 99))

        seen = await two.read(events.newest)
        a = asyncio.ensure_future(one.write(insert_slowly))
        await asyncio.to_thread(inside.wait, 30)
        b = asyncio.ensure_future(two.write(lambda conn: events.insert(conn, quick)))
        order = []
        if database == databases.SQLITE:
            await asyncio.wait([b], timeout=0.5)
            b_waited = not b.done()
            go_on.set()
            await asyncio.gather(a, b)
        else:
            await b
            b_waited = False
            await stamp()
            first = await two.read(lambda conn: events.after(conn, seen, limit=99))
            order += [event.resource_name for event in first]
            assert order == ["b"]
            assert first[-1].revision is not None
            seen = first[-1].revision
            go_on.set()
            await a
        await stamp()
        rest = await two.read(lambda conn: events.after(conn, seen, limit=99))
        order += [event.resource_name for event in rest]

    assert b_waited is (database == databases.SQLITE)
    assert order == (["a", "b"] if database == databases.SQLITE else ["b", "a"])
    shows(
        f"solid 4 late commit {database}",
        f"A inserts, B inserts and {'waits for A' if b_waited else 'commits, is stamped and read'},"
        f" A commits: seen {', '.join(order)}, each once",
    )
