"""Column types that mean the same on SQLite, PostgreSQL and MariaDB, and columns that tables share.

Migrations use the types too: change none in a way that alters what a migration once made.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    String,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import SchemaItem
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


def versioned() -> tuple[Column[Any], ...]:
    """Make the columns of what people change and label: etag, times, labels."""
    return (
        Column("etag", Short, nullable=False),
        Column("create_time", UtcTime, nullable=False),
        Column("update_time", UtcTime, nullable=False),
        Column("labels", JSON, nullable=False),
    )


def of_project(*own: SchemaItem) -> tuple[SchemaItem, ...]:
    """Make what the table of a project's resource has, around its own columns and constraints.

    A name is one resource's of a project; people look for it in all projects, too.
    """
    return (
        Column("id", Short, primary_key=True),
        Column("project_id", Short, ForeignKey("projects.id"), nullable=False),
        Column("name", Name, nullable=False),
        *own,
        *versioned(),
        UniqueConstraint("project_id", "name"),
        Index(None, "name"),
    )


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
