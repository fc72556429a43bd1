"""The database's time, which is the cloud's: all schedulers of a cloud read the same."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, func, select

from unkai_scheduler.domain.clock import system_clock


def now(conn: Connection) -> datetime:
    """Return the database's time; a file has none but its machine's."""
    if conn.dialect.name == "sqlite":
        return system_clock()
    if conn.dialect.name == "postgresql":
        # now() is the time of the transaction's beginning (PostgreSQL manual, 9.9.5).
        told: datetime = conn.execute(select(func.clock_timestamp())).scalar_one()
        return told.astimezone(UTC)
    told = conn.execute(select(func.utc_timestamp(6))).scalar_one()
    return told.replace(tzinfo=UTC)
