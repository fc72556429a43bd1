"""States of ports: what hosts say of the ports of their machines, written for users to see.

A port is ACTIVE while its host says that all of OVN is in force for it, UNKNOWN while that host is
silent, and else DOWN. What is written moves no etag and tells no event. Where a host that has just
come back is still telling, what was known stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.machines import Machine, MachineState
from unkai_scheduler.domain.ports import Port, PortState
from unkai_scheduler.reconcile.hosts import Hosts
from unkai_scheduler.reconcile.office import Office, growing_s, wait_for
from unkai_scheduler.store import claims, ports
from unkai_scheduler.store.unit_of_work import Connection

GATHER_S = 0.1
"""A hint waits so long for others."""
RESYNC_S = 60.0
BATCH = 500


class PortStates:
    """Writes what is seen of ports."""

    def __init__(self, office: Office, hosts: Hosts) -> None:
        self._office = office
        self._hosts = hosts
        self._marked: dict[str, None] = {}
        self._on: dict[str, str] = {}
        """The host of each instance with ports that was looked at."""
        self._kick = asyncio.Event()

    def observed(self, instance_id: str) -> None:
        """Look at an instance's ports soon: its host said something of it. A hint."""
        if not self._office.settings.network.enabled:
            return  # nobody comes to look
        self._marked[instance_id] = None
        self._kick.set()

    def host_changed(self, host_id: str) -> None:
        """Look at all that a host holds: its state changed. A hint."""
        for instance_id, on in self._on.items():
            if on == host_id:
                self._marked[instance_id] = None
        self._kick.set()

    async def run(self) -> None:
        """Go round until cancelled."""
        loop = asyncio.get_running_loop()
        resync_s, failures = loop.time(), 0
        while True:
            if loop.time() >= resync_s and await self._office.attempt("port states", self._resync):
                resync_s = loop.time() + RESYNC_S
            if await self._office.attempt("port states", self._round):
                failures = 0
                if not self._marked:
                    await wait_for(self._kick, RESYNC_S)
                await asyncio.sleep(GATHER_S)
            else:
                failures += 1
                await asyncio.sleep(growing_s(failures))

    async def _resync(self) -> None:
        held = await self._office.uow.read(claims.list_all)
        self._on = {claim.instance_id: claim.host_id for claim in held}
        self._marked.update(dict.fromkeys(self._on))

    async def _round(self) -> None:
        some = list(islice(self._marked, BATCH))
        for instance_id in some:
            del self._marked[instance_id]
        if not some:
            return
        try:
            await self._look(some)
        except BaseException:
            self._marked.update(dict.fromkeys(some))
            raise

    async def _look(self, instance_ids: Sequence[str]) -> None:
        def read(conn: Connection) -> tuple[dict[str, list[Port]], dict[str, str]]:
            plugged = ports.of_owners(conn, instance_ids)
            return plugged, claims.hosts_of(conn, plugged)

        plugged, on = await self._office.uow.read(read)
        self._on |= on
        for instance_id in set(instance_ids) - on.keys():
            self._on.pop(instance_id, None)
        moved: dict[str, PortState] = {}
        for instance_id, own in plugged.items():
            moved |= self._moved(own, instance_id, on.get(instance_id, ""))
        if moved:
            owners = {port.id: port.owner_id for own in plugged.values() for port in own}
            await self._office.lead(lambda conn: ports.set_states(conn, moved, owners), tells=False)

    def _moved(
        self, own: Iterable[Port], instance_id: str, host_id: str
    ) -> Mapping[str, PortState]:
        state = self._hosts.state(host_id) if host_id else None
        if state is HostState.CONNECTING:
            return {}
        machine = self._office.live.machine(host_id, instance_id) if host_id else None
        return {
            port.id: seen
            for port in own
            if (seen := state_of(port, state, machine)) is not port.state
        }


def state_of(port: Port, host: HostState | None, machine: Machine | None) -> PortState:
    """Return where a port stands. `host`: the state of its instance's; None: it is on none."""
    if host is HostState.UNKNOWN:
        return PortState.UNKNOWN
    if machine is None or machine.state in {MachineState.STOPPED, MachineState.REMOVING}:
        return PortState.DOWN
    installed = any(seen.port_id == port.id and seen.installed for seen in machine.ports)
    return PortState.ACTIVE if installed else PortState.DOWN
