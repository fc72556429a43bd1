"""The scheduler's composition root: the only place where anything is built.

Settings, adapters, services, server, leader: what is opened here is closed in reverse order.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import structlog

from unkai_scheduler import filter_plugins
from unkai_scheduler.agents.client import GrpcAgents
from unkai_scheduler.agents.port import Agents
from unkai_scheduler.api.metrics_endpoint import metrics_served
from unkai_scheduler.api.peers import LeaderRoute, PeerWaker
from unkai_scheduler.api.rpc_metrics import RpcMetrics
from unkai_scheduler.api.server import ApiServer, Services
from unkai_scheduler.cluster.etcd import EtcdCluster
from unkai_scheduler.cluster.measured import MeasuredCluster
from unkai_scheduler.cluster.port import Cluster
from unkai_scheduler.decision_log.obstore_adapter import open_segment_store
from unkai_scheduler.decision_log.port import SegmentStore
from unkai_scheduler.domain.clock import Clock, CloudClock
from unkai_scheduler.images.measured import MeasuredImageStore
from unkai_scheduler.images.obstore_adapter import open_image_store
from unkai_scheduler.images.port import ImageStore
from unkai_scheduler.ovn.process import OvnNorthbound
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_scheduler.ovn.sight import Sight
from unkai_scheduler.ovn.southbound import OvnSouthbound
from unkai_scheduler.ovn.trace import Tracer
from unkai_scheduler.ovn.trace_process import OvnTracer
from unkai_scheduler.placement.rulebook import OURS, RuleBook
from unkai_scheduler.reconcile.decision_log import DecisionLog
from unkai_scheduler.reconcile.leader import Leader
from unkai_scheduler.reconcile.live import LiveState
from unkai_scheduler.reconcile.office import Plugs
from unkai_scheduler.services.adoptions import AdoptionsService
from unkai_scheduler.services.aggregates import AggregatesService
from unkai_scheduler.services.audits import AuditsService
from unkai_scheduler.services.consoles import ConsolesService
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.diagnoses import DiagnosesService
from unkai_scheduler.services.events import EventsService
from unkai_scheduler.services.flavors import FlavorsService
from unkai_scheduler.services.floating_ips import FloatingIpsService
from unkai_scheduler.services.follower import Follower
from unkai_scheduler.services.forwards import ForwardsService
from unkai_scheduler.services.host_removals import HostRemovalsService
from unkai_scheduler.services.hosts import HostsService
from unkai_scheduler.services.images import ImagesService
from unkai_scheduler.services.instance_ports import InstancePorts
from unkai_scheduler.services.instances import InstancesService
from unkai_scheduler.services.key_pairs import KeyPairsService
from unkai_scheduler.services.live import LeaderView
from unkai_scheduler.services.load_balancers import LoadBalancersService
from unkai_scheduler.services.networks import NetworksService
from unkai_scheduler.services.operations import OperationsService
from unkai_scheduler.services.placement import PlacementService
from unkai_scheduler.services.placement_groups import PlacementGroupsService
from unkai_scheduler.services.ports import PortsService
from unkai_scheduler.services.projects import ProjectsService
from unkai_scheduler.services.reachability import ReachabilityExplained
from unkai_scheduler.services.reachability_counters import PathCounters
from unkai_scheduler.services.replays import ReplaysService, Unsaved
from unkai_scheduler.services.routers import RoutersService
from unkai_scheduler.services.security_groups import SecurityGroupsService
from unkai_scheduler.services.simulations import SimulationsService
from unkai_scheduler.services.subnets import SubnetsService
from unkai_scheduler.services.timekeeper import Timekeeper
from unkai_scheduler.settings import Settings
from unkai_scheduler.store import uploads
from unkai_scheduler.store.measured import MeasuredUnitOfWork
from unkai_scheduler.store.unit_of_work import UnitOfWork, open_unit_of_work
from unkai_wire import small_process, tracing
from unkai_wire.cluster_records import SchedulerRecord
from unkai_wire.doctor.child import Examine
from unkai_wire.errors import Unavailable
from unkai_wire.ids import NewId, ids_by
from unkai_wire.local_socket import claim_socket

_LOG = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Daemon:
    """The scheduler, put together; `run_forever` makes it live."""

    leader: Leader
    waker: PeerWaker
    follower: Follower
    timekeeper: Timekeeper

    async def run_forever(self) -> None:
        """Run what never ends, until cancelled; the first failure ends all."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.leader.run(), name="leader")
            tasks.create_task(self.waker.run(), name="waker")
            tasks.create_task(self.follower.run(), name="follower")
            tasks.create_task(self.timekeeper.run(), name="timekeeper")
            tasks.create_task(small_process.give_memory_back(), name="memory")


@dataclass(frozen=True, slots=True)
class _Outside:
    """What reaches other programs and machines, but for the database."""

    images: ImageStore
    decisions: SegmentStore
    cluster: MeasuredCluster
    agents: GrpcAgents
    northbound: OvnNorthbound | None
    southbound: OvnSouthbound | None


def build_services(
    *,
    context: ServiceContext,
    follower: Follower,
    leader: LeaderView,
    live: LiveState,
    agents: Agents,
    images: ImageStore,
    settings: Settings,
    examine: Examine,
    decisions: SegmentStore,
    unsaved: Unsaved,
    sight: Sight | None = None,
    book: RuleBook = OURS,
) -> Services:
    """Make all use cases.

    `decisions`, `unsaved`: the decision log's segments. `sight`: what OVN shows, where the settings
    say where to look. `book`: what placement goes by.
    """
    return Services(
        instances=InstancesService(context, settings.network),
        adoptions=AdoptionsService(
            context,
            leader,
            live=live,
            agents=agents,
            images=images,
            ratios=settings.placement.ratios,
        ),
        consoles=ConsolesService(context, live, agents),
        forwards=ForwardsService(context, agents),
        flavors=FlavorsService(context),
        key_pairs=KeyPairsService(context),
        placement_groups=PlacementGroupsService(context),
        images=ImagesService(context, images, settings.images),
        aggregates=AggregatesService(context),
        hosts=HostsService(context, live, settings.placement.ratios),
        host_removals=HostRemovalsService(context, leader),
        audits=AuditsService(leader),
        diagnoses=DiagnosesService(context, agents, examine),
        placement=PlacementService(context),
        replays=ReplaysService(context, decisions, unsaved, settings.decision_log, book),
        simulations=SimulationsService(context, leader, settings.placement, settings.network, book),
        operations=OperationsService(context, follower),
        events=EventsService(context, follower),
        projects=ProjectsService(context),
        networks=NetworksService(context, settings.network),
        subnets=SubnetsService(context, settings.network),
        ports=PortsService(context, settings.network),
        security_groups=SecurityGroupsService(context, settings.network),
        routers=RoutersService(context, settings.network),
        floating_ips=FloatingIpsService(context, settings.network),
        load_balancers=LoadBalancersService(context, settings.network),
        reachability=ReachabilityExplained(
            context, settings.network, _tracer(settings), PathCounters(context, agents)
        ),
        sight=sight or Sight(),
    )


def _tracer(settings: Settings) -> Tracer | None:
    """Return what asks OVN's southbound database, where the settings name one."""
    network = settings.network
    if not network.southbound:
        return None
    return OvnTracer(OvnSettings.of(network.southbound, network))


@asynccontextmanager
async def opened(settings: Settings, examine: Examine) -> AsyncIterator[Daemon]:
    """Build the daemon and serve; what was opened is closed in reverse order."""
    claim_socket(settings.socket)  # first of all: another scheduler's files are not ours to open
    book = filter_plugins.load()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_traced(settings))
        clock = CloudClock()
        new_id = ids_by(clock)
        uow = await _unit_of_work(settings, stack, clock, new_id)
        timekeeper = Timekeeper(uow, clock)
        await timekeeper.read()
        outside = await _outside(settings, stack, uow)
        live = LiveState(clock=clock)
        follower = Follower(uow)
        decision_log = DecisionLog(outside.decisions, settings.decision_log, clock, clock.reached)
        leader = Leader(
            name=settings.name,
            uow=uow,
            cluster=outside.cluster,
            agents=outside.agents,
            images=outside.images,
            settings=settings,
            live=live,
            clock=clock,
            new_id=new_id,
            plugs=_plugs(settings, uow, clock, new_id),
            audience=follower,
            reached=clock.reached,
            northbound=outside.northbound,
            southbound=outside.southbound,
            book=book,
            decision_log=decision_log if settings.decision_log.enabled else None,
        )
        route = LeaderRoute(settings.name, outside.cluster, leader, settings.tls.files())
        stack.push_async_callback(route.close)
        waker = PeerWaker(route, leader)
        context = ServiceContext(uow, clock, new_id, waker.wake)
        services = build_services(
            context=context,
            follower=follower,
            leader=leader,
            live=live,
            agents=outside.agents,
            images=outside.images,
            settings=settings,
            examine=examine,
            decisions=outside.decisions,
            unsaved=decision_log,
            sight=outside.southbound.sight if outside.southbound else None,
            book=book,
        )
        await _start(ApiServer(services, leader, route, RpcMetrics()), settings, stack)
        await stack.enter_async_context(
            metrics_served(
                settings, uow, live, leader, outside.cluster, clock=clock, ovn=outside.northbound
            )
        )
        await _register(outside.cluster, settings)
        yield Daemon(leader, waker, follower, timekeeper)


async def _unit_of_work(
    settings: Settings, stack: AsyncExitStack, clock: CloudClock, new_id: NewId
) -> UnitOfWork:
    uow = MeasuredUnitOfWork(await open_unit_of_work(settings.database, clock=clock, new_id=new_id))
    stack.push_async_callback(uow.close)
    return uow


async def _outside(settings: Settings, stack: AsyncExitStack, uow: UnitOfWork) -> _Outside:
    """Open what reaches other programs and machines; `stack` closes it."""
    images = await _image_store(settings, uow)
    decisions = open_segment_store(settings.decision_log_url)
    cluster = _cluster(settings)
    stack.push_async_callback(cluster.close)
    agents = GrpcAgents(settings.tls.files())
    stack.push_async_callback(agents.close)
    northbound, southbound = _ovn(settings)
    for part in (northbound, southbound):
        if part is not None:
            stack.push_async_callback(part.close)
    return _Outside(images, decisions, cluster, agents, northbound, southbound)


def _cluster(settings: Settings) -> MeasuredCluster:
    etcd = settings.etcd
    return MeasuredCluster(EtcdCluster(etcd.endpoints, etcd.tls.files(), settings.name))


def _ovn(settings: Settings) -> tuple[OvnNorthbound | None, OvnSouthbound | None]:
    """Keep ways to OVN's databases, where there are networks."""
    network = settings.network
    northbound = southbound = None
    # From this thread, which lives as long as we do: a child dies with the one that started it.
    if network.northbound:
        northbound = OvnNorthbound(OvnSettings.of(network.northbound, network))
        northbound.start()
    if network.northbound and network.southbound:
        southbound = OvnSouthbound(OvnSettings.of(network.southbound, network))
        southbound.start()
    return northbound, southbound


async def _image_store(settings: Settings, uow: UnitOfWork) -> ImageStore:
    """Open the store of image bytes, rid of what no row names."""
    store = open_image_store(settings.images.url, reserve_bytes=settings.images.reserve_bytes)
    await store.sweep(partial(uow.read, uploads.keys))
    return MeasuredImageStore(store)


def _plugs(settings: Settings, uow: UnitOfWork, clock: Clock, new_id: NewId) -> Plugs:
    """Make what acts on what a transaction of the leader holds, and wakes nobody."""
    return InstancePorts(ServiceContext(uow, clock, new_id, lambda _ids: None), settings.name)


async def _start(server: ApiServer, settings: Settings, stack: AsyncExitStack) -> None:
    """Serve where the settings say, until `stack` is closed."""
    server.listen(settings.listen, settings.tls.files())
    server.listen_locally(settings.socket)
    await server.start()
    stack.push_async_callback(server.stop, settings.shutdown_grace_s)


@asynccontextmanager
async def _traced(settings: Settings) -> AsyncIterator[None]:
    """Send traces meanwhile, where the settings say whither."""
    if not settings.tracing.endpoint:
        yield
        return
    options = tracing.Options(
        service="unkai-scheduler",
        name=settings.name,
        version=version("unkai"),
        endpoint=settings.tracing.endpoint,
        sample_ratio=settings.tracing.sample_ratio,
        tls=settings.tls.files(),
    )
    stop = tracing.start(options)
    try:
        yield
    finally:
        await asyncio.to_thread(stop)


async def _register(cluster: Cluster, settings: Settings) -> None:
    """Make ourselves known; without etcd we serve all the same, and are known once it answers."""
    record = SchedulerRecord(
        name=settings.name,
        address=settings.advertise_address,
        version=version("unkai"),
        metrics_address=settings.advertise_metrics_address,
    )
    try:
        await cluster.register(record)
    except Unavailable as error:
        _LOG.warning("not_registered_yet", reason=error.reason)


async def serve(settings: Settings, examine: Examine) -> None:
    """Run the scheduler until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with opened(settings, examine) as daemon:
        _LOG.info("scheduler_serving", name=settings.name, listen=settings.listen)
        running = asyncio.ensure_future(daemon.run_forever())
        stop = asyncio.ensure_future(stopping.wait())
        try:
            await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            for task in (running, stop):
                task.cancel()
            await asyncio.gather(running, stop, return_exceptions=True)
    _LOG.info("scheduler_stopped", name=settings.name)
