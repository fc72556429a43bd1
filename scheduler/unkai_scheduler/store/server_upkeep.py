"""Upkeep of a database on a server. Backups are made by the server's own program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.domain.clock import Clock, system_clock
from unkai_scheduler.store import (
    backup_files,
    findings,
    migrations,
    restoration,
    seed,
    servers,
)
from unkai_scheduler.store.failures import DatabaseFailure, translate
from unkai_scheduler.store.findings import Finding
from unkai_scheduler.store.restoration import Restored
from unkai_scheduler.store.server_unit_of_work import run_alone, server_of
from unkai_scheduler.store.upkeep import Upgrade, in_use
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import NewId

T = TypeVar("T")


class ServerUpkeep:
    """Upkeep of the database that the settings name."""

    def __init__(self, settings: DatabaseSettings, clock: Clock = system_clock) -> None:
        self._settings = settings
        self._clock = clock
        self._server = server_of(settings)

    def check(self) -> list[Finding]:
        """Return all that was looked at; never raise for what is wrong with the database."""

        def look(conn: Connection) -> list[Finding]:
            clock = findings.of_clock(conn, self._clock)
            return [*self._server.inspect(conn), clock, *findings.of_schema(conn)]

        try:
            return self._look(look)
        except DatabaseFailure as failure:
            fix = "see that the server runs and lets the scheduler in, and [database] in settings"
            return [Finding("reachable", str(failure), fix)]

    def pending(self) -> Upgrade:
        """Return what `upgrade` would do."""
        try:
            current = self._look(migrations.revision_on)
        except DatabaseFailure as failure:
            raise translate(failure) from failure
        return Upgrade(current, migrations.steps_from(current))

    def upgrade(self, now: datetime, new_id: NewId) -> Upgrade:
        """Bring the schema to this version's, and seed a new database.

        Raises `FailedPrecondition` / DATABASE_IN_USE when there is something to do and a scheduler
        is connected.
        """

        def work(conn: Connection) -> None:
            self._refuse_others(conn)
            migrations.upgrade_on(conn)
            seed.seed_if_new(conn, now, new_id)

        upgrade = self.pending()
        if upgrade.steps:
            run_alone(self._server, self._settings, work)
        return upgrade

    def backup(self, file: Path) -> None:
        """Write a consistent copy while schedulers go on; `file` must not exist."""
        with backup_files.whole(file) as part:
            self._server.dump(self._settings, part)

    def restored(self, now: datetime, new_id: NewId) -> Restored:
        """Begin anew after a backup was put back: see `restoration.py`.

        Raises `FailedPrecondition` / DATABASE_IN_USE while a scheduler is connected: it would go on
        from what it knew.
        """

        def work(conn: Connection) -> Restored:
            self._refuse_others(conn)
            if migrations.revision_on(conn) is None:
                raise FailedPrecondition(
                    "the database is empty",
                    reason="DATABASE_MISSING",
                    fix="put the backup there first, or see database.url in the settings",
                )
            migrations.upgrade_on(conn)
            return restoration.begin_anew(conn, now, new_id)

        return run_alone(self._server, self._settings, work)

    def _refuse_others(self, conn: Connection) -> None:
        count = self._server.count_others(conn)
        if count:
            raise in_use(f"schedulers have {count} connections to it")

    def _look(self, work: Callable[[Connection], T]) -> T:
        """Run work that only reads, once: what fails is a finding."""

        async def look() -> T:
            engine = servers.engine(self._server, self._settings, servers.MIGRATING)
            try:
                async with servers.connected(engine, self._server.classify) as conn:
                    return await conn.run_sync(work)
            finally:
                await engine.dispose()

        return asyncio.run(look())
