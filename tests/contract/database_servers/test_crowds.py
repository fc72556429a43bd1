"""Many callers while the database makes them wait: each is answered in time, nobody starves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support import databases
from tests.support.acceptance import Shows
from tests.support.builders import DEFAULT_PROJECT_ID, a_project, an_instance
from tests.support.commit_proxy import a_commit_proxy
from tests.support.store import a_store, ids_with_default_project, noon
from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.store import events, instances, projects, server_unit_of_work, servers, turns
from unkai_scheduler.store.unit_of_work import Connection, open_unit_of_work
from unkai_wire import deadlines
from unkai_wire.errors import Unavailable

CROWD = 200


@asynccontextmanager
async def a_locked_project(folder: Path) -> AsyncIterator[None]:
    """Let somebody's session that knows no bounds hold the default project's row."""
    settings = databases.settings_of(folder)
    server = server_unit_of_work.server_of(settings)
    engine = servers.engine(server, settings, servers.MIGRATING)
    async with engine.connect() as conn:
        await conn.begin()
        assert await conn.run_sync(projects.locked, DEFAULT_PROJECT_ID)
        yield
        await conn.rollback()
    await engine.dispose()


def adding(project_id: str = DEFAULT_PROJECT_ID) -> Callable[[Connection], None]:
    """Return work that adds an instance as a create does: with its project locked."""
    row = an_instance(project_id=project_id)

    def work(conn: Connection) -> None:
        projects.locked(conn, project_id)
        instances.insert(conn, row)

    return work


def count_instances(conn: Connection) -> int:
    return instances.count_by_project(conn, DEFAULT_PROJECT_ID)


def test_what_the_store_waits_is_less_than_what_callers_wait() -> None:
    longest_write_s = turns.RETRY_S + servers.CONNECT_S + servers.CLOSE_S
    assert longest_write_s < deadlines.WRITE_S
    assert turns.PATIENCE_S < turns.RETRY_S
    assert server_unit_of_work.READING_S < deadlines.READ_S


async def test_a_crowd_that_waits_for_a_lock_is_answered_and_keeps_nobody_from_the_rest(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, shows: Shows
) -> None:
    monkeypatch.setattr(turns, "RETRY_S", 5.0)
    monkeypatch.setattr(turns, "PATIENCE_S", 5.0)
    async with a_store(tmp_path) as uow:
        term = await uow.take_term(0)
        async with a_locked_project(tmp_path):
            calls = [uow.write(adding()) for _ in range(CROWD // 2)]
            calls += [uow.write_grouped(adding()) for _ in range(CROWD // 2)]
            crowd = asyncio.gather(*calls, return_exceptions=True)
            await asyncio.sleep(0.3)
            assert await uow.read(count_instances) == 0
            await uow.lead(term, events.newest)
            assert not crowd.done(), "reads and the leader do not wait for the crowd"
            refused = await crowd
        monkeypatch.undo()
        await asyncio.gather(*(uow.write_grouped(adding()) for _ in range(20)))
        counted = await uow.read(count_instances)

    assert {type(each) for each in refused} == {Unavailable}
    assert {each.reason for each in refused if isinstance(each, Unavailable)} == {
        "DATABASE_UNAVAILABLE"
    }
    assert counted == 20
    shows(
        f"solid 4 crowd {database}",
        f"{CROWD} writes at a locked row: UNAVAILABLE, none half-done; reads and leader went on",
    )


async def test_one_projects_lock_holds_up_creates_in_no_other(tmp_path: Path) -> None:
    async with a_store(tmp_path) as uow:
        other = a_project()
        await uow.write(lambda conn: projects.insert(conn, other))
        async with a_locked_project(tmp_path):
            stuck = [asyncio.ensure_future(uow.write_grouped(adding())) for _ in range(3)]
            await asyncio.sleep(0.1)
            await uow.write_grouped(adding(other.id))
            assert not any(each.done() for each in stuck)
        await asyncio.gather(*stuck)
        assert await uow.read(count_instances) == 3


@asynccontextmanager
async def a_store_behind_a_network(folder: Path, database: str) -> AsyncIterator[tuple]:  # type: ignore[type-arg]
    running = databases.server(database)
    async with a_store(folder), a_commit_proxy(running.port) as proxy:
        url = databases.settings_of(folder).url.replace(f":{running.port}", f":{proxy.port}")
        uow = await open_unit_of_work(
            DatabaseSettings(url=url), clock=noon, new_id=ids_with_default_project()
        )
        yield uow, proxy
        await uow.close()


async def test_readers_that_gave_up_hold_nothing_while_the_network_is_cut(
    tmp_path: Path, database: str
) -> None:
    async with a_store_behind_a_network(tmp_path, database) as (uow, proxy):
        await asyncio.gather(*(uow.read(events.newest) for _ in range(20)))
        proxy.flowing.clear()
        before = len(asyncio.all_tasks())
        for _ in range(5):
            gone = [asyncio.ensure_future(uow.read(events.newest)) for _ in range(CROWD)]
            await asyncio.sleep(0.05)
            for each in gone:
                each.cancel()
            await asyncio.wait(gone)
        left = len(asyncio.all_tasks()) - before
        proxy.flowing.set()
        await uow.read(events.newest)

    # What is left closes the few connections that were in use.
    assert left < 6 * servers.CONNECTIONS, left


async def test_a_reader_whose_database_is_silent_hears_so_in_time(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_unit_of_work, "READING_S", 0.5)
    async with a_store_behind_a_network(tmp_path, database) as (uow, proxy):
        proxy.flowing.clear()
        began_s = time.monotonic()
        ended = await asyncio.gather(
            *(uow.read(events.newest) for _ in range(CROWD)), return_exceptions=True
        )
        took_s = time.monotonic() - began_s
        proxy.flowing.set()
        monkeypatch.undo()
        await uow.read(events.newest)

    assert {type(each) for each in ended} == {Unavailable}
    assert took_s < servers.ATTEMPT_S
