"""All that is MariaDB's alone: session settings, locks, and the meaning of its errors.

Its trap: DDL commits by itself, so a migration is no transaction; `migrations.resumable` makes each
of its statements one that may be repeated. Another: the driver goes on without TLS when the server
offers none, so each connection is looked at.
Sources: mariadb.com/kb/en/mariadb-error-code-reference, mariadb.com/kb/en/server-system-variables.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncmy
from sqlalchemy import Connection

from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.store import backup_files, findings
from unkai_scheduler.store.failures import DatabaseFailure, Failure
from unkai_scheduler.store.findings import Finding
from unkai_scheduler.store.migrations import resumable
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

# The driver logs what the server notes of DDL, such as that a primary key has no name of its own.
logging.getLogger("asyncmy").setLevel(logging.ERROR)
_SQL_MODE = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
_KINDS = {
    1062: Failure.UNIQUE,  # ER_DUP_ENTRY
    1451: Failure.REFERENCE,  # ER_ROW_IS_REFERENCED_2
    1452: Failure.REFERENCE,  # ER_NO_REFERENCED_ROW_2
    1205: Failure.BUSY,  # ER_LOCK_WAIT_TIMEOUT
    1213: Failure.BUSY,  # ER_LOCK_DEADLOCK
    1020: Failure.BUSY,  # ER_CHECKREAD
    1021: Failure.FULL,  # ER_DISK_FULL
    1114: Failure.FULL,  # ER_RECORD_FILE_FULL
    1026: Failure.UNAVAILABLE,  # ER_ERROR_ON_WRITE
    1030: Failure.UNAVAILABLE,  # ER_GET_ERRNO
    1040: Failure.UNAVAILABLE,  # ER_CON_COUNT_ERROR
    1041: Failure.UNAVAILABLE,  # ER_OUT_OF_RESOURCES
    1044: Failure.UNAVAILABLE,  # ER_DBACCESS_DENIED_ERROR
    1045: Failure.UNAVAILABLE,  # ER_ACCESS_DENIED_ERROR
    1049: Failure.UNAVAILABLE,  # ER_BAD_DB_ERROR
    1129: Failure.UNAVAILABLE,  # ER_HOST_IS_BLOCKED
    1130: Failure.UNAVAILABLE,  # ER_HOST_NOT_PRIVILEGED
    1135: Failure.UNAVAILABLE,  # ER_CANT_CREATE_THREAD
    1142: Failure.UNAVAILABLE,  # ER_TABLEACCESS_DENIED_ERROR
    1203: Failure.UNAVAILABLE,  # ER_TOO_MANY_USER_CONNECTIONS
    1226: Failure.UNAVAILABLE,  # ER_USER_LIMIT_REACHED
    1290: Failure.UNAVAILABLE,  # ER_OPTION_PREVENTS_STATEMENT: read only
    1698: Failure.UNAVAILABLE,  # ER_ACCESS_DENIED_NO_PASSWORD_ERROR
    1792: Failure.UNAVAILABLE,  # ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
    1862: Failure.UNAVAILABLE,  # ER_MUST_CHANGE_PASSWORD_LOGIN
    1969: Failure.UNAVAILABLE,  # ER_STATEMENT_TIMEOUT
    4151: Failure.UNAVAILABLE,  # ER_ACCOUNT_HAS_BEEN_LOCKED
    1053: Failure.LOST,  # ER_SERVER_SHUTDOWN
    1152: Failure.LOST,  # ER_ABORTING_CONNECTION
    1158: Failure.LOST,  # ER_NET_READ_ERROR
    1159: Failure.LOST,  # ER_NET_READ_INTERRUPTED
    1160: Failure.LOST,  # ER_NET_ERROR_ON_WRITE
    1161: Failure.LOST,  # ER_NET_WRITE_INTERRUPTED
    1317: Failure.LOST,  # ER_QUERY_INTERRUPTED
    1927: Failure.LOST,  # ER_CONNECTION_KILLED
    2002: Failure.LOST,  # CR_CONNECTION_ERROR
    2003: Failure.LOST,  # CR_CONN_HOST_ERROR
    2006: Failure.LOST,  # CR_SERVER_GONE_ERROR
    2013: Failure.LOST,  # CR_SERVER_LOST
    2014: Failure.LOST,  # CR_COMMANDS_OUT_OF_SYNC: a statement before was cut off
    2055: Failure.LOST,  # CR_SERVER_LOST_EXTENDED
}
_NO_ROOM = "28"
"""The operating system's number for a full disk (ENOSPC), which 1026 and 1030 tell in words."""


def classify(error: BaseException | None) -> Failure | None:
    """Return what the driver's error means; None when it is our bug."""
    if error is None or not error.args or not isinstance(error.args[0], int):
        return None
    code = error.args[0]
    if code in (1026, 1030) and _NO_ROOM in str(error):
        return Failure.FULL
    if code == 0 and "onnect" in str(error):  # the driver's own: "Not connected"
        return Failure.LOST
    return _KINDS.get(code)


def _connect_args(session: Session, tls: ssl.SSLContext | None, socket: str) -> dict[str, Any]:
    settings = {"sql_mode": f"'{_SQL_MODE}'"}
    if session.bounded:
        settings |= {
            "idle_transaction_timeout": str(IDLE_IN_TRANSACTION_S),
            "innodb_lock_wait_timeout": str(int(LOCK_S)),
            "lock_wait_timeout": str(int(LOCK_S)),
            "max_statement_time": str(int(STATEMENT_S)),
        }
    if session.read_only:
        settings["tx_read_only"] = "1"
    assigned = ", ".join(f"{name}={value}" for name, value in settings.items())
    arguments: dict[str, Any] = {
        "async_creator_fn": _connect,
        "charset": "utf8mb4",
        "program_name": "unkai-scheduler",
        "init_command": f"SET SESSION {assigned}",
    }
    if session.bounded:
        arguments["read_timeout"] = STATEMENT_S + CONNECT_S
    if tls is not None:
        arguments["ssl"] = tls
    if socket:
        arguments["unix_socket"] = socket
    return arguments


async def _connect(*arguments: Any, **named: Any) -> Any:
    """Connect in bounded time: the driver's own bound ends before the server has said a word."""
    async with asyncio.timeout(CONNECT_S):
        return await asyncmy.connect(*arguments, **named)


def _check_connection(driver: Any, wants_tls: bool) -> None:
    transport = driver.driver_connection._transport
    if wants_tls and transport.get_extra_info("ssl_object") is None:
        raise DatabaseFailure(Failure.UNAVAILABLE, "the server takes no TLS")


def _lock_schema(conn: Connection) -> None:
    resumable.repeat_safely(conn)
    query = f"SELECT GET_LOCK(CONCAT('unkai.', DATABASE()), {MIGRATION_LOCK_S})"
    if conn.exec_driver_sql(query).scalar_one() != 1:
        raise DatabaseFailure(Failure.BUSY, "another scheduler migrates the database")


def _count_others(conn: Connection) -> int:
    query = (
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST"
        " WHERE DB = DATABASE() AND ID <> CONNECTION_ID()"
    )
    return int(conn.exec_driver_sql(query).scalar_one())


def _inspect(conn: Connection) -> Iterator[Finding]:
    def value(query: str) -> str:
        return str(conn.exec_driver_sql(query).scalar_one())

    size = value(
        "SELECT COALESCE(SUM(DATA_LENGTH + INDEX_LENGTH), 0) FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = DATABASE()"
    )
    yield Finding("reachable", f"MariaDB {value('SELECT VERSION()')}, {int(size) >> 10} KiB")
    if value("SELECT @@innodb_flush_log_at_trx_commit") != "1":
        yield Finding(
            "durability",
            "innodb_flush_log_at_trx_commit is not 1: a crash may lose what was said to be done",
            "set innodb_flush_log_at_trx_commit = 1 at the server",
        )
    tables = conn.exec_driver_sql(
        "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
    ).all()
    problems = [f"table {name} is {engine}, not InnoDB" for name, engine in tables
                if engine != "InnoDB"]  # fmt: skip
    if tables:
        names = ", ".join(f"`{name}`" for name, _ in tables)
        checked = conn.exec_driver_sql(f"CHECK TABLE {names}").all()
        problems += [f"{row[0]}: {row[3]}" for row in checked if row[3] != "OK"]
    yield findings.integrity(problems)


def _dump(settings: DatabaseSettings, file: Path) -> None:
    parts = urlsplit(settings.url)
    tls = settings.tls
    said = {
        "user": unquote(parts.username or ""),
        "password": password_of(settings) or "",
        "host": settings.host,
        "port": str(parts.port or MARIADB.port) if settings.host else "",
        "protocol": "tcp" if settings.host else "",
        "socket": settings.socket,
        "ssl-ca": str(tls.ca or ""),
        "ssl-cert": str(tls.certificate or ""),
        "ssl-key": str(tls.key or ""),
    }
    lines = [f'{name}="{_quoted(text)}"' for name, text in said.items() if text]
    lines.append("ssl-verify-server-cert" if tls.ca is not None else "skip-ssl")
    program = shutil.which("mariadb-dump")
    if program is None:
        raise backup_files.tool_missing("mariadb-dump", "mariadb-client")
    with tempfile.TemporaryDirectory() as folder:  # of mode 0700: it holds the password
        options = Path(folder) / "client.cnf"
        options.write_text("[client]\n" + "\n".join(lines) + "\n")
        argv = [
            program,
            f"--defaults-file={options}",
            *("--single-transaction", "--skip-lock-tables", "--quick", "--hex-blob"),
            *("--no-tablespaces", f"--result-file={file}"),
            unquote(parts.path.strip("/")),
        ]
        ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    with file.open("rb") as written:
        written.seek(-min(200, file.stat().st_size), os.SEEK_END)
        is_whole = b"-- Dump completed" in written.read()
    if ended.returncode or not is_whole:
        raise backup_files.DumpFailed(ended.stderr.strip()[-500:] or "it ends too early")


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


MARIADB = Server(
    driver="mariadb+asyncmy",
    port=3306,
    connect_args=_connect_args,
    classify=classify,
    check_connection=_check_connection,
    lock_schema=_lock_schema,
    count_others=_count_others,
    # A statement is one message: between two of them a session is idle, which the server ends.
    end_stopped=lambda _conn: 0,
    inspect=_inspect,
    dump=_dump,
)
