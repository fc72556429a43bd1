"""A reign: all loops of one term, which begin and end together.

The leader makes it once its term is announced, and none of it outlives the term. What one loop
learns that others must look at goes by way of the reign.

The trap: it is made with no await in between, so whoever asks for it finds all of it or none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

from unkai_scheduler.cluster.port import Cluster
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.domain.findings import Finding
from unkai_scheduler.ovn.port import Northbound
from unkai_scheduler.ovn.southbound import OvnSouthbound
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.rulebook import RuleBook
from unkai_scheduler.reconcile.actions import Rules
from unkai_scheduler.reconcile.audit import Audit
from unkai_scheduler.reconcile.deadlines import Deadlines
from unkai_scheduler.reconcile.decision_log import DecisionLog
from unkai_scheduler.reconcile.events import Sequencer
from unkai_scheduler.reconcile.fitness import Fitness
from unkai_scheduler.reconcile.hosts import Hosts
from unkai_scheduler.reconcile.images import ImageLoop
from unkai_scheduler.reconcile.loop import InstanceLoop
from unkai_scheduler.reconcile.misplaced_ports import MisplacedPorts
from unkai_scheduler.reconcile.names import NamesLoop
from unkai_scheduler.reconcile.networks import NetworkLoop
from unkai_scheduler.reconcile.office import Office
from unkai_scheduler.reconcile.placing import Placer
from unkai_scheduler.reconcile.port_states import PortStates
from unkai_scheduler.reconcile.retention import Retention

FOLD_S = 0.25
"""Longest that a sample waits before placement sees it."""


class Reign:
    """The loops, and what is asked of them from outside."""

    def __init__(
        self,
        office: Office,
        *,
        cluster: Cluster,
        fitness: Fitness,
        reached: Clock,
        northbound: Northbound | None,
        southbound: OvnSouthbound | None,
        book: RuleBook,
        decision_log: DecisionLog | None,
    ) -> None:
        """Make all loops; the parameters are those of the leader."""
        settings = office.settings.reconcile
        rules = Rules(settings.backoff_base_s, settings.backoff_cap_s, settings.create_hosts)
        self.office = office
        self._fitness = fitness
        self._reached = reached
        self._decision_log = decision_log
        self._placer = Placer(office.settings, rules, office.live.now_s, book)
        self.hosts = Hosts(
            office,
            cluster,
            changed=self._changed,
            observed=self._observed,
            sampled=self._placer.receive,
        )
        self._states = PortStates(office, self.hosts)
        self._loop = InstanceLoop(office, self.hosts, self._placer, rules, moved=self._moved)
        self._networks: NetworkLoop | None = None
        self._misplaced: MisplacedPorts | None = None
        has_networks = office.settings.network.enabled
        if has_networks and northbound is not None:
            self._networks = NetworkLoop(office, northbound)
        if has_networks and southbound is not None:
            self._misplaced = MisplacedPorts(office, southbound)
        self.audit = Audit(office, self.hosts, self._found_in_networks)
        self._images = ImageLoop(office)
        self._names = NamesLoop(office)

    async def run(self) -> None:
        """Run all loops until the reign ends; raise what ended it, in a group."""
        async with asyncio.TaskGroup() as group:
            for work in self._works():
                group.create_task(work)

    async def fleet(self) -> Fleet:
        """Return a copy of the fleet as a placement would find it now."""
        return await self._loop.fleet_now()

    def wake(self) -> None:
        """Look at once: something was written. A hint."""
        self._loop.wake()
        self._images.wake()
        self._names.wake()
        self.office.written.set()
        self._wake_networks()

    def _works(self) -> Iterator[Coroutine[Any, Any, None]]:
        office = self.office
        yield self.hosts.run()
        yield self._loop.run()
        yield Deadlines(office, lambda ids: self._loop.mark(ids, urgent=True)).run()
        yield self._images.run()
        yield self._names.run()
        yield Sequencer(office).run()
        yield Retention(office, self._reached).run()
        yield self.audit.run()
        yield self._fitness.watch(office, self.hosts)
        yield self._fold()
        if office.settings.network.enabled:
            yield self._states.run()
        if self._networks is not None:
            yield self._networks.run()
        if self._misplaced is not None:
            yield self._misplaced.run()
        if self._decision_log is not None:
            journal = self._placer.keep_journal(office.term, self._decision_log.segment_bytes)
            yield self._decision_log.keep(office, journal)

    async def _fold(self) -> None:
        """Fold samples into the fleet in ticks."""
        while True:
            await asyncio.sleep(FOLD_S)
            self._placer.fold()

    # What loops learn.

    def _changed(self, host_id: str) -> None:
        self._loop.mark_host(host_id)
        self._names.doubt(host_id)
        self._states.host_changed(host_id)
        self.audit.kick()

    def _observed(self, instance_id: str) -> None:
        self._loop.mark([instance_id])
        self._names.look()
        self._states.observed(instance_id)
        if not self._loop.is_claimed(instance_id):
            self.audit.kick()

    def _moved(self) -> None:
        self._names.wake()  # an instance that is gone has left its names
        self._wake_networks()

    def _wake_networks(self) -> None:
        """Have OVN told at once of what was written. A hint."""
        if self._networks is not None:
            self._networks.wake()

    def _found_in_networks(self) -> list[Finding]:
        """Return what an operator has to see to in OVN."""
        parts = (self._networks, self._misplaced)
        return [finding for part in parts if part is not None for finding in part.findings()]
