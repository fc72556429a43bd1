"""Consoles: the one short cut from a caller to a host's agent. No row is changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from unkai_scheduler.agents.port import Agents, Endpoint
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.services.checks import Violations, fetch
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.live import LiveView
from unkai_scheduler.store import hosts, instances
from unkai_wire.errors import FailedPrecondition, Unavailable

if TYPE_CHECKING:
    from unkai_scheduler.domain.hosts import Host
    from unkai_scheduler.domain.instances import Instance
    from unkai_scheduler.store.unit_of_work import Connection

MAX_TAIL_BYTES = 16 << 20


class ConsolesService:
    """Use cases of serial consoles."""

    def __init__(self, context: ServiceContext, live: LiveView, agents: Agents) -> None:
        self._context = context
        self._live = live
        self._agents = agents

    async def read_log(
        self, instance_id: str, *, tail_bytes: int, follow: bool
    ) -> AsyncIterator[bytes]:
        """Yield pieces of what the instance wrote to its console."""
        with Violations() as wrong:
            wrong.require(
                0 <= tail_bytes <= MAX_TAIL_BYTES,
                "tail_bytes",
                f"must be 0 to {MAX_TAIL_BYTES}",
                "INVALID_SIZE",
            )
        endpoint = await self._endpoint(instance_id)
        pieces = self._agents.read_console_log(
            endpoint, instance_id, tail_bytes=tail_bytes, follow=follow
        )
        async for piece in pieces:
            yield piece

    async def attach(
        self, instance_id: str, typed: AsyncIterator[bytes], *, force: bool
    ) -> AsyncIterator[bytes]:
        """Connect to the console; the first piece is empty and says that it is open."""
        endpoint = await self._endpoint(instance_id)
        pieces = self._agents.attach_console(endpoint, instance_id, typed, force=force)
        async for piece in pieces:
            yield piece

    async def _endpoint(self, instance_id: str) -> Endpoint:
        def read(conn: Connection) -> tuple[Instance, Host | None]:
            row = fetch("instance", instance_id, "instance_id", lambda i: instances.get(conn, i))
            return row, hosts.get(conn, row.host_id)

        instance, host = await self._context.uow.read(read)
        if not instance.host_id:
            raise FailedPrecondition(
                f"instance {instance_id} is on no host, so it has no console",
                reason="INSTANCE_NOT_PLACED",
                fix="see why with 'unkai instance explain'",
                metadata={"instance_id": instance_id, "state": instance.state.value},
            )
        try:
            return self._live.endpoint(instance.host_id)
        except Unavailable:
            # Nobody leads, so nobody knows better than the row: consoles go on without.
            if host is None or host.state is HostState.UNKNOWN:
                raise
            return Endpoint(host.id, host.address, host.tls_name)
