"""A server that goes away, refuses, or is not who it should be; connections heal by themselves."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import databases
from tests.support.acceptance import Shows
from tests.support.builders import an_instance
from tests.support.store import a_store, ids_with_default_project, noon, open_store
from unkai_scheduler.database_settings import DatabaseSettings, DatabaseTlsSettings
from unkai_scheduler.store import events, instances, projects, servers
from unkai_scheduler.store.unit_of_work import UnitOfWork, open_unit_of_work
from unkai_wire.errors import FailedPrecondition, InvalidArgument, Unavailable


async def _open(**settings: Any) -> UnitOfWork:
    return await open_unit_of_work(
        DatabaseSettings(**settings), clock=noon, new_id=ids_with_default_project()
    )


@pytest.fixture
async def uow(tmp_path: Path) -> AsyncIterator[UnitOfWork]:
    async with a_store(tmp_path) as unit:
        yield unit


async def test_calls_while_the_server_is_away_are_unavailable_and_all_is_well_afterwards(
    uow: UnitOfWork, database: str, shows: Shows
) -> None:
    running = databases.server(database)
    rows = [an_instance() for _ in range(4)]
    await uow.write(lambda conn: instances.insert(conn, rows[0]))
    await asyncio.to_thread(running.stop)
    refusals = []
    for act in (
        uow.read(events.newest),
        uow.write(lambda conn: instances.insert(conn, rows[1])),
        uow.write_grouped(lambda conn: instances.insert(conn, rows[1])),
        uow.take_term(0),
    ):
        began_s = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            await act
        refusals.append((caught.value.reason, time.monotonic() - began_s))
    await asyncio.to_thread(running.start)

    await asyncio.gather(
        *(uow.write(lambda conn, r=row: instances.insert(conn, r)) for row in rows[1:])
    )
    stored = await uow.read(lambda conn: [instances.get(conn, row.id) for row in rows])

    assert {reason for reason, _ in refusals} == {"DATABASE_UNAVAILABLE"}
    assert max(took_s for _, took_s in refusals) < servers.RECYCLE_S
    assert stored == rows
    shows(f"solid 5 database away {database}", "4 calls UNAVAILABLE, then all succeed")


async def test_a_server_killed_and_started_again_between_two_calls_is_not_noticed(
    uow: UnitOfWork, database: str
) -> None:
    running = databases.server(database)
    await asyncio.gather(*(uow.read(events.newest) for _ in range(8)))
    row = an_instance()
    await asyncio.to_thread(running.stop)
    await asyncio.to_thread(running.start)

    await uow.write(lambda conn: instances.insert(conn, row))
    assert await uow.read(lambda conn: instances.get(conn, row.id)) == row


async def test_a_store_is_closed_without_an_error_while_its_server_is_away(
    tmp_path: Path, database: str
) -> None:
    running = databases.server(database)
    uow = await open_store(tmp_path)
    await uow.write(lambda conn: None)
    await asyncio.to_thread(running.stop)
    try:
        await uow.close()
    finally:
        await asyncio.to_thread(running.start)


SHUTS_OUT = {
    "postgresql": (
        "ALTER DATABASE {name} ALLOW_CONNECTIONS false",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
    ),
    "mariadb": ("ALTER USER unkai@'127.0.0.1' ACCOUNT LOCK", "KILL USER unkai"),
}
LETS_IN = {
    "postgresql": "ALTER DATABASE {name} ALLOW_CONNECTIONS true",
    "mariadb": "ALTER USER unkai@'127.0.0.1' ACCOUNT UNLOCK",
}


async def test_a_server_that_lets_us_in_no_more_is_unavailable_until_it_does(
    uow: UnitOfWork, tmp_path: Path, database: str
) -> None:
    running = databases.server(database)
    name = databases.settings_of(tmp_path).url.rpartition("/")[2]
    await uow.read(events.newest)
    try:
        for statement in SHUTS_OUT[database]:
            running.run_sql(statement.format(name=name))
        for act in (uow.read(events.newest), uow.write(lambda conn: None), uow.take_term(0)):
            with pytest.raises(Unavailable):
                await act
    finally:
        running.run_sql(LETS_IN[database].format(name=name))

    await uow.read(events.newest)


async def test_sessions_have_our_settings_whatever_the_servers_are(
    uow: UnitOfWork, database: str
) -> None:
    def value(name: str) -> Any:
        query = f"SHOW {name}" if database == "postgresql" else f"SELECT @@{name}"
        return lambda conn: str(conn.exec_driver_sql(query).scalar_one())

    async def both(name: str) -> tuple[str, str]:
        return await uow.write(value(name)), await uow.read(value(name))

    if database == "postgresql":
        assert await both("transaction_isolation") == ("read committed", "repeatable read")
        assert await both("transaction_read_only") == ("off", "on")
        assert await both("idle_in_transaction_session_timeout") == ("3s", "3s")
        assert await both("lock_timeout") == ("5s", "5s")
        assert await both("statement_timeout") == ("10s", "10s")
        assert await both("synchronous_commit") == ("on", "on")
    else:
        assert await both("tx_isolation") == ("READ-COMMITTED", "REPEATABLE-READ")
        assert await both("tx_read_only") == ("0", "1")
        assert await both("idle_transaction_timeout") == ("3", "3")
        assert await both("innodb_lock_wait_timeout") == ("5", "5")
        assert (await both("max_statement_time"))[0].startswith("10")


async def test_a_reading_transaction_sees_one_snapshot(uow: UnitOfWork) -> None:
    from sqlalchemy.util.concurrency import await_

    row = an_instance()

    def look_twice(conn: Any) -> tuple[Any, Any]:
        first = instances.get(conn, row.id)
        await_(uow.write(lambda other: instances.insert(other, row)))
        return first, instances.get(conn, row.id)

    assert await uow.read(look_twice) == (None, None)
    assert await uow.read(lambda conn: instances.get(conn, row.id)) == row


async def test_names_sort_byte_by_byte_whatever_the_servers_locale_is(uow: UnitOfWork) -> None:
    names = ["a-b", "aa", "a.c", "ab", "a1"]
    rows = [an_instance(name=name) for name in names]
    await uow.write(lambda conn: [instances.insert(conn, row) for row in rows])

    page = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=9))

    assert [row.spec.name for row in page] == sorted(names)


async def test_ten_schedulers_that_open_a_new_database_at_once_make_it_once(
    tmp_path: Path,
) -> None:
    databases.settings_of(tmp_path)
    units = await asyncio.gather(*(open_store(tmp_path) for _ in range(6)))
    found = await units[0].read(lambda conn: projects.list_page(conn, after=None, limit=9))
    for unit in units:
        await unit.close()

    assert [project.name for project in found] == ["default"]


def _strict(folder: Path, database: str, **changes: Any) -> dict[str, Any]:
    running = databases.server(database)
    secret = folder / "password"
    secret.write_text(databases.PASSWORD + "\n")
    client = running.folder / "client"
    tls: dict[str, Any] = {
        "ca": client / "ca.crt",
        "certificate": client / "client-strict.crt",
        "key": client / "client-strict.key",
    }
    tls |= changes.pop("tls", {})
    url = databases.settings_of(folder).url.replace("unkai@", "strict@", 1)
    return {"url": url, "password_file": secret, "tls": DatabaseTlsSettings(**tls)} | changes


async def test_tls_with_a_client_certificate_and_a_password_from_its_file(
    tmp_path: Path, database: str
) -> None:
    query = (
        "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        if database == "postgresql"
        else "SELECT VARIABLE_VALUE <> '' FROM information_schema.SESSION_STATUS"
        " WHERE VARIABLE_NAME = 'SSL_CIPHER'"
    )
    uow = await _open(**_strict(tmp_path, database))
    encrypted = await uow.read(lambda conn: conn.exec_driver_sql(query).scalar_one())
    await uow.close()

    assert encrypted in {"true", 1}


@pytest.mark.parametrize(
    "wrong", ["other CA", "no certificate", "wrong password", "other name", "no TLS at the server"]
)
async def test_whoever_is_not_who_it_should_be_is_refused_and_no_secret_is_told(
    tmp_path: Path, database: str, wrong: str
) -> None:
    settings = _strict(tmp_path, database)
    if wrong == "other CA":
        from unkai_scheduler import certificates

        certificates.init(tmp_path / "other")
        settings = _strict(tmp_path, database, tls={"ca": tmp_path / "other" / "ca.crt"})
    elif wrong == "no certificate":
        settings = _strict(tmp_path, database, tls={"certificate": None, "key": None})
    elif wrong == "wrong password":
        (tmp_path / "password").write_text("another secret")
    elif wrong == "other name":
        settings["url"] = settings["url"].replace("127.0.0.1", "127.0.0.2")
    else:
        plain = await asyncio.start_server(_without_tls(database), "127.0.0.1", 0)
        port = plain.sockets[0].getsockname()[1]
        known = databases.server(database).port
        settings["url"] = settings["url"].replace(f":{known}", f":{port}")
    with pytest.raises(Unavailable) as caught:
        await _open(**settings)

    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    assert "secret" not in str(caught.value)


def _without_tls(database: str) -> Any:
    """Return a server that is asked for TLS and has none."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if database == "postgresql":
            await reader.readexactly(8)
            writer.write(b"N")
        else:  # a greeting of protocol 10 without the TLS capability, then OK to anything
            greeting = (
                b"\x0a5.5.5-10.11.0-MariaDB\x00" + b"\x01\0\0\0" + b"12345678\x00"
                + (0xF7DF & ~0x0800).to_bytes(2, "little") + b"\x2d" + b"\x02\x00"
                + (0x81BF).to_bytes(2, "little") + b"\x15" + b"\0" * 10 + b"123456789012\x00"
                + b"mysql_native_password\x00"
            )  # fmt: skip
            writer.write(len(greeting).to_bytes(3, "little") + b"\0" + greeting)
            await reader.read(1 << 16)
            ok = b"\x00\x00\x00\x02\x00\x00\x00"
            writer.write(len(ok).to_bytes(3, "little") + b"\x02" + ok)
            while await reader.read(1 << 16):
                writer.write(len(ok).to_bytes(3, "little") + b"\x01" + ok)
        await writer.drain()
        writer.close()

    return serve


async def test_a_port_where_nobody_answers_is_given_up(database: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"{database}://unkai@127.0.0.1:{silent.getsockname()[1]}/unkai"
        began_s = time.monotonic()
        with pytest.raises(Unavailable):
            await _open(url=url)

    assert time.monotonic() - began_s < 6 * servers.CONNECT_S


async def test_a_database_that_is_not_there_and_a_secret_that_cannot_be_read_are_said(
    tmp_path: Path, database: str
) -> None:
    running = databases.server(database)
    with pytest.raises(Unavailable, match="nowhere"):
        await _open(url=running.url("nowhere"))
    with pytest.raises(InvalidArgument) as caught:
        await _open(url=running.url("x"), password_file=tmp_path / "none")
    assert caught.value.reason == "INVALID_DATABASE_SETTINGS"


async def test_a_schema_of_a_later_version_is_refused(tmp_path: Path, database: str) -> None:
    async with a_store(tmp_path) as uow:
        await uow.write(
            lambda conn: conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        )
    with pytest.raises(FailedPrecondition) as caught:
        await open_store(tmp_path)
    name = databases.settings_of(tmp_path).url.rpartition("/")[2]
    from unkai_scheduler.store import migrations

    head = migrations.head_revision()
    databases.server(database).run_sql(
        f"UPDATE alembic_version SET version_num = '{head}'", database=name
    )
    assert caught.value.reason == "DATABASE_TOO_NEW"
