"""The leader: campaigns, takes office, reigns, and steps down.

Taking office, in this order: win the election; ask all registered agents for the highest term
they have seen; take a term above it in the database; announce it; if an agent answers with a
higher one, take another. Only then is anything read. From then on every write carries the term,
so that a leader which has lost without knowing it can do no harm: its next write or order is
refused, and the reign ends.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator, Sequence

import structlog

from unkai_scheduler.agents.port import Agents, Endpoint
from unkai_scheduler.cluster.port import Cluster
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.images.port import ImageStore
from unkai_scheduler.ovn.port import Northbound
from unkai_scheduler.ovn.southbound import OvnSouthbound
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.rulebook import OURS, RuleBook
from unkai_scheduler.reconcile import metrics
from unkai_scheduler.reconcile.audit import Audit
from unkai_scheduler.reconcile.decision_log import DecisionLog
from unkai_scheduler.reconcile.fitness import Fitness
from unkai_scheduler.reconcile.hearsay import Hearsay, believable
from unkai_scheduler.reconcile.hosts import Hosts
from unkai_scheduler.reconcile.live import LiveState
from unkai_scheduler.reconcile.office import (
    Audience,
    Nobody,
    Office,
    Plugs,
    ReignEnded,
    closing,
    growing_s,
)
from unkai_scheduler.reconcile.reign import Reign
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
        self.term = 0
        self._uow = uow
        self._cluster = cluster
        self._agents = agents
        self._images = images
        self._settings = settings
        self._live = live
        self._clock = clock
        self._new_id = new_id
        self._plugs = plugs
        self._audience = audience or Nobody()
        self._hearsay = Hearsay(live.now_s)
        self._new_reign = functools.partial(
            Reign,
            cluster=cluster,
            fitness=Fitness(name, cluster, live.now_s),
            reached=reached or clock,
            northbound=northbound,
            southbound=southbound,
            book=book,
            decision_log=decision_log,
        )
        self._is_elected = False
        self._reign: Reign | None = None
        self._seen_term = 0
        """Highest term an agent refused us with: the next one must be above it."""

    def wake(self, ids: Sequence[str] = ()) -> None:
        """Look at once: something was written. A hint, so it never waits or fails."""
        if self._reign is not None:
            self._reign.wake()

    @property
    def is_leading(self) -> bool:
        """Tell whether a reign of ours is under way."""
        return self._reign is not None

    @property
    def audit(self) -> Audit:
        """Return the audit of the reign; raise `Unavailable` / NOT_LEADER when there is none."""
        return self._leading().audit

    @property
    def hosts(self) -> Hosts:
        """Return the reign's knowledge of hosts; raise `Unavailable` / NOT_LEADER as `audit`."""
        return self._leading().hosts

    async def fleet(self) -> Fleet:
        """Return a copy of the reign's fleet; raise `Unavailable` / NOT_LEADER as `audit`."""
        return await self._leading().fleet()

    def _leading(self) -> Reign:
        if self._reign is None:
            raise Unavailable(
                "this scheduler does not lead",
                reason="NOT_LEADER",
                fix="try again in a few seconds",
                retry_after_s=1.0,
            )
        return self._reign

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
        if self._reign is not None:
            self._reign.office.is_over = True
        if office is not None:
            office.cancel()
            await asyncio.wait([office])

    async def _hold_office(self) -> None:
        """Reign; should the reign end while we are still elected, take office anew."""
        failures = 0
        while self._is_elected:
            began_s = asyncio.get_running_loop().time()
            try:
                await self._hold(await self._take_office())
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

    async def _hold(self, term: int) -> None:
        """Reign until it ends."""
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
        self._live.clear()
        try:
            self.term, self._reign = term, self._new_reign(office)
            metrics.REIGNS.inc()
            await self._reign.run()
        finally:
            self._reign = None
            self._live.clear()


def _leaves(group: BaseExceptionGroup[ReignEnded]) -> Iterator[ReignEnded]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
