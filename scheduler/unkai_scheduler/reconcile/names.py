"""Names inside networks: each host is told those of the networks that its machines are on.

Names are derived from the store, all at once; who needs which follows from what hosts say that they
hold: a host forgets a network when its last machine there goes, so it is told only after it has
said that it holds one. A host is told what has changed, if it is known to hold the revision before,
else all. It keeps them on its own disk, so that guests are answered while nobody leads.

A revision is the term and a number in it: it only ever rises, whoever leads. What a call that
failed has done is unknown; the next one says so much that it does not matter.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

import structlog

from unkai_scheduler.domain.network_names import Names, RevisedNames, names_of
from unkai_scheduler.reconcile.office import Office, growing_s, spread_s, wait_for
from unkai_scheduler.store import network_names
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.errors import UnkaiError

log = structlog.get_logger(__name__)

PAUSE_S = 1.0
"""Least time between two calls about one network to one host, and between two looks."""
LOOK_S = 30.0
"""When nobody says that something has changed."""
SHARE = 20
"""Reading takes at most this part of the time, however many names there are."""
SURE_S = 600.0
"""After so long a host is told again what it should hold."""
MOST_HOSTS = 32
"""Told at the same time."""
_TERM_BITS = 32


@dataclass(slots=True)
class _Held:
    """What a host holds of one network's names, as far as we know."""

    revision: int = 0
    sure_until_s: float = 0.0
    due_s: float = 0.0


@dataclass(slots=True)
class _Host:
    """What one host holds."""

    networks: dict[str, _Held] = field(default_factory=dict)
    failures: int = 0
    due_s: float = 0.0
    said: str = ""
    """What it failed with last."""


class NamesLoop:
    """Tells hosts the names of their networks, as long as the reign lasts."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._kick = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._is_stale = True
        self._read_due_s = 0.0
        self._number = 0
        self._tables: dict[str, RevisedNames] = {}
        self._on: dict[str, frozenset[str]] = {}
        """The networks of each instance."""
        self._hosts: dict[str, _Host] = {}
        self._telling: dict[str, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Look at once: something was written."""
        self._is_stale = True
        self._kick.set()

    def look(self) -> None:
        """Look at once: some host holds something else."""
        self._kick.set()

    def doubt(self, host_id: str) -> None:
        """Tell a host again what it should hold: it may have been started anew."""
        host = self._hosts.get(host_id)
        if host is not None:
            for held in host.networks.values():
                held.sure_until_s = 0.0
            host.due_s, host.failures = 0.0, 0
        self._kick.set()

    async def run(self) -> None:
        """Go round until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._office.attempt("names", lambda: self._round(group))
                await asyncio.sleep(PAUSE_S)
                await wait_for(self._kick, self._idle_s())

    def _idle_s(self) -> float:
        """Return how long nothing can be due."""
        now_s = self._loop.time()
        due = [
            max(host.due_s, held.due_s)
            for host_id, host in self._hosts.items()
            if host_id not in self._telling
            for network_id, held in host.networks.items()
            if self._is_wanting(network_id, held, now_s)
        ]
        if self._is_stale:
            due.append(self._read_due_s)
        return min([LOOK_S, *(each_s - now_s for each_s in due)])

    async def _round(self, group: asyncio.TaskGroup) -> None:
        now_s = self._loop.time()
        if now_s >= self._read_due_s and (self._is_stale or now_s >= self._read_due_s + LOOK_S):
            await self._read()
        self._follow_hosts()
        for host_id in self._due_hosts():
            task = group.create_task(self._tell(host_id))
            self._telling[host_id] = task
            task.add_done_callback(partial(self._told, host_id))

    def _told(self, host_id: str, _ended: asyncio.Task[None]) -> None:
        self._telling.pop(host_id, None)
        self._kick.set()

    # What shall be held, and by whom.

    async def _read(self) -> None:
        """Derive all names from the store."""
        began_s, self._is_stale = self._loop.time(), False

        def read(conn: Connection) -> tuple[dict[str, Names], dict[str, frozenset[str]]]:
            return names_of(network_names.namings(conn), network_names.named_addresses(conn))

        try:
            names, self._on = await self._office.uow.read(read)
        except BaseException:
            self._is_stale = True
            raise
        took_s = self._loop.time() - began_s
        self._read_due_s = self._loop.time() + max(PAUSE_S, took_s * SHARE)
        for network_id in self._tables.keys() - names.keys():
            del self._tables[network_id]
        for network_id, some in names.items():
            table = self._tables.get(network_id)
            if table is None:
                self._tables[network_id] = RevisedNames(network_id, some, self._next_revision())
            else:
                table.move(some, self._next_revision())

    def _next_revision(self) -> int:
        self._number += 1
        return (self._office.term << _TERM_BITS) + self._number

    def _follow_hosts(self) -> None:
        """Follow which networks each host has machines on; of a silent one nothing is known."""
        live = self._office.live
        present = [host_id for host_id in live.hosts() if live.is_synced(host_id)]
        for host_id in self._hosts.keys() - set(present):
            del self._hosts[host_id]
        for host_id in present:
            wanted = {
                network_id
                for machine in live.machines(host_id)
                for network_id in self._on.get(machine.instance_id, ())
                if network_id in self._tables
            }
            if not wanted:
                self._hosts.pop(host_id, None)
                continue
            networks = self._hosts.setdefault(host_id, _Host()).networks
            for network_id in networks.keys() - wanted:
                del networks[network_id]
            for network_id in wanted - networks.keys():
                networks[network_id] = _Held()

    def _is_wanting(self, network_id: str, held: _Held, now_s: float) -> bool:
        table = self._tables.get(network_id)
        if table is None:
            return False
        return held.revision != table.revision or now_s >= held.sure_until_s

    def _due_hosts(self) -> list[str]:
        """Return hosts to begin to tell now; no more than there is room for."""
        now_s = self._loop.time()
        due = (
            host_id
            for host_id, host in self._hosts.items()
            if host_id not in self._telling and host.due_s <= now_s and self._due(host, now_s)
        )
        room = MOST_HOSTS - len(self._telling)
        return [host_id for host_id, _ in zip(due, range(room), strict=False)]

    def _due(self, host: _Host, now_s: float) -> list[str]:
        return [
            network_id
            for network_id, held in host.networks.items()
            if held.due_s <= now_s and self._is_wanting(network_id, held, now_s)
        ]

    # Telling.

    async def _tell(self, host_id: str) -> None:
        await self._office.attempt("names", lambda: self._tell_all(host_id))

    async def _tell_all(self, host_id: str) -> None:
        """Tell one host what is due, one network after the other, until something fails."""
        host = self._hosts.get(host_id)
        if host is None:
            return
        for network_id in self._due(host, self._loop.time()):
            held, table = host.networks.get(network_id), self._tables.get(network_id)
            if held is None or table is None:
                continue
            try:
                await self._tell_one(host_id, held, table)
            except UnkaiError as error:
                self._office.check_still_leading(host_id, error)
                self._failed(host_id, host, network_id, error)
                return
        host.failures, host.said = 0, ""

    async def _tell_one(self, host_id: str, held: _Held, table: RevisedNames) -> None:
        change = table.change_for(held.revision)
        held.due_s = self._loop.time() + PAUSE_S
        # What becomes of the call is unknown until it has ended.
        known, held.revision = held.revision, 0
        endpoint = self._office.endpoint(host_id)
        try:
            await self._office.agents.ensure_names(endpoint, self._office.term, change)
        except UnkaiError as error:
            if error.reason == "NAMES_REVISION" and change.base_revision:
                return  # it is told all a moment later
            held.revision = known if change.base_revision else 0
            raise
        held.revision = change.revision
        held.sure_until_s = self._loop.time() + spread_s(SURE_S)

    def _failed(self, host_id: str, host: _Host, network_id: str, error: UnkaiError) -> None:
        host.due_s = self._loop.time() + growing_s(host.failures, first_s=PAUSE_S, cap_s=LOOK_S)
        host.failures += 1
        if host.said != error.reason:
            host.said = error.reason
            log.warning("names_not_told", host=host_id, network=network_id, error=str(error))
