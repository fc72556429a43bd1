"""Migrations of the database, run from the package itself: there is no alembic.ini.

A developer makes one with `python -m unkai_scheduler.store.migrations "what changes"`, which
compares `tables.py` with a new database at the head, then reads and trims what came out. A
migration that has been released is never changed.

Alembic is imported only where there is something to migrate: a scheduler that finds its database
at the head, as it nearly always does, starts half a second sooner and 12 MiB smaller without it.
So the revisions are known by their files' names, `rev_REVISION_WHAT.py`, in order.
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, String, column, func, inspect, select, table, text

from unkai_scheduler.store import sqlite
from unkai_wire.errors import FailedPrecondition

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

_FOLDER = Path(__file__).parent
# Alembic keeps the environment under way in module globals.
_one_at_a_time = threading.Lock()
_APPLIED = table("alembic_version", column("version_num"))
"""Where Alembic notes the revision of a database."""


def config() -> Config:
    """Make Alembic's configuration for these migrations."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    made.set_main_option("file_template", "rev_%%(rev)s_%%(slug)s")
    return made


@cache
def _scripts() -> ScriptDirectory:
    """Return the migrations; Alembic compiles each anew whenever it reads them."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(config())


@cache
def revisions() -> tuple[str, ...]:
    """Return all revisions, oldest first."""
    names = sorted(path.name for path in (_FOLDER / "versions").glob("rev_*_*.py"))
    return tuple(name.split("_")[1] for name in names)


def head_revision() -> str:
    """Return the revision that this version of the product works with."""
    return revisions()[-1]


def knows(revision: str) -> bool:
    """Tell whether this version can upgrade a database at this revision."""
    return revision in revisions()


def steps_from(revision: str | None) -> tuple[tuple[str, str], ...]:
    """Return the migrations after a revision, in order: each with what it is for."""
    if revision is not None:
        _check_known(revision)
    later: list[tuple[str, str]] = []
    for script in _scripts().walk_revisions():
        if script.revision == revision:
            break
        later.append((script.revision, (script.doc or "").strip()))
    return tuple(reversed(later))


def revision_on(conn: Connection) -> str | None:
    """Return the revision of the database of a connection; None when it is empty."""
    if not inspect(conn).has_table(_APPLIED.name):
        return None
    revision: str | None = conn.execute(select(_APPLIED.c.version_num)).scalar_one_or_none()
    return revision


def current_revision(url: str) -> str | None:
    """Return the revision of a database; None when it is empty."""
    engine = sqlite.reader_engine(url)
    try:
        with engine.connect() as conn:
            return revision_on(conn)
    finally:
        engine.dispose()


def upgrade(url: str) -> None:
    """Bring a database to the head, in one transaction."""
    engine = sqlite.writer_engine(url)
    try:
        with engine.connect() as conn, conn.begin():
            upgrade_on(conn)
    finally:
        engine.dispose()


def upgrade_on(conn: Connection) -> None:
    """Bring a database to the head within the caller's transaction.

    Raises `FailedPrecondition` / DATABASE_TOO_NEW when a later version has migrated it.
    """
    with _one_at_a_time:
        current = revision_on(conn)
        if current == head_revision():
            return
        if current is not None:
            _check_known(current)
        from alembic import command

        if conn.dialect.name == "mariadb":
            _say_characters(conn)
        made = config()
        made.attributes["connection"] = conn
        command.upgrade(made, "head")


def _say_characters(conn: Connection) -> None:
    """Let a MariaDB database make its tables for texts of any script, "A" and "a" two of them.

    What the tables say of that is said to MySQL's dialect, which SQLAlchemy 2.1 takes for another:
    the database's default counts. A database that has tables goes on as they are, since both ends
    of a reference must be alike.
    """
    names = ("table_collation", "table_schema", "table_name")
    columns = [column(name, String()) for name in names]
    tables = table("TABLES", *columns, schema="information_schema").c
    there = select(tables.table_collation).where(
        tables.table_schema == func.database(), tables.table_name == "projects"
    )
    collation = conn.execute(there).scalar() or "utf8mb4_bin"
    conn.execute(text(f"ALTER DATABASE COLLATE {collation}"))


def _check_known(revision: str) -> None:
    if not knows(revision):
        raise FailedPrecondition(
            f"the database is at revision {revision}, which this version does not know",
            reason="DATABASE_TOO_NEW",
            fix="run the version of unkai-scheduler that last used it, or a later one",
            metadata={"revision": revision},
        )
