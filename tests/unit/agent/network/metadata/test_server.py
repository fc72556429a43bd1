"""The metadata service on a real socket: HTTP, limits, and an end that leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from tests.support.agent import a_spec
from tests.support.metadata import HOST, Said, ask, exchange, said
from tests.support.ports import a_network_id, a_port, an_ipv4
from unkai_agent.network.guests import Guests
from unkai_agent.network.metadata.server import Limits, MetadataSite
from unkai_agent.network.metadata.tokens import Tokens

NETWORK = a_network_id()
SPEC = a_spec(ports=(a_port(addresses=(an_ipv4("127.0.0.1"),)),), metadata_seed=True)


class Served:
    """A site on the loopback, whose guest has the address 127.0.0.1."""

    def __init__(self, **limits: Any) -> None:
        self.site = MetadataSite(
            NETWORK, Guests([SPEC]), Tokens(), replace(Limits(), **limits), monotonic=lambda: 0.0
        )
        self.port = 0

    async def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.site.listen(listener)

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(
            ("127.0.0.1", self.port), timeout=20, source_address=(source, 0)
        )

    async def ask(self, path: str = "/", **options: Any) -> Said:
        return await ask(self.connect(), path, **options)

    async def send(self, text: str) -> bytes:
        return await exchange(self.connect(), text.encode())


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    await served.start()
    yield served
    await served.site.close()


async def started(**limits: Any) -> Served:
    served = Served(**limits)
    await served.start()
    return served


async def test_a_guest_reads_its_documents(served: Served) -> None:
    answer = await served.ask("/openstack/latest/meta_data.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body)["name"] == SPEC.name


async def test_a_token_is_asked_for_and_used(served: Served) -> None:
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60", "Content-Length": "0"}
    token = (await served.ask("/latest/api/token", method="PUT", headers=ttl)).body.decode()
    refused = await served.ask("/latest/user-data")
    read = await served.ask("/latest/user-data", headers={"X-Aws-EC2-Metadata-Token": token})
    assert (refused.status, read.status) == (401, 200)
    assert read.body == SPEC.seed.user_data
    assert "location" not in read.headers
    assert not [name for name in read.headers if name.startswith("access-control")]


async def test_an_address_of_nobody_reads_nothing(served: Served) -> None:
    assert (await ask(served.connect("127.0.0.2"), "/openstack")).status == 404


async def test_a_connection_carries_several_requests(served: Served) -> None:
    first = f"GET /latest/meta-data/mac HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
    last = f"GET /nothing HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
    text = await served.send(first + first + last)
    assert text.count(b"200 OK") == 2
    assert text.count(b"401 Unauthorized") == 1


async def test_a_head_has_the_length_and_no_body(served: Served) -> None:
    read = await served.ask("/latest/meta-data/mac", method="HEAD")
    assert (read.status, read.headers["content-length"], read.body) == (200, "17", b"")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (f"GET / HTTP/1.1\r\nHost: {HOST}\r\nX: {'x' * 20000}\r\n\r\n", 431),
        (f"GET /{'x' * 20000} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", 431),
        (
            f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2000\r\n\r\n{'x' * 2000}",
            413,
        ),
    ],
)
async def test_what_is_too_much_or_no_http_is_refused(
    served: Served, text: str, status: int
) -> None:
    assert said(await served.send(text)).status == status


async def test_a_guest_that_says_nothing_is_cut_off() -> None:
    served = await started(idle_s=0.05)
    try:
        assert await served.send("GET / HT") == b""
    finally:
        await served.site.close()


async def test_a_guest_that_says_little_by_little_is_cut_off_too() -> None:
    served = await started(idle_s=0.3)
    connection = served.connect()
    connection.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        async with asyncio.timeout(30):
            while not (reader.at_eof() or reader.exception()):
                writer.write(b"G")
                await asyncio.sleep(0.02)
    finally:
        writer.close()
        await served.site.close()


async def test_what_a_guest_sends_without_end_is_not_kept(served: Served) -> None:
    """Neither a header nor a body: it is refused long before a megabyte has come."""
    head = f"POST / HTTP/1.1\r\nHost: {HOST}\r\n"
    for text in (head + "X: ", head + "Transfer-Encoding: chunked\r\n\r\n100000\r\n"):
        connection = served.connect()
        connection.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connection)
        writer.write(text.encode())
        sent = 0
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionError):
                while not reader.at_eof():
                    writer.write(bytes(65536).replace(b"\0", b"x"))
                    await writer.drain()
                    await asyncio.wait_for(reader.read(4096), 5)
                    sent += 65536
        assert sent < 1 << 20
        writer.transport.abort()


async def test_a_bug_of_one_answer_is_told_as_such_and_others_are_answered(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Guests.asking

    def bug(guests: Guests, network_id: str, address: str) -> Any:
        if address == "127.0.0.9":
            raise KeyError("a bug")
        return asking(guests, network_id, address)

    monkeypatch.setattr(Guests, "asking", bug)
    failed = await ask(served.connect("127.0.0.9"), "/openstack")
    assert failed.status == 500
    assert b"bug" not in failed.body
    assert (await served.ask("/openstack")).status == 200


async def test_one_guests_connections_are_bounded_and_leave_room_for_others() -> None:
    served = await started(connections_each=2)
    held = [served.connect() for _ in range(2)]
    try:
        async with asyncio.timeout(30):
            while True:  # until both are noticed
                try:
                    if await served.send(f"GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n") == b"":
                        break
                except ConnectionError:
                    break
        assert (await ask(served.connect("127.0.0.2"))).status == 404
        held.pop().close()
        async with asyncio.timeout(30):
            while True:
                try:
                    if (await exchange(served.connect(), _REQUEST)).startswith(b"HTTP/1.1 200"):
                        break
                except ConnectionError:
                    pass
    finally:
        for connection in held:
            connection.close()
        await served.site.close()


_REQUEST = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()


async def test_a_network_that_asks_too_often_is_told_to_wait() -> None:
    served = await started(rate=1.0)
    try:
        answers = [await served.ask("/openstack") for _ in range(6)]
    finally:
        await served.site.close()
    assert [each.status for each in answers] == [200] * 5 + [429]
    assert answers[5].headers["retry-after"] == "1"


async def test_a_connection_ends_after_so_many_requests() -> None:
    served = await started(requests=2)
    one = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
    try:
        text = await served.send(one * 3)
    finally:
        await served.site.close()
    assert text.count(b"HTTP/1.1 200") == 2


async def test_closing_cuts_who_is_connected_and_frees_the_port() -> None:
    served = await started()
    held = served.connect()
    held.settimeout(20)
    await served.ask()  # so that the first connection was accepted, too
    await served.site.close()
    assert await asyncio.to_thread(held.recv, 1) == b""
    held.close()
    with pytest.raises(ConnectionRefusedError):
        served.connect()
