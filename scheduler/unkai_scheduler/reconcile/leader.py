"""The leader: campaigns, takes office, owns the tasks of a reign, and steps down.

Taking office, in this order: win the election; ask all registered agents for the highest term
they have seen; take a term above it in the database; announce it; if an agent answers with a
higher one, take another. Only then is anything read. From then on every write carries the term,
so that a leader which has lost without knowing it can do no harm: its next write or order is
refused, and the reign ends.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any

import structlog

from unkai_scheduler.agents.port import Agents, Endpoint
from unkai_scheduler.cluster.port import Cluster
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.domain.findings import Finding
from unkai_scheduler.images.port import ImageStore
from unkai_scheduler.ovn.port import Northbound
from unkai_scheduler.ovn.southbound import OvnSouthbound
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.rulebook import OURS, RuleBook
from unkai_scheduler.reconcile import metrics
from unkai_scheduler.reconcile.actions import Rules
from unkai_scheduler.reconcile.audit import Audit
from unkai_scheduler.reconcile.deadlines import Deadlines
from unkai_scheduler.reconcile.decision_log import DecisionLog
from unkai_scheduler.reconcile.events import Sequencer
from unkai_scheduler.reconcile.fitness import Fitness
from unkai_scheduler.reconcile.hearsay import Hearsay, believable
from unkai_scheduler.reconcile.hosts import Hosts
from unkai_scheduler.reconcile.images import ImageLoop
from unkai_scheduler.reconcile.live import LiveState
from unkai_scheduler.reconcile.loop import InstanceLoop
from unkai_scheduler.reconcile.misplaced_ports import MisplacedPorts
from unkai_scheduler.reconcile.names import NamesLoop
from unkai_scheduler.reconcile.networks import NetworkLoop
from unkai_scheduler.reconcile.office import (
    Audience,
    Nobody,
    Office,
    Plugs,
    ReignEnded,
    closing,
    growing_s,
)
from unkai_scheduler.reconcile.placing import Placer
from unkai_scheduler.reconcile.port_states import PortStates
from unkai_scheduler.reconcile.retention import Retention
from unkai_scheduler.settings import Settings
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.deadlines import DESCRIBE_S
from unkai_wire.errors import FailedPrecondition, Unavailable, UnkaiError
from unkai_wire.ids import NewId

log = structlog.get_logger(__name__)

ANNOUNCEMENTS = 8
"""Terms taken at most before a reign begins, while agents name higher ones."""
ASK_AT_ONCE = 256
"""Agents asked for their term at the same time."""
FOLD_S = 0.25
"""Longest that a sample waits before placement sees it."""


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
        plugs: Plugs,
        audience: Audience | None = None,
        reached: Clock | None = None,
        northbound: Northbound | None = None,
        southbound: OvnSouthbound | None = None,
        book: RuleBook = OURS,
        decision_log: DecisionLog | None = None,
    ) -> None:
        """Make one.

        `reached`: the clock that what is deleted by its age goes by. `northbound`, `southbound`:
        OVN, where there are networks. `book`: what placement goes by.
        `decision_log`: where decisions are logged, if they are.
        """
        self.name = name
        self.is_leading = False
        self.term = 0
        self._uow = uow
        self._cluster = cluster
        self._agents = agents
        self._images = images
        self._settings = settings
        self._live = live
        self._clock = clock
        self._reached = reached or clock
        self._new_id = new_id
        self._plugs = plugs
        self._audience = audience or Nobody()
        self._northbound = northbound
        self._southbound = southbound
        self._book = book
        self._decision_log = decision_log
        self._hearsay = Hearsay(live.now_s)
        self._fitness = Fitness(name, cluster, live.now_s)
        self._wakers: list[Callable[[], None]] = []
        self._audit: Audit | None = None
        self._hosts: Hosts | None = None
        self._loop: InstanceLoop | None = None
        self._networks: NetworkLoop | None = None
        self._misplaced: MisplacedPorts | None = None
        self._is_elected = False
        self._office: Office | None = None
        self._seen_term = 0
        """Highest term an agent refused us with: the next one must be above it."""

    def wake(self, ids: Sequence[str] = ()) -> None:
        """Look at once: something was written. A hint, so it never waits or fails."""
        for wake in self._wakers:
            wake()

    @property
    def audit(self) -> Audit:
        """Return the audit of the reign; raise `Unavailable` / NOT_LEADER when there is none."""
        if self._audit is None or not self.is_leading:
            raise _not_leader()
        return self._audit

    @property
    def hosts(self) -> Hosts:
        """Return the reign's knowledge of hosts; raise `Unavailable` / NOT_LEADER as `audit`."""
        if self._hosts is None or not self.is_leading:
            raise _not_leader()
        return self._hosts

    async def fleet(self) -> Fleet:
        """Return a copy of the reign's fleet; raise `Unavailable` / NOT_LEADER as `audit`."""
        if self._loop is None or not self.is_leading:
            raise _not_leader()
        return await self._loop.fleet_now()

    async def run(self) -> None:
        """Campaign, lead, and again, until cancelled."""
        failures = 0
        while True:
            try:
                await self._campaign()
                failures = 0
            except* UnkaiError as group:
                log.warning("campaign_failed", error=str(group.exceptions[0]))
            await asyncio.sleep(growing_s(failures))
            failures += 1

    async def _campaign(self) -> None:
        """Follow the election; hold office while it says so."""
        async with asyncio.TaskGroup() as group, closing(self._cluster.lead()) as election:
            office: asyncio.Task[None] | None = None
            try:
                async for won in election:
                    await self._end(office)
                    office = None
                    if won:
                        self._is_elected = True
                        office = group.create_task(self._hold_office())
            finally:
                await self._end(office)

    async def _end(self, office: asyncio.Task[None] | None) -> None:
        """End the office we hold and wait until all of it is over.

        A task group whose tasks fail at this very moment swallows the cancellation (CPython
        gh-116720, mended in 3.13), so the word is given too: who has been replaced learns of it
        from the election and from the database at once.
        """
        self._is_elected = False
        if self._office is not None:
            self._office.is_over = True
        if office is not None:
            office.cancel()
            await asyncio.wait([office])

    async def _hold_office(self) -> None:
        """Reign; should the reign end while we are still elected, take office anew."""
        failures = 0
        while self._is_elected:
            began_s = asyncio.get_running_loop().time()
            try:
                await self._reign(await self._take_office())
            except* ReignEnded as group:
                self._note_end(group)
            except* UnkaiError as group:
                log.warning("office_not_held", error=str(group.exceptions[0]))
            except* Exception:
                log.exception("reign_failed", term=self.term)
            if asyncio.get_running_loop().time() - began_s > 10:
                failures = 0
            await asyncio.sleep(growing_s(failures))
            failures += 1

    def _note_end(self, group: BaseExceptionGroup[ReignEnded]) -> None:
        for error in _leaves(group):
            self._seen_term = max(self._seen_term, error.highest_term)
        log.info("reign_ended", term=self.term, why=str(next(_leaves(group))))

    # Taking office.

    async def _take_office(self) -> int:
        """Return a term that no agent has seen the like of."""
        membership = await self._cluster.read()
        endpoints = [
            Endpoint(record.host_id, record.address, record.tls_name)
            for record in membership.hosts.values()
        ]
        highest = max(await self._ask(endpoints, self._highest_of), default=0)
        for _ in range(ANNOUNCEMENTS):
            term = await self._uow.take_term(max(highest, self._seen_term))
            announced = await self._ask(endpoints, functools.partial(self._announce, term))
            highest = max(announced, default=0)
            if not highest:
                break
        else:
            log.error("term_disputed", term=term, highest_term=highest)
        log.info("office_taken", term=term, hosts=len(endpoints))
        return term

    async def _ask(
        self, endpoints: Sequence[Endpoint], question: Callable[[Endpoint], Awaitable[int]]
    ) -> list[int]:
        """Ask all agents at once; who does not answer in time is passed over."""
        slots = asyncio.Semaphore(ASK_AT_ONCE)

        async def one(endpoint: Endpoint) -> int:
            async with slots:
                try:
                    async with asyncio.timeout(DESCRIBE_S):
                        return await question(endpoint)
                except (UnkaiError, TimeoutError):
                    return 0

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(one(endpoint)) for endpoint in endpoints]
        return [task.result() for task in asked]

    async def _highest_of(self, endpoint: Endpoint) -> int:
        return believable((await self._agents.describe(endpoint)).highest_term, self.term)

    async def _announce(self, term: int, endpoint: Endpoint) -> int:
        """Return the term that outranks ours; 0 when the agent has none, or is not believed."""
        hearsay, host_id = self._hearsay, endpoint.host_id
        try:
            said = await self._agents.announce_term(endpoint, term)
        except FailedPrecondition as error:
            if error.reason != "STALE_TERM":
                raise
            return hearsay.outranking(host_id, error.metadata.get("highest_term", ""), term)
        return hearsay.outranking(host_id, said, term) if said > term else 0

    # The reign.

    async def _reign(self, term: int) -> None:
        office = Office(
            name=self.name,
            term=term,
            uow=self._uow,
            agents=self._agents,
            images=self._images,
            live=self._live,
            settings=self._settings,
            clock=self._clock,
            new_id=self._new_id,
            hearsay=self._hearsay,
            audience=self._audience,
            plugs=self._plugs,
        )
        self._office = office
        self._live.clear()
        try:
            self.term, self.is_leading = term, True
            metrics.REIGNS.inc()
            await self._run_loops(office)
        finally:
            self.is_leading = False
            self._wakers = []
            self._audit = self._hosts = self._loop = None
            self._networks = self._misplaced = None
            self._live.clear()

    async def _run_loops(self, office: Office) -> None:
        settings = self._settings.reconcile
        rules = Rules(settings.backoff_base_s, settings.backoff_cap_s, settings.create_hosts)
        placer = Placer(self._settings, rules, self._live.now_s, self._book)

        def changed(host_id: str) -> None:
            loop.mark_host(host_id)
            names.doubt(host_id)
            states.host_changed(host_id)
            audit.kick()

        def observed(instance_id: str) -> None:
            loop.mark([instance_id])
            names.look()
            states.observed(instance_id)
            if not loop.is_claimed(instance_id):
                audit.kick()

        hosts = Hosts(
            office, self._cluster, changed=changed, observed=observed, sampled=placer.receive
        )
        states = PortStates(office, hosts)

        def moved() -> None:
            names.wake()  # an instance that is gone has left its names
            self._wake_networks()

        loop = InstanceLoop(office, hosts, placer, rules, moved=moved)
        more = [*self._of_networks(office, states), *self._logging(office, placer)]
        audit, images = Audit(office, hosts, self._found_in_networks), ImageLoop(office)
        names = NamesLoop(office)
        self._audit, self._hosts, self._loop = audit, hosts, loop
        deadlines = Deadlines(office, lambda ids: loop.mark(ids, urgent=True))
        self._wakers = [loop.wake, images.wake, names.wake, office.written.set]
        self._wakers.append(self._wake_networks)
        async with asyncio.TaskGroup() as group:
            for work in (
                hosts.run(),
                loop.run(),
                deadlines.run(),
                images.run(),
                names.run(),
                Sequencer(office).run(),
                Retention(office, self._reached).run(),
                audit.run(),
                self._fitness.watch(office, hosts),
                _fold(placer),
                *more,
            ):
                group.create_task(work)

    def _logging(self, office: Office, placer: Placer) -> Iterator[Coroutine[Any, Any, None]]:
        if self._decision_log is not None:
            journal = placer.keep_journal(office.term, self._decision_log.segment_bytes)
            yield self._decision_log.keep(office, journal)

    def _of_networks(self, office: Office, states: PortStates) -> list[Coroutine[Any, Any, None]]:
        """Make the loops that there are where the cloud has networks."""
        self._networks = self._misplaced = None
        if not self._settings.network.enabled:
            return []
        more = [states.run()]
        if self._northbound is not None:
            self._networks = NetworkLoop(office, self._northbound)
            more.append(self._networks.run())
        if self._southbound is not None:
            self._misplaced = MisplacedPorts(office, self._southbound)
            more.append(self._misplaced.run())
        return more

    def _found_in_networks(self) -> list[Finding]:
        """Return what an operator has to see to in OVN."""
        parts = (self._networks, self._misplaced)
        return [finding for part in parts if part is not None for finding in part.findings()]

    def _wake_networks(self) -> None:
        """Have OVN told at once of what was written. A hint."""
        if self._networks is not None:
            self._networks.wake()


def _not_leader() -> Unavailable:
    return Unavailable(
        "this scheduler does not lead",
        reason="NOT_LEADER",
        fix="try again in a few seconds",
        retry_after_s=1.0,
    )


async def _fold(placer: Placer) -> None:
    """Fold samples into the fleet in ticks."""
    while True:
        await asyncio.sleep(FOLD_S)
        placer.fold()


def _leaves(group: BaseExceptionGroup[ReignEnded]) -> Iterator[ReignEnded]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
