"""A TCP connection to a machine, made from inside its own network, and what passes over it.

Each direction ends by itself: an end is passed on, and the other direction goes on. What is not
taken is not read: neither side's bytes pile up here. Security groups apply, for to its machine the
connection is one from outside.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress

from unkai_agent.domain.ports import PortSpec
from unkai_agent.network.driver import NetworkDriver
from unkai_agent.network.sockets import outgoing
from unkai_wire.errors import FailedPrecondition, Unavailable

PIECE_BYTES = 64 << 10
_CONNECT_S = 10.0
"""For all addresses together: one SYN and two more."""
CONNECTIONS = 64
"""At once, of a host."""


class Forwarder:
    """The forwarded connections of one host."""

    def __init__(self, driver: NetworkDriver) -> None:
        self._driver = driver
        self._open = 0

    async def talk(
        self, port: PortSpec, number: int, incoming: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes | None, None]:
        """Connect to a port's machine and carry bytes; the end of `incoming` is its end.

        The first item is empty and says that the connection is open; None says that the machine
        sends no more. Raises `FailedPrecondition` / FORWARD_REFUSED, FORWARD_TIMED_OUT;
        `Unavailable` / FORWARDS_FULL; `NotFound` / NETWORK_NOT_HERE.
        """
        if self._open >= CONNECTIONS:
            raise Unavailable(
                f"the host forwards {CONNECTIONS} connections already",
                reason="FORWARDS_FULL",
                fix="end some, or give the instance a floating address",
                metadata={"most": str(CONNECTIONS)},
            )
        self._open += 1
        try:
            connection = await self._connect(port, number)
            async for piece in _relay(connection, incoming):
                yield piece
        finally:
            self._open -= 1

    async def _connect(self, port: PortSpec, number: int) -> socket.socket:
        """Connect to the first of the port's addresses that answers, IPv4 first."""
        addresses = sorted(port.addresses, key=lambda each: each.ip.version)
        share_s = _CONNECT_S / max(1, len(addresses))
        failure: Exception = OSError("the port has no address")
        for address in addresses:
            made = await self._driver.open_socket(port.network_id, outgoing(address.ip.version))
            try:
                async with asyncio.timeout(share_s):
                    await asyncio.get_running_loop().sock_connect(made, (address.address, number))
            except (OSError, TimeoutError) as error:
                made.close()
                failure = error
                if isinstance(error, ConnectionRefusedError):
                    break  # it is there, and says no
            except BaseException:
                made.close()
                raise
            else:
                return made
        raise _no_connection(port, number, failure)


async def _relay(
    connection: socket.socket, incoming: AsyncIterator[bytes]
) -> AsyncGenerator[bytes | None, None]:
    reader, writer = await asyncio.open_connection(sock=connection, limit=PIECE_BYTES)
    sending = asyncio.ensure_future(_send(writer, incoming))
    try:
        yield b""
        with suppress(ConnectionError):
            while piece := await reader.read(PIECE_BYTES):
                yield piece
        if sending.done():
            sending.result()
        yield None
        await sending
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, incoming: AsyncIterator[bytes]) -> None:
    try:
        with suppress(ConnectionError):
            async for piece in incoming:
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
    except BaseException:
        writer.transport.abort()  # the caller went away, or said nonsense: who reads ends, too
        raise


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
        fix=f"add a security group rule for ingress of TCP port {number}; or the guest is not up",
        metadata=metadata,
    )
