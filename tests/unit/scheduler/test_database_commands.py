"""`unkai-scheduler db` on a SQLite file: checked, upgraded, backed up, restored."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from click.testing import CliRunner, Result

from tests.support.acceptance import Shows
from tests.support.builders import NOON, an_event, an_instance, an_operation
from tests.support.store import a_store, store_url
from unkai_scheduler import database_commands
from unkai_scheduler.main import main
from unkai_scheduler.store import (
    events,
    history,
    instances,
    migrations,
    operations,
    terms,
    uploads,
)
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.errors import Conflict, FailedPrecondition

FILLED = 50


def db(folder: Path, *words: str) -> Result:
    """Run `unkai-scheduler db` on the database in a folder."""
    settings = folder / "scheduler.toml"
    settings.write_text(f"[database]\nurl = '{store_url(folder)}'\n")
    return CliRunner().invoke(main, ["db", words[0], "--config", str(settings), *words[1:]])


async def fill(folder: Path) -> list[str]:
    """Put instances with operations and stamped events into a database; return their ids."""
    rows = [an_instance() for _ in range(FILLED)]

    def work(conn: Connection) -> None:
        for row in rows:
            instances.insert(conn, row)
            operations.insert(conn, an_operation(resource_id=row.id))
            events.insert(conn, an_event(resource_id=row.id))
        events.stamp(conn, FILLED)

    async with a_store(folder) as uow:
        await uow.write(work)
        await uow.take_term(6)
    (folder / "unkai.db").chmod(0o600)  # the store's own mode; a test's copy has another
    return sorted(row.id for row in rows)


async def ids_in(folder: Path) -> list[str]:
    async with a_store(folder) as uow:
        page = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=99_999))
    return sorted(row.id for row in page)


async def test_check_says_of_a_filled_database_that_all_is_well(
    tmp_path: Path, shows: Shows
) -> None:
    await fill(tmp_path)

    result = await asyncio.to_thread(db, tmp_path, "check")

    assert (result.exit_code, result.stderr) == (0, "")
    told = {line.split()[1]: line.split(maxsplit=2)[2] for line in result.stdout.splitlines()}
    assert all(line.startswith("ok ") for line in result.stdout.splitlines())
    assert told["revision"] == migrations.head_revision()
    assert (told["term"], told["integrity"]) == ("7", "whole")
    assert told["history"] == f"newest revision 1.{FILLED}, 0 events without one yet"
    shows("solid 11 db check", f"sqlite, filled: {'; '.join(f'{k}: {told[k]}' for k in told)}")


def spoil_nothing_there(folder: Path) -> None:
    (folder / "unkai.db").unlink()


def spoil_no_database(folder: Path) -> None:
    (folder / "unkai.db").write_bytes(b"this is no database" * 1000)


def spoil_revision(folder: Path) -> None:
    _sql(folder, "UPDATE alembic_version SET version_num = '9999'")


def spoil_term(folder: Path) -> None:
    _sql(folder, "DELETE FROM leader_term")


def spoil_history(folder: Path) -> None:
    _sql(folder, "UPDATE history SET newest_number = 3")


def spoil_reference(folder: Path) -> None:
    _sql(folder, "UPDATE instances SET project_id = 'prj-none'")


def spoil_mode(folder: Path) -> None:
    (folder / "unkai.db").chmod(0o644)


def spoil_schema(folder: Path) -> None:
    config = migrations.config()
    config.set_main_option("sqlalchemy.url", store_url(folder))
    command.downgrade(config, "0001")


def spoil_all_tables(folder: Path) -> None:
    (folder / "unkai.db").unlink()
    _sql(folder, "CREATE TABLE somebody_elses (a)")


def _sql(folder: Path, statement: str) -> None:
    with sqlite3.connect(folder / "unkai.db") as conn:
        conn.execute(statement)
    conn.close()


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (spoil_nothing_there, "reachable"),
        (spoil_no_database, "reachable"),
        (spoil_revision, "revision"),
        (spoil_schema, "revision"),
        (spoil_all_tables, "revision"),
        (spoil_term, "term"),
        (spoil_history, "history"),
        (spoil_reference, "integrity"),
        (spoil_mode, "secrecy"),
    ],
)
async def test_check_names_what_is_wrong_with_its_fix_and_changes_nothing(
    tmp_path: Path, spoil: Any, what: str
) -> None:
    await fill(tmp_path)
    await asyncio.to_thread(spoil, tmp_path)
    file = tmp_path / "unkai.db"
    before = file.read_bytes() if file.exists() else None

    result = await asyncio.to_thread(db, tmp_path, "check")

    wrong = [line for line in result.stdout.splitlines() if line.startswith("WRONG")]
    assert result.exit_code == 1
    assert what in [line.split()[1] for line in wrong]
    assert result.stdout.count("      fix: ") == len(wrong)
    assert (file.read_bytes() if file.exists() else None) == before


async def test_upgrade_brings_an_old_filled_database_to_the_head_and_keeps_all(
    tmp_path: Path, shows: Shows
) -> None:
    known = await fill(tmp_path)
    await asyncio.to_thread(spoil_schema, tmp_path)

    dry = await asyncio.to_thread(db, tmp_path, "upgrade", "--dry-run")
    after_dry = migrations.current_revision(store_url(tmp_path))
    done = await asyncio.to_thread(db, tmp_path, "upgrade")
    again = await asyncio.to_thread(db, tmp_path, "upgrade")

    assert (dry.exit_code, done.exit_code, again.exit_code) == (0, 0, 0), done.output
    assert "would apply 0002" in dry.stdout
    assert after_dry == "0001"
    assert "applied 0002" in done.stdout
    assert "nothing to do" in again.stdout
    assert migrations.current_revision(store_url(tmp_path)) == migrations.head_revision()
    assert await ids_in(tmp_path) == known
    shows("solid 11 db upgrade", f"sqlite, 0001 with {FILLED} instances: {done.stdout.strip()}")


async def test_upgrade_makes_a_database_that_is_not_there(tmp_path: Path) -> None:
    made = await asyncio.to_thread(db, tmp_path, "upgrade")
    checked = await asyncio.to_thread(db, tmp_path, "check")

    assert (made.exit_code, checked.exit_code) == (0, 0), checked.output


async def test_a_backup_made_while_writers_go_on_is_whole(tmp_path: Path, shows: Shows) -> None:
    """Each transaction writes an instance and its operation: a torn copy has one without it."""
    await fill(tmp_path)
    target = tmp_path / "copy" / "unkai.db"
    target.parent.mkdir()
    stop = asyncio.Event()

    async def write_for_ever() -> int:
        count = 0
        while not stop.is_set():
            row = an_instance()

            def work(conn: Connection, row: Any = row) -> None:
                instances.insert(conn, row)
                operations.insert(conn, an_operation(resource_id=row.id))

            await uow.write(work)
            count += 1
        return count

    async with a_store(tmp_path) as uow:
        writer = asyncio.ensure_future(write_for_ever())
        await asyncio.sleep(0.2)
        # A process of its own, as an operator's: locks on a file belong to a process.
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("unkai-scheduler")),
            *("db", "backup", "--config", _settings(tmp_path), str(target)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        stop.set()
        written = await writer
        all_ids = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=99_999))
    kept = await ids_in(target.parent)
    async with a_store(target.parent) as copy:
        active = await copy.read(lambda conn: operations.list_page(conn, after=None, limit=99_999))

    assert process.returncode == 0, out
    assert written > 0
    assert FILLED <= len(kept) <= len(all_ids)
    assert sorted(operation.resource_id for operation in active) == kept
    assert target.stat().st_mode & 0o077 == 0
    shows(
        "solid 11 db backup",
        f"sqlite, beside a writer of {written} transactions: {len(kept)} instances, whole",
    )


def _settings(folder: Path) -> str:
    path = folder / "scheduler.toml"
    path.write_text(f"[database]\nurl = '{store_url(folder)}'\n")
    return str(path)


async def test_a_backup_never_writes_over_a_file_and_leaves_no_half_one(tmp_path: Path) -> None:
    await fill(tmp_path)
    there = tmp_path / "there"
    there.write_text("precious")

    refused = await asyncio.to_thread(db, tmp_path, "backup", str(there))
    no_folder = await asyncio.to_thread(db, tmp_path, "backup", str(tmp_path / "no" / "b"))
    (tmp_path / "unkai.db").rename(tmp_path / "elsewhere")
    missing = await asyncio.to_thread(db, tmp_path, "backup", str(tmp_path / "b"))

    assert "FILE_EXISTS" in refused.output
    assert there.read_text() == "precious"
    assert no_folder.exit_code == 1
    assert "DATABASE_MISSING" in missing.output
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "scheduler.toml", "there"]


async def test_a_restored_database_judges_no_upload_that_was_under_way(tmp_path: Path) -> None:
    """It may have ended since the backup: then its bytes are an image's only copy."""
    await fill(tmp_path)
    async with a_store(tmp_path) as uow:
        await uow.write(lambda conn: uploads.insert_new(conn, "img-1.token", "img-1"))

    assert (await asyncio.to_thread(db, tmp_path, "restored")).exit_code == 0

    async with a_store(tmp_path) as uow:
        assert await uow.read(uploads.list_all) == []


async def test_a_restored_database_fences_old_leaders_and_has_old_watchers_list_anew(
    tmp_path: Path, shows: Shows
) -> None:
    await fill(tmp_path)
    await asyncio.to_thread(db, tmp_path, "backup", str(tmp_path / "backup"))
    async with a_store(tmp_path) as uow:
        old_term = await uow.read(terms.locked)
        watched = await uow.read(lambda conn: history.extent(conn).newest)
        await uow.write(lambda conn: instances.insert(conn, an_instance()))
    (tmp_path / "unkai.db").unlink()
    (tmp_path / "backup").rename(tmp_path / "unkai.db")

    result = await asyncio.to_thread(db, tmp_path, "restored")

    assert result.exit_code == 0, result.output
    assert "unkai audit orphans" in result.stdout
    assert "unkai instance adopt --all" in result.stdout
    async with a_store(tmp_path) as uow:
        with pytest.raises(Conflict, match="is over"):
            await uow.lead(old_term, lambda conn: None)
        with pytest.raises(FailedPrecondition) as gone:
            await uow.read(lambda conn: events.after(conn, watched, limit=9))
        epoch = await uow.read(history.epoch)
    assert gone.value.reason == "REVISION_GONE"
    assert len(await ids_in(tmp_path)) == FILLED
    shows(
        "solid 11 db restored",
        f"sqlite: term {old_term} refused, revision {watched} gone, epoch {epoch}",
    )


async def test_a_backup_restored_twice_never_gives_the_same_epoch_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path)
    backup = (tmp_path / "unkai.db").read_bytes()
    epochs = []
    for seconds in (0, 1):
        now = NOON + timedelta(seconds=seconds)
        monkeypatch.setattr(database_commands, "system_clock", lambda now=now: now)
        (tmp_path / "unkai.db").write_bytes(backup)
        await asyncio.to_thread(db, tmp_path, "restored")
        async with a_store(tmp_path) as uow:
            epochs.append(await uow.read(history.epoch))

    assert epochs[1] > epochs[0] > 1


@pytest.mark.parametrize("words", [("restored",), ("upgrade",)], ids=["restored", "upgrade"])
async def test_what_would_harm_a_running_scheduler_refuses_while_one_has_the_file_open(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    await fill(tmp_path)
    if words == ("upgrade",):
        await asyncio.to_thread(spoil_schema, tmp_path)
    before = migrations.current_revision(store_url(tmp_path))
    holder = await asyncio.create_subprocess_exec(
        "python",
        "-c",
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]);"
        " db.execute('SELECT count(*) FROM instances').fetchone();"
        " print('open', flush=True); sys.stdin.read()",
        str(tmp_path / "unkai.db"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None
    await holder.stdout.readline()

    refused = await asyncio.to_thread(db, tmp_path, *words)
    await holder.communicate(b"")
    taken = await asyncio.to_thread(db, tmp_path, *words)

    assert refused.exit_code == 1
    assert "DATABASE_IN_USE" in refused.output
    assert before == ("0001" if words == ("upgrade",) else migrations.head_revision())
    assert taken.exit_code == 0, taken.output


async def test_restoring_what_is_not_there_makes_no_empty_cloud(tmp_path: Path) -> None:
    result = await asyncio.to_thread(db, tmp_path, "restored")

    assert "DATABASE_MISSING" in result.output
    assert not (tmp_path / "unkai.db").exists()


async def test_settings_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[database]\nurl = 'oracle://x'\n")
    words = ["db", "check", "--config", str(tmp_path / "bad.toml")]
    result = await asyncio.to_thread(CliRunner().invoke, main, words)

    assert result.exit_code == 1
    assert "database.url" in result.stderr
