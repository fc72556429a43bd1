"""Column types that mean the same on SQLite, PostgreSQL and MariaDB.

Migrations use them too: change none in a way that alters what a migration once made.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, String
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator

SHORT = 32
"""Ids (30 characters), etags, enum values."""
NAME = 63
TEXT = 255
LONG_TEXT = 1024

Int64 = BigInteger
Serial = BigInteger().with_variant(Integer(), "sqlite")
"""A key the database numbers: on SQLite only INTEGER is the row's own number."""


class UtcTime(TypeDecorator[datetime]):
    """A moment, kept as UTC with microseconds in a column that knows no time zone."""

    impl = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def shortened(text: str, length: int) -> str:
    """Return the text, cut to fit a column; the cut shows as an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _string(length: int) -> String:
    """Return text that compares and sorts byte by byte, whatever PostgreSQL's locale is."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


Short = _string(SHORT)
Name = _string(NAME)
Text = _string(TEXT)
LongText = _string(LONG_TEXT)
