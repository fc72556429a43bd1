"""Names in certificates, and the gRPC credentials made from them.

A certificate says who its holder is in one URI subject alternative name:

    unkai://client/NAME            a person or program, with all rights until users come
    unkai://monitor/NAME           a program that reads figures, and calls nothing
    unkai://scheduler/NAME         a scheduler
    unkai://host/HOST_ID/NAME      a host's agent
    unkai://fleet/NAME             the lab's simulated hosts, many in one process
    unkai://etcd/NAME              an etcd member
    unkai://database/NAME          a database server of the schedulers

Servers are verified by a DNS name that does not depend on their address: every scheduler has
`scheduler.unkai.internal`, a host has `HOST_ID.host.unkai.internal`, an etcd member has
`etcd.unkai.internal`. A database server is verified by the address that it is called at. The
subject's common name is what etcd, and PostgreSQL, know the holder as.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from unkai_wire.errors import FailedPrecondition, Unauthenticated

if TYPE_CHECKING:
    import ssl

    import grpc

TLS_DOMAIN = "unkai.internal"
"""Names in it say what a server is; no holder may choose one as its own name."""
SCHEDULER_TLS_NAME = f"scheduler.{TLS_DOMAIN}"
ETCD_TLS_NAME = f"etcd.{TLS_DOMAIN}"
"""In every etcd member's certificate: members take no peer without it."""
ETCD_ROOT = "root"
"""etcd's name for the one who may change its users (etcd manual, Authentication)."""
_FLEET_SUFFIX = f".fleet.{TLS_DOMAIN}"


HANDSHAKE_MS = 10_000
"""A server gives strangers so long to prove who they are."""


def host_tls_name(host_id: str) -> str:
    """Return the DNS name in a host's certificate."""
    return f"{host_id}.host.{TLS_DOMAIN}"


def fleet_tls_name(name: str) -> str:
    """Return the DNS name in the certificate of a fleet of simulated hosts."""
    return name + _FLEET_SUFFIX


def fleet_of_tls_name(tls_name: str) -> str:
    """Return the fleet whose server has this name, "" when it is no fleet's."""
    name = tls_name.removesuffix(_FLEET_SUFFIX)
    return "" if name == tls_name else name


class Role(Enum):
    """What the holder of a certificate is."""

    CLIENT = "client"
    MONITOR = "monitor"
    SCHEDULER = "scheduler"
    HOST = "host"
    FLEET = "fleet"
    ETCD = "etcd"
    DATABASE = "database"
    LOCAL = "local"
    """Came in by the 0600 unix socket: root on this machine."""


MONITORS_READ = ": a monitor's certificate reads /metrics and /targets, and calls no method"
"""What a daemon adds where it refuses a monitor's call."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a caller is."""

    role: Role
    name: str
    host_id: str = ""

    def __str__(self) -> str:
        return self.role.value if self.role is Role.LOCAL else f"{self.role.value}:{self.name}"


def principal_uri(principal: Principal) -> str:
    """Return the URI that goes into the principal's certificate."""
    middle = f"{principal.host_id}/" if principal.role is Role.HOST else ""
    return f"unkai://{principal.role.value}/{middle}{principal.name}"


def common_name(principal: Principal) -> str:
    """Return the subject's common name, which is the holder's user name in etcd."""
    if principal.role is Role.HOST:
        return principal.host_id
    return f"{principal.role.value}-{principal.name}"


def principal_of_uri(uri: str) -> Principal:
    """Read a certificate's URI; raise ValueError when it is not one of ours."""
    scheme, _, rest = uri.partition("://")
    parts = rest.split("/")
    role = {r.value: r for r in Role if r is not Role.LOCAL}.get(parts[0])
    wanted = 3 if role is Role.HOST else 2
    if scheme != "unkai" or role is None or len(parts) != wanted or not all(parts):
        raise ValueError(f"{uri!r} names no principal")
    return Principal(role, parts[-1], parts[1] if role is Role.HOST else "")


def principal_of_auth_context(auth_context: Mapping[str, Iterable[bytes]], peer: str) -> Principal:
    """Say who called, from gRPC's auth context and peer text.

    A caller without certificate is LOCAL when it came by a unix socket; anything else raises
    `Unauthenticated`.
    """
    for raw in auth_context.get("x509_subject_alternative_name", ()):
        try:
            return principal_of_uri(raw.decode())
        except ValueError:
            continue
    if peer.startswith("unix:"):
        return Principal(Role.LOCAL, "root")
    raise Unauthenticated(
        "the caller's certificate names no principal of this cloud",
        reason="NO_PRINCIPAL",
        fix="use a certificate made by 'unkai-scheduler cert'",
    )


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: the CA's certificate, our certificate (chain), our private key."""

    ca: Path
    certificate: Path
    key: Path

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials of a server that demands a client certificate of this CA."""
        import grpc

        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.certificate.read_bytes())],
            root_certificates=self.ca.read_bytes(),
            require_client_auth=True,
        )

    def listen(self, server: grpc.aio.Server, address: str) -> int:
        """Have a server listen at `HOST:PORT` with these; return the port.

        Raises `FailedPrecondition` / ADDRESS_NOT_FREE.
        """
        try:
            return server.add_secure_port(address, self.server_credentials())
        except RuntimeError as error:
            raise FailedPrecondition(
                f"cannot listen at {address}: it is in use, or not an address of this machine",
                reason="ADDRESS_NOT_FREE",
                fix="stop what listens there, or set another address",
                metadata={"address": address},
            ) from error

    def server_context(self) -> ssl.SSLContext:
        """Return the same for a server that is not gRPC's: TLS 1.2 or newer."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.ca)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return credentials of a client that shows its certificate."""
        import grpc

        return grpc.ssl_channel_credentials(
            root_certificates=self.ca.read_bytes(),
            private_key=self.key.read_bytes(),
            certificate_chain=self.certificate.read_bytes(),
        )


def channel_options(tls_name: str) -> list[tuple[str, str | int]]:
    """Return the channel options all our clients use: the name to verify, keepalive, sizes."""
    return [
        ("grpc.ssl_target_name_override", tls_name),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", 4 << 20),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]


def server_options() -> list[tuple[str, str | int]]:
    """Return the server options that go with `channel_options`.

    Who connects and does not shake hands is cut off after 10 s (the library's default is 120 s),
    who has vanished with a stream open after 40 s (default 2 h).
    """
    return [
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_receive_message_length", 4 << 20),
        ("grpc.server.max_pending_requests", 20_000),
        ("grpc.server.max_pending_requests_hard_limit", 40_000),
        ("grpc.so_reuseport", 0),
    ]
