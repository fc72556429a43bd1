"""What is wrong with a context's certificate: looked at when no scheduler can be reached.

gRPC says of a certificate that the other side refuses only that the connection was closed. Here
the context's files shake hands with each other, in memory: the verdict is the one a scheduler of
this CA comes to, in its words. Nothing is sent anywhere.
"""

from __future__ import annotations

import ssl
from contextlib import suppress

from unkai_wire.tls import TlsFiles

_ROUNDS = 8
"""Turns of a handshake: TLS 1.3 takes two, TLS 1.2 four."""


def problem(files: TlsFiles) -> str:
    """Say why a scheduler of this CA would refuse the certificate; "" when it would not."""
    server, client = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    server.verify_mode = ssl.CERT_REQUIRED
    try:
        server.load_verify_locations(files.ca)
    except ssl.SSLError:
        return f"{files.ca} holds no certificate in PEM"
    try:
        for side in (server, client):
            side.load_cert_chain(files.certificate, files.key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"{files.key} is not the key of {files.certificate}"
        return f"{files.certificate} and {files.key} hold no certificate and key in PEM"
    try:
        _shake_hands(server, client)
    except ssl.SSLCertVerificationError as error:
        return f"{files.certificate}, by the CA in {files.ca}: {error.verify_message}"
    return ""


def _no_password() -> str:
    """Stand for a password that nobody is asked for: gRPC takes no key that needs one."""
    return " "


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(_ROUNDS):
        for side in sides:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
