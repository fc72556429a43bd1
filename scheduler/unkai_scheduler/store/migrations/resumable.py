"""Migrations on MariaDB, whose DDL commits by itself: one that broke off goes on where it stopped.

The revision is written after the last statement of its migration, so a migration that broke off is
run again from its first. Each statement is therefore sent in its form that may be repeated: what it
makes may be there already. A migration must not need more than that: no UPDATE that adds, no
statement that depends on what an earlier one of the same migration has removed.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, event

_FORMS = (
    (re.compile(r"^\s*CREATE TABLE (?!IF )"), "CREATE TABLE IF NOT EXISTS "),
    (re.compile(r"^\s*CREATE (UNIQUE )?INDEX (?!IF )"), r"CREATE \1INDEX IF NOT EXISTS "),
    (re.compile(r"^\s*DROP (TABLE|INDEX) (?!IF )"), r"DROP \1 IF EXISTS "),
    (re.compile(r"^\s*INSERT INTO (?!alembic_version\b)"), "INSERT IGNORE INTO "),
    (
        re.compile(r"^(\s*ALTER TABLE \S+ )(ADD|DROP|MODIFY) COLUMN (?!IF )"),
        lambda m: f"{m[1]}{m[2]} COLUMN IF {'NOT ' if m[2] == 'ADD' else ''}EXISTS ",
    ),
)


def repeatable(statement: str) -> str:
    """Return a statement of a migration in the form that may be repeated."""
    for pattern, form in _FORMS:
        statement = pattern.sub(form, statement, count=1)
    return statement


def repeat_safely(conn: Connection) -> None:
    """Send the migrations' statements on this connection in their repeatable form."""

    def rewritten(
        _conn: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        return repeatable(statement), parameters

    event.listen(conn, "before_cursor_execute", rewritten, retval=True)
