"""All that is PostgreSQL's alone: session settings, locks, and the meaning of its errors.

Sources: postgresql.org/docs/15/errcodes-appendix.html, runtime-config-client.html,
explicit-locking.html, protocol-flow.html (extended query), monitoring-stats.html.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import Connection, text

from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.store import backup_files, findings
from unkai_scheduler.store.failures import DatabaseFailure, Failure
from unkai_scheduler.store.findings import Finding
from unkai_scheduler.store.servers import (
    CONNECT_S,
    IDLE_IN_TRANSACTION_S,
    LOCK_S,
    MIGRATION_LOCK_S,
    STATEMENT_S,
    Server,
    Session,
    password_of,
)

_PROGRAM = "unkai-scheduler"
"""What our sessions call themselves."""
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
    "57P04": Failure.UNAVAILABLE,  # database_dropped
    "57P05": Failure.LOST,  # idle_session_timeout
    "25P03": Failure.LOST,  # idle_in_transaction_session_timeout
    "25006": Failure.UNAVAILABLE,  # read_only_sql_transaction: a reader, or a standby
    "3D000": Failure.UNAVAILABLE,  # invalid_catalog_name
    "42501": Failure.UNAVAILABLE,  # insufficient_privilege
    "55000": Failure.UNAVAILABLE,  # object_not_in_prerequisite_state: it takes no connections
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
        "application_name": _PROGRAM,
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


def _count_others(conn: Connection) -> int:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = :program AND pid <> pg_backend_pid()"
    )
    return int(conn.execute(query, {"program": _PROGRAM}).scalar_one())


def _end_stopped(conn: Connection) -> int:
    """End sessions that wait for their client in the middle of a statement.

    A statement takes several messages. Between them its session is not idle, and its time limits
    do not end it while it waits to read (`ProcessClientReadInterrupt` ends a session, but puts a
    statement's cancellation off): a scheduler that is stopped there would keep its locks for ever.
    """
    ended = text(
        "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename = current_user"
        " AND application_name = :program AND pid <> pg_backend_pid()"
        " AND state = 'active' AND wait_event IN ('ClientRead', 'ClientWrite')"
        " AND xact_start IS NOT NULL"
        " AND clock_timestamp() - state_change > make_interval(secs => :longest_s)"
    )
    values = {"program": _PROGRAM, "longest_s": IDLE_IN_TRANSACTION_S}
    return len(conn.execute(ended, values).all())


def _inspect(conn: Connection) -> Iterator[Finding]:
    def value(query: str) -> str:
        return str(conn.exec_driver_sql(query).scalar_one())

    size = value("SELECT pg_size_pretty(pg_database_size(current_database()))")
    yield Finding("reachable", f"PostgreSQL {value('SHOW server_version')}, {size}")
    for name in ("fsync", "full_page_writes"):
        if value(f"SHOW {name}") != "on":
            yield Finding(
                "durability",
                f"{name} is off: a crash of the machine may lose or spoil what was said to be done",
                f"set {name} = on at the server",
            )
    broken = value(
        "SELECT coalesce(checksum_failures, 0) FROM pg_stat_database"
        " WHERE datname = current_database()"
    )
    yield findings.integrity([] if broken == "0" else [f"{broken} pages have a wrong checksum"])


def _dump(settings: DatabaseSettings, file: Path) -> None:
    parts = urlsplit(settings.url)
    tls = settings.tls
    said = {
        "PGHOST": settings.socket or settings.host,
        "PGPORT": str(parts.port or POSTGRESQL.port),
        "PGUSER": unquote(parts.username or ""),
        "PGDATABASE": unquote(parts.path.strip("/")),
        # In its environment, which its owner alone may read; never among its arguments.
        "PGPASSWORD": password_of(settings) or "",
        "PGSSLMODE": "disable" if tls.ca is None else "verify-full",
        "PGSSLROOTCERT": str(tls.ca or ""),
        "PGSSLCERT": str(tls.certificate or ""),
        "PGSSLKEY": str(tls.key or ""),
        "PGCONNECT_TIMEOUT": "10",
    }
    environment = os.environ | {name: value for name, value in said.items() if value}
    program = shutil.which("pg_dump")
    if program is None:
        raise backup_files.tool_missing("pg_dump", "postgresql-client")
    # One transaction of REPEATABLE READ, says its manual: one snapshot.
    argv = [program, "--format=custom", "--no-owner", "--no-privileges", f"--file={file}"]
    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise backup_files.DumpFailed(ended.stderr.strip()[-500:])


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))


POSTGRESQL = Server(
    driver="postgresql+asyncpg",
    port=5432,
    connect_args=_connect_args,
    classify=classify,
    check_connection=_check_connection,
    lock_schema=_lock_schema,
    count_others=_count_others,
    end_stopped=_end_stopped,
    inspect=_inspect,
    dump=_dump,
)
