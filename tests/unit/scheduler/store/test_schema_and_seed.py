"""From an empty file to the head; what a new database holds; what an old one keeps."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateTable

from tests.support.builders import (
    DEFAULT_PROJECT_ID,
    GIB,
    MIB,
    a_flavor,
    a_key_pair,
    an_instance,
)
from tests.support.store import a_store, ids_with_default_project, noon, store_url
from unkai_scheduler.domain.resources import Project
from unkai_scheduler.store import (
    flavors,
    instances,
    key_pairs,
    migrations,
    projects,
    terms,
)
from unkai_scheduler.store.tables import metadata
from unkai_scheduler.store.unit_of_work import UnitOfWork, open_unit_of_work
from unkai_wire.errors import FailedPrecondition, InvalidArgument, Unavailable


def test_revisions_are_known_by_name_as_alembic_knows_them() -> None:
    walked = [s.revision for s in ScriptDirectory.from_config(migrations.config()).walk_revisions()]
    assert list(migrations.revisions()) == walked[::-1]
    assert migrations.head_revision() == walked[0]


async def test_key_pairs_that_were_named_before_they_had_a_table_are_found_in_it(
    tmp_path: Path,
) -> None:
    pairs = [a_key_pair(), a_key_pair()]
    named = an_instance(key_pair_ids=tuple(pair.id for pair in pairs))

    def fill(conn: Connection) -> None:
        for pair in pairs:
            key_pairs.insert(conn, pair)
        instances.insert(conn, named)
        instances.insert(conn, an_instance())

    async with a_store(tmp_path) as uow:
        await uow.write(fill)
    config = migrations.config()
    config.set_main_option("sqlalchemy.url", store_url(tmp_path))
    await asyncio.to_thread(command.downgrade, config, "0001")

    async with a_store(tmp_path) as again:
        counts = await again.read(
            lambda conn: [instances.count_by_key_pair(conn, pair.id) for pair in pairs]
        )
        row = await again.read(lambda conn: instances.get(conn, named.id))
        await again.write(lambda conn: instances.delete(conn, named.id))
        left = await again.read(lambda conn: instances.count_by_key_pair(conn, pairs[0].id))

    assert counts == [1, 1]
    assert row == named
    assert left == 0


def test_the_terms_row_is_locked_where_a_transaction_alone_locks_nothing() -> None:
    for dialect in (postgresql.dialect(), mysql.dialect(is_mariadb=True)):
        assert str(terms.LOCK.compile(dialect=dialect)).endswith("FOR UPDATE")


def test_each_table_is_the_same_on_the_other_databases() -> None:
    """Every column type compiles for PostgreSQL and MariaDB, and no unique key is too long."""
    longest_key_bytes = 3072  # InnoDB, DYNAMIC row format
    for table in metadata.sorted_tables:
        for dialect in (postgresql.dialect(), mysql.dialect(is_mariadb=True)):
            assert str(CreateTable(table).compile(dialect=dialect)).strip()
        keys = [list(index.columns) for index in table.indexes]
        keys += [list(c.columns) for c in table.constraints if hasattr(c, "columns")]
        for columns in keys:
            size = sum(4 * (getattr(c.type, "length", None) or 2) for c in columns)
            assert size <= longest_key_bytes, f"{table.name}: {columns}"


async def test_a_new_database_holds_the_default_project_and_five_flavors(uow: UnitOfWork) -> None:
    project = await uow.read(lambda conn: projects.find(conn, "default"))
    seeded = await uow.read(lambda conn: flavors.list_page(conn, after=None, limit=99))

    assert isinstance(project, Project)
    assert project.id == DEFAULT_PROJECT_ID
    assert {f.name: (f.vcpus, f.memory_bytes, f.disk_bytes) for f in seeded} == {
        "nano": (1, 128 * MIB, 0),
        "micro": (1, 256 * MIB, 2 * GIB),
        "small": (1, GIB, 10 * GIB),
        "medium": (2, 4 * GIB, 20 * GIB),
        "large": (4, 8 * GIB, 40 * GIB),
    }


async def test_reopening_keeps_all_and_brings_no_deleted_flavor_back(tmp_path: Path) -> None:
    own = a_flavor(name="own")
    async with a_store(tmp_path) as uow:
        (nano,) = await uow.read(
            lambda conn: flavors.list_page(conn, after=None, limit=9, name="nano")
        )
        await uow.write(lambda conn: flavors.delete(conn, nano.id))
        await uow.write(lambda conn: flavors.insert(conn, own))

    async with a_store(tmp_path) as again:
        seeded = await again.read(lambda conn: flavors.list_page(conn, after=None, limit=99))

    assert [f.name for f in seeded] == ["large", "medium", "micro", "own", "small"]


async def test_a_database_of_a_later_version_is_refused_untouched(tmp_path: Path) -> None:
    async with a_store(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "unkai.db") as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    conn.close()

    with pytest.raises(FailedPrecondition) as caught:
        await open_unit_of_work(store_url(tmp_path), clock=noon, new_id=ids_with_default_project())

    assert caught.value.reason == "DATABASE_TOO_NEW"
    assert migrations.current_revision(store_url(tmp_path)) == "9999"


async def test_a_failed_migration_leaves_the_file_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr("unkai_scheduler.store.seed.seed_if_new", fail)
    with pytest.raises(RuntimeError):
        await open_unit_of_work(store_url(tmp_path), clock=noon, new_id=ids_with_default_project())

    assert migrations.current_revision(store_url(tmp_path)) is None


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("no url", InvalidArgument),
        ("sqlite://", InvalidArgument),
        ("sqlite:///:memory:", InvalidArgument),
        ("postgresql+asyncpg://unkai@localhost/unkai", InvalidArgument),
        ("postgresql://unkai:secret@localhost/unkai", InvalidArgument),
        ("postgresql://unkai@db.example/unkai", InvalidArgument),
        ("mariadb://localhost/unkai", InvalidArgument),
    ],
)
async def test_a_url_that_cannot_serve_is_refused(url: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        await open_unit_of_work(url, clock=noon, new_id=ids_with_default_project())
    assert "secret" not in str(caught.value)


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "unkai.db").write_bytes(b"this is no database" * 1000)

    with pytest.raises(Unavailable) as caught:
        await open_unit_of_work(store_url(tmp_path), clock=noon, new_id=ids_with_default_project())

    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    assert "file is not a database" in caught.value.message
