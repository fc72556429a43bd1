"""What PostgreSQL and MariaDB have in common: addresses, credentials, engines, and their bounds.

Each has a module that says what is its own (`Server`). The session settings are ours to make, so
that they hold whatever the server's defaults are: above all, a transaction that stands idle is
ended by the server, because its locks would hold up every scheduler while ours is stopped.

Its trap: a driver's error is met in two places, at a statement (SQLAlchemy's event sees it) and
while connecting (it does not); `connected` makes the two one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Connection, NullPool, event
from sqlalchemy import exc as sql_errors
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    create_async_engine,
)

from unkai_scheduler.database_settings import DatabaseSettings, DatabaseTlsSettings
from unkai_scheduler.store.failures import DatabaseFailure, Failure
from unkai_scheduler.store.findings import Finding
from unkai_wire.errors import InvalidArgument

CONNECT_S = 3.0
"""Longest wait for a connection; the unit of work tries again."""
STATEMENT_S = 10.0
"""Longest statement: the server ends it then, and its locks with it."""
LOCK_S = 5.0
"""Longest wait for a lock; longer than an idle transaction lives, so that one that waits for the
locks of a stopped scheduler gets them."""
IDLE_IN_TRANSACTION_S = 3
"""Longest that a transaction may stand idle before the server ends it."""
ATTEMPT_S = 30.0
"""Longest transaction, whatever the network does."""
CONNECTIONS = 8
"""Connections of a scheduler for its callers' writes, and as many for reading."""
LEADING_CONNECTIONS = 2
"""Connections of a scheduler for what it writes as the leader."""
CLOSE_S = 3.0
"""Longest wait for a connection to be given back."""
RECYCLE_S = 1800
"""Age at which a connection is made anew: firewalls and servers drop old ones silently."""
MIGRATION_LOCK_S = 120
"""Longest wait for another scheduler that migrates."""

Classify = Callable[[BaseException | None], Failure | None]


@dataclass(frozen=True, slots=True)
class Session:
    """How a connection is used."""

    isolation: str = "READ COMMITTED"
    read_only: bool = False
    bounded: bool = True
    """False for migrations: a statement of theirs may take as long as it takes."""


WRITING = Session()
READING = Session("REPEATABLE READ", read_only=True)
"""One snapshot for all statements of a transaction."""
MIGRATING = Session(bounded=False)


@dataclass(frozen=True, slots=True)
class Server:
    """What is one database's own."""

    driver: str
    """SQLAlchemy's name of database and driver."""
    port: int
    connect_args: Callable[[Session, ssl.SSLContext | None, str], dict[str, Any]]
    """Arguments of the driver for a session; the last is the socket, empty for TCP."""
    classify: Classify
    """What a driver's error means; None when it is our bug."""
    check_connection: Callable[[Any, bool], None]
    """Raise when a new connection is not what was asked for; the last is whether TLS was."""
    lock_schema: Callable[[Connection], None]
    """Keep all others from migrating until the connection is closed."""
    count_others: Callable[[Connection], int]
    """How many other sessions of schedulers the database has."""
    end_stopped: Callable[[Connection], int]
    """End sessions of ours that stopped within a transaction and that no setting of the server
    ends; return how many."""
    inspect: Callable[[Connection], Iterator[Finding]]
    """What is found of the server's settings and of its files."""
    dump: Callable[[DatabaseSettings, Path], None]
    """Write a consistent copy with the server's own program."""


def engine(server: Server, settings: DatabaseSettings, session: Session) -> AsyncEngine:
    """Make an engine whose connections have the session's settings. Connects to nothing yet."""
    context = tls_context(settings.tls) if settings.host else None
    pool: dict[str, Any] = {"poolclass": NullPool}
    if session.bounded:
        pool = {
            "pool_size": CONNECTIONS + (0 if session.read_only else LEADING_CONNECTIONS),
            "max_overflow": 0,
            "pool_timeout": CONNECT_S,
            "pool_recycle": RECYCLE_S,
            "pool_use_lifo": True,
        }
    made = create_async_engine(
        address(server, settings),
        isolation_level=session.isolation,
        connect_args=server.connect_args(session, context, settings.socket),
        **pool,
    )

    def check(driver: Any, _record: object) -> None:
        server.check_connection(driver, context is not None)

    def classified(context: ExceptionContext) -> BaseException | None:
        error = context.original_exception
        if not isinstance(error, Exception):
            return None  # a cancellation, which SQLAlchemy takes for a lost connection: it passes
        kind = server.classify(error)
        if kind is None and context.is_disconnect:
            kind = Failure.LOST
        return None if kind is None else DatabaseFailure(kind, text_of(error))

    event.listen(made.sync_engine, "connect", check)
    event.listen(made.sync_engine, "handle_error", classified)
    return made


def address(server: Server, settings: DatabaseSettings) -> URL:
    """Return the URL that SQLAlchemy knows, with the password from its file."""
    parts = urlsplit(settings.url)
    return URL.create(
        server.driver,
        username=unquote(parts.username or ""),
        password=password_of(settings),
        host=parts.hostname,
        port=(parts.port or server.port) if parts.hostname else None,
        database=unquote(parts.path.strip("/")),
    )


def password_of(settings: DatabaseSettings) -> str | None:
    """Return the password that its file holds; None where no file is named."""
    if settings.password_file is None:
        return None
    try:
        return settings.password_file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(
            f"the database's password cannot be read from {settings.password_file}",
            reason="INVALID_DATABASE_SETTINGS",
            fix="make the file readable by the scheduler's user alone",
            metadata={"path": str(settings.password_file)},
        ) from error


def tls_context(tls: DatabaseTlsSettings) -> ssl.SSLContext | None:
    """Return what verifies the server's chain and name; None without a CA."""
    if tls.ca is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(tls.ca))
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"the database's certificates cannot be used: {error}",
            reason="INVALID_DATABASE_SETTINGS",
            fix="see database.tls in the settings",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@asynccontextmanager
async def connected(engine_: AsyncEngine, classify: Classify) -> AsyncIterator[AsyncConnection]:
    """Give a connection of the pool; raise `DatabaseFailure` when none is to be had."""
    try:
        connection = await engine_.connect()
    except DatabaseFailure:
        raise
    except sql_errors.TimeoutError as error:
        raise DatabaseFailure(Failure.UNAVAILABLE, "all connections are in use") from error
    except ssl.SSLCertVerificationError as error:
        raise DatabaseFailure(Failure.UNAVAILABLE, f"TLS: {error.verify_message}") from error
    except (OSError, TimeoutError, EOFError, asyncio.IncompleteReadError) as error:
        raise DatabaseFailure(Failure.LOST, _of_connecting(error)) from error
    except Exception as error:
        kind = classify(getattr(error, "orig", None) or error)
        if kind is None:
            raise
        raise DatabaseFailure(kind, text_of(error)) from error
    try:
        yield connection
    finally:
        await _give_back(connection)


async def _give_back(connection: AsyncConnection) -> None:
    """Close a connection, or return it to its pool, in bounded time.

    Its user may have been cancelled in the middle of a statement and its network be cut. What
    closing fails at is nobody's business: the transaction's outcome is known by now.
    """
    closing = asyncio.ensure_future(connection.close())
    closing.add_done_callback(lambda done: done.cancelled() or done.exception())
    _, late = await asyncio.wait({closing}, timeout=CLOSE_S)
    for task in late:
        task.cancel()


def text_of(error: BaseException | None) -> str:
    """Return an error's first line: servers add statements and hints below it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _of_connecting(error: Exception) -> str:
    return f"no connection: {text_of(error)}"
