"""Channels to agents: one per address, shared by all hosts behind it.

A channel is counted while calls use it and closed once nobody has for a while.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from unkai_scheduler.agents.port import Endpoint
from unkai_wire import tracing
from unkai_wire.tls import TlsFiles, channel_options

IDLE_CHANNEL_S = 60.0
"""A channel that no call has used for so long is closed."""


@dataclass(slots=True)
class _Channel:
    channel: grpc.aio.Channel
    calls: int = 0
    last_used_s: float = 0.0


class Channels:
    """Open channels, with the scheduler's certificate. `monotonic`: seconds."""

    def __init__(self, tls: TlsFiles, monotonic: Callable[[], float]) -> None:
        self._credentials = tls.channel_credentials()
        self._monotonic = monotonic
        self._channels: dict[tuple[str, str], _Channel] = {}

    @property
    def open_addresses(self) -> list[str]:
        """Addresses to which a channel is open."""
        return sorted(address for address, _ in self._channels)

    @asynccontextmanager
    async def to(self, endpoint: Endpoint) -> AsyncIterator[grpc.aio.Channel]:
        """Give the channel to an agent, opened if need be, for a call."""
        await self._close_idle()
        key = (endpoint.address, endpoint.tls_name)
        shared = self._channels.get(key)
        if shared is None:
            shared = self._channels[key] = _Channel(
                grpc.aio.secure_channel(
                    endpoint.address,
                    self._credentials,
                    channel_options(endpoint.tls_name),
                    interceptors=tracing.client_interceptors(),
                )
            )
        shared.calls += 1
        try:
            yield shared.channel
        finally:
            shared.calls -= 1
            shared.last_used_s = self._monotonic()

    async def _close_idle(self) -> None:
        oldest_s = self._monotonic() - IDLE_CHANNEL_S
        idle = [k for k, c in self._channels.items() if not c.calls and c.last_used_s < oldest_s]
        # Out of the table first: while one closes, another call may come for it.
        for shared in [self._channels.pop(key) for key in idle]:
            await shared.channel.close()

    async def close(self) -> None:
        """Close all channels; calls under way fail."""
        channels, self._channels = self._channels, {}
        for shared in channels.values():
            await shared.channel.close()
