"""A gRPC server that is made anew when the library's own loop ends.

`grpc.aio` (1.85) decodes the name of a called method in the one task that accepts calls. A name
that is not UTF-8 ends that task and with it the server, while the process goes on without a door:
one broken call by anybody with a certificate would do. So whoever serves says how the server is
made, and it is made again on the same addresses, at once; calls under way end as UNAVAILABLE.
It may go once the library survives such a call.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from unkai_wire.errors import FailedPrecondition
from unkai_wire.tls import TlsFiles

if TYPE_CHECKING:
    import grpc

_LOG = logging.getLogger("unkai.rpc")
_LOOK_S = 1.0
"""How long a broken server stands at most; a look takes 0.3 ms of an idle daemon."""
_AGAIN_S = 0.2
"""An address is not always free at once."""


class LastingServer:
    """A server and its addresses. `make` gives it servicers and interceptors, each time."""

    def __init__(self, make: Callable[[], grpc.aio.Server]) -> None:
        self._make = make
        self._server = make()
        self._doors: list[Callable[[grpc.aio.Server], object]] = []
        self._paths: list[Path] = []
        self._watch: asyncio.Task[None] | None = None
        self.restarts = 0
        """How often it was made anew."""

    def listen(self, address: str, tls: TlsFiles) -> int:
        """Listen with mTLS at `HOST:PORT`; return the port."""
        port = tls.listen(self._server, address)
        host = address.rpartition(":")[0]
        self._doors.append(lambda server: tls.listen(server, f"{host}:{port}"))
        return port

    def listen_locally(self, path: Path) -> None:
        """Listen on a unix socket of mode 0600, which nobody else could open for a moment."""

        def open_door(server: grpc.aio.Server) -> None:
            with _narrow_umask():
                server.add_insecure_port(f"unix:{path}")

        open_door(self._server)
        self._doors.append(open_door)
        self._paths.append(path)

    async def start(self) -> None:
        """Serve, until `stop`."""
        await self._server.start()
        self._watch = asyncio.create_task(self._last(), name="lasting server")

    async def stop(self, grace_s: float) -> None:
        """Let calls under way end for so long, then cut them."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        # The trap: two calls of the library's `stop` at the same time crash the process.
        await self._server.stop(grace_s)

    async def _last(self) -> None:
        while True:
            try:
                # With a time: without one a cancellation would cancel the server's own wait, and
                # the end of a broken loop is not told while any call lives.
                if not await self._server.wait_for_termination(_LOOK_S):
                    return
                self._look_for_paths()
            except Exception as error:  # noqa: BLE001 - whatever ended the loop
                _LOG.error("server_loop_ended, serving anew: %r", error)
                # The library's own shutdown stopped half-way, at the same error.
                await self._server.stop(0)
                # The trap: its listener may remove the socket's file after it says that it stopped,
                # and then it is the new one's.
                await asyncio.sleep(_AGAIN_S)
                await self._begin_again()

    def _look_for_paths(self) -> None:
        """Raise when a socket's file is gone, by whomever: nobody can call there any more."""
        for path in self._paths:
            path.lstat()

    async def _begin_again(self) -> None:
        while True:
            server = self._make()
            try:
                for open_door in self._doors:
                    open_door(server)
                await server.start()
            except (FailedPrecondition, RuntimeError) as error:
                _LOG.warning("address_not_free_yet: %s", error)
                await server.stop(0)
                await asyncio.sleep(_AGAIN_S)
                continue
            self._server = server
            self.restarts += 1
            return


@contextmanager
def _narrow_umask() -> Iterator[None]:
    """Make what is made in the block ours alone, from its first moment on."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
