"""Between our words and `agent.v1.NetworkService`'s, both ways. Pure but for the stream's order.

A write that meets a refusal hides it (`unkai_wire.rpc_errors`). So what is sent to a machine waits
until the host has said that the connection is open; the end of it waits, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from unkai.agent.v1 import network_service_pb2 as pb
from unkai_scheduler.agents import convert
from unkai_scheduler.agents.port import Endpoint, ForwardTarget
from unkai_scheduler.domain.machines import Fence
from unkai_scheduler.domain.network_names import NameChange


def names_request(endpoint: Endpoint, term: int, change: NameChange) -> pb.EnsureNamesRequest:
    """Write what a host is told of a network's names."""
    return pb.EnsureNamesRequest(
        host_id=endpoint.host_id,
        fence=convert.fence_message(Fence(term)),
        network_id=change.network_id,
        base_revision=change.base_revision,
        revision=change.revision,
        domain=change.domain,
        put=[pb.NameRecord(name=name, addresses=some) for name, some in change.put.items()],
        removed=sorted(change.removed),
    )


class ForwardRequests:
    """What is sent to a machine, as the requests of one call."""

    def __init__(
        self, endpoint: Endpoint, target: ForwardTarget, incoming: AsyncIterator[bytes]
    ) -> None:
        self._first = pb.ForwardRequest(
            open=pb.ForwardRequest.Open(
                host_id=endpoint.host_id,
                instance_id=target.instance_id,
                port_id=target.port_id,
                port_number=target.port_number,
            )
        )
        self._incoming = incoming
        self._is_open: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def go_on(self, is_open: bool) -> None:
        """Say whether the host has opened the connection; what is said first holds."""
        if not self._is_open.done():
            self._is_open.set_result(is_open)

    async def messages(self) -> AsyncIterator[pb.ForwardRequest]:
        """Yield the requests."""
        yield self._first
        if await self._is_open:
            async for piece in self._incoming:
                yield pb.ForwardRequest(data=piece)


def piece_of(message: pb.ForwardResponse) -> bytes | None:
    """Read what came from a machine; None: it sends no more."""
    return None if message.end else bytes(message.data)
