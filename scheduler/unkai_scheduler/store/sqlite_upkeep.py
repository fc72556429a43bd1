"""Upkeep of a SQLite file.

Its trap: who opens a file that is not there makes an empty database, which looks like a fresh
cloud. So each act but `upgrade` refuses a missing file, and `check` opens it without creating.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, make_url

from unkai_scheduler.store import (
    backup_files,
    findings,
    migrations,
    restoration,
    seed,
    sqlite,
)
from unkai_scheduler.store.failures import DatabaseFailure, Failure, translate
from unkai_scheduler.store.findings import Finding
from unkai_scheduler.store.restoration import Restored
from unkai_scheduler.store.upkeep import Upgrade, in_use
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import NewId

MIN_FREE_BYTES = 64 << 20
"""Room on the disk below which the log of one busy hour may not fit."""


class SqliteUpkeep:
    """Upkeep of the file that a URL names."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._path = Path(make_url(url).database or "")

    def check(self) -> list[Finding]:
        """Return all that was looked at; never raise for what is wrong with the database."""
        if not self._path.exists():
            return [
                Finding(
                    "reachable",
                    f"{self._path} is not there",
                    "run 'unkai-scheduler db upgrade' for a new cloud, or restore a backup",
                )
            ]
        engine = sqlite.inspecting_engine(self._path)
        try:
            with engine.connect() as conn:
                return [*self._of_file(), *_of_settings(conn), *_of_content(conn)]
        except DatabaseFailure as failure:
            return [Finding("reachable", f"{self._path}: {failure}", findings.RESTORE)]
        finally:
            engine.dispose()

    def pending(self) -> Upgrade:
        """Return what `upgrade` would do."""
        if not self._path.exists():
            return Upgrade(None, migrations.steps_from(None))
        with _explaining(), self._connected() as conn:
            current = migrations.revision_on(conn)
        return Upgrade(current, migrations.steps_from(current))

    def upgrade(self, now: datetime, new_id: NewId) -> Upgrade:
        """Bring the schema to this version's, and seed a new database.

        Raises `FailedPrecondition` / DATABASE_IN_USE when there is something to do and a scheduler
        has the file open.
        """
        upgrade = self.pending()
        if upgrade.steps:
            with self._alone() as conn:
                migrations.upgrade_on(conn)
                seed.seed_if_new(conn, now, new_id)
        return upgrade

    def backup(self, file: Path) -> None:
        """Write a consistent copy while schedulers go on; `file` must not exist."""
        self._must_exist()
        with backup_files.whole(file) as part:
            try:
                self._copy_to(part)
            except sqlite3.Error as error:
                raise backup_files.DumpFailed(str(error)) from error

    def restored(self, now: datetime, new_id: NewId) -> Restored:
        """Begin anew after a backup was put back: see `restoration.py`.

        Raises `FailedPrecondition` / DATABASE_IN_USE while a scheduler has the file open: it would
        go on from what it knew.
        """
        self._must_exist()
        with self._alone() as conn:
            migrations.upgrade_on(conn)
            return restoration.begin_anew(conn, now, new_id)

    def _must_exist(self) -> None:
        if not self._path.exists():
            raise FailedPrecondition(
                f"there is no database {self._path}",
                reason="DATABASE_MISSING",
                fix="put the backup there first, or see database.url in the settings",
                metadata={"path": str(self._path)},
            )

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        engine = sqlite.inspecting_engine(self._path)
        try:
            with engine.connect() as conn:
                yield conn
        finally:
            engine.dispose()

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """Give a transaction that no other process can run beside."""
        engine = sqlite.exclusive_engine(self._url)
        try:
            with _explaining(), engine.connect() as conn, conn.begin():
                yield conn
        finally:
            engine.dispose()

    def _copy_to(self, part: Path) -> None:
        source = sqlite.connect_existing(self._path)
        target = sqlite3.connect(part, isolation_level=None)
        try:
            source.backup(target)  # all pages in one step: one snapshot
            problems = [text for (text,) in target.execute("PRAGMA integrity_check(3)")]
            if problems != ["ok"]:
                raise sqlite3.DatabaseError("; ".join(problems))
        finally:
            target.close()
            source.close()

    def _of_file(self) -> list[Finding]:
        found = os.stat(self._path)
        size_mib = found.st_size / (1 << 20)
        text = f"{self._path}, {size_mib:.1f} MiB, SQLite {sqlite3.sqlite_version}"
        result = [Finding("reachable", text)]
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            result.append(
                Finding("secrecy", "others than its owner may read it", f"chmod 600 {self._path}")
            )
        free = shutil.disk_usage(self._path.parent).free
        if free < MIN_FREE_BYTES:
            result.append(
                Finding("room", f"{free >> 20} MiB are free on its disk", "free some space there")
            )
        return result


def _of_settings(conn: Connection) -> Iterator[Finding]:
    mode = conn.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    if mode == "wal":
        yield Finding("log", "write-ahead, synced at each commit")
    elif migrations.revision_on(conn) is None:
        yield Finding("log", f"{mode}; the scheduler sets it to write-ahead")
    else:
        yield Finding("log", f"{mode}: the next start of the scheduler sets it to write-ahead")


def _of_content(conn: Connection) -> Iterator[Finding]:
    yield from findings.of_schema(conn)
    problems = list(conn.exec_driver_sql("PRAGMA integrity_check(100)").scalars())
    if problems == ["ok"]:
        broken = conn.exec_driver_sql("PRAGMA foreign_key_check").all()
        problems = [f"row {row[1]} of {row[0]} names a missing {row[2]}" for row in broken]
    yield findings.integrity(problems)


@contextmanager
def _explaining() -> Iterator[None]:
    try:
        yield
    except DatabaseFailure as failure:
        if failure.kind is Failure.BUSY:
            raise in_use("another process has the file open") from failure
        raise translate(failure) from failure
