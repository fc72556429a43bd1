"""A TCP proxy before a database server that loses COMMITs, or their answers, when a test asks.

It reads the plain protocol: a client's bytes that contain COMMIT are one. What it does to the next
ones is queued in `faults`.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum

_COMMIT = re.compile(rb"COMMIT(?!TED)")


class Fault(Enum):
    """What becomes of a COMMIT. In each case the client's connection is cut."""

    LOSE_ANSWER = "the server commits, its answer is lost"
    LOSE_COMMIT = "the server never gets it"
    DELAY_COMMIT = "the server gets it a second after the client was cut off"


@dataclass
class CommitProxy:
    """The proxy; `port` is where it listens."""

    upstream_port: int
    port: int = 0
    faults: deque[Fault] = field(default_factory=deque)
    done: list[Fault] = field(default_factory=list)
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set nothing passes, and nobody is told: a network that is cut."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        back = asyncio.ensure_future(self._pump(up_reader, writer))
        try:
            while data := await reader.read(1 << 16):
                if _COMMIT.search(data) and self.faults:
                    await self._fail(self.faults.popleft(), data, writer, up_writer, back)
                    return
                await self.flowing.wait()
                up_writer.write(data)
                await up_writer.drain()
        except OSError:
            pass
        finally:
            back.cancel()
            await asyncio.wait([back])
            for end in (writer, up_writer):
                end.transport.abort()

    async def _fail(
        self,
        fault: Fault,
        data: bytes,
        writer: asyncio.StreamWriter,
        up_writer: asyncio.StreamWriter,
        back: asyncio.Task[None],
    ) -> None:
        self.done.append(fault)
        back.cancel()  # no answer gets through any more
        await asyncio.wait([back])
        if fault is Fault.LOSE_ANSWER:
            up_writer.write(data)
            await asyncio.sleep(0.2)
        elif fault is Fault.DELAY_COMMIT:
            writer.transport.abort()
            await asyncio.sleep(1.0)
            up_writer.write(data)
            await asyncio.sleep(0.2)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self.flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def a_commit_proxy(upstream_port: int) -> AsyncIterator[CommitProxy]:
    """Serve a proxy for the length of a `with`."""
    proxy = CommitProxy(upstream_port)
    proxy.flowing.set()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
