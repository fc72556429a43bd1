"""All that is PostgreSQL's alone: session settings, locks, and the meaning of its errors.

Sources: postgresql.org/docs/15/errcodes-appendix.html, runtime-config-client.html,
explicit-locking.html.
"""

from __future__ import annotations

import ssl
from typing import Any

from sqlalchemy import Connection

from unkai_scheduler.store.failures import DatabaseFailure, Failure
from unkai_scheduler.store.servers import (
    CONNECT_S,
    IDLE_IN_TRANSACTION_S,
    LOCK_S,
    MIGRATION_LOCK_S,
    STATEMENT_S,
    Server,
    Session,
)

_SCHEMA_LOCK = 0x756E6B6169
"""Number of the advisory lock that migrations hold: the letters of our name."""
_KINDS = {
    "23505": Failure.UNIQUE,
    "23503": Failure.REFERENCE,
    "40001": Failure.BUSY,  # serialization_failure
    "40P01": Failure.BUSY,  # deadlock_detected
    "55P03": Failure.BUSY,  # lock_not_available
    "53100": Failure.FULL,  # disk_full
    "57014": Failure.UNAVAILABLE,  # query_canceled: a statement took too long
    "57P01": Failure.LOST,  # admin_shutdown
    "57P02": Failure.LOST,  # crash_shutdown
    "57P03": Failure.LOST,  # cannot_connect_now
    "57P05": Failure.LOST,  # idle_session_timeout
    "25P03": Failure.LOST,  # idle_in_transaction_session_timeout
    "25006": Failure.UNAVAILABLE,  # read_only_sql_transaction: a reader, or a standby
    "3D000": Failure.UNAVAILABLE,  # invalid_catalog_name
    "42501": Failure.UNAVAILABLE,  # insufficient_privilege
    "58030": Failure.UNAVAILABLE,  # io_error
}
_CLASSES = {
    "08": Failure.LOST,  # connection exception
    "28": Failure.UNAVAILABLE,  # invalid authorization
    "53": Failure.UNAVAILABLE,  # insufficient resources
    "58": Failure.UNAVAILABLE,  # system error
    "XX": Failure.UNAVAILABLE,  # internal error, data corrupted
}


def classify(error: BaseException | None) -> Failure | None:
    """Return what the driver's error means; None when it is our bug."""
    code = getattr(error, "sqlstate", None) or ""
    return _KINDS.get(code) or _CLASSES.get(code[:2])


def _connect_args(session: Session, tls: ssl.SSLContext | None, socket: str) -> dict[str, Any]:
    settings = {
        "application_name": "unkai-scheduler",
        # What we say is done is on the disk, whatever the server's default.
        "synchronous_commit": "on",
        "lock_timeout": _ms(LOCK_S if session.bounded else MIGRATION_LOCK_S),
    }
    if session.bounded:
        settings["statement_timeout"] = _ms(STATEMENT_S)
        settings["idle_in_transaction_session_timeout"] = _ms(IDLE_IN_TRANSACTION_S)
    if session.read_only:
        settings["default_transaction_read_only"] = "on"
    arguments: dict[str, Any] = {
        "ssl": tls or False,
        "timeout": CONNECT_S,
        "server_settings": settings,
    }
    if session.bounded:
        arguments["command_timeout"] = STATEMENT_S + CONNECT_S
    if socket:
        arguments["host"] = socket
    return arguments


def _check_connection(driver: Any, wants_tls: bool) -> None:
    connection = driver.driver_connection
    if wants_tls and connection._transport.get_extra_info("ssl_object") is None:
        raise DatabaseFailure(Failure.UNAVAILABLE, "the server takes no TLS")


def _lock_schema(conn: Connection) -> None:
    conn.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))


POSTGRESQL = Server(
    driver="postgresql+asyncpg",
    port=5432,
    connect_args=_connect_args,
    classify=classify,
    check_connection=_check_connection,
    lock_schema=_lock_schema,
)
