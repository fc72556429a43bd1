"""Channels to schedulers and agents: opened, and looked at when nothing answers.

gRPC says UNAVAILABLE of a scheduler that is away and of a certificate that is refused alike; a
user mends them in different ways.
"""

from __future__ import annotations

import os
from pathlib import Path

import grpc

from unkai_cli import certificates
from unkai_cli.settings import Context
from unkai_wire import tls
from unkai_wire.errors import InvalidArgument, PermissionDenied, Unauthenticated, Unavailable

_UNIX_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
"""gRPC's own pause before it connects again would outlast our retries."""
KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.ping_timeout_ms", 10_000),
]
"""A process that hangs keeps its connections: without these a watch of it would never end.
The trap: `grpc.keepalive_timeout_ms` is of no use here (grpcio 1.85); a ping is waited for 60 s."""


def open_socket(path: str, fix: str) -> grpc.Channel:
    """Open a channel to a unix socket; raise an error with this fix when it cannot be used."""
    try:
        usable = os.access(path, os.R_OK | os.W_OK)
        missing = not Path(path).exists()
    except OSError:
        usable = missing = False
    if missing:
        raise Unavailable(
            f"there is no socket {path}",
            reason="NO_SOCKET",
            fix=fix,
            metadata={"socket": path},
        )
    if not usable:
        raise PermissionDenied(
            f"you may not use the socket {path}",
            reason="SOCKET_DENIED",
            fix="call as root, or use a context with an address and a certificate",
            metadata={"socket": path},
        )
    return grpc.insecure_channel(f"unix:{path}", options=[*_UNIX_OPTIONS, *KEEPALIVE])


def open_channel(context: Context) -> grpc.Channel:
    """Open a channel to a context's scheduler; raise an error when its files cannot be used."""
    if context.socket:
        return open_socket(
            context.socket,
            "start the scheduler on this machine, or choose another context with "
            "'unkai context use NAME'",
        )
    try:
        credentials = _tls_files(context).channel_credentials()
    except OSError as error:
        raise InvalidArgument(
            f"a certificate of context {context.name} cannot be read: {error.strerror}",
            reason="CERTIFICATE_UNREADABLE",
            fix="correct the paths with 'unkai context add'",
            metadata={"context": context.name, "path": str(error.filename)},
        ) from error
    # The last of two equal options counts: a page of long rows may pass the daemons' 4 MiB.
    options = [
        *tls.channel_options(tls.SCHEDULER_TLS_NAME),
        ("grpc.max_receive_message_length", -1),
        *KEEPALIVE,
    ]
    return grpc.secure_channel(context.address, credentials, options=options)


def check_trust(context: Context, error: Unavailable) -> None:
    """Raise `Unauthenticated` when a certificate is why nothing answers: waiting mends none.

    Only what gRPC says by itself is doubted, never a scheduler's own word.
    """
    if not context.address or "grpc_code" not in error.metadata:
        return
    if "CERTIFICATE_VERIFY_FAILED" in error.message:
        raise Unauthenticated(
            f"what answers at {context.address} is no scheduler that context {context.name} "
            f"trusts: {error.message.rpartition('VERIFY_FAILED: ')[2]}",
            reason="SCHEDULER_NOT_TRUSTED",
            fix="check address and CA with 'unkai context show', mend them with "
            "'unkai context add'",
            metadata={"context": context.name, "address": context.address},
        ) from error
    if wrong := certificates.problem(_tls_files(context)):
        raise Unauthenticated(
            f"the certificate of context {context.name} cannot be used: {wrong}",
            reason="CERTIFICATE_INVALID",
            fix="make another with 'unkai-scheduler cert client NAME', and name its files to "
            "'unkai context add'",
            metadata={"context": context.name},
        ) from error


def _tls_files(context: Context) -> tls.TlsFiles:
    return tls.TlsFiles(Path(context.ca), Path(context.certificate), Path(context.key))
