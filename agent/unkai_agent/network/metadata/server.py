"""The metadata service on the wire: HTTP/1.1 on listening sockets that others made.

One site for each network; its socket says which network asks. h11 reads and writes HTTP, this moves
bytes. A guest is not trusted: each connection has a share, each request a deadline and few bytes,
and each network a rate, so that none takes the agent's time from others. No redirects, no bodies in
the log.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11
import prometheus_client

from unkai_agent.network.allowance import Allowance
from unkai_agent.network.guests import Guests
from unkai_agent.network.metadata.answers import Answer, Request, answer
from unkai_agent.network.metadata.tokens import Tokens

REQUESTS = prometheus_client.Counter(
    "unkai_agent_metadata_requests_total",
    "Requests of guests to the metadata service, by status.",
    ["status"],
)
REFUSED = prometheus_client.Counter(
    "unkai_agent_metadata_refused_connections_total",
    "Connections of guests that were cut because they had too many.",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What guests may take."""

    connections: int = 128
    """At once, of a network."""
    connections_each: int = 16
    """At once, of an address."""
    header_bytes: int = 8192
    body_bytes: int = 1024
    """A body is read and thrown away; no request needs one."""
    idle_s: float = 30.0
    """Until a request has arrived whole."""
    write_s: float = 15.0
    """Until an answer was taken."""
    requests: int = 100
    """On a connection."""
    rate: float = 100.0
    """Requests per second of a network, on average; five seconds' worth at once."""


class MetadataSite:
    """The service on one network."""

    def __init__(
        self,
        network_id: str,
        guests: Guests,
        tokens: Tokens,
        limits: Limits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._network_id = network_id
        self._guests = guests
        self._tokens = tokens
        self._limits = limits or Limits()
        self._allowance = Allowance(self._limits.rate, monotonic)
        self._open: Counter[str] = Counter()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, listener: socket.socket) -> None:
        """Serve a listening socket; it is ours from now on."""
        listener.setblocking(False)
        self._servers.append(
            await asyncio.start_server(
                self._connected, sock=listener, limit=self._limits.header_bytes
            )
        )

    async def close(self) -> None:
        """Stop listening and cut all connections. Afterwards no socket is left."""
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._servers.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio calls this in a task of its own"
        self._tasks.add(task)
        peer = str((writer.get_extra_info("peername") or ("",))[0])
        limits = self._limits
        self._open[peer] += 1
        crowded = (
            self._open.total() > limits.connections or self._open[peer] > limits.connections_each
        )
        try:
            if crowded:
                REFUSED.inc()
            else:
                await _Conversation(self, reader, writer, peer).run()
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # a guest that went away, or that speaks something else
        finally:
            self._open[peer] -= 1
            self._open += Counter()  # forgets who has none
            self._tasks.discard(task)
            writer.transport.abort() if crowded else writer.close()

    def answer(self, request: Request, peer: str) -> Answer:
        """Answer a request that came from an address of this network."""
        if not self._allowance.take():
            return Answer(429, b"too many requests\n", headers={"Retry-After": "1"})
        guest = self._guests.asking(self._network_id, peer)
        return answer(request, guest, self._tokens)

    @property
    def limits(self) -> Limits:
        """What guests may take."""
        return self._limits


class _Conversation:
    """One connection: requests one after another."""

    def __init__(
        self,
        site: MetadataSite,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: str,
    ) -> None:
        self._site, self._reader, self._writer, self._peer = site, reader, writer, peer
        self._limits = site.limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.header_bytes)

    async def run(self) -> None:
        for number in range(self._limits.requests):
            try:
                async with asyncio.timeout(self._limits.idle_s):
                    request = await self._read()
            except h11.RemoteProtocolError as error:
                await self._write(Answer(error.error_status_hint, b"not understood\n"), last=True)
                return
            if request is None:
                return
            last = number + 1 == self._limits.requests
            made = self._site.answer(request, self._peer)
            await self._write(made, head=request.method == "HEAD", last=last)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _read(self) -> Request | None:
        """Return the next request, once all of it has arrived; None: there is none."""
        request, body_bytes = None, 0
        while True:
            event: Any = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(4096))
            elif isinstance(event, h11.Request):
                request = _request_of(event)
            elif isinstance(event, h11.Data):
                body_bytes += len(event.data)
                if body_bytes > self._limits.body_bytes:
                    raise h11.RemoteProtocolError("too large a body", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage):
                return request
            else:
                return None

    async def _write(self, made: Answer, *, head: bool = False, last: bool = False) -> None:
        REQUESTS.labels(str(made.status)).inc()
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        if made.near:
            _stay_near(self._writer.get_extra_info("socket"))
        headers = {
            "Server": "unkai",
            "Content-Type": made.content_type,
            "Content-Length": str(len(made.body)),
            "X-Content-Type-Options": "nosniff",
            **made.headers,
        }
        if last:
            headers["Connection"] = "close"
        reason = HTTPStatus(made.status).phrase.encode()
        response = h11.Response(
            status_code=made.status, headers=list(headers.items()), reason=reason
        )
        body = h11.Data(data=b"" if head else made.body)
        for event in (response, body, h11.EndOfMessage()):
            self._writer.write(self._http.send(event) or b"")
        async with asyncio.timeout(self._limits.write_s):
            await self._writer.drain()


def _request_of(event: h11.Request) -> Request:
    headers: dict[str, str] = {}
    for name, value in event.headers:
        key = name.decode("ascii").lower()
        # One header twice is two opinions: neither counts.
        headers[key] = "" if key in headers else value.decode("latin-1")
    return Request(event.method.decode("ascii"), event.target.decode("latin-1"), headers)


def _stay_near(connection: Any) -> None:
    """Let what is sent be dropped by the first router: a token is for the guest itself."""
    if connection.family == socket.AF_INET6:
        connection.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
    else:
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
