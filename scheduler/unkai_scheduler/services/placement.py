"""Placement: why an instance is where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.services.checks import fetch
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.store import instances
from unkai_wire.errors import FailedPrecondition

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


class PlacementService:
    """Use cases of placement."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def explain(self, instance_id: str) -> Decision:
        """Return the last decision made for an instance."""

        def read(conn: Connection) -> Decision:
            fetch("instance", instance_id, "instance_id", lambda i: instances.get(conn, i))
            decision = instances.decision(conn, instance_id)
            if decision is None:
                raise FailedPrecondition(
                    f"no host was looked for yet for instance {instance_id}",
                    reason="NOT_DECIDED",
                    fix="ask again in a moment; see the instance's operation",
                    metadata={"instance_id": instance_id},
                )
            return decision

        return await self._context.uow.read(read)
