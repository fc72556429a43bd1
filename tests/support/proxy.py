"""A TCP proxy that misbehaves: delays, cuts, swallows and reorders, as a test says.

It runs in a thread of its own with its own loop, on loopback. What is said holds from then on, for
connections that are open too. TCP keeps the bytes of one connection in order, and so does it:
`reorder` changes the order in which pieces of *different* connections arrive, as networks do.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_PIECE = 65_536


@dataclass
class Mood:
    """How the proxy behaves just now."""

    delay_s: float = 0.0
    """Each piece waits so long."""
    reorder_s: float = 0.0
    """Each piece waits a random time up to this, so that connections overtake each other."""
    swallows: bool = False
    """Connections open, and nothing comes through: a black hole."""
    refuses: bool = False
    """New connections are closed at once."""


class TcpProxy:
    """Forwards connections to one target, in whatever mood it is."""

    def __init__(self, target: str, *, seed: int = 0) -> None:
        """`target`: `HOST:PORT`."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._rng = random.Random(seed)
        self._mood = Mood()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._clear = asyncio.Event()
        self._clear.set()
        self.accepted = 0
        """Connections taken since the start."""

    def start(self) -> str:
        """Listen on a free port of loopback; return its `HOST:PORT`."""
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    def stop(self) -> None:
        """Close everything."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def delay(self, seconds: float) -> None:
        """Let every piece arrive later, in order."""
        self._mood.delay_s = seconds

    def reorder(self, up_to_s: float) -> None:
        """Let pieces of different connections overtake each other."""
        self._mood.reorder_s = up_to_s

    def swallow(self) -> None:
        """Let nothing through and say nothing, as a network that drops packets."""
        self._mood.swallows = True
        self._loop.call_soon_threadsafe(self._clear.clear)

    def cut(self) -> None:
        """Reset all connections, and refuse new ones until `heal`."""
        self._mood.refuses = True
        self._do(self._reset())

    def reset(self) -> None:
        """Reset all connections; new ones are welcome."""
        self._do(self._reset())

    def heal(self) -> None:
        """Behave: what was swallowed arrives now, as retransmitted packets do."""
        self._mood = Mood()
        self._loop.call_soon_threadsafe(self._clear.set)

    def _do(self, work: object) -> object:
        assert asyncio.iscoroutine(work)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _reset(self) -> None:
        for writer in list(self._writers):
            _abort(writer)

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._reset()
        own = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._mood.refuses:
            _abort(writer)
            return
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            await self._clear.wait()
            far_reader, far = await asyncio.open_connection(*self._target)
            self._writers.add(far)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, far))
                both.create_task(self._pump(far_reader, writer))
        except* OSError:
            pass
        finally:
            for each in (writer, far):
                if each is not None:
                    self._writers.discard(each)
                    each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            wait_s = self._mood.delay_s + self._rng.uniform(0.0, self._mood.reorder_s)
            if wait_s:
                await asyncio.sleep(wait_s)
            await self._clear.wait()
            writer.write(piece)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Reset a connection: without lingering, a close sends RST (socket(7))."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def proxied(target: str, *, seed: int = 0) -> Iterator[tuple[TcpProxy, str]]:
    """Run a proxy before a target for the time of a test; give it and its address."""
    proxy = TcpProxy(target, seed=seed)
    address = proxy.start()
    try:
        yield proxy, address
    finally:
        proxy.stop()
