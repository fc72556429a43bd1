"""`unkai-agent`: the composition root. Only here is anything built.

`run` (the default) is a host's agent, `simulate` a fleet of simulated hosts. SIGTERM ends the
process and touches no guest: machines are QEMU's and libvirt's, and are adopted at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import structlog

from unkai_agent import commands, fleet, host_facts
from unkai_agent.api import exporter
from unkai_agent.api.directory import HostDirectory
from unkai_agent.api.images_client import ImagesClient
from unkai_agent.api.server import AgentServer
from unkai_agent.compute.driver import ComputeDriver
from unkai_agent.compute.libvirt_driver import LibvirtDriver
from unkai_agent.compute.measured import MeasuredCompute
from unkai_agent.domain.clock import system_clock
from unkai_agent.domain.hosts import Accelerator, HostIdentity
from unkai_agent.host import HostParts, RunningHost
from unkai_agent.metrics import Sampler, SamplerPaths, counter_source, group_limits
from unkai_agent.registry import EtcdRegistry
from unkai_agent.settings import InvalidSettings, Settings
from unkai_agent.settings_apart import load_settings_apart
from unkai_agent.state_lock import only_agent_of
from unkai_agent.storage.driver import FetchImage
from unkai_agent.storage.qcow2 import Qcow2Storage
from unkai_wire import open_files, small_process, tracing
from unkai_wire.cluster_records import HostRecord
from unkai_wire.doctor import child
from unkai_wire.doctor.child import Examine
from unkai_wire.errors import FailedPrecondition, UnkaiError
from unkai_wire.log_stream import standard_error
from unkai_wire.setting_values import FINE
from unkai_wire.tls import Role, host_tls_name

_LOG = structlog.get_logger("unkai.agent")
Announce = Callable[[HostRecord], None]
_STOP = (signal.SIGTERM, signal.SIGINT)


def configure_logs(settings: Settings) -> None:
    """Let structlog and the standard library's loggers write the same lines to standard error."""
    level = getattr(logging, settings.log_level.upper())
    log: Any = standard_error()
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=log.isatty())
    )
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
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
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)


async def make_host(settings: Settings, fetch: FetchImage, announce: Announce) -> RunningHost:
    """Make the real host: libvirt, qcow2 files, its switch, the machine's own figures."""
    identity = host_facts.host_identity(settings.tls.certificate)
    boot = host_facts.boot_id(settings.boot_id_file)
    libvirt = settings.libvirt
    driver = LibvirtDriver(
        libvirt.uri, qemu_user=libvirt.qemu_user, call_deadline_s=libvirt.timeout_s
    )
    compute = MeasuredCompute(driver, system="libvirt")
    storage = Qcow2Storage(settings.state_dir, fetch, libvirt.qemu_user, system_clock)
    sampler = settings.sampler
    paths = SamplerPaths(
        cgroup2=sampler.cgroup2,
        memory_v1=sampler.memory_v1,
        blkio_v1=sampler.blkio_v1,
        cpu_v1=sampler.cpu_v1,
    )
    offered = host_facts.capacity(settings.capacity, settings.state_dir, group_limits(paths))
    accelerator = await _accelerator(settings, compute, boot)
    usage = Sampler(
        read_counters=counter_source(paths),
        capacity=offered,
        compute=compute,
        storage=storage,
        clock=system_clock,
        interval_s=sampler.interval_s,
    )
    record = host_facts.record(
        settings,
        identity,
        tls_name=host_tls_name(identity.host_id),
        offered=offered,
        accelerator=accelerator,
        boot=boot,
    )
    parts = HostParts(
        record=record,
        ledger_dir=settings.state_dir / "ledger",
        compute=compute,
        storage=storage,
        usage=usage,
        converge=settings.converge,
    )
    if settings.network.enabled:
        parts = await _with_networks(parts, settings, identity)
    return RunningHost(parts, announce=announce)


async def _with_networks(parts: HostParts, settings: Settings, identity: HostIdentity) -> HostParts:
    # What it imports costs memory that a host without networks need not spend.
    from unkai_agent import host_networks

    made = await host_networks.make_network_parts(settings, identity)
    record = replace(
        parts.record,
        features=parts.record.features + host_networks.FEATURES,
        physical_networks=tuple(sorted(settings.network.bridge_mappings)),
        datapath=made.membership.datapath.value,
    )
    return replace(
        parts,
        record=record,
        network=made.driver,
        networks=made.networks,
        membership=made.membership,
        flows=made.flows,
    )


async def _accelerator(settings: Settings, compute: ComputeDriver, boot: str) -> Accelerator:
    """Return what runs guests' CPUs: as set, as proven in this boot, or emulation."""
    if settings.accelerator != "auto":
        return Accelerator(settings.accelerator, "chosen in the settings")
    note = settings.state_dir / "accelerator.json"
    accelerator = host_facts.recall_accelerator(note, boot)
    if accelerator is not None:
        return accelerator
    try:
        accelerator = await compute.prove_accelerator()
    except UnkaiError as error:
        return Accelerator("tcg", f"KVM could not be tried: {error.message}")
    host_facts.note_accelerator(note, boot, accelerator)
    _LOG.info("accelerator_proven", name=accelerator.name, reason=accelerator.reason)
    return accelerator


async def serve(settings: Settings, examine: Examine, *, simulated: bool) -> None:
    """Be the agent until SIGTERM."""
    tls = settings.tls.files()
    registry = EtcdRegistry(
        settings.etcd.endpoints,
        tls,
        remember=settings.state_dir / "schedulers.json",
        timeout_s=settings.etcd.timeout_s,
    )
    images = ImagesClient(
        registry.scheduler_addresses,
        tls,
        rng=random.Random(),  # noqa: S311 - which scheduler is asked first is no secret
    )
    async with AsyncExitStack() as closing:
        if settings.tracing.endpoint:
            end = tracing.start(_traces(settings))
            closing.push_async_callback(asyncio.to_thread, end)
        hosts = await _make_hosts(settings, images.fetch, registry.put, simulated=simulated)
        directory = HostDirectory()
        for host in hosts:
            directory.add(host.host)
            registry.put(host.host.record)
        server = AgentServer(directory, examine)
        server.listen(settings.listen, tls)
        server.listen_locally(settings.socket)
        await server.start()
        closing.push_async_callback(server.stop, settings.shutdown_grace_s)
        if settings.metrics_listen:
            stop = exporter.serve(directory, settings.metrics_listen, tls)
            closing.push_async_callback(asyncio.to_thread, stop)
        await _run_until_stopped(hosts, registry)
    _LOG.info("agent_stopped", machines="untouched")


def _traces(settings: Settings) -> tracing.Options:
    return tracing.Options(
        service="unkai-agent",
        name=host_facts.principal_of_certificate(settings.tls.certificate).name,
        version=host_facts.agent_version(),
        endpoint=settings.tracing.endpoint,
        sample_ratio=0.0,  # no trace begins here
        tls=settings.tls.files(),
    )


async def _make_hosts(
    settings: Settings, fetch: FetchImage, announce: Announce, *, simulated: bool
) -> Sequence[RunningHost]:
    if not simulated:
        return [await make_host(settings, fetch, announce)]
    principal = host_facts.principal_of_certificate(settings.tls.certificate)
    if principal.role is not Role.FLEET:
        raise FailedPrecondition(
            f"the certificate is a {principal.role.value}'s, not a fleet's",
            reason="NO_IDENTITY",
            fix="make one with 'unkai-scheduler cert fleet NAME'",
        )
    return fleet.make_fleet(settings, principal.name, fetch)


async def _run_until_stopped(hosts: Sequence[RunningHost], registry: EtcdRegistry) -> None:
    """Run all hosts and their registration; return at the first SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOP:
        loop.add_signal_handler(number, stopped.set)

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            for host in hosts:
                tasks.create_task(host.run())
                host.converger.ready()
            tasks.create_task(registry.run())
            tasks.create_task(small_process.give_memory_back())
            await registry.registered()
            _LOG.info("agent_registered", hosts=len(hosts))

    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(work())
        _LOG.info("agent_serves", hosts=len(hosts))
        await stopped.wait()
        working.cancel()


def _check_files(settings: Settings) -> None:
    tls = settings.tls
    unreadable = [p for p in (tls.ca, tls.certificate, tls.key) if not os.access(p, os.R_OK)]
    for path in unreadable:
        click.echo(
            f"{path}: cannot be read; make it with 'unkai-scheduler cert host NAME', "
            "or name another file",
            err=True,
        )
    if unreadable:
        sys.exit(1)
    click.echo(FINE)


def _read(config: Path | None, *, to_stay: bool) -> Settings:
    if to_stay:
        return load_settings_apart(config)
    from unkai_agent.settings_reader import load_settings

    return load_settings(config)


def _start(config: Path | None, check: bool, *, simulated: bool, hosts: int | None = None) -> None:
    try:
        settings = _read(config, to_stay=not check)
    except InvalidSettings as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        sys.exit(1)
    if hosts is not None:
        settings = replace(settings, fleet=replace(settings.fleet, hosts=hosts))
    if check:
        _check_files(settings)
        return
    small_process.share_memory_among_threads(arenas=1)
    open_files.raise_limit()
    small_process.stop_looking_at_what_stays()
    configure_logs(settings)
    try:
        settings.state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        with only_agent_of(settings.state_dir):
            asyncio.run(
                serve(settings, partial(child.examine, "agent", config), simulated=simulated)
            )
    except UnkaiError as error:
        click.echo(f"unkai-agent: {error.message}", err=True)
        if error.fix:
            click.echo(f"  fix: {error.fix}", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"unkai-agent: the agent cannot start: {error}", err=True)
        sys.exit(1)


_config = click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings, TOML."
)
_check = click.option(
    "--check-config", is_flag=True, help="Check the settings and exit: 0 ok, 1 not."
)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_config
@_check
@click.version_option(host_facts.agent_version(), prog_name="unkai-agent")
@click.pass_context
def main(context: click.Context, config: Path | None, check_config: bool) -> None:
    """Run a host's agent."""
    if context.invoked_subcommand is None:
        _start(config, check_config, simulated=False)
    else:
        context.obj = config


@main.command()
@_config
@_check
@click.pass_obj
def run(outer: Path | None, config: Path | None, check_config: bool) -> None:
    """Run this host's agent (the default)."""
    _start(config or outer, check_config, simulated=False)


@main.command()
@_config
@_check
@click.option("--hosts", type=click.IntRange(1, 20_000), help="How many; else as the settings say.")
@click.pass_obj
def simulate(
    outer: Path | None, config: Path | None, check_config: bool, hosts: int | None
) -> None:
    """Run a fleet of simulated hosts."""
    _start(config or outer, check_config, simulated=True, hosts=hosts)


for _command in (commands.init, commands.diagnose):
    main.add_command(_command)

if __name__ == "__main__":
    main()
