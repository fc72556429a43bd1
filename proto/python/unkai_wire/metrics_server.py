"""The HTTPS server behind both daemons' `/metrics`: for monitors, administrators and schedulers.

Beside the figures it may show pages of JSON, such as a scheduler's `/targets`: what there is to
scrape, as Prometheus's `http_sd_configs` reads it.

A host's certificate is not enough: the scheduler's figures name every instance. The trap that
`prometheus_client`'s own server falls into: it shakes hands where it accepts, so that one silent
connection stops it for all. Here each connection has a thread, a deadline and a place among few.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from unkai_wire.errors import UnkaiError
from unkai_wire.tls import Role, TlsFiles, common_name, principal_of_uri

READERS = frozenset({Role.MONITOR, Role.CLIENT, Role.SCHEDULER})
IDLE_S = 5.0
"""A caller that says nothing for so long, or has not shaken hands, is cut off."""
MAX_CALLERS = 32
"""Connections at once; more are closed as they come."""
POLL_S = 0.5
"""How often the server looks whether it shall close."""
Page = Callable[[], Any]
"""Returns what JSON can hold; raises `UnkaiError` when it cannot be known now."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Whose certificate a caller shows, and when it ends, in Unix time."""

    certificate: str
    end_s: float


_READER: ContextVar[Reader | None] = ContextVar("reader", default=None)


def reader() -> Reader | None:
    """Return who reads: each caller has a thread of its own, and figures are collected on it."""
    return _READER.get()


class MetricsServer:
    """Serves `/metrics` until it is closed."""

    def __init__(
        self,
        host: str,
        port: int,
        tls: TlsFiles,
        registry: CollectorRegistry,
        pages: Mapping[str, Page] | None = None,
    ) -> None:
        """Listen at once; port 0 takes any. Raises OSError when that cannot be.

        `pages`: JSON by path; each is made on the caller's thread.
        """
        self._server = _Server((host, port))
        self._server.socket = tls.server_context().wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._server.set_app(_app(make_wsgi_app(registry), pages or {}))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), daemon=True
        )
        self._thread.start()
        self.port = int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2)


def _app(figures: Any, pages: Mapping[str, Page]) -> Any:
    """Return the WSGI application: a page where there is one, else the figures."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        page = pages.get(environ.get("PATH_INFO", ""))
        if page is None:
            answer: Iterable[bytes] = figures(environ, start_response)
            return answer
        status = "200 OK"
        try:
            body = page()
        except UnkaiError as error:
            # Prometheus keeps the targets that it knows when it is told of an error.
            status, body = "503 Service Unavailable", {"error": error.message}
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(body).encode()]

    return app


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = MAX_CALLERS
    """socketserver's 5 makes callers that come together wait a second for TCP's next try."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._places = threading.BoundedSemaphore(MAX_CALLERS)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the caller a thread, if there is a place."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one caller, on its thread."""
        try:
            request.settimeout(IDLE_S)
            # No matter how it fails: a stranger's mistakes are not worth a line in the log.
            with suppress(OSError):
                request.do_handshake()
                reader = _reader_of(request)
                if reader is not None:
                    _READER.set(reader)
                    self.finish_request(request, client_address)
        finally:
            self._places.release()
            self.shutdown_request(request)


class _Handler(WSGIRequestHandler):
    timeout = IDLE_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's word
        """Log nothing: a scrape every few seconds is no news."""


def _reader_of(connection: ssl.SSLSocket) -> Reader | None:
    """Return who calls if it is one who may read figures."""
    certificate: Any = connection.getpeercert() or {}
    for kind, name in certificate.get("subjectAltName", ()):
        with suppress(ValueError):
            if kind == "URI" and (who := principal_of_uri(str(name))).role in READERS:
                return Reader(common_name(who), ssl.cert_time_to_seconds(certificate["notAfter"]))
    return None
