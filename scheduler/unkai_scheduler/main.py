"""The scheduler's command and composition root: the only place where anything is built.

`unkai-scheduler` alone runs the daemon: settings, adapters, services, server, leader. The other
commands make certificates and settings and touch no running daemon.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import structlog

from unkai_scheduler import commands, database_commands, diagnosis
from unkai_scheduler.agents.client import GrpcAgents
from unkai_scheduler.agents.port import Agents
from unkai_scheduler.api.metrics_endpoint import metrics_served
from unkai_scheduler.api.peers import LeaderRoute, PeerWaker
from unkai_scheduler.api.rpc_metrics import RpcMetrics
from unkai_scheduler.api.server import ApiServer, Services
from unkai_scheduler.cluster.etcd import EtcdCluster
from unkai_scheduler.cluster.measured import MeasuredCluster
from unkai_scheduler.cluster.port import Cluster
from unkai_scheduler.domain.clock import CloudClock
from unkai_scheduler.images.measured import MeasuredImageStore
from unkai_scheduler.images.obstore_adapter import open_image_store
from unkai_scheduler.images.port import ImageStore
from unkai_scheduler.ovn.process import OvnNorthbound
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_scheduler.ovn.sight import Sight
from unkai_scheduler.ovn.southbound import OvnSouthbound
from unkai_scheduler.ovn.trace import Tracer
from unkai_scheduler.ovn.trace_process import OvnTracer
from unkai_scheduler.reconcile.leader import Leader
from unkai_scheduler.reconcile.live import LiveState
from unkai_scheduler.services.adoptions import AdoptionsService
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
from unkai_scheduler.services.ports import PortsService
from unkai_scheduler.services.projects import ProjectsService
from unkai_scheduler.services.reachability import ReachabilityExplained
from unkai_scheduler.services.reachability_counters import PathCounters
from unkai_scheduler.services.routers import RoutersService
from unkai_scheduler.services.security_groups import SecurityGroupsService
from unkai_scheduler.services.subnets import SubnetsService
from unkai_scheduler.services.timekeeper import Timekeeper
from unkai_scheduler.settings import InvalidSettings, Settings, load_settings
from unkai_scheduler.store import uploads
from unkai_scheduler.store.measured import MeasuredUnitOfWork
from unkai_scheduler.store.unit_of_work import UnitOfWork, open_unit_of_work
from unkai_scheduler.tls_settings import TlsSettings
from unkai_wire import open_files, small_process, tracing
from unkai_wire.cluster_records import SchedulerRecord
from unkai_wire.doctor import child
from unkai_wire.doctor.child import Examine
from unkai_wire.errors import Unavailable, UnkaiError
from unkai_wire.ids import ids_by
from unkai_wire.local_socket import claim_socket
from unkai_wire.log_stream import standard_error
from unkai_wire.setting_values import FINE

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
    sight: Sight | None = None,
) -> Services:
    """Make all use cases; `sight`: what OVN shows, where the settings say where to look."""
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
        images=ImagesService(context, images, settings.images),
        hosts=HostsService(context, live, settings.placement.ratios),
        host_removals=HostRemovalsService(context, leader),
        audits=AuditsService(leader),
        diagnoses=DiagnosesService(context, agents, examine),
        placement=PlacementService(context),
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
    tls = settings.tls.files()
    claim_socket(settings.socket)  # first of all: another scheduler's files are not ours to open
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_traced(settings))
        clock = CloudClock()
        new_id = ids_by(clock)
        uow = MeasuredUnitOfWork(
            await open_unit_of_work(settings.database, clock=clock, new_id=new_id)
        )
        stack.push_async_callback(uow.close)
        timekeeper = Timekeeper(uow, clock)
        await timekeeper.read()
        images = await _image_store(settings, uow)
        cluster = _cluster(settings)
        stack.push_async_callback(cluster.close)
        agents = GrpcAgents(tls)
        stack.push_async_callback(agents.close)
        live = LiveState(clock=clock)
        follower = Follower(uow)
        northbound, southbound = _ovn(settings)
        for part in (northbound, southbound):
            if part is not None:
                stack.push_async_callback(part.close)
        leader = Leader(
            name=settings.name,
            uow=uow,
            cluster=cluster,
            agents=agents,
            images=images,
            settings=settings,
            live=live,
            clock=clock,
            new_id=new_id,
            # It acts on what a transaction of the leader holds, and wakes nobody.
            plugs=InstancePorts(
                ServiceContext(uow, clock, new_id, lambda _ids: None), settings.name
            ),
            audience=follower,
            reached=clock.reached,
            northbound=northbound,
            southbound=southbound,
        )
        route = LeaderRoute(settings.name, cluster, leader, tls)
        stack.push_async_callback(route.close)
        waker = PeerWaker(route, leader)
        context = ServiceContext(uow, clock, new_id, waker.wake)
        services = build_services(
            context=context,
            follower=follower,
            leader=leader,
            live=live,
            agents=agents,
            images=images,
            settings=settings,
            examine=examine,
            sight=southbound.sight if southbound else None,
        )
        server = ApiServer(services, leader, route, RpcMetrics())
        server.listen(settings.listen, tls)
        server.listen_locally(settings.socket)
        await server.start()
        stack.push_async_callback(server.stop, settings.shutdown_grace_s)
        await stack.enter_async_context(
            metrics_served(settings, uow, live, leader, cluster, clock=clock, ovn=northbound)
        )
        await _register(cluster, settings)
        yield Daemon(leader, waker, follower, timekeeper)


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


def configure_logging(log_format: str, log_level: str) -> None:
    """Write structured lines to standard error, those of libraries too."""
    level = logging.getLevelNamesMapping()[log_level.upper()]
    log: Any = standard_error()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=log.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(log),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(log)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


_config = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings file; /etc/unkai/scheduler.toml by default.",
)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_config
@click.option("--check-config", is_flag=True, help="Check the settings and exit: 0 ok, 1 not.")
@click.version_option(version("unkai"), prog_name="unkai-scheduler")
@click.pass_context
def main(context: click.Context, config: Path | None, check_config: bool) -> None:
    """Run unkai's scheduler, or prepare what it needs."""
    if check_config:
        _check(config)
    elif context.invoked_subcommand is None:
        _run(config)


@main.command()
@_config
@click.option("--check-config", is_flag=True, help="Check the settings and exit: 0 ok, 1 not.")
def run(config: Path | None, check_config: bool) -> None:
    """Run the scheduler until SIGTERM."""
    if check_config:
        _check(config)
    else:
        _run(config)


def _load(config: Path | None) -> Settings:
    try:
        return load_settings(config)
    except InvalidSettings as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        raise click.exceptions.Exit(1) from error


def _check(config: Path | None) -> None:
    settings = _load(config)
    unreadable = [
        f"{path}: cannot be read; make it with 'unkai-scheduler init', or name another file"
        for part in _credentials(settings)
        for path in (part.ca, part.certificate, part.key)
        if not os.access(path, os.R_OK)
    ]
    unreadable += [
        f"{path}: cannot be read; see [database] in the settings"
        for path in settings.database.files()
        if not os.access(path, os.R_OK)
    ]
    for problem in dict.fromkeys(unreadable):
        click.echo(problem, err=True)
    if unreadable:
        raise click.exceptions.Exit(1)
    click.echo(FINE)


def _credentials(settings: Settings) -> list[TlsSettings]:
    used = [settings.tls, settings.etcd.tls]
    return [*used, settings.network.tls] if settings.network.uses_tls else used


def _run(config: Path | None) -> None:
    settings = _load(config)
    small_process.share_memory_among_threads(arenas=2)
    open_files.raise_limit()
    small_process.stop_looking_at_what_stays()
    configure_logging(settings.log_format, settings.log_level)
    try:
        asyncio.run(serve(settings, partial(child.examine, "scheduler", config)))
    except UnkaiError as error:
        raise commands.explained(error) from error
    except OSError as error:
        raise click.ClickException(f"the scheduler cannot start: {error}") from error


for _command in (
    *(commands.init, commands.cert, commands.etcd),
    *(database_commands.db, diagnosis.diagnose),
):
    main.add_command(_command)

if __name__ == "__main__":
    main()
