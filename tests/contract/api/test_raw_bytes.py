"""Bytes that no client of ours would send, at every port: afterwards the server serves.

Random bytes, another protocol, HTTP/2 that breaks its own rules, gRPC whose lengths lie; in plain
text on the unix sockets, inside TLS with a good certificate, and in the middle of the handshake.
The peer may answer what it likes, or hang up; what counts is the next caller.
"""

from __future__ import annotations

import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.support.acceptance import Shows, count, seeded
from tests.support.api import tls_files
from tests.support.served_agent import HOST_ID
from tests.support.served_alone import served_alone, tls_said
from unkai.agent.v1 import host_service_pb2, host_service_pb2_grpc
from unkai.identity.v1 import project_service_pb2, project_service_pb2_grpc
from unkai_wire.tls import TlsFiles, channel_options, host_tls_name

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
LISTEN_S = 0.2
TRIES_S = 5.0
PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
LIST = project_service_pb2.ListProjectsRequest()
DESCRIBE = host_service_pb2.DescribeRequest(host_id=HOST_ID)
METHOD = "/unkai.identity.v1.ProjectService/ListProjects"


def frame(kind: int, flags: int, stream: int, body: bytes, length: int | None = None) -> bytes:
    """Make an HTTP/2 frame (RFC 9113, section 4.1); `length` may lie."""
    size = len(body) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def header(name: str, value: str) -> bytes:
    """Write a header without indexing (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def a_call(method: str = METHOD, *more: bytes) -> bytes:
    """Write the headers of a gRPC call."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    return b"".join(header(*field) for field in fields) + b"".join(more)


def message(body: bytes, length: int | None = None, packed: int = 0) -> bytes:
    """Write a gRPC message with its prefix; `length` may lie."""
    return struct.pack(">BI", packed, len(body) if length is None else length) + body


OPENED = PREFACE + frame(SETTINGS, 0, 0, b"")
CALLED = OPENED + frame(HEADERS, END_HEADERS, 1, a_call())
BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"P",
    "zeros": b"\0" * 4096,
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another protocol's end": b"QUIT\r\n\r\n",
    "half a preface": PREFACE[:10],
    "preface alone": PREFACE,
    "no settings": PREFACE + frame(PING, 0, 0, b"12345678"),
    "settings of 5 bytes": PREFACE + frame(SETTINGS, 0, 0, b"12345"),
    "settings on a stream": PREFACE + frame(SETTINGS, 0, 3, b""),
    "settings with a huge window": OPENED + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)),
    "settings with a tiny frame": OPENED + frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 1)),
    "1,000 settings": OPENED + frame(SETTINGS, 0, 0, b"") * 1000,
    "1,000 pings": OPENED + frame(PING, 0, 0, b"12345678") * 1000,
    "a ping of 1 byte": OPENED + frame(PING, 0, 0, b"1"),
    "an unknown frame": OPENED + frame(99, 255, 7, b"x" * 100),
    "a frame that claims 16 MiB": OPENED + frame(HEADERS, 0, 1, b"", 0xFFFFFF),
    "data on no stream": OPENED + frame(DATA, END_STREAM, 5, b"x"),
    "data on stream 0": OPENED + frame(DATA, 0, 0, b"x"),
    "headers on stream 0": OPENED + frame(HEADERS, END_HEADERS, 0, a_call()),
    "headers on an even stream": OPENED + frame(HEADERS, END_HEADERS, 2, a_call()),
    "headers of junk": OPENED + frame(HEADERS, END_HEADERS, 1, b"\xff" * 64),
    "a header index out of the table": OPENED + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\x7f"),
    "headers cut": OPENED + frame(HEADERS, END_HEADERS, 1, a_call()[:-3]),
    "headers without an end": OPENED + frame(HEADERS, 0, 1, a_call()),
    "headers that never end": OPENED
    + frame(HEADERS, 0, 1, a_call())
    + frame(CONTINUATION, 0, 1, header("x", "y" * 100)) * 500,
    "continuation alone": OPENED + frame(CONTINUATION, END_HEADERS, 1, a_call()),
    "no path": OPENED + frame(HEADERS, END_HEADERS | END_STREAM, 1, header(":method", "POST")),
    "a path that is not UTF-8": OPENED
    + frame(
        HEADERS, END_HEADERS | END_STREAM, 1, a_call(METHOD).replace(b"Project", b"Pro\xd1ect")
    ),
    "a path of NUL": OPENED + frame(HEADERS, END_HEADERS | END_STREAM, 1, a_call("/\0/\0")),
    "an unknown method": OPENED + frame(HEADERS, END_HEADERS | END_STREAM, 1, a_call("/x.Y/Z")),
    "a method of GET": OPENED
    + frame(HEADERS, END_HEADERS | END_STREAM, 1, header(":method", "GET") + a_call()[6:]),
    "another content": OPENED
    + frame(HEADERS, END_HEADERS, 1, a_call(METHOD, header("content-type", "text/html"))),
    "a timeout of words": OPENED
    + frame(HEADERS, END_HEADERS, 1, a_call(METHOD, header("grpc-timeout", "soon"))),
    "a negative timeout": OPENED
    + frame(HEADERS, END_HEADERS, 1, a_call(METHOD, header("grpc-timeout", "-5S"))),
    "binary metadata that is no base64": OPENED
    + frame(HEADERS, END_HEADERS, 1, a_call(METHOD, header("x-bin", "%%%%"))),
    "an unknown compression": OPENED
    + frame(HEADERS, END_HEADERS, 1, a_call(METHOD, header("grpc-encoding", "zip")))
    + frame(DATA, END_STREAM, 1, message(b"abc", packed=1)),
    "no message": CALLED + frame(DATA, END_STREAM, 1, b""),
    "a message of junk": CALLED + frame(DATA, END_STREAM, 1, message(b"\xff" * 32)),
    "a message that is not UTF-8": CALLED
    + frame(DATA, END_STREAM, 1, message(b"\x12\x02\xff\xfe")),
    "half a prefix": CALLED + frame(DATA, END_STREAM, 1, b"\0\0"),
    "a message that claims 4 GiB": CALLED + frame(DATA, END_STREAM, 1, message(b"", 0xFFFFFFFF)),
    "a message shorter than it claims": CALLED + frame(DATA, END_STREAM, 1, message(b"ab", 100)),
    "two messages for one": CALLED + frame(DATA, END_STREAM, 1, message(b"") * 2),
    "a flag of 7": CALLED + frame(DATA, END_STREAM, 1, message(b"", packed=7)),
    "padding longer than the frame": CALLED + frame(DATA, END_STREAM | 8, 1, b"\xff\0"),
    "a reset at once": CALLED + frame(RESET, 0, 1, struct.pack(">I", 8)),
    "100 calls reset": OPENED
    + b"".join(
        frame(HEADERS, END_HEADERS, stream, a_call()) + frame(RESET, 0, stream, b"\0\0\0\x08")
        for stream in range(1, 201, 2)
    ),
    "a push": OPENED + frame(PUSH, END_HEADERS, 1, b"\0\0\0\x02" + a_call()),
    "a window of 0": CALLED + frame(WINDOW, 0, 0, b"\0\0\0\0"),
    "a window too large": CALLED + frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "a stream on itself": CALLED + frame(PRIORITY, 0, 1, b"\0\0\0\x01\x10"),
    "goaway": CALLED + frame(GOAWAY, 0, 0, b"\0" * 8),
}


@dataclass
class Port:
    """A server's door: how to come in, and a call that must be answered."""

    name: str
    connect: Callable[[], socket.socket]
    serves: Callable[[], None]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Port]]:
    folder = tmp_path_factory.mktemp("raw")
    with served_alone("api", folder / "a") as api, served_alone("agent", folder / "agent") as agent:
        unix, tls = Path(api["socket"]), tls_files(Path(api["pki"]), "client-admin")
        of_agent, name = tls_said(agent), host_tls_name(HOST_ID)
        with (
            grpc.insecure_channel(f"unix:{unix}") as to_api,
            grpc.secure_channel(
                f"127.0.0.1:{agent['port']}",
                of_agent.channel_credentials(),
                options=channel_options(name),
            ) as to_agent,
        ):
            # A server that had to be made anew cuts its callers off: they call again.
            projects = project_service_pb2_grpc.ProjectServiceStub(to_api)
            hosts = host_service_pb2_grpc.HostServiceStub(to_agent)

            def api_serves() -> None:
                patiently(lambda: projects.ListProjects(LIST, timeout=10))

            def agent_serves() -> None:
                patiently(lambda: hosts.Describe(DESCRIBE, timeout=10))

            yield [
                Port("scheduler, socket", lambda: _unix(unix), api_serves),
                Port("scheduler, TLS", lambda: _inside(api["port"], tls, "localhost"), api_serves),
                Port("scheduler, handshake", lambda: _tcp(api["port"]), api_serves),
                Port("agent, TLS", lambda: _inside(agent["port"], of_agent, name), agent_serves),
                Port("agent, handshake", lambda: _tcp(agent["port"]), agent_serves),
            ]


def patiently(call: Callable[[], object]) -> None:
    """Call as every client of ours does: UNAVAILABLE is tried again, for a while.

    So is CANCELLED here: it is what a call meets that comes in the instant its server ends.
    """
    end_s = time.monotonic() + TRIES_S
    while True:
        try:
            call()
        except grpc.RpcError as error:
            told: grpc.Call = error  # type: ignore[assignment] # it is both
            if told.code() not in PASSING or time.monotonic() > end_s:
                raise
            time.sleep(0.05)
        else:
            return


def _unix(path: Path) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX)
    opened.connect(str(path))
    return opened


def _tcp(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 5)


def _inside(port: int, tls: TlsFiles, name: str) -> socket.socket:
    context = ssl.create_default_context(cafile=str(tls.ca))
    context.load_cert_chain(tls.certificate, tls.key)
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(_tcp(port), server_hostname=name)


def throw(port: Port, content: bytes) -> None:
    """Send bytes, listen for a moment, hang up; whatever the peer does is its affair."""
    with suppress(OSError), port.connect() as opened:
        opened.settimeout(LISTEN_S)
        with suppress(OSError):
            opened.sendall(content)
            while opened.recv(65_536):
                pass


@pytest.mark.parametrize("number", range(5))
def test_after_broken_frames_the_server_serves(
    ports: list[Port], number: int, shows: Shows
) -> None:
    port = ports[number]
    port.serves()
    for name, content in BROKEN.items():
        throw(port, content)
        try:
            port.serves()
        except grpc.RpcError as error:
            pytest.fail(f"after {name}: {error}")
    shows(f"solid 7 fuzz, raw bytes, {port.name}", f"{len(BROKEN)} broken beginnings, then served")


@pytest.mark.parametrize("number", range(5))
def test_after_random_and_mutated_bytes_the_server_serves(
    ports: list[Port], number: int, shows: Shows
) -> None:
    port, rng = ports[number], seeded(f"raw bytes {number}")
    throws = count(200)
    for _ in range(throws):
        throw(port, _mutated(rng))
        port.serves()
    shows(f"solid 7 fuzz, random bytes, {port.name}", f"{throws} thrown, then served")


def test_a_hundred_half_open_callers_keep_nobody_out(ports: list[Port]) -> None:
    for port in ports:
        held = [port.connect() for _ in range(100)]
        try:
            for opened in held:
                with suppress(OSError):
                    opened.sendall(PREFACE[:5])
            port.serves()
        finally:
            for opened in held:
                opened.close()
        port.serves()


def _mutated(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return rng.randbytes(rng.randrange(1, 2000))
    content = bytearray(rng.choice(list(BROKEN.values())) or b"\0")
    for _ in range(rng.randrange(1, 8)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)
