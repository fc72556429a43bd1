"""The name service on the wire: UDP and TCP on sockets that others made, one site a network.

What is not ours is asked of the host's resolvers, from the host's own network, under a deadline. A
guest is not trusted: what is not a query is dropped, and queries, waiting questions and connections
are bounded for each network, so that none takes the agent's time from others.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
from unkai_agent.network.names.answers import answer, packet, refusal
from unkai_agent.network.names.table import NameTable

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
    idle_s: float = 10.0
    """Until a query has arrived by TCP."""
    forward_s: float = 4.0
    """Until somebody else has answered: guests' resolvers try again after 5 s."""


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
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`table`: returns the network's names as they are now."""
        self._table = table
        self._forward = forward
        self._limits = limits or NameLimits()
        self._allowance = Allowance(self._limits.rate, monotonic)
        self._waiting: Counter[str] = Counter()
        self._connected: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._transports: list[asyncio.DatagramTransport] = []
        self._servers: list[asyncio.Server] = []

    async def listen(self, bound: socket.socket) -> None:
        """Serve a bound UDP socket, or a listening TCP one; it is ours from now on."""
        bound.setblocking(False)
        if bound.type == socket.SOCK_DGRAM:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(lambda: _Packets(self), sock=bound)
            self._transports.append(transport)
        else:
            self._servers.append(await asyncio.start_server(self._talk, sock=bound))

    async def close(self) -> None:
        """Stop, and leave no socket."""
        for server in self._servers:
            server.close()
        for transport in self._transports:
            transport.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets in the loop's next round

    # -- UDP -------------------------------------------------------------------------------

    def received(self, text: bytes, peer: Any, transport: asyncio.DatagramTransport) -> None:
        """Take a packet: answer it at once, or let it wait for others' answer."""
        query = self._query_of(text)
        if query is None:
            return
        response = answer(query, self._table())
        if response is not None:
            QUERIES.labels("answered").inc()
            transport.sendto(packet(response, query), peer)
            return

        async def pass_on() -> None:
            found = await self._ask_others(query, str(peer[0]), by_tcp=False)
            if found is not None and not transport.is_closing():
                transport.sendto(packet(found, query), peer)

        self._begin(pass_on())

    # -- TCP -------------------------------------------------------------------------------

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio calls this in a task of its own"
        self._tasks.add(task)
        peer = str((writer.get_extra_info("peername") or ("",))[0])
        limits = self._limits
        self._connected[peer] += 1
        crowded = (
            self._connected.total() > limits.connections
            or self._connected[peer] > limits.connections_each
        )
        try:
            while not crowded and await self._answer_one(reader, writer, peer):
                pass
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # a guest that went away
        finally:
            self._connected[peer] -= 1
            self._connected += Counter()  # forgets who has none
            self._tasks.discard(task)
            writer.transport.abort() if crowded else writer.close()

    async def _answer_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str
    ) -> bool:
        """Answer a connection's next query; tell whether to go on (RFC 7766)."""
        async with asyncio.timeout(self._limits.idle_s):
            length = int.from_bytes(await reader.readexactly(2))
            text = await reader.readexactly(length)
        query = self._query_of(text)
        if query is None:
            return False
        response = answer(query, self._table())
        if response is None:
            response = await self._ask_others(query, peer, by_tcp=True)
        else:
            QUERIES.labels("answered").inc()
        if response is None:
            return False
        wire = response.to_wire(max_size=65535)
        writer.write(len(wire).to_bytes(2) + wire)
        async with asyncio.timeout(self._limits.idle_s):
            await writer.drain()
        return True

    # -- both ------------------------------------------------------------------------------

    def _query_of(self, text: bytes) -> dns.message.Message | None:
        """Return a packet's query; None: it is none, or one too many."""
        query = None
        if self._allowance.take():
            try:
                query = dns.message.from_wire(text)
            except (dns.exception.DNSException, ValueError):
                query = None
        if query is None or query.flags & dns.flags.QR:
            QUERIES.labels("dropped").inc()
            return None
        return query

    async def _ask_others(
        self, query: dns.message.Message, peer: str, *, by_tcp: bool
    ) -> dns.message.Message | None:
        """Return others' answer, or that there is none; None: there are too many questions."""
        limits = self._limits
        if (
            self._waiting.total() >= limits.forwarded
            or self._waiting[peer] >= limits.forwarded_each
        ):
            QUERIES.labels("dropped").inc()
            return None
        self._waiting[peer] += 1
        try:
            async with asyncio.timeout(limits.forward_s):
                found = await self._forward(query, by_tcp)
        except (dns.exception.DNSException, OSError, TimeoutError, ValueError):
            QUERIES.labels("failed").inc()
            return refusal(query, dns.rcode.SERVFAIL)
        finally:
            self._waiting[peer] -= 1
            self._waiting += Counter()
        QUERIES.labels("forwarded").inc()
        found.id = query.id
        return found

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Packets(asyncio.DatagramProtocol):
    """Carries packets to the site."""

    def __init__(self, site: NameSite) -> None:
        self._site = site
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._site.received(data, addr, self._transport)
