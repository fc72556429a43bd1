"""A TCP connection to a machine, made from inside its own network, and what passes over it.

Each direction ends by itself: an end is passed on, and the other direction goes on. What is not
taken is not read: neither side's bytes pile up here. Security groups apply, for to its machine the
connection is one from outside.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress

from unkai_agent.domain.ports import PortAddress, PortSpec
from unkai_agent.network.driver import NetworkDriver
from unkai_agent.network.first_connection import Attempt, first_connection
from unkai_agent.network.namespaces import ADDRESS_V4, ADDRESS_V6
from unkai_agent.network.sockets import outgoing
from unkai_wire.errors import FailedPrecondition, Unavailable

PIECE_BYTES = 64 << 10
CONNECTIONS = 128
"""At once, of a host. Each holds up to some 300 KiB: pieces on their way, and gRPC's windows."""
CONNECTIONS_OF_NETWORK = 64
"""At once, of a network: whoever has many machines on a host leaves room for others', too."""
CONNECTIONS_EACH = 32
"""At once, of a port, so that one machine's callers leave room for others'; as many as one
`unkai forward` opens."""
IDLE_S = 3600.0
"""After so long without a byte in either direction the connection ends, or callers that vanished
without a word would hold their places for ever. People at a shell come back sooner, or let ssh
send keepalives (ServerAliveInterval)."""
SOURCES = {4: ADDRESS_V4, 6: ADDRESS_V6}
"""Where connections come from, by version: rules name it, and guests have a way back to it."""
_CONNECT_S = 10.0
"""For all addresses together: one SYN and three more."""


class Forwarder:
    """The forwarded connections of one host."""

    def __init__(self, driver: NetworkDriver, sources: Mapping[int, str] = SOURCES) -> None:
        """`sources`: the host's own addresses on every network, by version."""
        self._driver = driver
        self._sources = sources
        self._open: Counter[tuple[str, str]] = Counter()
        """By network and port."""

    async def talk(
        self, port: PortSpec, number: int, incoming: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes | None, None]:
        """Connect to a port's machine and carry bytes; the end of `incoming` is its end.

        The first item is empty and says that the connection is open; None says that the machine
        sends no more. Raises `FailedPrecondition` / FORWARD_REFUSED, FORWARD_TIMED_OUT;
        `Unavailable` / FORWARDS_FULL, FORWARD_RESET, FORWARD_BROKEN, FORWARD_IDLE; `NotFound` /
        NETWORK_NOT_HERE.
        """
        self._check_room(port)
        held = (port.network_id, port.port_id)
        self._open[held] += 1
        try:
            connection = await self._connect(port, number)
            async with aclosing(_Talk().pieces(connection, incoming)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._open[held] -= 1
            self._open += Counter()  # forgets who has none

    def _check_room(self, port: PortSpec) -> None:
        network_id = port.network_id
        of_network = sum(count for (each, _), count in self._open.items() if each == network_id)
        for count, most, what in (
            (self._open[network_id, port.port_id], CONNECTIONS_EACH, "to this port"),
            (of_network, CONNECTIONS_OF_NETWORK, "to this network"),
            (self._open.total(), CONNECTIONS, "in all"),
        ):
            if count >= most:
                raise Unavailable(
                    f"the host forwards {most} connections {what} already",
                    reason="FORWARDS_FULL",
                    fix="end some, or give the instance a floating address",
                    metadata={"most": str(most)},
                )

    async def _connect(self, port: PortSpec, number: int) -> socket.socket:
        """Connect to whichever of the port's addresses answers first; IPv4 has a small lead."""

        def attempt(address: PortAddress) -> Attempt:
            return lambda: self._connect_to(port.network_id, address, number)

        addresses = sorted(port.addresses, key=lambda each: each.ip.version)
        try:
            return await first_connection([attempt(each) for each in addresses], _CONNECT_S)
        except OSError as error:
            raise _no_connection(port, number, error) from error

    async def _connect_to(
        self, network_id: str, address: PortAddress, number: int
    ) -> socket.socket:
        source = self._sources[address.ip.version]
        made = await self._driver.open_socket(network_id, outgoing(source))
        try:
            await asyncio.get_running_loop().sock_connect(made, (address.address, number))
        except BaseException:
            made.close()
            raise
        return made


class _Talk:
    """What passes over one connection, and when something last did."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()

    async def pieces(
        self, connection: socket.socket, incoming: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes | None, None]:
        reader, writer = await asyncio.open_connection(sock=connection, limit=PIECE_BYTES)
        sending = asyncio.ensure_future(self._send(writer, incoming))
        try:
            yield b""
            while piece := await self._read(reader):
                yield piece
            if sending.done():
                sending.result()
            yield None
            await self._finish(sending)
        except OSError as error:
            raise _broken(error) from error
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        while True:
            try:
                async with asyncio.timeout_at(self._last_s + IDLE_S) as idle:
                    piece = await reader.read(PIECE_BYTES)
            except TimeoutError:
                if not idle.expired():
                    raise  # the kernel's: the machine has acknowledged nothing for minutes
                self._check_idle()
            else:
                self._last_s = self._loop.time()
                return piece

    async def _finish(self, sending: asyncio.Future[None]) -> None:
        while not sending.done():
            left_s = self._last_s + IDLE_S - self._loop.time()
            await asyncio.wait({sending}, timeout=left_s)
            self._check_idle()
        sending.result()

    async def _send(self, writer: asyncio.StreamWriter, incoming: AsyncIterator[bytes]) -> None:
        try:
            async for piece in incoming:
                self._last_s = self._loop.time()
                try:
                    writer.write(piece)
                    await writer.drain()
                except OSError:
                    return  # it reads no more: who reads sees how it ended
            with suppress(OSError):
                writer.write_eof()
        except BaseException:
            writer.transport.abort()  # the caller went away, or said nonsense: who reads ends, too
            raise

    def _check_idle(self) -> None:
        if self._loop.time() >= self._last_s + IDLE_S:
            raise Unavailable(
                f"nothing has passed over the connection for {IDLE_S / 60:.0f} minutes",
                reason="FORWARD_IDLE",
                fix="connect again; let ssh send keepalives: -o ServerAliveInterval=300",
                metadata={"idle_s": f"{IDLE_S:.0f}"},
            )


def _broken(failure: OSError) -> Unavailable:
    if isinstance(failure, ConnectionError):
        return Unavailable(
            "the machine has reset the connection",
            reason="FORWARD_RESET",
            fix="see that what listens there is well, then connect again",
        )
    return Unavailable(
        f"the machine no longer answers: {os.strerror(failure.errno or errno.ETIMEDOUT)}",
        reason="FORWARD_BROKEN",
        fix="see with 'unkai instance show' and its console that it is well, then connect again",
    )


def _no_connection(port: PortSpec, number: int, failure: Exception) -> FailedPrecondition:
    metadata = {"port_id": port.port_id, "port_number": str(number)}
    if isinstance(failure, ConnectionRefusedError):
        return FailedPrecondition(
            f"the machine refuses TCP port {number}",
            reason="FORWARD_REFUSED",
            fix="see that something listens on it; a guest that boots may need another moment",
            metadata=metadata,
        )
    why = str(failure) or f"no answer within {_CONNECT_S:.0f} s"
    return FailedPrecondition(
        f"the machine does not answer on TCP port {number}: {why}",
        reason="FORWARD_TIMED_OUT",
        fix=f"add the security group rule 'ingress tcp {number}'; or the guest is not up yet",
        metadata=metadata,
    )
