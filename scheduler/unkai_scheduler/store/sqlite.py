"""All that is SQLite's alone: engines, pragmas, locks, and the meaning of its errors.

The driver's own transactions begin at the first write, so that two read-modify-writes can both
read before either writes and one is lost without an error. So its transactions are switched off
(`isolation_level=None`) and ours begin with BEGIN IMMEDIATE, which takes the write lock at once.

Its trap: on a full disk or an I/O error SQLite may roll the whole transaction back by itself, after
which a commit does nothing and says nothing. `refuse_lost_transaction` finds that out.
Sources: sqlite.org/lang_transaction.html, sqlite.org/rescode.html, docs.sqlalchemy.org (pysqlite).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.engine import ExceptionContext

from unkai_scheduler.store.failures import DatabaseFailure, Failure
from unkai_wire.errors import InvalidArgument

BUSY_TIMEOUT_S = 2.0
"""How long one statement waits for another process's lock; the unit of work tries again."""
READERS = 4

_WAL_SIZE_BYTES = 64 << 20
_KINDS = {
    sqlite3.SQLITE_BUSY: Failure.BUSY,
    sqlite3.SQLITE_LOCKED: Failure.BUSY,
    sqlite3.SQLITE_PROTOCOL: Failure.BUSY,
    sqlite3.SQLITE_FULL: Failure.FULL,
    sqlite3.SQLITE_IOERR: Failure.UNAVAILABLE,
    sqlite3.SQLITE_CANTOPEN: Failure.UNAVAILABLE,
    sqlite3.SQLITE_READONLY: Failure.UNAVAILABLE,
    sqlite3.SQLITE_CORRUPT: Failure.UNAVAILABLE,
    sqlite3.SQLITE_NOTADB: Failure.UNAVAILABLE,
    sqlite3.SQLITE_NOMEM: Failure.UNAVAILABLE,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: Failure.UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: Failure.UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_ROWID: Failure.UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: Failure.REFERENCE,
    # The shared-memory file beside the database could not grow: the disk is full.
    sqlite3.SQLITE_IOERR_SHMSIZE: Failure.FULL,
}


def classify(error: BaseException | None) -> Failure | None:
    """Return what the driver's error means; None when it is our bug."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    return _KINDS.get(code) or _KINDS.get(code & 0xFF)


def writer_engine(url: str | URL) -> Engine:
    """Make the engine of the one writer: a single connection that locks as it begins."""
    engine = _engine(url, connections=1)
    event.listen(engine, "begin", begin_immediate)
    event.listen(engine, "commit", refuse_lost_transaction)
    return engine


def exclusive_engine(url: str | URL) -> Engine:
    """Make an engine that has the database for itself: `BUSY` while any other process has it open.

    In WAL mode each connection holds a shared lock on the file for as long as it is open.
    Source: sqlite.org/wal.html, section 8.
    """
    engine = _engine(url, connections=1, first=("PRAGMA locking_mode=EXCLUSIVE",))
    event.listen(engine, "begin", begin_immediate)
    event.listen(engine, "commit", refuse_lost_transaction)
    return engine


def inspecting_engine(path: Path) -> Engine:
    """Make an engine that looks at a file as it is: it creates, sets and writes nothing."""

    def connect() -> sqlite3.Connection:
        driver = connect_existing(path)
        driver.execute("PRAGMA query_only=ON")
        return driver

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)
    event.listen(engine, "handle_error", _classified)
    return engine


def connect_existing(path: Path) -> sqlite3.Connection:
    """Connect to a file that must be there."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_S,
    )


def reader_engine(url: str | URL) -> Engine:
    """Make the engine of the readers: each transaction is one snapshot and cannot write."""
    engine = _engine(url, connections=READERS, last=("PRAGMA query_only=ON",))
    event.listen(engine, "begin", _begin_snapshot)
    return engine


def begin_immediate(connection: Connection) -> None:
    """Take the write lock before anything is read."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def refuse_lost_transaction(connection: Connection) -> None:
    """Raise when SQLite has rolled the transaction back by itself."""
    driver = connection.connection.driver_connection
    if driver is None or not driver.in_transaction:
        raise DatabaseFailure(Failure.UNAVAILABLE, "SQLite rolled the transaction back")


def _begin_snapshot(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _engine(
    url: str | URL, *, connections: int, first: tuple[str, ...] = (), last: tuple[str, ...] = ()
) -> Engine:
    parsed = make_url(url)
    _prepare_file(parsed)
    engine = create_engine(
        parsed,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_S},
    )

    def configure(driver: sqlite3.Connection, _record: Any) -> None:
        driver.isolation_level = None
        for pragma in (
            *first,
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            "PRAGMA foreign_keys=ON",
            f"PRAGMA journal_size_limit={_WAL_SIZE_BYTES}",
            *last,
        ):
            driver.execute(pragma)

    event.listen(engine, "connect", configure)
    event.listen(engine, "handle_error", _classified)
    return engine


def _prepare_file(url: URL) -> None:
    """Create the file readable by its owner alone: it holds users' data.

    One that is there is not opened: closing it would drop the locks that this process's connections
    hold on it (POSIX locks belong to the process). Another program that then reads the database
    would think itself alone and remove the log under us, and what is written later is lost.
    Source: sqlite.org/howtocorrupt.html, section 2.2.
    """
    if not url.database or url.database == ":memory:":
        raise InvalidArgument(
            "the database must be a file: readers and the writer share it",
            reason="INVALID_DATABASE_URL",
        )
    path = Path(url.database)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _classified(context: ExceptionContext) -> BaseException | None:
    kind = classify(context.original_exception)
    return None if kind is None else DatabaseFailure(kind, str(context.original_exception))
