"""The lab's database server: Debian's PostgreSQL or MariaDB, as its own user in the control cell.

Both speak TLS with the lab's CA and ask for a scheduler's certificate. PostgreSQL takes the
certificate's common name for the user; MariaDB cannot tell one certificate of the CA from another,
so it asks for a password too. A transaction that stands idle for 3 s is ended by the server: a
scheduler that was stopped in the middle of one must not hold its locks for ever.

A SIGKILL of everything is how a lab ends. Nothing may stay in the kernel then: shared memory lies
in files of the data folder or ends with the cell's own namespaces.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unkai_lab.spec import CONTROL, MARIADB, POSTGRESQL, LabPaths, LabSpec
from unkai_wire.tls import Principal, Role, common_name

IDLE_IN_TRANSACTION_S = 3
POSTGRESQL_PORT = 5432
MARIADB_PORT = 3306
USER = "unkai"
_POSTGRESQL_ROOT = Path("/usr/lib/postgresql")


@dataclass(frozen=True, slots=True)
class Postgresql:
    """PostgreSQL, version whichever is installed."""

    spec: LabSpec
    paths: LabPaths
    program: str = POSTGRESQL
    """Its name among the control cell's programs."""
    user: str = "postgres"
    """Whose processes and files it is."""
    port: int = POSTGRESQL_PORT

    def making(self) -> list[list[str]]:
        """Return the commands that make an empty database, in order; run once, in the cell.

        It lets schedulers in by certificate and nobody else at all.
        """
        files = folder_of(self.paths)
        data = files / "data"
        names = [common_name(Principal(Role.SCHEDULER, n)) for n in self.spec.scheduler_names]
        lines = "".join(f"unkai {name} {USER}\n" for name in names)
        hba = f"hostssl {USER} {USER} all cert map=unkai\n"
        sql = f"CREATE ROLE {USER} LOGIN;\nCREATE DATABASE {USER} OWNER {USER};\n"
        # A server for one session of its own superuser needs no way in for it.
        single = f'printf %s "$1" | {_postgresql("postgres")} --single -D "$2" postgres >/dev/null'
        return [
            self._own(
                _postgresql("initdb"),
                *("-D", str(data), "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"),
                *("--auth-local=reject", "--auth-host=reject"),
            ),
            self._own("sh", "-c", 'printf %s "$1" >"$2"', "-", lines, str(data / "pg_ident.conf")),
            self._own("sh", "-c", 'printf %s "$1" >"$2"', "-", hba, str(data / "pg_hba.conf")),
            self._own("sh", "-c", single, "-", sql, str(data)),
        ]

    def command(self) -> list[str]:
        """Return the server's command line."""
        files = folder_of(self.paths)
        options = {
            "listen_addresses": self.spec.address(CONTROL),
            "port": str(self.port),
            "unix_socket_directories": "",
            "ssl": "on",
            "ssl_ca_file": str(files / "ca.crt"),
            "ssl_cert_file": str(files / "database.crt"),
            "ssl_key_file": str(files / "database.key"),
            "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S}s",
            "dynamic_shared_memory_type": "mmap",
            "max_connections": "100",
        }
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        return self._own(_postgresql("postgres"), "-D", str(files / "data"), *settings)

    def _own(self, *argv: str) -> list[str]:
        return as_user(self.user, argv)


@dataclass(frozen=True, slots=True)
class Mariadb:
    """MariaDB."""

    spec: LabSpec
    paths: LabPaths
    program: str = MARIADB
    user: str = "mysql"
    port: int = MARIADB_PORT

    def making(self) -> list[list[str]]:
        """Return the command that makes the server's own tables.

        Our database and its user are made at each start, where missing.
        """
        data = folder_of(self.paths) / "data"
        make = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        return [as_user(self.user, [*make, "--skip-name-resolve"])]

    def command(self) -> list[str]:
        """Return the server's command line."""
        files = folder_of(self.paths)
        options = {
            "datadir": str(files / "data"),
            "tmpdir": str(files / "data"),
            # Below datadir, which is where it runs: a whole path may be too long for a socket.
            "socket": "mariadb.sock",
            "pid-file": str(files / "data" / "mariadb.pid"),
            "init-file": str(files / "init.sql"),
            "bind-address": self.spec.address(CONTROL),
            "port": str(self.port),
            "require-secure-transport": "on",
            "ssl-ca": str(files / "ca.crt"),
            "ssl-cert": str(files / "database.crt"),
            "ssl-key": str(files / "database.key"),
            "idle-transaction-timeout": str(IDLE_IN_TRANSACTION_S),
            "character-set-server": "utf8mb4",
            "collation-server": "utf8mb4_bin",
            "innodb-buffer-pool-size": "64M",
            "innodb-log-file-size": "32M",
            "innodb-use-native-aio": "off",
            "skip-name-resolve": "on",
        }
        argv = ["mariadbd", "--no-defaults", *(f"--{k}={v}" for k, v in options.items())]
        return as_user(self.user, argv)


DatabaseServer = Postgresql | Mariadb


def server_of(spec: LabSpec, paths: LabPaths) -> DatabaseServer | None:
    """Return the lab's database server; None where SQLite needs none."""
    if spec.database == POSTGRESQL:
        return Postgresql(spec, paths)
    if spec.database == MARIADB:
        return Mariadb(spec, paths)
    return None


def settings_of(spec: LabSpec, paths: LabPaths) -> dict[str, Any]:
    """Return what a scheduler's settings say of the database, without its certificates."""
    server = server_of(spec, paths)
    if server is None:
        return {"url": f"sqlite:///{paths.cell(CONTROL) / 'unkai.db'}"}
    url = f"{spec.database}://{USER}@{spec.address(CONTROL)}:{server.port}/{USER}"
    secret = {"password_file": str(_password_file(paths))} if spec.database == MARIADB else {}
    return {"url": url, **secret}


def prepare_files(server: DatabaseServer, paths: LabPaths) -> None:
    """Give the server's user a folder with its certificate, and MariaDB its password."""
    files = folder_of(paths)
    if isinstance(server, Mariadb):
        password = secrets.token_urlsafe(24)
        _write_secret(_password_file(paths), password)
        _write_secret(files / "init.sql", _MARIADB_INIT.format(user=USER, password=password))
    for path in (files, *files.iterdir()):
        shutil.chown(path, server.user, server.user)
    files.chmod(0o700)


def folder_of(paths: LabPaths) -> Path:
    """Return the folder of the server's files; its data lie in `data` below it."""
    return paths.cell(CONTROL) / "database"


def as_user(user: str, argv: Sequence[str]) -> list[str]:
    """Return a command that becomes `argv` as an unprivileged user."""
    return ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--", *argv]


def needed_programs(database: str) -> tuple[str, ...]:
    """Return the programs that a lab with this database needs beside the others."""
    return {
        POSTGRESQL: (_postgresql("initdb"), _postgresql("postgres"), "pg_isready"),
        MARIADB: ("mariadb-install-db", "mariadbd"),
    }.get(database, ())


def _postgresql(program: str) -> str:
    """Return the path of one of PostgreSQL's programs, which Debian keeps by version."""
    versions = [path for path in _POSTGRESQL_ROOT.glob("*/bin") if (path / program).exists()]
    newest = max(versions, key=lambda path: int(path.parent.name), default=None)
    return str(newest / program) if newest else program


def _password_file(paths: LabPaths) -> Path:
    return paths.pki / "database.password"


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


_MARIADB_INIT = """\
CREATE DATABASE IF NOT EXISTS {user};
CREATE USER IF NOT EXISTS {user}@'%' IDENTIFIED BY '{password}' REQUIRE X509;
GRANT ALL ON {user}.* TO {user}@'%';
"""
