"""Fleet rows: brings the fleet that placement decides on up to what the store says of hosts.

The instance loop asks for it before it places anybody, and whoever only asks what would be gets a
copy. Live figures come by another road: the host watchers' tick folds them in.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.domain.instances import Claim
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.settling import SETTLING_S
from unkai_scheduler.reconcile.hosts import Hosts
from unkai_scheduler.reconcile.office import Office
from unkai_scheduler.reconcile.placing import Placer
from unkai_scheduler.store import claims, placement_groups
from unkai_scheduler.store import hosts as host_rows
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.errors import Unavailable

PORTION = 256
"""Hosts of a copied fleet that are looked at in one go: a few milliseconds."""


class FleetRows:
    """What the fleet has of the store."""

    def __init__(self, office: Office, hosts: Hosts, placer: Placer) -> None:
        self._office = office
        self._hosts = hosts
        self._placer = placer
        self._recalled = False
        """The fleet knows which machines of an earlier reign settle."""

    async def refresh(self) -> None:
        """Read what moved of all hosts; at first, too, who was placed a moment ago."""
        uow, placer = self._office.uow, self._placer
        recent = [] if self._recalled else await self._placed_of_late()
        marks = await uow.read(host_rows.marks)
        rows, members = await self._read(placer.moved(marks))
        placer.refresh(rows, {host_id: self._hosts.state(host_id) for host_id in marks}, members)
        # With no await between: no sample may be taken in before it is known who settles.
        placer.recall(recent, self._office.clock())
        self._recalled = True

    async def copy_now(self) -> Fleet:
        """Return a copy of the fleet as a placement would find it now, for who only asks.

        The fleet itself is not refreshed: a claim decided and not yet committed is in no row.
        Raises `Unavailable` / HOSTS_NOT_HEARD while the reign is too young to place anything.
        """
        if self._hosts.is_new_here():
            raise Unavailable(
                "the scheduler has just begun to lead, and most hosts are still to report",
                reason="HOSTS_NOT_HEARD",
                fix="try again in a few seconds",
                retry_after_s=1.0,
            )
        placer, recalls, uow = self._placer.copy(), not self._recalled, self._office.uow
        recent = await self._placed_of_late() if recalls else []
        marks = await uow.read(host_rows.marks)
        idents, moved = list(marks), list[str]()
        for start in range(0, len(idents), PORTION):
            some = idents[start : start + PORTION]
            moved += placer.moved({ident: marks[ident] for ident in some})
            await asyncio.sleep(0)
        rows, members = await self._read(moved)
        states = {host_id: self._hosts.state(host_id) for host_id in marks}
        for start in range(0, max(len(rows), 1), PORTION):
            placer.refresh(rows[start : start + PORTION], states, members)
            await asyncio.sleep(0)
        placer.recall(recent, self._office.clock())
        return placer.fleet_now()

    async def _read(self, idents: list[str]) -> tuple[list[Host], dict[str, dict[str, str]]]:
        """Read hosts, and which members of placement groups each of them holds."""

        def read(conn: Connection) -> tuple[list[Host], dict[str, dict[str, str]]]:
            return host_rows.list_some(conn, idents), placement_groups.claimed_on(conn, idents)

        return await self._office.uow.read(read) if idents else ([], {})

    async def _placed_of_late(self) -> list[Claim]:
        since = self._office.clock() - timedelta(seconds=SETTLING_S)
        return await self._office.uow.read(lambda conn: claims.made_since(conn, since))
