"""Several schedulers over one etcd in memory: the port `cluster.port` without time or network.

`FakeEtcd` holds the keys; each `FakeCluster` is one scheduler's view of it. There are no leases to
wait for: a cut member loses its keys, and the lead, at once. It passes the contract suite of the
real adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from unkai_scheduler.cluster.port import Membership
from unkai_wire.cluster_records import HostRecord, SchedulerRecord
from unkai_wire.errors import Unavailable


class FakeEtcd:
    """Keys shared by all members, and what may happen to them."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostRecord] = {}
        self.schedulers: dict[str, SchedulerRecord] = {}
        self.leader: SchedulerRecord | None = None
        self._away = False
        self._cut: set[str] = set()
        self._changed = asyncio.Event()
        self.revision = 0

    def member(self, name: str) -> FakeCluster:
        """Return a scheduler's view."""
        return FakeCluster(self, name)

    def put_host(self, record: HostRecord) -> None:
        """Register a host, as its agent does."""
        self.hosts[record.host_id] = record
        self.change()

    def remove_host(self, host_id: str) -> None:
        """Let a host's lease end."""
        self.hosts.pop(host_id, None)
        self.change()

    def put_leader(self, record: SchedulerRecord) -> None:
        """Let a scheduler lead that is not there."""
        self.leader = record
        self.change()

    def stop(self) -> None:
        """Be unreachable for everybody; keys outlive it, but for the leader's, who gives up."""
        self._away = True
        self.change()

    def start(self) -> None:
        """Be reachable again."""
        self._away = False
        self.change()

    def wipe(self) -> None:
        """Lose all keys, as when it is rebuilt."""
        self.hosts.clear()
        self.schedulers.clear()
        self.leader = None
        self.change()

    def cut(self, name: str) -> None:
        """Part one scheduler from it: that one's leases end."""
        self._cut.add(name)
        self.drop(name)

    def heal(self, name: str) -> None:
        """Join it again."""
        self._cut.discard(name)
        self.change()

    def drop(self, name: str) -> None:
        """Remove what a scheduler holds."""
        self.schedulers.pop(name, None)
        if self.leader is not None and self.leader.name == name:
            self.leader = None
        self.change()

    def reaches(self, name: str) -> bool:
        """Tell whether a scheduler reaches it."""
        return not self._away and name not in self._cut

    def change(self) -> None:
        """Wake all who wait for a change."""
        self.revision += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def change_after(self, revision: int) -> None:
        """Wait until something has changed since a revision."""
        while self.revision == revision:
            await self._changed.wait()


class FakeCluster:
    """One scheduler's view of a `FakeEtcd`."""

    def __init__(self, etcd: FakeEtcd, name: str) -> None:
        self._etcd = etcd
        self._name = name
        self._record: SchedulerRecord | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._leading = False
        self._has_led = False
        self._resigned = False
        self._closed = False

    async def register(self, record: SchedulerRecord) -> None:
        """Keep the record until `close`."""
        self._record = record
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"fake record {record.name}")
        self._check()
        self._etcd.schedulers[record.name] = record
        self._etcd.change()

    async def _keep(self) -> None:
        while True:
            record = self._record
            assert record is not None
            kept = self._etcd.schedulers.get(record.name) == record
            if self._etcd.reaches(self._name) and not kept:
                self._etcd.schedulers[record.name] = record
                self._etcd.change()
            await self._etcd.change_after(self._etcd.revision)

    async def lead(self) -> AsyncGenerator[bool, None]:
        """Campaign for ever: True on winning, False on losing."""
        try:
            while not self._closed:
                if not self._leading and self._try_to_win():
                    self._leading = True
                    yield True
                elif self._leading and not self._holds():
                    self._leading = False
                    self._withdraw()
                    yield False
                else:
                    await self._etcd.change_after(self._etcd.revision)
            if self._leading:
                self._leading = False
                yield False
        finally:
            self._withdraw()

    async def resign(self) -> None:
        """Give the lead up; the member stands back until another has led."""
        if self._leading:
            self._resigned = True
            self._withdraw()

    async def read(self) -> Membership:
        """Read all records."""
        self._check()
        return Membership(dict(self._etcd.hosts), dict(self._etcd.schedulers), self._etcd.leader)

    async def watch(self) -> AsyncGenerator[Membership, None]:
        """Yield the membership now and after each change."""
        while not self._closed:
            revision = self._etcd.revision
            if self._etcd.reaches(self._name):
                yield await self.read()
            await self._etcd.change_after(revision)

    async def close(self) -> None:
        """Withdraw our records and stop."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._etcd.drop(self._name)

    def _check(self) -> None:
        if not self._etcd.reaches(self._name):
            raise Unavailable(
                "etcd does not answer", reason="ETCD_UNAVAILABLE", fix="see whether etcd runs"
            )

    def _try_to_win(self) -> bool:
        if self._record is None or not self._etcd.reaches(self._name):
            return False
        if self._etcd.leader is not None and not self._is_of_former_life(self._etcd.leader):
            self._resigned = self._resigned and self._etcd.leader.name == self._name
            return False
        if self._resigned and len(self._etcd.schedulers) > 1:
            return False
        self._resigned = False
        self._has_led = True
        self._etcd.leader = self._record
        self._etcd.change()
        return True

    def _is_of_former_life(self, leader: SchedulerRecord) -> bool:
        return not self._has_led and leader.name == self._name

    def _holds(self) -> bool:
        leader = self._etcd.leader
        return self._etcd.reaches(self._name) and leader is not None and leader.name == self._name

    def _withdraw(self) -> None:
        leader = self._etcd.leader
        if leader is not None and leader.name == self._name:
            self._etcd.leader = None
            self._etcd.change()
