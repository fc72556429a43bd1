"""The leader: campaigns, takes office, owns the tasks of a reign, and steps down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unkai_scheduler.domain.clock import Clock
from unkai_wire.ids import NewId

if TYPE_CHECKING:
    from unkai_scheduler.agents.port import Agents
    from unkai_scheduler.cluster.port import Cluster
    from unkai_scheduler.images.port import ImageStore
    from unkai_scheduler.reconcile.live import LiveState
    from unkai_scheduler.settings import Settings
    from unkai_scheduler.store.unit_of_work import UnitOfWork


class Leader:
    """One scheduler's part in leading the cloud."""

    def __init__(
        self,
        *,
        name: str,
        uow: UnitOfWork,
        cluster: Cluster,
        agents: Agents,
        images: ImageStore,
        settings: Settings,
        live: LiveState,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self.name = name
        self.is_leading = False
        self.term = 0

    async def run(self) -> None:
        """Campaign, lead, and again, until cancelled."""

    def wake(self) -> None:
        """Look at once: something was written."""
