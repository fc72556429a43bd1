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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11
import prometheus_client

from unkai_agent.network.allowance import Allowance
from unkai_agent.network.connections import Connections, Room
from unkai_agent.network.guests import Guests
from unkai_agent.network.metadata.answers import Answer, Request, answer
from unkai_agent.network.metadata.tokens import Tokens
from unkai_wire.rpc_errors import internal_error

REQUESTS = prometheus_client.Counter(
    "unkai_agent_metadata_requests_total",
    "Requests of guests to the metadata service, by status.",
    ["status"],
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
        *,
        monotonic: Callable[[], float] = time.monotonic,
        room: Room | None = None,
    ) -> None:
        """`room`: the host's, which all its sites share."""
        self._network_id = network_id
        self._guests = guests
        self._tokens = tokens
        self._limits = limits or Limits()
        self._allowance = Allowance(self._limits.rate, monotonic)
        self._share = (room or Room()).share(
            self._limits.connections, self._limits.connections_each
        )
        self._connections = Connections(
            "metadata", self._share, self._talk, buffer_bytes=self._limits.header_bytes
        )

    def listen(self, listener: socket.socket) -> None:
        """Serve a listening socket; it is ours from now on."""
        self._connections.listen(listener)

    @property
    def is_served(self) -> bool:
        """Whether all that listens still accepts."""
        return self._connections.are_served

    async def close(self) -> None:
        """Stop listening and cut all connections. Afterwards no socket is left."""
        await self._connections.close()
        self._share.close()

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str
    ) -> None:
        with suppress(h11.ProtocolError):  # a guest that speaks something else
            await _Conversation(self, reader, writer, peer).run()

    def answer(self, request: Request, peer: str) -> Answer:
        """Answer a request that came from an address of this network."""
        if not self._allowance.take():
            return Answer(429, b"too many requests\n", headers={"Retry-After": "1"})
        try:
            guest = self._guests.asking(self._network_id, peer)
            return answer(request, guest, self._tokens)
        except Exception as error:  # noqa: BLE001 - a bug of one answer is that one's alone
            return Answer(500, f"{internal_error(error).message}\n".encode())

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
