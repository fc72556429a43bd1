"""Places of guests are bounded and fair, and every connection has an end. On real sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from unkai_agent.network.connections import Connections, Room, Talk

PATIENCE_S = 20


# Places


def taken(share: Any, count: int, peer: str = "10.0.0.5") -> list[str]:
    """Take so many places; return where what was cut is noted."""
    cut: list[str] = []
    for number in range(count):
        assert share.take(peer, lambda number=number: cut.append(f"{peer}/{number}")) is not None
    return cut


def test_places_are_bounded_by_network_and_by_guest() -> None:
    share = Room(100).share(most=3, most_each=2)
    taken(share, 2)
    assert share.take("10.0.0.5", lambda: None) is None
    place = share.take("10.0.0.6", lambda: None)
    assert share.take("10.0.0.7", lambda: None) is None
    share.give_back(place)
    share.give_back(place)
    assert share.taken == 2
    assert share.take("10.0.0.7", lambda: None) is not None


def test_a_full_host_takes_from_the_network_that_has_most_its_oldest() -> None:
    room = Room(6)
    greedy, other = room.share(6, 6), room.share(6, 6)
    cut = taken(greedy, 6)
    assert greedy.take("10.0.0.5", lambda: None) is None
    taken(other, 3)
    assert cut == ["10.0.0.5/0", "10.0.0.5/1", "10.0.0.5/2"]
    assert (greedy.taken, other.taken) == (3, 3)
    assert other.take("10.0.0.5", lambda: None) is None, "nobody is cut to and fro"


def test_a_network_that_is_gone_holds_no_places() -> None:
    room = Room(2)
    gone, share = room.share(2, 2), room.share(2, 2)
    taken(gone, 2)
    gone.close()
    taken(share, 2)


# Connections


class Site:
    """A site on the loopback."""

    def __init__(self, talk: Talk, most: int = 1000, most_each: int = 1000, **more: Any) -> None:
        self.room = Room()
        self.share = self.room.share(most, most_each)
        self.connections = Connections("test", self.share, talk, buffer_bytes=4096, **more)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.address = self.listener.getsockname()
        self.connections.listen(self.listener)

    async def connect(self, source: str = "127.0.0.1") -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        made.bind((source, 0))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_connect(made, self.address)
        return made

    async def ask(self, text: bytes = b"hello\n") -> bytes:
        """Say something; return all that is said until the end."""
        with await self.connect() as made:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(PATIENCE_S):
                try:
                    await loop.sock_sendall(made, text)
                    said = b""
                    while piece := await loop.sock_recv(made, 4096):
                        said += piece
                except ConnectionError:
                    return b""
                return said

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():  # noqa: ASYNC110 - many different things
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(talk: Talk, **more: Any) -> AsyncIterator[Site]:
    site = Site(talk, **more)
    try:
        yield site
    finally:
        await site.connections.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
    writer.write(await reader.readline())


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_what_was_said_arrives_before_the_end() -> None:
    async with serving(echo) as site:
        assert await site.ask() == b"hello\n"
        await site.until(lambda: site.share.taken == 0)


async def test_a_guest_that_takes_nothing_of_its_answer_does_not_keep_the_socket() -> None:
    served: list[str] = []

    async def much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        served.append(peer)
        writer.write(bytes(16 << 20))

    async with serving(much, end_s=0.1) as site:
        before = open_files()
        held = [await site.connect() for _ in range(5)]
        await site.until(lambda: len(served) == 5)
        await site.until(lambda: site.share.taken == 0)
        assert open_files() == before + len(held), "the guest's ends alone are open"
        for each in held:
            each.close()


async def test_too_many_connections_cost_no_files_and_leave_room_for_others() -> None:
    async with serving(echo, most_each=3) as site:
        before = open_files()
        held = [await site.connect() for _ in range(40)]
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            ends = await asyncio.gather(
                *(loop.sock_recv(each, 1) for each in held[3:]), return_exceptions=True
            )
        assert all(end == b"" or isinstance(end, ConnectionError) for end in ends)
        await site.until(lambda: open_files() <= before + len(held) + 3)
        with await site.connect("127.0.0.2") as other:
            await loop.sock_sendall(other, b"hello\n")
            assert await loop.sock_recv(other, 100) == b"hello\n"
        for each in held:
            each.close()


async def test_a_bug_of_one_conversation_ends_that_one_alone() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        said = await reader.readline()
        if said == b"bad\n":
            raise KeyError("a bug")
        writer.write(said)

    async with serving(talk) as site:
        assert await site.ask(b"bad\n") == b""
        assert await site.ask() == b"hello\n"
        assert site.connections.are_served


async def test_what_the_kernel_says_of_a_listener_that_is_well_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, [errno.EMFILE, errno.ECONNABORTED, errno.ENOBUFS]

    async def failing(listener: socket.socket) -> Any:
        if failures:
            raise OSError(failures.pop(), "no")
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", failing)
    async with serving(echo) as site:
        assert await site.ask() == b"hello\n"
        assert failures == []


async def test_a_listener_that_is_dead_is_told() -> None:
    async with serving(echo) as site:
        assert await site.ask() == b"hello\n"
        assert site.connections.are_served
        site.listener.shutdown(socket.SHUT_RDWR)
        await site.until(lambda: not site.connections.are_served)


async def test_a_flood_of_connections_is_accepted_no_faster_than_allowed() -> None:
    begun = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        nonlocal begun
        begun += 1

    async with serving(count, accepted_per_s=2.0) as site:
        held = [await site.connect() for _ in range(40)]
        await site.until(lambda: begun >= 10)  # five seconds' worth at once
        await asyncio.sleep(0.2)
        assert begun < 20
        for each in held:
            each.close()


async def test_the_end_leaves_no_socket_and_no_place() -> None:
    before = open_files()
    async with serving(echo) as site:
        held = [await site.connect() for _ in range(5)]
        await site.until(lambda: site.share.taken == 5)
    assert site.share.taken == 0
    for each in held:
        each.close()
    assert open_files() == before
    with pytest.raises(ConnectionRefusedError):
        await site.connect()
