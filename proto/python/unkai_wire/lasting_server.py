"""A gRPC server that is made anew when the library's own loop ends, or its address is lost.

`grpc.aio` (1.85) decodes the name of a called method in the one task that accepts calls. A name
that is not UTF-8 ends that task and with it the server, while the process goes on without a door:
one broken call by anybody with a certificate would do. So whoever serves says how the server is
made, and it is made again on the same address, at once; calls under way end as UNAVAILABLE.
It may go once the library survives such a call.

Each address has a server of its own: what befalls the unix socket cuts no call that came by TCP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from unkai_wire.local_socket import SocketFile
from unkai_wire.tls import TlsFiles

if TYPE_CHECKING:
    import grpc

_LOG = logging.getLogger("unkai.rpc")
_LOOK_S = 0.5
"""How long a broken server stands at most: for so long one broken call shuts the door to all.

Not less, for an idle agent's sake, which may take 1 % of a core in all: looks at two doors take
0.1 % so, and 0.2 % each 0.25 s, with which an agent of 20 guests took
0.95 % instead of 0.79 % (bench/footprint.py).
"""
_AGAIN_S = 0.2
"""An address is not always free at once."""
_AGAIN_MAX_S = 5.0
"""A door that stays shut is tried so seldom: its folder or its certificate has to come back."""


class LastingServer:
    """A server and its addresses. `make` gives it servicers and interceptors, each time."""

    def __init__(self, make: Callable[[], grpc.aio.Server]) -> None:
        self._make = make
        self._doors: list[_Door] = []

    @property
    def restarts(self) -> int:
        """How often one was made anew, over all addresses."""
        return sum(door.restarts for door in self._doors)

    def listen(self, address: str, tls: TlsFiles) -> int:
        """Listen with mTLS at `HOST:PORT`; return the port."""
        server = self._make()
        port = tls.listen(server, address)
        chosen = f"{address.rpartition(':')[0]}:{port}"

        def bind(server: grpc.aio.Server) -> None:
            tls.listen(server, chosen)

        self._doors.append(_Door(server, self._make, bind))
        return port

    def listen_locally(self, path: Path) -> None:
        """Listen on a unix socket of mode 0600 that nobody else serves."""
        server, file = self._make(), SocketFile(path)
        file.bind(server)
        self._doors.append(_Door(server, self._make, file.bind, file))

    async def start(self) -> None:
        """Serve, until `stop`."""
        for door in self._doors:
            await door.start()

    async def stop(self, grace_s: float) -> None:
        """Let calls under way end for so long, then cut them. May be called again."""
        lives = [life for door in self._doors if (life := door.leave(grace_s))]
        if lives:
            # So, and not by cancelling: who is cancelled here cancels no server half-way.
            await asyncio.wait(lives)


class _Door:
    """One address and the library's server there.

    All that is done to that server is done by one task, in turn, and never cancelled: two calls
    of the library's `stop` at the same time, or one that was cut short, crash the process.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        make: Callable[[], grpc.aio.Server],
        bind: Callable[[grpc.aio.Server], None],
        file: SocketFile | None = None,
    ) -> None:
        self._server: grpc.aio.Server | None = server
        self._make = make
        self._bind = bind
        self._file = file
        self._left = asyncio.Event()
        self._grace_s = 0.0
        self._life: asyncio.Task[None] | None = None
        self.restarts = 0

    async def start(self) -> None:
        assert self._server is not None
        await self._server.start()
        self._life = asyncio.create_task(self._last(), name="lasting server")

    def leave(self, grace_s: float) -> asyncio.Task[None] | None:
        """Begin to stop; return the task that ends then, None when it was never started."""
        if not self._left.is_set():
            self._grace_s = grace_s
            self._left.set()
        return self._life

    async def _last(self) -> None:
        while not await self._left_within(_LOOK_S):
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - whatever ended the loop
                _LOG.error("door_lost, serving anew: %r", error)
                await self._end(0)
                await self._begin_again()
        await self._end(self._grace_s)
        if self._file is not None:
            self._file.remove()

    async def _left_within(self, time_s: float) -> bool:
        """Wait so long at most; tell whether it is time to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(time_s):
                await self._left.wait()
        return self._left.is_set()

    async def _look(self) -> None:
        """Raise when nobody can call here any more."""
        assert self._server is not None
        # A look, not a wait: the end of a broken loop is not told while any call lives.
        await self._server.wait_for_termination(0)
        if self._file is not None and not self._file.is_ours():
            raise FileNotFoundError("the socket's file is gone, or another's")

    async def _end(self, grace_s: float) -> None:
        """Stop the server, if there is one. The library raises when its loop breaks meanwhile."""
        server, self._server = self._server, None
        if server is None:
            return
        try:
            await server.stop(grace_s)
        except Exception as error:  # noqa: BLE001 - it has stopped to listen before it raises
            _LOG.warning("server_stop_ended: %r", error)

    async def _begin_again(self) -> None:
        """Serve at the same address; try until it succeeds or it is time to stop."""
        pause_s, told = _AGAIN_S, ""
        while not self._left.is_set():
            try:
                self._server = await self._opened()
            except Exception as error:  # noqa: BLE001 - a folder, a certificate may come back
                if str(error) != told:
                    told = str(error)
                    _LOG.error("door_stays_shut, trying again: %s", told)
                await self._left_within(pause_s)
                pause_s = min(2 * pause_s, _AGAIN_MAX_S)
            else:
                self.restarts += 1
                _LOG.info("door_open_again")
                return

    async def _opened(self) -> grpc.aio.Server:
        server = self._make()
        bound = False
        try:
            self._bind(server)
            bound = True
        finally:
            # Also when it failed: what was never started keeps its memory, and its listener if
            # it has one, whatever `stop` says.
            await server.start()
            if not bound:
                await server.stop(0)
        return server
