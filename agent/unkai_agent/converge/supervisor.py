"""All machines of one host: orders in, workers, hints, the timer, and what is observed out.

Between the API and the workers. Orders pass the fence in the ledger before anything else; those
about one machine pass one at a time. Guests go on when this stops: stopping touches nothing.

On start each ledger entry gets a worker, which looks at its domain before it acts: what runs is
adopted untouched. Domains and disks that the ledger does not know are reported and never touched.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from weakref import WeakValueDictionary

import structlog

from unkai_agent.compute.driver import ComputeDriver
from unkai_agent.converge import machines
from unkai_agent.converge.contact import LeaderContact
from unkai_agent.converge.context import InThread, WorkerContext
from unkai_agent.converge.feed import Change, MachineFeed
from unkai_agent.converge.machines import Machinery
from unkai_agent.converge.worker import Worker
from unkai_agent.domain.clock import Clock
from unkai_agent.domain.machines import Fence, LedgerEntry, Machine, MachineSpec, Tombstone
from unkai_agent.ledger import Ledger
from unkai_agent.network.driver import NetworkDriver
from unkai_agent.settings import ConvergeSettings
from unkai_agent.storage.driver import StorageDriver
from unkai_wire.errors import NotFound, UnkaiError
from unkai_wire.rpc_errors import internal_error

_LOG = structlog.get_logger("unkai.agent.converge")
_ALIVE_S = 4.0
"""A watch says at least this often that it lives; the contract promises 5 s."""
_SWEEP_S = 30.0


@dataclass(frozen=True, slots=True)
class Unknown:
    """What this host has and its ledger has not. Reported; never touched."""

    domains: frozenset[str] = frozenset()
    disks: frozenset[str] = frozenset()


class Converger:
    """The machines of one host."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        compute: ComputeDriver,
        storage: StorageDriver,
        accelerator: str,
        boot_id: str,
        settings: ConvergeSettings,
        clock: Clock,
        network: NetworkDriver | None = None,
        sites_up: Callable[[Collection[str]], bool] = lambda network_ids: True,
        offloads: bool = True,
        rng: random.Random | None = None,
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        self._ledger = ledger
        self._compute = compute
        self._storage = storage
        self._settings = settings
        self._clock = clock
        self._in_thread = in_thread
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._ready_s: float | None = None
        self._feed = MachineFeed(self._snapshot)
        self._orders: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: asyncio.TaskGroup | None = None
        self.unknown = Unknown()
        self.contact = LeaderContact(lambda: asyncio.get_running_loop().time())
        self._context = WorkerContext(
            ledger=ledger,
            machinery=Machinery(
                compute,
                storage,
                accelerator,
                asyncio.Semaphore(settings.starts),
                network,
                sites_up,
                offloads,
            ),
            boot_id=boot_id,
            settings=settings,
            contact=self.contact,
            clock=clock,
            rng=self._rng,
            in_thread=in_thread,
            ready_s=lambda: self._ready_s,
            publish=self._feed.publish,
        )
        self._workers = {e.spec.instance_id: Worker(self._context, e) for e in ledger.entries()}

    # -- orders ----------------------------------------------------------------------------

    async def announce_term(self, term: int) -> int:
        """Raise the highest term seen; return it."""
        highest: int = await self._in_thread(self._ledger.raise_term, term)
        self.contact.heard()
        return highest

    async def ensure(self, fence: Fence, spec: MachineSpec) -> Machine:
        """Accept what shall be, as the leave to run, too. Errors as `Ledger.accept`."""
        async with self._order(spec.instance_id):
            entry: LedgerEntry = await self._in_thread(self._ledger.accept, fence, spec)
            self.contact.heard()
            worker = self._workers.get(spec.instance_id)
            if worker is None:
                worker = Worker(self._context, entry)
                self._workers[spec.instance_id] = worker
                self._spawn(worker)
                self._feed.publish(worker.machine)
            return worker.ordered(entry)

    async def remove(self, fence: Fence, instance_id: str) -> Machine | Tombstone:
        """Accept a removal: the machine while it goes, its tombstone once nothing is left.

        What the ledger does not know, such as what a lost ledger file left, is removed at once,
        unless its domain says that it is newer than the order.
        """
        async with self._order(instance_id):
            entry = await self._in_thread(self._ledger.begin_removal, fence, instance_id)
            self.contact.heard()
            worker = self._workers.get(instance_id)
            if entry is not None and worker is not None:
                return worker.removing(entry)
            await machines.check_not_newer(self._context.machinery, fence, instance_id)
            await machines.remove(self._context.machinery, instance_id, lambda _: None)
            known = self._ledger.tombstone(instance_id)
            stone: Tombstone = await self._in_thread(
                self._ledger.bury, fence, instance_id, self._clock()
            )
            if stone != known:
                self._feed.publish(stone)
            return stone

    async def acknowledge(self, fence: Fence, stones: Sequence[Tombstone]) -> None:
        """Note which tombstones the leader has recorded."""
        await self._in_thread(self._ledger.acknowledge, fence, stones, self._clock())
        self.contact.heard()

    # -- what is ---------------------------------------------------------------------------

    @property
    def highest_term(self) -> int:
        """Highest term seen."""
        return self._ledger.highest_term

    @property
    def ledger_problems(self) -> int:
        """How many ledger files could not be read since this agent started."""
        return len(self._ledger.problems)

    def machines(self) -> Sequence[Machine]:
        """Return all machines, by instance id."""
        return [worker.machine for _, worker in sorted(self._workers.items())]

    def tombstones(self) -> Sequence[Tombstone]:
        """Return all tombstones, by instance id."""
        return self._ledger.tombstones()

    def machine(self, instance_id: str) -> Machine:
        """Return one machine; `NotFound` when this host does not hold it."""
        worker = self._workers.get(instance_id)
        if worker is None:
            raise NotFound.of("machine", instance_id)
        return worker.machine

    def order_of(self, instance_id: str) -> LedgerEntry:
        """Return what a machine was last ordered to be; `NotFound` when it is not held."""
        entry = self._ledger.entry(instance_id)
        if entry is None:
            raise NotFound.of("machine", instance_id)
        return entry

    def holds(self, instance_id: str) -> bool:
        """Tell whether this host holds the machine."""
        return instance_id in self._workers

    def watch(self) -> AsyncIterator[Change]:
        """Yield all machines and tombstones, a mark, then each change."""
        return self._feed.watch(_ALIVE_S)

    def leader_watches(self) -> AbstractContextManager[None]:
        """Note, while the context lasts, that a leader watches."""
        return self.contact.watching()

    # -- life ------------------------------------------------------------------------------

    def ready(self) -> None:
        """Say that leaders can reach this host from now on: the wait for permits begins."""
        self._ready_s = asyncio.get_running_loop().time()
        for worker in self._workers.values():
            worker.wake()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for worker in self._workers.values():
                self._spawn(worker)
            tasks.create_task(self._follow_hints())
            tasks.create_task(self._every(self._settings.resync_s, self._resync))
            tasks.create_task(self._every(_SWEEP_S, self._sweep))

    def _order(self, instance_id: str) -> asyncio.Lock:
        return self._orders.setdefault(instance_id, asyncio.Lock())

    def _snapshot(self) -> Sequence[Machine | Tombstone]:
        return [*self.machines(), *self.tombstones()]

    def _spawn(self, worker: Worker) -> None:
        if self._tasks is not None:
            self._tasks.create_task(self._work(worker))

    async def _work(self, worker: Worker) -> None:
        """Run the machine's worker; an order accepted since the burial gets a new one."""
        ident = worker.machine.instance_id
        while True:
            await worker.run()
            entry = self._ledger.entry(ident)
            if entry is None:
                del self._workers[ident]
                return
            worker = self._workers[ident] = Worker(self._context, entry)
            worker.ordered(entry)

    async def _follow_hints(self) -> None:
        """Wake the worker of each machine the hypervisor names; for ever."""
        while True:
            try:
                async for instance_id in self._compute.watch():
                    worker = self._workers.get(instance_id)
                    if worker is not None:
                        worker.wake()
            except UnkaiError as error:
                _LOG.info("hypervisor_events_ended", reason=error.reason)
            await asyncio.sleep(self._rng.uniform(0.5, 1.0) * self._settings.poll_s)

    async def _every(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await act()
            except UnkaiError as error:
                _LOG.info("look_failed", act=act.__name__, reason=error.reason)
            except Exception as error:  # noqa: BLE001 - a timer's bug must not stop the machines
                internal_error(error)
            await asyncio.sleep(seconds * self._rng.uniform(0.9, 1.1))

    async def _resync(self) -> None:
        """Compare what the host has with what the workers saw last, and with the ledger.

        One look at all costs a fraction of one at each: what is as it was wakes nobody.
        """
        try:
            domains = {d.instance_id: d for d in await self._compute.list_domains()}
            disks = await self._storage.list_machines()
        except Exception:
            for worker in self._workers.values():
                worker.wake()
            raise
        for instance_id, worker in self._workers.items():
            worker.found(domains.get(instance_id), disks.get(instance_id, frozenset()))
        known = {entry.spec.instance_id for entry in self._ledger.entries()}
        stored = disks.keys() - domains.keys() - known
        found = Unknown(frozenset(domains.keys() - known), frozenset(stored))
        if found != self.unknown:
            self.unknown = found
            if found.domains or found.disks:
                _LOG.warning(
                    "not_in_ledger", domains=sorted(found.domains), disks=sorted(found.disks)
                )

    async def _sweep(self) -> None:
        await self._in_thread(self._ledger.sweep, asyncio.get_running_loop().time())
