"""The name service on the wire: UDP and TCP on sockets that others made, one site a network.

What is not ours is asked of the host's resolvers, from the host's own network, under a deadline. A
guest is not trusted: what is not a query is dropped, and queries, waiting questions and connections
are bounded for each network and for the host, so that none takes the agent's time from others.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
from prometheus_client import Counter as Metric

from unkai_agent.network.allowance import Allowance
from unkai_agent.network.connections import Connections, Room
from unkai_agent.network.names.answers import answer, packet, refusal
from unkai_agent.network.names.packets import PACKET_BYTES, Packets
from unkai_agent.network.names.table import NameTable
from unkai_wire.rpc_errors import internal_error

QUERIES = Metric(
    "unkai_agent_name_queries_total",
    "Name queries of guests, by what became of them: answered, forwarded, failed, dropped.",
    ["result"],
)
for _result in ("answered", "forwarded", "failed", "dropped"):
    QUERIES.labels(_result)
Forward = Callable[[dns.message.Message, bool], Awaitable[dns.message.Message]]
"""`forward(query, by_tcp)` asks somebody else; raises `dns.exception.DNSException` or OSError."""


@dataclass(frozen=True, slots=True)
class NameLimits:
    """What guests may take."""

    rate: float = 500.0
    """Queries per second of a network, on average; five seconds' worth at once."""
    forwarded: int = 128
    """Questions to others at once, of a network."""
    forwarded_each: int = 32
    """Questions to others at once, of an address."""
    connections: int = 64
    """TCP connections at once, of a network."""
    connections_each: int = 8
    """TCP connections at once, of an address."""
    query_bytes: int = PACKET_BYTES
    """Of a query by TCP."""
    idle_s: float = 10.0
    """Until a query has arrived by TCP."""
    forward_s: float = 4.0
    """Until somebody else has answered: guests' resolvers try again after 5 s."""


QUESTIONS = 512
"""To others at once, of a host: each is an open file."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """What all sites of a host share."""

    connections: Room = field(default_factory=Room)
    questions: Room = field(default_factory=lambda: Room(QUESTIONS))


class Resolvers:
    """The host's resolvers, as its resolv.conf names them; read again when it has changed."""

    def __init__(self, file: Path = Path("/etc/resolv.conf"), each_s: float = 1.8) -> None:
        """`each_s`: how long one of them may take; then the next is asked."""
        self._file, self._each_s = file, each_s
        self._addresses: list[str] = []
        self._read_of: tuple[int, int] | None = None

    async def ask(self, query: dns.message.Message, by_tcp: bool) -> dns.message.Message:
        """Ask them in turn. Raises as the last one's failure."""
        failure: Exception = OSError("the host has no resolver")
        for address in self._now():
            question = dns.message.from_wire(query.to_wire())
            question.id = secrets.randbits(16)  # its own, so that nobody can guess it
            try:
                return await self._ask(question, address, by_tcp)
            except (dns.exception.DNSException, OSError) as error:
                failure = error
        raise failure

    async def _ask(
        self, question: dns.message.Message, address: str, by_tcp: bool
    ) -> dns.message.Message:
        if by_tcp:
            return await dns.asyncquery.tcp(question, address, timeout=self._each_s)
        return await dns.asyncquery.udp(
            question, address, timeout=self._each_s, ignore_unexpected=True, ignore_errors=True
        )

    def _now(self) -> list[str]:
        try:
            stat = self._file.stat()
            read_of = (stat.st_mtime_ns, stat.st_ino)
            if read_of != self._read_of:
                found = dns.resolver.Resolver(filename=str(self._file), configure=True).nameservers
                self._addresses = [str(each) for each in found][:3]
                self._read_of = read_of
        except (OSError, dns.exception.DNSException):
            self._addresses, self._read_of = [], None
        return self._addresses


class NameSite:
    """The name service on one network."""

    def __init__(
        self,
        table: Callable[[], NameTable],
        forward: Forward,
        limits: NameLimits | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        rooms: Rooms | None = None,
    ) -> None:
        """`table`: returns the network's names as they are now. `rooms`: the host's, shared."""
        self._table = table
        self._forward = forward
        self._limits = limits = limits or NameLimits()
        self._allowance = Allowance(limits.rate, monotonic)
        rooms = rooms or Rooms()
        self._questions = rooms.questions.share(limits.forwarded, limits.forwarded_each)
        self._share = rooms.connections.share(limits.connections, limits.connections_each)
        self._connections = Connections(
            "names", self._share, self._talk, buffer_bytes=limits.query_bytes
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._packets: list[Packets] = []

    def listen(self, bound: socket.socket) -> None:
        """Serve a bound UDP socket, or a listening TCP one; it is ours from now on."""
        if bound.type == socket.SOCK_DGRAM:
            self._packets.append(Packets(bound, self._received))
        else:
            self._connections.listen(bound)

    @property
    def is_served(self) -> bool:
        """Whether all sockets are still read."""
        return self._connections.are_served and all(each.are_read for each in self._packets)

    async def close(self) -> None:
        """Stop, and leave no socket."""
        for packets in self._packets:
            packets.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connections.close()
        self._share.close()
        self._questions.close()

    # -- UDP -------------------------------------------------------------------------------

    def _received(self, text: bytes, peer: Any, packets: Packets) -> bool:
        """Take a packet: answer it at once, or let it wait for others' answer."""
        if not self._allowance.take():
            QUERIES.labels("dropped").inc()
            return False
        query = _query_of(text)
        if query is None:
            return True
        response = self._own(query)
        if response is not None:
            packets.send(packet(response, query), peer)
            return True

        async def pass_on() -> None:
            try:
                found = await self._ask_others(query, str(peer[0]), by_tcp=False)
                if found is not None:
                    packets.send(packet(found, query), peer)
            except Exception as error:  # noqa: BLE001 - a bug of one answer is that one's alone
                internal_error(error)

        task = asyncio.ensure_future(pass_on())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    # -- TCP -------------------------------------------------------------------------------

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str
    ) -> None:
        """Answer a connection's queries, one after another (RFC 7766)."""
        limits = self._limits
        while True:
            async with asyncio.timeout(limits.idle_s):
                length = int.from_bytes(await reader.readexactly(2))
                if length > limits.query_bytes:
                    return
                text = await reader.readexactly(length)
            if not self._allowance.take():
                QUERIES.labels("dropped").inc()
                return
            query = _query_of(text)
            if query is None:
                return
            response = self._own(query)
            if response is None:
                response = await self._ask_others(query, peer, by_tcp=True)
            if response is None:
                return
            wire = response.to_wire(max_size=65535)
            writer.write(len(wire).to_bytes(2) + wire)
            async with asyncio.timeout(limits.idle_s):
                await writer.drain()

    # -- both ------------------------------------------------------------------------------

    def _own(self, query: dns.message.Message) -> dns.message.Message | None:
        """Return our own answer; None: it is somebody else's to give."""
        try:
            response = answer(query, self._table())
        except Exception as error:  # noqa: BLE001 - a bug of one answer is that one's alone
            internal_error(error)
            QUERIES.labels("failed").inc()
            return refusal(query, dns.rcode.SERVFAIL)
        if response is not None:
            QUERIES.labels("answered").inc()
        return response

    async def _ask_others(
        self, query: dns.message.Message, peer: str, *, by_tcp: bool
    ) -> dns.message.Message | None:
        """Return others' answer, or that there is none; None: there are too many questions."""
        task = asyncio.current_task()
        assert task is not None, "who waits here can be cut"
        place = self._questions.take(peer, task.cancel)
        if place is None:
            QUERIES.labels("dropped").inc()
            return None
        try:
            async with asyncio.timeout(self._limits.forward_s):
                found = await self._forward(query, by_tcp)
        except (dns.exception.DNSException, OSError, TimeoutError, ValueError):
            QUERIES.labels("failed").inc()
            return refusal(query, dns.rcode.SERVFAIL)
        finally:
            self._questions.give_back(place)
        QUERIES.labels("forwarded").inc()
        found.id = query.id
        return found


def _query_of(text: bytes) -> dns.message.Message | None:
    """Return a packet's query; None: it is none."""
    try:
        query = dns.message.from_wire(text)
    except (dns.exception.DNSException, ValueError):
        query = None
    if query is None or query.flags & dns.flags.QR:
        QUERIES.labels("dropped").inc()
        return None
    return query
