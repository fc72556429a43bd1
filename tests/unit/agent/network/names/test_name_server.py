"""The name service on real sockets: UDP and TCP, others' answers, and limits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import pytest_asyncio

from unkai_agent.network.connections import Room
from unkai_agent.network.names import server
from unkai_agent.network.names.server import Forward, NameLimits, NameSite, Resolvers, Rooms
from unkai_agent.network.names.table import NameTable

TABLE = NameTable(
    "internal",
    1,
    {"web": ("10.0.0.5",), "many": tuple(f"10.1.0.{n}" for n in range(200))},
)
_S = 20


def elsewhere(query: dns.message.Message) -> dns.message.Message:
    """Answer as the rest of the world does."""
    response = dns.message.make_response(query)
    name = query.question[0].name
    response.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.1"))
    return response


async def _others(query: dns.message.Message, by_tcp: bool) -> dns.message.Message:
    return elsewhere(query)


class Served:
    """A site on the loopback, UDP and TCP on one port."""

    def __init__(self, forward: Forward, rooms: Rooms | None = None, **limits: Any) -> None:
        self.site = NameSite(
            lambda: TABLE,
            forward,
            replace(NameLimits(), **limits),
            monotonic=lambda: 0.0,
            rooms=rooms,
        )
        self.port = 0

    async def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        packets.bind(("127.0.0.1", self.port))
        for each in (listener, packets):
            self.site.listen(each)

    async def udp(self, name: str, kind: str = "A", **options: Any) -> dns.message.Message:
        query = dns.message.make_query(name, kind, **options)
        return await dns.asyncquery.udp(query, "127.0.0.1", port=self.port, timeout=_S)

    async def tcp(self, name: str, kind: str = "A") -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        return await dns.asyncquery.tcp(query, "127.0.0.1", port=self.port, timeout=_S)


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Served]]]:
    made: list[Served] = []

    async def start(forward: Forward = _others, **limits: Any) -> Served:
        served = Served(forward, **limits)
        made.append(served)
        await served.start()
        return served

    yield start
    for served in made:
        await served.site.close()


Serve = Callable[..., Awaitable[Served]]


def addresses(response: dns.message.Message) -> set[str]:
    return {record.to_text() for rrset in response.answer for record in rrset}


async def test_names_are_answered_by_udp_and_tcp(serve: Serve) -> None:
    served = await serve()
    assert addresses(await served.udp("web.internal")) == {"10.0.0.5"}
    assert addresses(await served.tcp("web.internal")) == {"10.0.0.5"}
    assert (await served.udp("nobody.internal")).rcode() == dns.rcode.NXDOMAIN


async def test_other_names_are_asked_of_others(serve: Serve) -> None:
    served = await serve()
    assert addresses(await served.udp("example.org")) == {"192.0.2.1"}
    assert addresses(await served.tcp("example.org")) == {"192.0.2.1"}


async def test_a_long_answer_comes_by_tcp(serve: Serve) -> None:
    served = await serve()
    cut = await served.udp("many.internal")
    assert cut.flags & dns.flags.TC
    assert len(addresses(await served.tcp("many.internal"))) == 200


async def test_several_questions_come_on_one_connection(serve: Serve) -> None:
    served = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    async with asyncio.timeout(_S):
        for name in ("web.internal", "example.org", "web"):
            wire = dns.message.make_query(name, "A").to_wire()
            writer.write(len(wire).to_bytes(2) + wire)
            length = int.from_bytes(await reader.readexactly(2))
            response = dns.message.from_wire(await reader.readexactly(length))
            assert response.question[0].name.to_text() == f"{name}."
    writer.close()


@pytest.mark.parametrize("error", [OSError("no"), dns.exception.Timeout(), TimeoutError()])
async def test_where_others_fail_the_guest_is_told_so(serve: Serve, error: Exception) -> None:
    async def fail(query: dns.message.Message, by_tcp: bool) -> dns.message.Message:
        raise error

    served = await serve(fail)
    assert (await served.udp("example.org")).rcode() == dns.rcode.SERVFAIL


async def test_who_waits_for_others_holds_nobody_up_and_is_bounded(serve: Serve) -> None:
    asked = 0

    async def never(query: dns.message.Message, by_tcp: bool) -> dns.message.Message:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()
        raise AssertionError

    served = await serve(never, forwarded_each=3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guest:
        for number in range(10):
            query = dns.message.make_query(f"{number}.example.org", "A")
            guest.sendto(query.to_wire(), ("127.0.0.1", served.port))
        assert addresses(await served.udp("web.internal")) == {"10.0.0.5"}
    assert asked == 3
    await served.site.close()


async def test_a_flood_of_questions_to_others_is_bounded_for_the_host(serve: Serve) -> None:
    """Each is an open file; one network's do not keep another's out."""
    rooms = Rooms(questions=Room(40))

    async def never(query: dns.message.Message, by_tcp: bool) -> dns.message.Message:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM):
            await asyncio.Event().wait()
        raise AssertionError

    served = await serve(never, rooms=rooms, forwarded=100, forwarded_each=100)
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guest:
        for number in range(400):
            query = dns.message.make_query(f"{number}.example.org", "A")
            guest.sendto(query.to_wire(), ("127.0.0.1", served.port))
        async with asyncio.timeout(_S):
            while rooms.questions.taken < 40:  # noqa: ASYNC110 - the site tells nobody
                await asyncio.sleep(0.01)
    assert addresses(await served.udp("web.internal")) == {"10.0.0.5"}
    assert len(os.listdir("/proc/self/fd")) <= before + 41
    other = await serve(rooms=rooms)
    assert addresses(await other.udp("example.org")) == {"192.0.2.1"}


async def test_a_network_that_asks_too_often_is_not_read_for_a_while(serve: Serve) -> None:
    served = await serve(rate=2.0)
    taken = 0
    take = served.site._allowance.take

    def counted() -> bool:
        nonlocal taken
        taken += 1
        return take()

    served.site._allowance.take = counted  # type: ignore[method-assign]
    query = dns.message.make_query("web.internal", "A").to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guest:
        for _ in range(200):
            guest.sendto(query, ("127.0.0.1", served.port))
        await asyncio.sleep(0.2)
    assert 10 < taken < 60


async def test_a_query_by_tcp_that_claims_to_be_huge_is_cut(serve: Serve) -> None:
    served = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write((65535).to_bytes(2) + bytes(3000))
    async with asyncio.timeout(_S):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    assert addresses(await served.tcp("web.internal")) == {"10.0.0.5"}


async def test_a_bug_of_one_answer_is_told_as_such_and_others_are_answered(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = server.answer

    def bug(query: dns.message.Message, table: NameTable) -> dns.message.Message | None:
        if query.question[0].name.to_text().startswith("bad"):
            raise KeyError("a bug")
        return own(query, table)

    monkeypatch.setattr(server, "answer", bug)
    served = await serve()
    for ask in (served.udp, served.tcp):
        assert (await ask("bad.internal")).rcode() == dns.rcode.SERVFAIL
        assert addresses(await ask("web.internal")) == {"10.0.0.5"}


async def test_others_have_so_long_and_no_longer(serve: Serve) -> None:
    async def never(query: dns.message.Message, by_tcp: bool) -> dns.message.Message:
        await asyncio.Event().wait()
        raise AssertionError

    served = await serve(never, forward_s=0.05)
    assert (await served.udp("example.org")).rcode() == dns.rcode.SERVFAIL


async def test_what_is_no_query_is_dropped_and_harms_nobody(serve: Serve) -> None:
    served = await serve()
    answered = dns.message.make_response(dns.message.make_query("web.internal", "A"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guest:
        for text in (b"", b"\x00", b"x" * 2000, answered.to_wire()):
            guest.sendto(text, ("127.0.0.1", served.port))
        assert addresses(await served.udp("web.internal")) == {"10.0.0.5"}
        guest.setblocking(False)
        with pytest.raises(BlockingIOError):
            guest.recv(1)


async def test_a_network_that_asks_too_often_waits(serve: Serve) -> None:
    served = await serve(rate=1.0)
    for _ in range(5):
        await served.udp("web.internal")
    query = dns.message.make_query("web.internal", "A")
    with pytest.raises(dns.exception.Timeout):
        await dns.asyncquery.udp(query, "127.0.0.1", port=served.port, timeout=0.1)


async def test_one_guests_connections_are_bounded(serve: Serve) -> None:
    served = await serve(connections_each=1)
    held = await asyncio.open_connection("127.0.0.1", served.port)
    async with asyncio.timeout(_S):
        while True:  # until the first is noticed
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            try:
                end = await reader.read()
            except ConnectionError:
                end = b""
            writer.close()
            if end == b"":
                break
    held[1].close()


async def test_an_idle_connection_is_ended(serve: Serve) -> None:
    served = await serve(idle_s=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    async with asyncio.timeout(_S):
        assert await reader.read() == b""
    writer.close()


async def test_closing_frees_the_port(serve: Serve) -> None:
    served = await serve()
    await served.udp("web.internal")
    await served.site.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("127.0.0.1", served.port))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", served.port)


# -- the host's resolvers ------------------------------------------------------------------


async def test_a_resolver_that_fails_is_followed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    async def udp(query: dns.message.Message, where: str, **_: Any) -> dns.message.Message:
        asked.append((where, query.id))
        if where == "192.0.2.1":
            raise dns.exception.Timeout
        return elsewhere(query)

    monkeypatch.setattr(dns.asyncquery, "udp", udp)
    file = tmp_path / "resolv.conf"
    file.write_text("search x\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n")
    resolvers = Resolvers(file)
    query = dns.message.make_query("example.org", "A")
    assert addresses(await resolvers.ask(query, False)) == {"192.0.2.1"}
    assert [where for where, _ in asked] == ["192.0.2.1", "192.0.2.2"]
    assert len({ident for _, ident in asked} | {query.id}) > 1, "ids of its own"
    file.write_text("nameserver 192.0.2.3\n")
    await resolvers.ask(query, False)
    assert asked[-1][0] == "192.0.2.3"


@pytest.mark.parametrize("text", [None, "", "options x\n"])
async def test_a_host_without_resolvers_says_so(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "resolv.conf"
    if text is not None:
        file.write_text(text)
    with pytest.raises((OSError, dns.exception.DNSException)):
        await Resolvers(file).ask(dns.message.make_query("example.org", "A"), False)


@pytest.mark.parametrize("by_tcp", [False, True])
async def test_a_resolver_is_asked_over_the_wire(
    serve: Serve, by_tcp: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another site plays the resolver; only its port is not the usual one."""
    served = await serve()
    for name in ("udp", "tcp"):
        real = getattr(dns.asyncquery, name)

        async def at_port(
            query: dns.message.Message, where: str, *, real: Any = real, **options: Any
        ) -> dns.message.Message:
            found: dns.message.Message = await real(query, where, port=served.port, **options)
            return found

        monkeypatch.setattr(dns.asyncquery, name, at_port)
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\n")
    resolvers = Resolvers(file, each_s=_S)
    found = await resolvers.ask(dns.message.make_query("web.internal", "A"), by_tcp)
    assert addresses(found) == {"10.0.0.5"}
