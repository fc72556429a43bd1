"""A UDP socket in the loop that keeps nothing: what cannot be sent at once is lost, as packets may.

asyncio's own transport piles up what it cannot send, and reads however much comes. This one rests
while its network has asked too often; what comes meanwhile the kernel drops, at no cost to us.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from unkai_wire.rpc_errors import internal_error

PACKET_BYTES = 4096
"""Queries are far smaller; of longer packets the rest is cut off."""
_BATCH = 16
"""Packets that are read before others have their turn."""
_REST_S = 0.05

Received = Callable[[bytes, Any, "Packets"], bool]
"""`received(text, peer, packets)` takes a packet; False: no more for a while."""


class Packets:
    """One bound socket, read from the start."""

    def __init__(self, bound: socket.socket, received: Received) -> None:
        """Read a bound socket; it is ours from now on."""
        bound.setblocking(False)
        self._bound, self._received = bound, received
        self._loop = asyncio.get_running_loop()
        self._resting: asyncio.TimerHandle | None = None
        self._read()

    def send(self, text: bytes, peer: Any) -> None:
        """Send a packet, or lose it."""
        with suppress(OSError):
            self._bound.sendto(text, peer)

    @property
    def are_read(self) -> bool:
        """Whether its socket is still open."""
        return self._bound.fileno() >= 0

    def close(self) -> None:
        """Close the socket; what is sent afterwards is lost."""
        if self._bound.fileno() < 0:
            return
        if self._resting is not None:
            self._resting.cancel()
        self._loop.remove_reader(self._bound)
        self._bound.close()

    def _read(self) -> None:
        self._resting = None
        self._loop.add_reader(self._bound, self._readable)

    def _readable(self) -> None:
        for _ in range(_BATCH):
            try:
                text, peer = self._bound.recvfrom(PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:  # of an earlier packet
                self._rest()
                return
            try:
                goes_on = self._received(text, peer, self)
            except Exception as error:  # noqa: BLE001 - a bug of one packet is that one's alone
                internal_error(error)
                goes_on = True
            if not goes_on:
                self._rest()
                return

    def _rest(self) -> None:
        self._loop.remove_reader(self._bound)
        self._resting = self._loop.call_later(_REST_S, self._read)
