"""Ports that another host has than the claim on their instance says, as OVN shows it.

Told of each port that moved, and looks at all of them when a reign begins and after a lost
connection. What is found is for the audit to report: nothing is moved by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from unkai_scheduler.domain.findings import Finding, FindingKind, Remedy
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.ovn.northbound.names import name_of
from unkai_scheduler.ovn.southbound import OvnSouthbound
from unkai_scheduler.reconcile.office import Office, growing_s
from unkai_scheduler.store import claims, ovn_units, ports
from unkai_wire import ids

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

BATCH = 500
GATHER_S = 0.05
"""A port that moves is seen to several times: bound, then up."""


class MisplacedPorts:
    """See the module."""

    def __init__(self, office: Office, southbound: OvnSouthbound) -> None:
        self._office = office
        self._southbound = southbound
        self._misplaced: dict[str, Finding] = {}

    async def run(self) -> None:
        """Follow until cancelled."""
        self._southbound.forget_moves()
        failures = 0
        while True:
            failures = (
                0 if await self._office.attempt("misplaced_ports", self._round) else failures + 1
            )
            if failures:
                self._southbound.forget_moves()
                await asyncio.sleep(growing_s(failures))
            else:
                await asyncio.sleep(GATHER_S)

    def findings(self) -> list[Finding]:
        """Return the ports that another host has than they shall be on."""
        return list(self._misplaced.values())

    async def _round(self) -> None:
        moved = await self._southbound.moved()
        if moved is not None:
            await self._see(_port_ids(moved))
            return
        self._misplaced.clear()
        after, idents = "", [""]
        while idents:
            page = partial(ovn_units.page, kind="port", after=after, limit=BATCH)
            idents = await self._office.uow.read(page)
            await self._see(idents)
            after = idents[-1] if idents else ""

    async def _see(self, idents: Sequence[str]) -> None:
        """Compare where these ports are with where they shall be."""

        def read(conn: Connection) -> tuple[list[Port], dict[str, str]]:
            some = ports.list_some(conn, idents)
            owners = [port.owner_id for port in some if port.owner is PortOwner.INSTANCE]
            return some, claims.hosts_of(conn, owners)

        if idents:
            known, held = await self._office.uow.read(read)
            for ident in set(idents) - {port.id for port in known}:
                self._misplaced.pop(ident, None)
            self._find(known, held)

    def _find(self, known: Iterable[Port], held: dict[str, str]) -> None:
        for port in known:
            self._misplaced.pop(port.id, None)
            wanted = held.get(port.owner_id, "")
            found = self._southbound.sight.chassis_of(name_of(port.id))
            if wanted and found and found.host_id != wanted:
                self._misplaced[port.id] = _misplaced(port, found.host_id, found.host_name, wanted)


def _port_ids(names: Iterable[str]) -> list[str]:
    """Return the ports of these names; those of routers and of metadata have other ones."""
    found = []
    for name in names:
        try:
            found.append(ids.encode(ids.PREFIXES["port"], UUID(name)))
        except ValueError:
            continue
    return found


def _misplaced(port: Port, host_id: str, host_name: str, wanted: str) -> Finding:
    return Finding(
        FindingKind.PORT_MISPLACED,
        host_id,
        host_name,
        f"host {host_name or host_id} has port {port.name or port.id}, whose instance is on host "
        f"{wanted}",
        Remedy.OPERATOR,
        f"on {host_name or host_id}: see which interface has external_ids:iface-id="
        f"{name_of(port.id)} (ovs-vsctl find Interface), and remove it when no machine there is "
        "the instance's",
        instance_id=port.owner_id,
        name=port.name,
        project_id=port.project_id,
        resource_kind="port",
        resource_id=port.id,
    )
