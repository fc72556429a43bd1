"""Hosts: who is registered, who speaks, and what they say.

One task follows the membership, one sweeps states, and two per host keep its machine watch and
its usage watch open. What they hear goes into `LiveState`; what changes a host's row is written by
the sweep in one transaction.

A host is UP while it has told us all it holds and speaks; CONNECTING while we are not there yet;
UNKNOWN once it has been silent for too long. A lease that ended makes the patience shorter, but a
host that speaks to us is not lost, whatever etcd says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from unkai_scheduler.agents.port import Alive, Endpoint, MachineChange, Synced
from unkai_scheduler.cluster.port import Cluster
from unkai_scheduler.domain.hosts import Host, HostState
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.reconcile.host_rows import is_stale, write_row
from unkai_scheduler.reconcile.live import ReceivedSample
from unkai_scheduler.reconcile.office import Office, closing, growing_s, new_etag, wait_for
from unkai_scheduler.store import hosts
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.cluster_records import HostRecord
from unkai_wire.errors import Unavailable, UnkaiError

log = structlog.get_logger(__name__)

SILENCE_S = 9.0
"""A host that has said nothing for so long is UNKNOWN; agents speak every 5 s at least."""
SILENCE_UNREGISTERED_S = 6.0
"""The same once its lease has ended: two signs weigh more than one."""
SWEEP_S = 0.5
ALL_HERE_S, MOST_HERE_S = 1.5, 5.0
"""How long a new leader waits for all hosts, and for half of them, before it places anything."""
MAX_HELD = 20_000
"""Machines and tombstones that one host may tell of; one that invents more is not listened to."""
LEARNING_S = 10.0
"""How long "no capacity" is not said while a host that came is still to tell how it fares."""


@dataclass
class Watched:
    """One host that we follow."""

    record: HostRecord
    heard_s: float
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    connected: bool = False
    """False once a stream broke, until it is open again."""

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.record.host_id, self.record.address, self.record.tls_name)


class Hosts:
    """Follows all hosts. `changed` is told of a state that moved, `observed` of a machine."""

    def __init__(
        self,
        office: Office,
        cluster: Cluster,
        *,
        changed: Callable[[str], None],
        observed: Callable[[str], None],
        sampled: Callable[[ReceivedSample], None],
        silence_s: float = SILENCE_S,
    ) -> None:
        self._office = office
        self._cluster = cluster
        self._changed = changed
        self._observed = observed
        self._sampled = sampled
        self._silence_s = silence_s
        self._members: dict[str, HostRecord] = {}
        self._watched: dict[str, Watched] = {}
        self._lost: set[str] = set()
        """Hosts that this reign has followed and follows no longer."""
        self._rows: dict[str, Host] = {}
        self._nameless: set[str] = set()
        self._sweep_soon = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._began_s = self._learning_s = self._loop.time()
        self._members_read = False

    def state(self, host_id: str) -> HostState:
        """Return where a host stands for us now."""
        now_s = self._loop.time()
        watched = self._watched.get(host_id)
        registered = host_id in self._members
        if watched is None:
            # A new reign knows nobody yet: give them the time to be found, but for those it lost.
            found_yet = now_s - self._began_s >= self._silence_s
            is_lost = found_yet or host_id in self._lost
            return HostState.UNKNOWN if is_lost else HostState.CONNECTING
        patience_s = self._silence_s
        if not registered:
            patience_s = min(patience_s, SILENCE_UNREGISTERED_S) if watched.connected else 0.0
        if now_s - watched.heard_s > patience_s:
            return HostState.UNKNOWN
        synced = watched.connected and self._office.live.is_synced(host_id)
        return HostState.UP if synced else HostState.CONNECTING

    def name(self, host_id: str) -> str:
        """Return a host's name; its id when it has none yet."""
        row = self._rows.get(host_id)
        return row.name if row else host_id

    def is_written(self, host_id: str) -> bool:
        """Tell whether the database has a row of a host."""
        return host_id in self._rows

    def is_gone(self, host_id: str) -> bool:
        """Tell whether a host is neither registered nor heard any more."""
        registered = not self._members_read or host_id in self._members
        return not registered and self.state(host_id) is HostState.UNKNOWN

    def forget(self, host_id: str) -> None:
        """Know a host no longer: its row was deleted. One that comes back is a new one.

        What it says is kept if it is back already: it would not say it again.
        """
        self._rows.pop(host_id, None)
        if self.is_gone(host_id):
            self._lost.discard(host_id)
            self._office.live.forget_host(host_id)
        self._changed(host_id)

    async def check_written(self, host_id: str) -> None:
        """Look whether a host still has its row.

        What it said last is kept: only who removes a host says that it never comes back.
        """
        row = await self._office.uow.read(lambda conn: hosts.get(conn, host_id))
        if row is None and self._rows.pop(host_id, None) is not None:
            self._changed(host_id)

    def hears_nobody(self) -> bool:
        """Tell whether hosts are registered and none of them speaks to us."""
        states = map(self.state, self._members)
        return bool(self._members) and all(state is HostState.UNKNOWN for state in states)

    def untold(self) -> list[str] | None:
        """Return the names of hosts that have not told us all they hold; None: not even that.

        A host without a row, because it has only just come or another has its name, is one.
        """
        if not self._members_read:
            return None
        names = {host_id: row.name for host_id, row in self._rows.items()}
        names |= {i: record.name for i, record in self._members.items() if i not in names}
        known = self._rows.keys()
        return sorted(
            name
            for host_id, name in names.items()
            if host_id not in known or self.state(host_id) is not HostState.UP
        )

    def is_learning(self) -> bool:
        """Tell whether some host that is registered may soon take what none can take now."""
        if self._loop.time() - self._learning_s > LEARNING_S:
            return False
        return not self._members_read or any(map(self._is_learning_of, self._members))

    def is_new_here(self) -> bool:
        """Tell whether the reign is young and most hosts may not have spoken yet.

        Placing on the first that does would load it with all that waited. One host that is dead,
        and still registered, does not hold up what the others can take.
        """
        young_s = self._loop.time() - self._began_s
        if young_s >= MOST_HERE_S:
            return False
        learning = sum(map(self._is_learning_of, self._members))
        if young_s >= ALL_HERE_S and self._members_read:
            return 2 * learning > len(self._members)
        return learning > 0 or not self._members_read

    def may_yet_tell(self) -> bool:
        """Tell whether the reign is young and a registered host has yet to say what it holds."""
        if self._loop.time() - self._began_s >= self._silence_s:
            return False
        states = map(self.state, self._members)
        return not self._members_read or HostState.CONNECTING in states

    def _is_learning_of(self, host_id: str) -> bool:
        state, age_s = self.state(host_id), self._office.live.age_s(host_id)
        untold = age_s is None or age_s > self._office.settings.placement.max_metric_age_s
        unwritten = host_id not in self._rows and host_id not in self._nameless
        return state is HostState.CONNECTING or (state is HostState.UP and (untold or unwritten))

    async def run(self) -> None:
        """Follow hosts until cancelled."""
        failures = 0
        while not await self._office.attempt("hosts", self._load):
            failures += 1
            await asyncio.sleep(growing_s(failures))
        async with asyncio.TaskGroup() as watchers:
            watchers.create_task(self._follow_membership())
            while True:
                self._watch_new(watchers)
                await self._office.attempt("hosts", self._write_states)
                self._leave_lost()
                await wait_for(self._sweep_soon, SWEEP_S)

    async def _load(self) -> None:
        rows = await self._office.uow.read(hosts.list_all)
        self._rows = {row.id: row for row in rows}

    # Membership.

    async def _follow_membership(self) -> None:
        failures = 0
        while True:

            async def follow() -> None:
                nonlocal failures
                async with closing(self._cluster.watch()) as stream:
                    async for membership in stream:
                        failures = 0
                        self._members = dict(membership.hosts)
                        self._members_read = True
                        self._sweep_soon.set()

            await self._office.attempt("membership", follow)
            failures += 1
            await asyncio.sleep(growing_s(failures))

    def _watch_new(self, watchers: asyncio.TaskGroup) -> None:
        for host_id, record in self._members.items():
            watched = self._watched.get(host_id)
            if watched is not None and watched.record is record:
                continue
            if watched is not None and watched.endpoint == _endpoint(record):
                watched.record = record
                continue
            if watched is not None:
                self._stop(watched)
            watched = self._watched[host_id] = Watched(record, self._loop.time())
            self._lost.discard(host_id)
            self._learning_s = self._loop.time()
            self._office.live.set_endpoint(watched.endpoint)
            watched.tasks = [
                watchers.create_task(self._keep_open(watched, "machines", self._machines)),
                watchers.create_task(self._keep_open(watched, "usage", self._usage)),
            ]

    def _leave_lost(self) -> None:
        """Stop following hosts whose lease ended and that are silent."""
        for host_id, watched in list(self._watched.items()):
            if host_id not in self._members and self.state(host_id) is HostState.UNKNOWN:
                self._stop(watched)
                del self._watched[host_id]
                self._lost.add(host_id)
                self._office.live.drop_host(host_id)

    def _stop(self, watched: Watched) -> None:
        for task in watched.tasks:
            task.cancel()
        self._office.live.lose_sync(watched.record.host_id)

    # Rows.

    async def _write_states(self) -> None:
        wanted = {
            host_id: (self.state(host_id), self._members.get(host_id))
            for host_id in self._rows.keys() | self._watched.keys()
        }
        stale = {
            host_id: (state, record)
            for host_id, (state, record) in wanted.items()
            if is_stale(self._rows.get(host_id), state, record)
        }
        if not stale:
            return
        now, etags = self._office.clock(), {host_id: new_etag() for host_id in stale}

        def work(conn: Connection) -> list[Host]:
            written = [
                write_row(
                    conn,
                    self._office,
                    host_id,
                    state=state,
                    record=record,
                    now=now,
                    etag=etags[host_id],
                )
                for host_id, (state, record) in stale.items()
            ]
            return [row for row in written if row is not None]

        for row in await self._office.lead(work):
            self._rows[row.id] = row
            self._changed(row.id)
        self._complain({i: record.name for i, (_, record) in stale.items() if record})

    def _complain(self, told: Mapping[str, str]) -> None:
        """Log, once each, the hosts whose name another host has. `told`: names by id."""
        nameless = told.keys() - self._rows.keys()
        for host_id in nameless - self._nameless:
            log.error("host_name_taken", host=host_id, name=told[host_id])
        self._nameless = nameless

    # Streams.

    async def _keep_open(
        self,
        watched: Watched,
        what: str,
        read: Callable[[Watched], Coroutine[Any, Any, None]],
    ) -> None:
        """Open a stream again and again: backoff grows while it fails at once."""
        failures, last = 0, ""
        while True:
            opened_s = self._loop.time()
            try:
                await read(watched)
                error = "it ended"
            except UnkaiError as failure:
                error = failure.reason
            except Exception as failure:
                log.exception("host_stream_bug", host=watched.record.name, stream=what)
                error = repr(failure)
            if self._loop.time() - opened_s > self._silence_s:
                failures = 0
            if error != last:
                log.info("host_stream_ended", host=watched.record.name, stream=what, why=error)
                last = error
            if what == "machines":
                self._disconnected(watched)
            await asyncio.sleep(growing_s(failures))
            failures += 1

    def _disconnected(self, watched: Watched) -> None:
        if watched.connected:
            watched.connected = False
            self._office.live.lose_sync(watched.record.host_id)
        self._sweep_soon.set()

    async def _machines(self, watched: Watched) -> None:
        live, host_id = self._office.live, watched.record.host_id
        async with closing(self._office.agents.watch_machines(watched.endpoint)) as stream:
            live.begin_sync(host_id)
            async for change in stream:
                watched.heard_s = self._loop.time()
                self._take(watched, change)

    def _take(self, watched: Watched, change: MachineChange) -> None:
        live, host_id = self._office.live, watched.record.host_id
        if isinstance(change, Alive):
            return
        if isinstance(change, Synced):
            live.end_sync(host_id)
            watched.connected = True
            self._learning_s = self._loop.time()
            self._sweep_soon.set()
            self._changed(host_id)
            return
        if live.held_count(host_id) >= MAX_HELD:
            raise Unavailable(
                f"host {host_id} tells of more than {MAX_HELD} machines and tombstones",
                reason="HOST_HOLDS_TOO_MUCH",
                fix="mistrust the host: no scheduler ordered so many",
                metadata={"host_id": host_id},
            )
        if isinstance(change, Tombstone):
            live.put_tombstone(change)
        else:
            live.put_machine(change)
        if live.is_synced(host_id):
            self._observed(change.instance_id)

    async def _usage(self, watched: Watched) -> None:
        async with closing(self._office.agents.watch_usage(watched.endpoint)) as stream:
            async for sample in stream:
                received = self._office.live.put_sample(sample)
                if received is not None:
                    self._sampled(received)


def _endpoint(record: HostRecord) -> Endpoint:
    return Endpoint(record.host_id, record.address, record.tls_name)
