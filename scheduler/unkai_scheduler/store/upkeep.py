"""What an operator does to a database: check it, upgrade it, back it up, declare it restored.

Each kind of database has its own way; `open_upkeep` chooses it. None of this needs a running
scheduler, and what is not safe beside one refuses while one has the database open.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.domain.clock import Clock, system_clock
from unkai_scheduler.store.findings import Finding
from unkai_scheduler.store.restoration import Restored
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import NewId


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What an upgrade does. `steps`: revision and what it is for, in order; none: nothing to do."""

    from_revision: str | None
    steps: tuple[tuple[str, str], ...]


class Upkeep(Protocol):
    """Upkeep of one database. Methods block, and raise our errors."""

    def check(self) -> list[Finding]:
        """Return all that was looked at; never raise for what is wrong with the database."""

    def pending(self) -> Upgrade:
        """Return what `upgrade` would do."""

    def upgrade(self, now: datetime, new_id: NewId) -> Upgrade:
        """Bring the schema to this version's, and seed a new database."""

    def backup(self, file: Path) -> None:
        """Write a consistent copy while schedulers go on; `file` must not exist."""

    def restored(self, now: datetime, new_id: NewId) -> Restored:
        """Begin anew after a backup was put back: a term, a history, no request half-done."""


def open_upkeep(settings: DatabaseSettings, clock: Clock = system_clock) -> Upkeep:
    """Return the upkeep of the database that the settings name."""
    if settings.kind == "sqlite":
        from unkai_scheduler.store.sqlite_upkeep import SqliteUpkeep

        return SqliteUpkeep(settings.url)
    from unkai_scheduler.store.server_upkeep import ServerUpkeep

    return ServerUpkeep(settings, clock)


def in_use(who: str) -> FailedPrecondition:
    """Make the error for an act that needs the database for itself."""
    return FailedPrecondition(
        f"the database is in use: {who}",
        reason="DATABASE_IN_USE",
        fix="stop every scheduler, then run this again",
    )
