"""The settings of the database: its URL, the password's file, TLS; a part of `settings.py`.

A URL never holds a password: it stands in logs and in lists of processes. Only a server on this
machine may be reached without TLS. Nothing here opens or connects.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, model_validator

SERVERS = ("postgresql", "mariadb")
"""Databases that several schedulers may share."""


def _database_url(text: str) -> str:
    scheme = text.partition(":")[0]
    if scheme == "sqlite" and text.startswith("sqlite:///"):
        return text
    if scheme not in SERVERS:
        raise ValueError(
            f"{scheme[:32]!r} is not supported: begin it with sqlite:///, postgresql:// or mariadb://"
        )
    try:
        parts = urlsplit(text)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        port_ok = False
    wanted = f"{scheme}://USER@HOST:PORT/DATABASE"
    if not port_ok or not parts.username or not parts.path.strip("/"):
        raise ValueError(f"is not {wanted}")
    if parts.password is not None:
        raise ValueError(f"holds a password: name its file as password_file, and write {wanted}")
    if bool(parts.hostname) == bool(_socket(parts.query)) or parts.fragment:
        raise ValueError(f"is not {wanted}, nor {scheme}://USER@/DATABASE?socket=/PATH")
    return text


def _socket(query: str) -> str:
    """Return the path in a query that is `socket=/path`; nothing else may stand there."""
    name, _, path = query.partition("=")
    return unquote(path) if name == "socket" and path.startswith("/") and "&" not in path else ""


class DatabaseTlsSettings(BaseModel, extra="forbid", frozen=True):
    """Where the PEM files lie for a database server on another machine."""

    ca: Path | None = None
    """Certificate of the CA that the server's certificate must come from, for the host name of the
    URL; none: no TLS, which only a server on this machine may have."""
    certificate: Path | None = None
    """Our certificate, where the server asks for one."""
    key: Path | None = None
    """Our private key; readable by us alone."""


class DatabaseSettings(BaseModel, extra="forbid", frozen=True):
    """Where desire and ownership are kept."""

    url: Annotated[str, AfterValidator(_database_url)] = (
        "sqlite:////var/lib/unkai/scheduler/unkai.db"
    )
    """`sqlite:////absolute/path`, `postgresql://USER@HOST:PORT/DATABASE`,
    `mariadb://USER@HOST:PORT/DATABASE`; with `USER@/DATABASE?socket=/PATH` a server's socket (of
    PostgreSQL its folder). Several schedulers share a server."""
    password_file: Path | None = None
    """File that holds the user's password and nothing else; readable by us alone."""
    tls: DatabaseTlsSettings = DatabaseTlsSettings()
    """TLS towards a database server."""

    @model_validator(mode="after")
    def _is_safe(self) -> DatabaseSettings:
        if (self.tls.certificate is None) != (self.tls.key is None):
            raise ValueError("tls.certificate and tls.key are given both or not at all")
        host = self.host
        if host and self.tls.ca is None and not _is_this_machine(host):
            raise ValueError(f"{host} is another machine: name its CA's certificate as tls.ca")
        return self

    @property
    def kind(self) -> str:
        """Which database: `sqlite`, `postgresql` or `mariadb`."""
        return self.url.partition(":")[0]

    @property
    def host(self) -> str:
        """The server's host; empty for SQLite and for a socket."""
        return "" if self.kind == "sqlite" else urlsplit(self.url).hostname or ""

    @property
    def socket(self) -> str:
        """The server's socket; empty where it is reached by network, and for SQLite."""
        return "" if self.kind == "sqlite" else _socket(urlsplit(self.url).query)

    def files(self) -> tuple[Path, ...]:
        """Return the files that these settings name."""
        named = (self.password_file, self.tls.ca, self.tls.certificate, self.tls.key)
        return tuple(path for path in named if path is not None)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
