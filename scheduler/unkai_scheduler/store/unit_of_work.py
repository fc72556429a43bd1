"""The way into the database: a unit of work runs plain functions on a connection and commits.

`work` may run more than once (a busy database, a failing group), so it must be free of effects
other than on the connection, and it must end when a repository has raised. It runs in a thread of
the store (SQLite) or on the event loop (servers): never await, lock or call out from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from sqlalchemy import Connection, Engine

from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.store import migrations, seed, sqlite, terms
from unkai_scheduler.store.failures import closed, overloaded
from unkai_scheduler.store.writer import Writer, outcome_of, run_with_retries
from unkai_wire.errors import InvalidArgument
from unkai_wire.ids import NewId

__all__ = ["Connection", "SqliteUnitOfWork", "UnitOfWork", "open_unit_of_work"]

T = TypeVar("T")

MAX_WAITING_READS = 1024


class UnitOfWork(Protocol):
    """Runs work in transactions. All methods raise `Unavailable` when the database fails them."""

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run work that only reads, on one snapshot."""

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction of its own."""

    async def write_grouped(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction shared with what arrives within 3 ms, at most 64."""

    async def lead(self, term: int, work: Callable[[Connection], T]) -> T:
        """Run the leader's work; raise `Conflict` / NOT_LEADER when its term is over."""

    async def take_term(self, at_least: int) -> int:
        """Begin a new term above the stored one and above `at_least`; return it."""

    async def close(self) -> None:
        """Finish what is queued and let the database go. More work is `Unavailable`."""


async def open_unit_of_work(
    database: DatabaseSettings | str, *, clock: Clock, new_id: NewId
) -> UnitOfWork:
    """Open a database: migrate it, and seed it when it is new. A SQLite file is made if missing.

    `database`: settings, or their URL alone.
    """
    settings = _settings(database)
    if settings.kind == "sqlite":
        return await asyncio.to_thread(_open_sqlite, settings.url, clock, new_id)
    # Only here: a scheduler on SQLite has no use for the servers' drivers and pays nothing.
    from unkai_scheduler.store.server_unit_of_work import open_on_server

    return await open_on_server(settings, clock=clock, new_id=new_id)


def _settings(database: DatabaseSettings | str) -> DatabaseSettings:
    if isinstance(database, DatabaseSettings):
        return database
    try:
        return DatabaseSettings(url=database)
    except ValueError as error:
        raise InvalidArgument(
            "the database's URL cannot be read; write sqlite:////path/to/unkai.db",
            reason="INVALID_DATABASE_URL",
        ) from error


def _open_sqlite(url: str, clock: Clock, new_id: NewId) -> SqliteUnitOfWork:
    def prepare() -> None:
        with engine.connect() as conn, conn.begin():
            migrations.upgrade_on(conn)
            seed.seed_if_new(conn, clock(), new_id)

    engine = sqlite.writer_engine(url)
    try:
        run_with_retries(prepare)
    except BaseException:
        engine.dispose()
        raise
    return SqliteUnitOfWork(Writer(engine), engine, sqlite.reader_engine(url))


class SqliteUnitOfWork:
    """The unit of work on SQLite: one writer thread and a few reader threads."""

    def __init__(self, writer: Writer, writing: Engine, reading: Engine) -> None:
        self._writer = writer
        self._writing = writing
        self._reading = reading
        self._readers = ThreadPoolExecutor(sqlite.READERS, thread_name_prefix="unkai-db-read")
        self._reads = 0
        self._closed = False

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run work that only reads, on one snapshot."""
        if self._closed:
            raise closed()
        if self._reads >= MAX_WAITING_READS:
            raise overloaded(self._reads)
        self._reads += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._readers, self._read, work)
        finally:
            self._reads -= 1

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction of its own."""
        return await self._write(work, grouped=False)

    async def write_grouped(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction shared with what arrives within 3 ms, at most 64."""
        return await self._write(work, grouped=True)

    async def lead(self, term: int, work: Callable[[Connection], T]) -> T:
        """Run the leader's work; raise `Conflict` / NOT_LEADER when its term is over."""

        def fenced(conn: Connection) -> T:
            terms.verify(conn, term)
            return work(conn)

        return await self._write(fenced, grouped=False)

    async def take_term(self, at_least: int) -> int:
        """Begin a new term above the stored one and above `at_least`; return it."""
        return await self._write(lambda conn: terms.take(conn, at_least), grouped=False)

    async def close(self) -> None:
        """Finish what is queued and let the database go. More work is `Unavailable`."""
        self._closed = True
        await asyncio.shield(asyncio.to_thread(self._close))

    async def _write(self, work: Callable[[Connection], T], *, grouped: bool) -> T:
        return await outcome_of(self._writer.submit(work, grouped=grouped))

    def _read(self, work: Callable[[Connection], T]) -> T:
        def attempt() -> T:
            with self._reading.connect() as conn, conn.begin() as transaction:
                result = work(conn)
                transaction.rollback()
                return result

        return run_with_retries(attempt)

    def _close(self) -> None:
        self._writer.close()
        self._readers.shutdown(wait=True)
        self._reading.dispose()
        self._writing.dispose()
