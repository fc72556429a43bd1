"""A cloud in one process: the real store and leader, fake agents and etcd, time that jumps.

Its tests run on `tests.support.fast_loop`, and the cloud's wall clock follows the loop's, so that
stories of minutes take seconds and nobody sleeps for real.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.builders import NOON, an_id, an_image
from tests.support.cloud_users import Users
from tests.support.fast_loop import AwaitedStore
from tests.support.memory_images import MemoryImages
from tests.support.store import open_store
from unkai_scheduler.agents.fake import FakeAgents
from unkai_scheduler.agents.limits import Limits
from unkai_scheduler.agents.port import MACHINE_SPECS, Agents, Alive
from unkai_scheduler.cluster.fake import FakeCluster, FakeEtcd
from unkai_scheduler.decision_log.fake import FakeSegments
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.domain.images import Image
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.machines import MachineState
from unkai_scheduler.domain.operations import Operation
from unkai_scheduler.domain.port_orders import NETWORKS, PORTS
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.reconcile.decision_log import DecisionLog
from unkai_scheduler.reconcile.leader import Leader
from unkai_scheduler.reconcile.live import LiveState
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.instance_ports import InstancePorts
from unkai_scheduler.settings import ImageSettings, ReconcileSettings, RetentionSettings, Settings
from unkai_scheduler.store import events, images
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.cluster_records import HostRecord, SchedulerRecord

GIB = 1 << 30
_TICK_S = 0.1
_SAMPLE_S = 2.0


@dataclass
class Scheduler:
    """One scheduler of the cloud, leading or waiting to."""

    name: str
    leader: Leader
    live: LiveState
    cluster: FakeCluster
    decision_log: DecisionLog
    task: asyncio.Task[None] = field(repr=False)


@dataclass
class Audience:
    """What leaders told those who wait."""

    stamps: int = 0
    operation_ids: set[str] = field(default_factory=set)

    def stamped(self) -> None:
        """Count it."""
        self.stamps += 1

    def written(self, operation_ids: Collection[str]) -> None:
        """Keep which."""
        self.operation_ids.update(operation_ids)


class Cloud(Users):
    """The parts, and the acts of users, operators and fate."""

    def __init__(self, folder: Path, settings: Settings, converge_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self.folder = folder
        self.settings = settings
        self.etcd = FakeEtcd()
        self.agents = FakeAgents(clock=self.clock, converge_s=converge_s, limits=Limits())
        self.images = MemoryImages()
        self.segments = FakeSegments()
        self.image: Image = an_image()
        self.schedulers: dict[str, Scheduler] = {}
        self.audience = Audience()
        self.host_ids: list[str] = []
        self.physical_networks: dict[str, tuple[str, ...]] = {}
        self.reached: Clock = self.clock
        """What leaders delete by: the same until a story gives them another."""

    def clock(self) -> datetime:
        """Return the cloud's time."""
        return NOON + timedelta(seconds=self._loop.time() - self._began_s)

    def put_clock_back(self, seconds: float) -> None:
        """Let the wall's clock be set back, as by an operator."""
        self._began_s += seconds

    # Parts.

    def add_host(
        self, *, cpus: int = 8, memory_bytes: int = 32 * GIB, physical_networks: Sequence[str] = ()
    ) -> str:
        """Add a host and register it; it is in OVN where the cloud has networks. Return its id."""
        networks = (PORTS, NETWORKS) if self.settings.network.enabled else ()
        host_id = an_id("host")
        name = f"h{len(self.host_ids) + 1}"
        self.agents.add_host(
            host_id,
            name,
            cpus=cpus,
            memory_bytes=memory_bytes,
            features=(MACHINE_SPECS, *networks),
        )
        self.physical_networks[host_id] = tuple(physical_networks)
        self.host_ids.append(host_id)
        self.register(host_id)
        return host_id

    def register(self, host_id: str, *, network_problem: str = "") -> None:
        """Write a host's record into etcd, as its agent does."""
        told = self.agents.hosts[host_id].description
        self.etcd.put_host(
            HostRecord(
                host_id=host_id,
                name=told.name,
                address=f"fake:{host_id}",
                tls_name=f"{host_id}.host.unkai.internal",
                cpus=told.cpus,
                memory_bytes=told.memory_bytes,
                disk_bytes=told.disk_bytes,
                accelerator=told.accelerator,
                accelerator_reason=told.accelerator_reason,
                traits=told.traits,
                boot_id=told.boot_id,
                agent_version=told.agent_version,
                features=told.features,
                physical_networks=self.physical_networks.get(host_id, ()),
                network_problem=network_problem,
            )
        )

    def lose_host(self, host_id: str) -> None:
        """Let a host fall silent: no word, and its lease ends."""
        self.agents.hang(host_id)
        self.etcd.remove_host(host_id)

    def return_host(self, host_id: str) -> None:
        """Let a lost host come back as it was."""
        self.agents.heal(host_id)
        self.register(host_id)

    async def start(
        self, name: str = "s1", *, uow: UnitOfWork | None = None, agents: Agents | None = None
    ) -> Scheduler:
        """Start a scheduler that campaigns."""
        cluster = self.etcd.member(name)
        await cluster.register(SchedulerRecord(name, f"{name}:7443", "0.1.0"))
        live = LiveState(clock=self.clock, monotonic=asyncio.get_running_loop().time)
        decision_log = DecisionLog(
            self.segments, self.settings.decision_log, self.clock, self.reached
        )
        leader = Leader(
            name=name,
            uow=uow or self.uow,
            cluster=cluster,
            agents=agents or self.agents,
            images=self.images,
            settings=self.settings,
            live=live,
            clock=self.clock,
            new_id=an_id,
            plugs=InstancePorts(
                ServiceContext(self.uow, self.clock, an_id, lambda _ids: None), name
            ),
            audience=self.audience,
            reached=self.reached,
            decision_log=decision_log,
        )
        task = asyncio.create_task(leader.run(), name=f"leader {name}")
        scheduler = self.schedulers[name] = Scheduler(
            name, leader, live, cluster, decision_log, task
        )
        return scheduler

    async def kill(self, name: str = "s1") -> None:
        """End a scheduler wherever it is."""
        scheduler = self.schedulers.pop(name)
        scheduler.task.cancel()
        with suppress(asyncio.CancelledError):
            await scheduler.task
        await scheduler.cluster.close()

    def wake(self) -> None:
        """Tell all schedulers that something was written."""
        for scheduler in self.schedulers.values():
            scheduler.leader.wake()

    # What is.

    def machines(self) -> dict[str, list[str]]:
        """Return, by instance, the hosts that hold a machine of it."""
        held: dict[str, list[str]] = {}
        for host_id, host in self.agents.hosts.items():
            for ident in host.machines:
                held.setdefault(ident, []).append(host_id)
        return held

    def running(self) -> dict[str, list[str]]:
        """Return, by instance, the hosts where it runs."""
        ran: dict[str, list[str]] = {}
        for host_id, host in self.agents.hosts.items():
            for ident, held in host.machines.items():
                if held.machine.state is MachineState.RUNNING:
                    ran.setdefault(ident, []).append(host_id)
        return ran

    async def until(
        self, holds: Callable[[], Awaitable[bool]], what: str, *, within_s: float = 120.0
    ) -> None:
        """Wait until a condition holds; fail with its words when it does not in time."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + within_s
        while not await holds():
            for scheduler in self.schedulers.values():
                if scheduler.task.done():
                    scheduler.task.result()
            assert loop.time() < deadline_s, f"not within {within_s:g} s: {what}"
            await asyncio.sleep(0.2)

    async def until_state(
        self, ident: str, *states: InstanceState, within_s: float = 120.0
    ) -> Instance:
        """Wait until an instance is in one of these states; return it."""

        async def holds() -> bool:
            return (await self.instance(ident)).state in states

        names = "|".join(state.value for state in states)
        await self.until(holds, f"{ident} becomes {names}", within_s=within_s)
        return await self.instance(ident)

    async def until_ended(self, operation_id: str, *, within_s: float = 120.0) -> Operation:
        """Wait until an operation has ended; return it."""

        async def holds() -> bool:
            return (await self.operation(operation_id)).state.ended

        await self.until(holds, f"{operation_id} ends", within_s=within_s)
        return await self.operation(operation_id)

    async def until_quiet(self, *, within_s: float = 240.0) -> None:
        """Wait until no operation is under way."""

        async def holds() -> bool:
            return not await self.active_operations()

        await self.until(holds, "all operations end", within_s=within_s)

    async def until_stamped(self) -> None:
        """Wait until all events have their revision."""

        async def holds() -> bool:
            return not await self.uow.read(events.any_unstamped)

        await self.until(holds, "all events are stamped", within_s=20)

    # Its heart.

    async def beat(self) -> None:
        """Let machines converge and hosts speak, for ever."""
        loop = asyncio.get_running_loop()
        next_sample_s = loop.time()
        while True:
            self.agents.tick()
            if loop.time() >= next_sample_s:
                next_sample_s = loop.time() + _SAMPLE_S
                for host_id, host in self.agents.hosts.items():
                    self.agents.send_sample(host_id)
                    for queue in [] if host.hanging else list(host.machine_watchers):
                        if not queue.full():
                            queue.put_nowait(Alive())
            await asyncio.sleep(_TICK_S)


@asynccontextmanager
async def a_cloud(
    folder: Path,
    *,
    host_count: int = 3,
    converge_s: float = 0.5,
    lead: bool = True,
    retention: RetentionSettings | None = None,
    uploads: ImageSettings | None = None,
    network: NetworkSettings | None = None,
    **rhythm: Any,
) -> AsyncIterator[Cloud]:
    """Run a cloud for the length of a `with`; `rhythm`: reconcile settings."""
    settings = Settings(
        name="s1",
        reconcile=ReconcileSettings(**rhythm),
        retention=retention or RetentionSettings(),
        images=uploads or ImageSettings(),
        network=network or NetworkSettings(),
    )
    cloud = Cloud(folder, settings, converge_s)
    cloud.uow = AwaitedStore(await open_store(folder, clock=cloud.clock))
    await cloud.uow.write(lambda conn: images.insert(conn, cloud.image))
    for _ in range(host_count):
        cloud.add_host()
    heart = asyncio.create_task(cloud.beat(), name="heart")
    try:
        if lead:
            await cloud.start()
        yield cloud
    finally:
        for name in list(cloud.schedulers):
            await cloud.kill(name)
        heart.cancel()
        await asyncio.wait([heart])
        await cloud.uow.close()
