"""`unkai-scheduler db` on servers: checked, upgraded, backed up beside writers, restored."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support import databases
from tests.support.acceptance import Shows
from tests.support.builders import an_event, an_instance, an_operation
from tests.support.faults import fill as fill_disk
from tests.support.faults import small_disk
from tests.support.store import a_store
from unkai_scheduler.doctor.checks import CHECKS
from unkai_scheduler.doctor.scene import Scene
from unkai_scheduler.domain.clock import Clock, system_clock
from unkai_scheduler.main import main
from unkai_scheduler.settings import Settings
from unkai_scheduler.store import events, history, instances, migrations, operations, terms
from unkai_scheduler.store.findings import Finding
from unkai_scheduler.store.server_upkeep import ServerUpkeep
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_wire.doctor.findings import Finding as DoctorFinding
from unkai_wire.doctor.findings import Severity
from unkai_wire.errors import Conflict, FailedPrecondition

FILLED = 50


def write_settings(folder: Path, url: str, *more: str) -> Path:
    path = folder / "scheduler.toml"
    path.write_text("\n".join([f"[database]\nurl = '{url}'", *more]) + "\n")
    return path


async def db(folder: Path, *words: str, settings: Path | None = None) -> Result:
    """Run `unkai-scheduler db` on the database of a folder."""
    settings = settings or write_settings(folder, databases.settings_of(folder).url)
    arguments = ["db", words[0], "--config", str(settings), *words[1:]]
    return await asyncio.to_thread(CliRunner().invoke, main, arguments)


def pairs(rows: list[Any]) -> Any:
    def work(conn: Connection) -> None:
        for row in rows:
            instances.insert(conn, row)
            operations.insert(conn, an_operation(resource_id=row.id))
            events.insert(conn, an_event(resource_id=row.id))

    return work


async def fill(uow: UnitOfWork) -> None:
    await uow.write(pairs([an_instance() for _ in range(FILLED)]))
    await uow.write(lambda conn: events.stamp(conn, FILLED))
    await uow.take_term(6)


async def ids_in(uow: UnitOfWork) -> tuple[list[str], list[str]]:
    """Return the ids of all instances, and of those that operations name."""
    return await uow.read(
        lambda conn: (
            sorted(row.id for row in instances.list_page(conn, after=None, limit=99_999)),
            sorted(row.resource_id for row in operations.list_page(conn, after=None, limit=99_999)),
        )
    )


async def test_check_says_of_a_filled_database_that_all_is_well(
    tmp_path: Path, database: str, shows: Shows
) -> None:
    async with a_store(tmp_path) as uow:
        await fill(uow)
        result = await db(tmp_path, "check")

    told = {line.split()[1]: line.split(maxsplit=2)[2] for line in result.stdout.splitlines()
            if line.startswith("ok")}  # fmt: skip
    # The tests' servers are told to be quick, and `check` says what that costs.
    assert {line.split()[1] for line in result.stdout.splitlines() if line[0] == "W"} == {
        "durability"
    }
    assert told["revision"] == migrations.head_revision()
    assert (told["term"], told["integrity"]) == ("7", "whole")
    assert told["history"] == f"newest revision 1.{FILLED}, 0 events without one yet"
    shows("solid 11 db check", f"{database}, filled: {'; '.join(f'{k}: {told[k]}' for k in told)}")


@pytest.mark.parametrize(("minutes", "said"), [(-10, "ahead of"), (10, "behind")])
async def test_check_says_that_the_servers_clock_is_wrong(
    tmp_path: Path, database: str, minutes: int, said: str
) -> None:
    async with a_store(tmp_path) as uow:
        await fill(uow)

    def look(clock: Clock) -> dict[str, Finding]:
        upkeep = ServerUpkeep(databases.settings_of(tmp_path), clock)
        return {found.what: found for found in upkeep.check()}

    right = await asyncio.to_thread(look, system_clock)
    wrong = await asyncio.to_thread(look, lambda: system_clock() + timedelta(minutes=minutes))
    assert right["clock"].ok
    assert wrong["clock"].text == f"600 s {said} this machine's"
    assert "chronyc makestep" in wrong["clock"].fix


async def test_a_doctor_names_a_clock_that_is_not_the_servers(
    tmp_path: Path, database: str
) -> None:
    async with a_store(tmp_path) as uow:
        await fill(uow)
    settings = Settings(name="s1", database=databases.settings_of(tmp_path))

    def look(clock: Clock) -> list[DoctorFinding]:
        asked, found = CHECKS.run(Scene(settings, clock=clock), only=["clock-database"])
        assert asked == 1
        return found

    assert not await asyncio.to_thread(look, system_clock)
    (told,) = await asyncio.to_thread(look, lambda: system_clock() + timedelta(minutes=10))
    assert (told.check, told.severity) == ("clock-database", Severity.FAIL)
    assert "600 s behind this machine's" in told.what
    assert "chronyc makestep" in told.fix


async def test_check_says_that_a_server_is_away(tmp_path: Path, database: str) -> None:
    nobody = write_settings(tmp_path, f"{database}://unkai@127.0.0.1:1/unkai")
    result = await db(tmp_path, "check", settings=nobody)

    assert result.exit_code == 1
    assert result.stdout.startswith("WRONG reachable")


async def test_upgrade_makes_the_schema_and_says_so(
    tmp_path: Path, database: str, shows: Shows
) -> None:
    running = databases.server(database)
    name = running.new()
    settings = write_settings(tmp_path, running.url(name))
    dry = await db(tmp_path, "upgrade", "--dry-run", settings=settings)
    done = await db(tmp_path, "upgrade", settings=settings)
    again = await db(tmp_path, "upgrade", settings=settings)

    head = migrations.head_revision()
    assert f"would apply {head}" in dry.stdout
    assert f"applied {head}" in done.stdout, done.output
    assert again.stdout.strip() == f"at revision {head}: nothing to do"
    shows("solid 11 db upgrade", f"{database}: {done.stdout.strip()}")


async def test_a_backup_made_while_writers_go_on_is_whole_and_can_be_restored(
    tmp_path: Path, database: str, shows: Shows
) -> None:
    running = databases.server(database)
    async with a_store(tmp_path) as uow:
        await fill(uow)
        stop = asyncio.Event()

        async def write_for_ever() -> int:
            count = 0
            while not stop.is_set():
                await uow.write(pairs([an_instance()]))
                count += 1
            return count

        writer = asyncio.ensure_future(write_for_ever())
        await asyncio.sleep(0.2)
        result = await db(tmp_path, "backup", str(tmp_path / "backup"))
        old_term = await uow.write(terms.locked)
        stop.set()
        written = await writer
        watched = await uow.read(events.newest)
        await uow.write(lambda conn: events.stamp(conn, 999))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0

    # Put it back into a new database, as the manual says.
    other = tmp_path / "other"
    other.mkdir()
    name = running.new()
    (other / "database.url").write_text(running.url(name))
    await asyncio.to_thread(running.restore, name, tmp_path / "backup")
    begun = await db(other, "restored")
    assert begun.exit_code == 0, begun.output
    async with a_store(other) as again:
        known, named = await ids_in(again)
        with pytest.raises(Conflict):
            await again.lead(old_term, lambda conn: None)
        with pytest.raises(FailedPrecondition) as gone:
            await again.read(lambda conn: events.after(conn, watched, limit=9))
        epoch = await again.read(history.epoch)
        refused = await db(other, "restored")
    assert written > 0
    assert FILLED <= len(known) <= FILLED + written
    assert known == named
    assert gone.value.reason == "REVISION_GONE"
    assert "DATABASE_IN_USE" in refused.output
    shows(
        "solid 11 db backup",
        f"{database}, beside a writer of {written} transactions: {len(known)} instances, whole",
    )
    shows(
        "solid 11 db restored",
        f"{database}: term {old_term} refused, revision {watched} gone, epoch {epoch}",
    )


async def test_a_backup_over_tls_keeps_the_password_from_everybodys_eyes(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_store(tmp_path) as uow:
        await fill(uow)
    running, client = databases.server(database), databases.server(database).folder / "client"
    (tmp_path / "secret").write_text(databases.PASSWORD)
    settings = write_settings(
        tmp_path,
        databases.settings_of(tmp_path).url.replace("unkai@", "strict@", 1),
        f"password_file = '{tmp_path}/secret'",
        f"[database.tls]\nca = '{client}/ca.crt'",
        f"certificate = '{client}/client-strict.crt'\nkey = '{client}/client-strict.key'",
    )
    seen: set[str] = set()
    backing = asyncio.ensure_future(
        db(tmp_path, "backup", str(tmp_path / "backup"), settings=settings)
    )
    while not backing.done():
        seen |= await asyncio.to_thread(_arguments_of_all)
        await asyncio.sleep(0.005)
    result = await backing

    assert result.exit_code == 0, result.output
    assert any("dump" in line for line in seen)
    assert not any(databases.PASSWORD in line for line in seen)
    assert running.process is not None


def _arguments_of_all() -> set[str]:
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                found.add(Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


async def test_a_failed_backup_leaves_no_file_and_a_missing_program_is_named(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = write_settings(tmp_path, f"{database}://unkai@127.0.0.1:1/unkai")
    failed = await db(tmp_path, "backup", str(tmp_path / "b"), settings=nobody)
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = await db(tmp_path, "backup", str(tmp_path / "b"), settings=nobody)

    assert "BACKUP_FAILED" in failed.output
    assert "BACKUP_TOOL_MISSING" in missing.output
    assert os.listdir(tmp_path) == ["scheduler.toml"]


async def test_an_empty_database_was_not_restored(tmp_path: Path, database: str) -> None:
    running = databases.server(database)
    settings = write_settings(tmp_path, running.url(running.new()))
    result = await db(tmp_path, "restored", settings=settings)

    assert "DATABASE_MISSING" in result.output


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
async def test_a_backup_onto_a_full_disk_says_so_leaves_nothing_and_succeeds_with_room(
    tmp_path: Path, database: str, shows: Shows
) -> None:
    async with a_store(tmp_path) as uow:
        await fill(uow)
        with small_disk(tmp_path / "disk", 8 << 20) as disk:
            ballast = fill_disk(disk, leave_bytes=8 << 10)
            full = await db(tmp_path, "backup", str(disk / "backup"))
            left = sorted(path.name for path in disk.iterdir())
            ballast.unlink()
            done = await db(tmp_path, "backup", str(disk / "backup"))
            kept = sorted(path.name for path in disk.iterdir())

    assert full.exit_code == 1
    assert f"the backup to {disk / 'backup'} failed: there is no room on its disk" in full.output
    assert "fix:" in full.output
    assert left == ["ballast"]
    assert done.exit_code == 0, done.output
    assert kept == ["backup"]
    shows(f"solid 7 full disk, db backup, {database}", full.output.splitlines()[0][:120])
