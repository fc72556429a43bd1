"""Real database servers for tests: Debian's PostgreSQL and MariaDB, one each for a test session.

They run as their own users on temporary folders, on loopback and a unix socket, and are ended with
the session. Durability is switched off: a killed server process loses nothing, only a lost machine
would. `UNKAI_TEST_DATABASE=postgresql|mariadb` lets every test that opens a store use a server;
`use` does so for one test. A database is taken for a folder and cleaned when it is taken again.

User `unkai` gets in from loopback without TLS and password; user `strict` with TLS, a client
certificate of the session's CA, and a password.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from unkai_scheduler import certificates
from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.store.tables import metadata

SQLITE = "sqlite"
SERVERS = ("postgresql", "mariadb")
KINDS = (SQLITE, *SERVERS)
KIND_VARIABLE = "UNKAI_TEST_DATABASE"
_SERVER_VARIABLE = "UNKAI_TEST_SERVER_"
"""Where a process that a test starts finds the session's server: folder and port."""
_URL_FILE = "database.url"
START_S = 60.0
PASSWORD = "a secret of tests"
_used: list[str] = []


def kind() -> str:
    """Return which database tests use now."""
    return _used[-1] if _used else os.environ.get(KIND_VARIABLE, SQLITE)


@contextmanager
def use(name: str) -> Iterator[None]:
    """Use a kind of database within a `with`, in processes started there too."""
    _used.append(name)
    before = os.environ.get(KIND_VARIABLE)
    os.environ[KIND_VARIABLE] = name
    try:
        yield
    finally:
        _used.pop()
        if before is None:
            del os.environ[KIND_VARIABLE]
        else:
            os.environ[KIND_VARIABLE] = before


@dataclass
class Server:
    """One running server."""

    kind: str
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    free: list[str] = field(default_factory=list)
    """Databases that no test uses now; each was in use once and is to be cleaned."""
    _count: int = 0

    def url(self, database: str, *, user: str = "unkai", port: int = 0) -> str:
        return f"{self.kind}://{user}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            _as(self.user, self._command()), stdout=log, stderr=log, start_new_session=True
        )
        end_s = time.monotonic() + START_S
        while self.run_sql("SELECT 1", check=False).returncode:
            text = (self.folder / "server.log").read_text(errors="replace")
            assert self.process.poll() is None, text
            assert time.monotonic() < end_s, text
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End the server."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        self.process.wait(30)
        self.process = None
        if self.kind == "postgresql" and number == signal.SIGKILL:
            _end_orphans(self.folder)
            (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    @property
    def user(self) -> str:
        return "postgres" if self.kind == "postgresql" else "mysql"

    def make(self) -> None:
        """Make the server's files."""
        self.folder.mkdir(parents=True)
        authority = certificates.init(self.folder / "pki")
        authority.issue_database("db", ["127.0.0.1"]).write(self.folder / "server")
        authority.issue_client("strict").write(self.folder / "client")
        for path in (self.folder, self.folder / "server", *(self.folder / "server").iterdir()):
            shutil.chown(path, self.user, self.user)
        self.folder.chmod(0o755)
        data = self.folder / "data"
        if self.kind == "postgresql":
            make = [_pg("initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "-N"]
            _run(_as(self.user, [*make, "--encoding=UTF8", "--locale=C.UTF-8"]))
            hba = (
                "local all all trust\n"
                "host all unkai,postgres 127.0.0.1/32 trust\n"
                "hostssl all strict 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n"
            )
            (data / "pg_hba.conf").write_text(hba)
        else:
            make = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
            _run(
                _as(
                    self.user,
                    [*make, "--skip-name-resolve", "--auth-root-authentication-method=normal"],
                )
            )
        self.start()
        for statement in _USERS[self.kind]:
            self.run_sql(statement.format(password=PASSWORD))

    def run_sql(
        self, statement: str, *, database: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a statement as the server's superuser."""
        if self.kind == "postgresql":
            argv = [_pg("psql"), "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1"]
            argv += ["-h", str(self.folder), "-p", str(self.port), "-U", "postgres"]
            argv += ["-d", database or "postgres", "-c", statement]
        else:
            argv = ["mariadb", "--no-defaults", "-N", "-B", "-u", "root"]
            argv += [
                f"--socket={self.folder}/s.sock",
                "-e",
                statement,
                *([database] if database else []),
            ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    def take(self) -> str:
        """Return the name of a database that nobody uses, with nothing in its tables."""
        if self.free:
            database = self.free.pop()
            self._clean(database)
            return database
        return self.new()

    def new(self) -> str:
        """Make an empty database, for a test that does not give it back clean."""
        self._count += 1
        name = f"t{os.getpid()}_{self._count}_{secrets.token_hex(2)}"
        if self.kind == "postgresql":
            self.run_sql(f"CREATE DATABASE {name} OWNER unkai")
        else:
            self.run_sql(f"CREATE DATABASE {name}")
        return name

    def restore(self, database: str, backup: Path) -> None:
        """Put a backup in a database's place, as docs/howto/databases.md says."""
        force = " WITH (FORCE)" if self.kind == "postgresql" else ""
        self.run_sql(f"DROP DATABASE IF EXISTS {database}{force}")
        self.run_sql(
            f"CREATE DATABASE {database}" + (" OWNER unkai" if self.kind == "postgresql" else "")
        )
        if self.kind == "postgresql":
            url = self.url(database)
            _run(["pg_restore", "--no-owner", "--exit-on-error", f"--dbname={url}", str(backup)])
            return
        argv = ["mariadb", "--no-defaults", "-h127.0.0.1", f"--port={self.port}", "-uunkai"]
        with backup.open("rb") as dump:
            done = subprocess.run(
                [*argv, "--skip-ssl", database], stdin=dump, timeout=60, check=False
            )
        assert done.returncode == 0

    def _clean(self, database: str) -> None:
        tables = [table.name for table in reversed(metadata.sorted_tables)]
        if self.kind == "postgresql":
            statement = f"TRUNCATE {', '.join(tables)}"
        else:
            statement = ";".join(f"DELETE FROM {table}" for table in tables)
        self.run_sql(statement, database=database)

    def _command(self) -> list[str]:
        data, tls = self.folder / "data", self.folder / "server"
        if self.kind == "postgresql":
            options = {
                "listen_addresses": "127.0.0.1",
                "port": self.port,
                "unix_socket_directories": self.folder,
                "max_connections": 200,
                "fsync": "off",
                "full_page_writes": "off",
                "shared_buffers": "32MB",
                "dynamic_shared_memory_type": "mmap",
                "ssl": "on",
                "ssl_ca_file": tls / "ca.crt",
                "ssl_cert_file": tls / "database.crt",
                "ssl_key_file": tls / "database.key",
            }
            pairs = [part for k, v in options.items() for part in ("-c", f"{k}={v}")]
            return [_pg("postgres"), "-D", str(data), *pairs]
        options = {
            "datadir": data,
            "tmpdir": data,
            "socket": self.folder / "s.sock",
            "pid-file": data / "mariadb.pid",
            "bind-address": "127.0.0.1",
            "port": self.port,
            "max-connections": 300,
            "skip-name-resolve": "on",
            "innodb-flush-log-at-trx-commit": 2,
            "innodb-buffer-pool-size": "64M",
            "innodb-log-file-size": "16M",
            "innodb-use-native-aio": "off",
            "innodb-flush-method": "nosync",
            "performance-schema": "off",
            "ssl-ca": tls / "ca.crt",
            "ssl-cert": tls / "database.crt",
            "ssl-key": tls / "database.key",
        }
        return ["mariadbd", "--no-defaults", *(f"--{k}={v}" for k, v in options.items())]


_USERS = {
    "postgresql": (
        "CREATE ROLE unkai LOGIN SUPERUSER",
        "CREATE ROLE strict LOGIN SUPERUSER PASSWORD '{password}'",
    ),
    "mariadb": (
        "CREATE USER unkai@'127.0.0.1'",
        "GRANT ALL ON *.* TO unkai@'127.0.0.1'",
        "CREATE USER strict@'127.0.0.1' IDENTIFIED BY '{password}' REQUIRE X509",
        "GRANT ALL ON *.* TO strict@'127.0.0.1'",
    ),
}

_running: dict[str, Server] = {}


def server(name: str) -> Server:
    """Return the session's server of a kind, started when it is first asked for."""
    if name not in _running:
        told = os.environ.get(_SERVER_VARIABLE + name.upper())
        if told:  # we are a process that a test has started
            folder, _, port = told.rpartition(":")
            _running[name] = Server(name, Path(folder), int(port))
        else:
            _running[name] = a_server(name)
            os.environ[_SERVER_VARIABLE + name.upper()] = (
                f"{_running[name].folder}:{_running[name].port}"
            )
    return _running[name]


def a_server(name: str, within: Path = Path("/tmp")) -> Server:
    """Start a server of one's own; it is ended with the process at the latest."""
    base = Path(tempfile.mkdtemp(prefix=f"unkai-{name[:2]}-", dir=within))
    base.chmod(0o755)
    made = Server(name, base / "db", _free_port())
    atexit.register(_remove, made)
    made.make()
    return made


def _remove(made: Server) -> None:
    with suppress(ProcessLookupError):
        made.stop()
    shutil.rmtree(made.folder.parent, ignore_errors=True)


def stop_all() -> None:
    """End the session's servers, and remove what they have left."""
    for name, running in list(_running.items()):
        if running.process is not None:
            _remove(running)
            atexit.unregister(_remove)
        os.environ.pop(_SERVER_VARIABLE + name.upper(), None)
        del _running[name]


def settings_of(folder: Path) -> DatabaseSettings:
    """Return the settings of the database that belongs to a folder, taken now if need be."""
    named = folder / _URL_FILE
    if not named.exists():
        if kind() == SQLITE:
            return DatabaseSettings(url=f"sqlite:///{folder / 'unkai.db'}")
        running = server(kind())
        database = running.take()
        named.write_text(running.url(database))
        _taken.append((running, database))
    return DatabaseSettings(url=named.read_text())


_taken: list[tuple[Server, str]] = []


def release_all() -> None:
    """Give back the databases of all folders: their tests are over."""
    for running, database in _taken:
        running.free.append(database)
    _taken.clear()


def _as(user: str, argv: Sequence[str]) -> list[str]:
    return ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--", *argv]


def _pg(program: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    assert found, "install Debian's packages postgresql and mariadb-server"
    return str(found[-1])


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_orphans(folder: Path) -> None:
    """Wait until the killed server's children have seen that it is gone."""
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s:
        mine = [p for p in Path("/proc").glob("[0-9]*") if _works_in(p, folder)]
        if not mine:
            return
        time.sleep(0.05)
    for process in mine:
        with suppress(ProcessLookupError, ValueError):
            os.kill(int(process.name), signal.SIGKILL)


def _works_in(process: Path, folder: Path) -> bool:
    try:
        return Path(os.readlink(process / "cwd")).is_relative_to(folder / "data")
    except OSError:
        return False
