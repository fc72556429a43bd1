"""A server whose disk is full: the same reason as on SQLite, at a statement and at COMMIT, and the
store goes on once there is room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import databases
from tests.support.acceptance import Shows, full_counts
from tests.support.builders import an_instance
from tests.support.databases import Server, a_server
from tests.support.faults import fill, small_disk
from tests.support.images import open_folder
from tests.support.store import a_store, ids_with_default_project, noon
from unkai_scheduler.settings import DatabaseSettings
from unkai_scheduler.store import instances
from unkai_scheduler.store.unit_of_work import UnitOfWork, open_unit_of_work
from unkai_wire.errors import Unavailable

MIB = 1 << 20
ROOM = 160 * MIB
USER_DATA = os.urandom(60_000)
LEFT = 8 * MIB
"""MariaDB ends itself when not even the first of its extensions succeeds; then it is away, and said
to be so."""


@pytest.fixture
def small(database: str) -> Iterator[tuple[Server, Path]]:
    """A server of its own on a small disk: making one takes long, so in whole runs alone."""
    if not full_counts():
        pytest.skip("in whole runs alone")
    with open_folder() as folder, small_disk(folder / "disk", ROOM) as disk:
        server = a_server(database, disk)
        try:
            yield server, disk
        finally:
            server.stop()


async def _write(uow: UnitOfWork, kept: list[str]) -> None:
    row = an_instance(user_data=USER_DATA)
    await uow.write(lambda conn: instances.insert(conn, row))
    kept.append(row.id)


async def _until_refused(uow: UnitOfWork, kept: list[str]) -> Unavailable:
    """Write until the disk has no room for more."""
    for _ in range(2 * ROOM // len(USER_DATA)):
        try:
            await _write(uow, kept)
        except Unavailable as error:
            return error
    raise AssertionError("the disk is full, and everything was written")


async def test_a_server_on_a_full_disk_is_said_to_be_full_and_goes_on_when_there_is_room(
    small: tuple[Server, Path], database: str, shows: Shows
) -> None:
    server, disk = small
    uow = await open_unit_of_work(
        DatabaseSettings(url=server.url(server.new())),
        clock=noon,
        new_id=ids_with_default_project(),
    )
    kept: list[str] = []
    if database == "postgresql":
        # A segment of the log, 16 MiB, that outlasts the rest of the disk: a server that finds no
        # room for the next one ends itself.
        server.run_sql("SELECT pg_switch_wal()")
    await _write(uow, kept)
    ballast = fill(disk, leave_bytes=LEFT)

    first = await _until_refused(uow, kept)
    again = await _until_refused(uow, kept)
    there = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=99_999))
    ballast.unlink()
    await _write(uow, kept)
    stored = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=99_999))
    await uow.close()

    assert (first.reason, again.reason) == ("DATABASE_FULL", "DATABASE_FULL")
    assert len(there) == len(kept) - 1
    assert {row.id for row in stored} == set(kept)
    shows(
        f"solid 7 full disk, {database}",
        f"{len(kept) - 1} rows fitted, then {first.reason}; with room again all goes on",
    )


async def test_a_disk_that_is_full_at_commit_is_said_to_be_full(
    tmp_path: Path, database: str
) -> None:
    """What the server refuses only at COMMIT: a deferred trigger raises PostgreSQL's disk_full."""
    if database != "postgresql":
        pytest.skip("MariaDB has no deferred triggers")
    async with a_store(tmp_path) as uow:
        running = databases.server(database)
        name = databases.settings_of(tmp_path).url.rpartition("/")[2]
        running.run_sql(_FULL_AT_COMMIT, database=name)
        try:
            for write in (uow.write, uow.write_grouped):
                row = an_instance()
                with pytest.raises(Unavailable) as caught:
                    await write(lambda conn, r=row: instances.insert(conn, r))
                assert caught.value.reason == "DATABASE_FULL"
                assert await uow.read(lambda conn, r=row: instances.get(conn, r.id)) is None
        finally:
            running.run_sql("DROP TRIGGER full_at_commit ON instances", database=name)
        await uow.write(lambda conn: instances.insert(conn, row))
        assert await uow.read(lambda conn: instances.get(conn, row.id)) == row


_FULL_AT_COMMIT = """
CREATE OR REPLACE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
END $$;
CREATE CONSTRAINT TRIGGER full_at_commit AFTER INSERT ON instances
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION no_room()
"""
