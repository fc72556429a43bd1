"""Connections to machines: bytes both ways, ends that are passed on, and refusals."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from tests.support.ports import a_network_id, a_port, an_ipv4
from unkai_agent.domain.ports import PortSpec
from unkai_agent.network import forwarding
from unkai_agent.network.driver import sites_of
from unkai_agent.network.fake import FakeNetwork
from unkai_agent.network.forwarding import Forwarder
from unkai_wire.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable

PORT = a_port(addresses=(an_ipv4("127.0.0.1"),))
LOOPBACK = {4: "127.0.0.1", 6: "::1"}


async def a_forwarder(port: PortSpec = PORT) -> Forwarder:
    driver = FakeNetwork()
    await driver.ensure_sites(sites_of([port]))
    return Forwarder(driver, LOOPBACK)


def a_machine() -> socket.socket:
    """Return what stands for a machine: a listener on the loopback."""
    made = socket.create_server(("127.0.0.1", 0))
    made.settimeout(20)
    return made


class Caller:
    """What a caller sends, a piece at a time."""

    def __init__(self) -> None:
        self._sent: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    def send(self, piece: bytes | Exception | None) -> None:
        self._sent.put_nowait(piece)

    async def pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self._sent.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece


async def _accept(machine: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection, _ = await asyncio.to_thread(machine.accept)
    return await asyncio.open_connection(sock=connection)


async def test_each_side_ends_by_itself() -> None:
    """The caller ends first; the machine still answers; then it ends, too."""
    forwarder, caller, machine = await a_forwarder(), Caller(), a_machine()
    with machine:
        talk = forwarder.talk(PORT, machine.getsockname()[1], caller.pieces())
        async with asyncio.timeout(20):
            assert await anext(talk) == b""
            reader, writer = await _accept(machine)
            caller.send(b"question")
            caller.send(None)
            assert await reader.read() == b"question"  # to its end
            writer.write(b"answer")
            assert await anext(talk) == b"answer"
            writer.write_eof()
            assert await anext(talk) is None
            assert [piece async for piece in talk] == []
            writer.close()


async def test_a_machine_that_ends_first_is_still_written_to() -> None:
    forwarder, caller, machine = await a_forwarder(), Caller(), a_machine()
    with machine:
        talk = forwarder.talk(PORT, machine.getsockname()[1], caller.pieces())
        async with asyncio.timeout(20):
            await anext(talk)
            reader, writer = await _accept(machine)
            writer.write_eof()
            assert await anext(talk) is None
            rest = asyncio.ensure_future(anext(talk, "over"))
            caller.send(b"late")
            assert await reader.readexactly(4) == b"late"
            caller.send(None)
            assert await rest == "over"
            writer.close()


async def test_many_bytes_pass_whole_and_do_not_pile_up() -> None:
    forwarder, caller, machine = await a_forwarder(), Caller(), a_machine()
    text = bytes(range(256)) * (16 << 10)  # 4 MiB

    async def echo() -> None:
        reader, writer = await _accept(machine)
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
        writer.close()

    with machine:
        echoing = asyncio.ensure_future(echo())
        for start in range(0, len(text), 65536):
            caller.send(text[start : start + 65536])
        caller.send(None)
        got = bytearray()
        async with asyncio.timeout(60):
            async for piece in forwarder.talk(PORT, machine.getsockname()[1], caller.pieces()):
                got += piece or b""
                assert piece is None or len(piece) <= forwarding.PIECE_BYTES
            await echoing
    assert got == text


async def test_a_caller_that_says_nonsense_ends_the_connection() -> None:
    forwarder, caller, machine = await a_forwarder(), Caller(), a_machine()
    with machine:
        talk = forwarder.talk(PORT, machine.getsockname()[1], caller.pieces())
        async with asyncio.timeout(20):
            await anext(talk)
            reader, writer = await _accept(machine)
            caller.send(InvalidArgument("nonsense"))
            with pytest.raises(InvalidArgument):
                await anext(talk)
            assert await reader.read() == b""
            writer.close()


async def test_a_caller_that_goes_away_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "CONNECTIONS_EACH", 1)
    forwarder, caller, machine = await a_forwarder(), Caller(), a_machine()
    with machine:
        number = machine.getsockname()[1]
        first = forwarder.talk(PORT, number, caller.pieces())
        await anext(first)
        second = forwarder.talk(PORT, number, Caller().pieces())
        with pytest.raises(Unavailable) as caught:
            await anext(second)
        assert caught.value.reason == "FORWARDS_FULL"
        await first.aclose()
        third = forwarder.talk(PORT, number, Caller().pieces())
        assert await anext(third) == b""
        await third.aclose()


async def test_a_machine_that_refuses_says_so() -> None:
    forwarder, machine = await a_forwarder(), a_machine()
    number = machine.getsockname()[1]
    machine.close()
    with pytest.raises(FailedPrecondition) as caught:
        await anext(forwarder.talk(PORT, number, Caller().pieces()))
    assert caught.value.reason == "FORWARD_REFUSED"
    assert caught.value.metadata["port_number"] == str(number)


async def test_a_machine_that_is_silent_names_the_rule_to_add(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forwarding, "_CONNECT_S", 0.1)
    forwarder = await a_forwarder()
    with socket.socket() as full:  # its queue is full: it takes no more
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        number = full.getsockname()[1]
        held = [socket.socket() for _ in range(4)]
        for each in held:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", number))
        with pytest.raises(FailedPrecondition) as caught:
            await anext(forwarder.talk(PORT, number, Caller().pieces()))
        for each in held:
            each.close()
    assert caught.value.reason == "FORWARD_TIMED_OUT"
    assert "security group rule" in caught.value.fix


async def test_one_ports_callers_leave_room_for_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "CONNECTIONS_EACH", 1)
    monkeypatch.setattr(forwarding, "CONNECTIONS", 2)
    forwarder, machine = await a_forwarder(), a_machine()
    ports = [a_port(n, addresses=(an_ipv4("127.0.0.1"),)) for n in (1, 2, 3)]
    with machine:
        number = machine.getsockname()[1]
        held = [forwarder.talk(port, number, Caller().pieces()) for port in ports]
        for talk in held[:2]:
            assert await anext(talk) == b""
        with pytest.raises(Unavailable, match="2 connections in all"):
            await anext(held[2])
        await held[0].aclose()
        with pytest.raises(Unavailable, match="1 connections to this port"):
            await anext(forwarder.talk(ports[1], number, Caller().pieces()))
        await held[1].aclose()


async def test_a_connection_ends_over_which_nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the machine could still send or has ended."""
    forwarder, machine = await a_forwarder(), a_machine()
    with machine:
        for ends_first in (False, True):
            monkeypatch.setattr(forwarding, "IDLE_S", 60.0)
            talk = forwarder.talk(PORT, machine.getsockname()[1], Caller().pieces())
            async with asyncio.timeout(20):
                await anext(talk)
                reader, writer = await _accept(machine)
                if ends_first:
                    writer.write_eof()
                    assert await anext(talk) is None
                monkeypatch.setattr(forwarding, "IDLE_S", 0.5)
                with pytest.raises(Unavailable) as caught:
                    await anext(talk)
                assert caught.value.reason == "FORWARD_IDLE"
                assert await _ends(reader)
                writer.close()


async def test_a_connection_lives_while_bytes_pass_in_one_direction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forwarding, "IDLE_S", 3.0)
    forwarder, caller, machine = await a_forwarder(), Caller(), a_machine()
    with machine:
        talk = forwarder.talk(PORT, machine.getsockname()[1], caller.pieces())
        async with asyncio.timeout(60):
            await anext(talk)
            reader, writer = await _accept(machine)
            rest = asyncio.ensure_future(anext(talk))
            for _ in range(8):
                caller.send(b"x")
                await asyncio.sleep(0.4)
            assert await reader.readexactly(8) == b"x" * 8
            writer.write(b"still here")
            assert await rest == b"still here"
            await talk.aclose()
            writer.close()


async def test_a_connection_that_the_machine_resets_is_told_so() -> None:
    forwarder, machine = await a_forwarder(), a_machine()
    with machine:
        talk = forwarder.talk(PORT, machine.getsockname()[1], Caller().pieces())
        async with asyncio.timeout(20):
            await anext(talk)
            connection, _ = await asyncio.to_thread(machine.accept)
            # Closed with a linger of 0 s: by a reset (tcp(7), socket(7)).
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            with pytest.raises(Unavailable) as caught:
                await anext(talk)
    assert caught.value.reason == "FORWARD_RESET"


@pytest.mark.parametrize("code", [errno.ETIMEDOUT, errno.EHOSTUNREACH])
async def test_a_machine_that_acknowledges_nothing_any_more_ends_it(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """What the kernel says after minutes of keepalives is no idle time; others are served on."""
    monkeypatch.setattr(forwarding, "IDLE_S", 5.0)
    readers: list[asyncio.StreamReader] = []

    async def opened(
        *args: Any, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = await open_connection(*args, **kwargs)
        readers.append(made[0])
        return made

    open_connection = asyncio.open_connection
    monkeypatch.setattr(asyncio, "open_connection", opened)
    forwarder, machine = await a_forwarder(), a_machine()
    with machine:
        talk = forwarder.talk(PORT, machine.getsockname()[1], Caller().pieces())
        assert await anext(talk) == b""
        readers[0].set_exception(OSError(code, os.strerror(code)))
        with pytest.raises(Unavailable, match=os.strerror(code)) as caught:
            await anext(talk)
    assert caught.value.reason == "FORWARD_BROKEN"


async def test_a_caller_that_ends_after_a_reset_is_told_of_the_reset() -> None:
    forwarder, machine = await a_forwarder(), a_machine()
    with machine:
        for _ in range(20):
            caller = Caller()
            talk = forwarder.talk(PORT, machine.getsockname()[1], caller.pieces())
            async with asyncio.timeout(20):
                await anext(talk)
                connection, _ = await asyncio.to_thread(machine.accept)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
                caller.send(None)
                with pytest.raises(Unavailable) as caught:
                    async for _ in talk:
                        pass
            assert caught.value.reason == "FORWARD_RESET"


async def test_a_network_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "CONNECTIONS_OF_NETWORK", 1)
    forwarder, machine = await a_forwarder(), a_machine()
    with machine:
        number = machine.getsockname()[1]
        one, other = (a_port(n, addresses=(an_ipv4("127.0.0.1"),)) for n in (1, 2))
        held = forwarder.talk(one, number, Caller().pieces())
        assert await anext(held) == b""
        with pytest.raises(Unavailable, match="1 connections to this network"):
            await anext(forwarder.talk(other, number, Caller().pieces()))
        await held.aclose()


async def _ends(reader: asyncio.StreamReader) -> bool:
    """Tell whether the machine's side has nothing more to come, by an end or a reset."""
    with suppress(ConnectionError):
        return await reader.read() == b""
    return True


async def test_a_network_that_is_not_here_is_not_found() -> None:
    forwarder = await a_forwarder()
    elsewhere = a_port(network_id=a_network_id(9))
    with pytest.raises(NotFound) as caught:
        await anext(forwarder.talk(elsewhere, 22, Caller().pieces()))
    assert caught.value.reason == "NETWORK_NOT_HERE"
