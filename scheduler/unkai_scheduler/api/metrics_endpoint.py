"""The Prometheus endpoint: `/metrics` (exporter.py, and the daemon's own) and `/targets`.

Its server has threads of its own; what it asks of the store and of etcd runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from unkai_scheduler.api.exporter import CloudCollector, Ovn, Reign
from unkai_scheduler.api.targets import Targets
from unkai_scheduler.cluster.measured import MeasuredCluster
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.reconcile.live import LiveState
from unkai_scheduler.settings import Settings
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.daemon_figures import DaemonCollector
from unkai_wire.metrics_server import MetricsServer, reader
from unkai_wire.setting_values import split_address


@asynccontextmanager
async def metrics_served(
    settings: Settings,
    uow: UnitOfWork,
    live: LiveState,
    leader: Reign,
    cluster: MeasuredCluster,
    *,
    clock: Clock,
    ovn: Ovn | None = None,
) -> AsyncIterator[None]:
    """Serve `/metrics` and `/targets` meanwhile, unless the settings want none."""
    if not settings.metrics_listen:
        yield
        return
    server = _metrics_server(settings, uow, live, leader, cluster, clock=clock, ovn=ovn)
    try:
        yield
    finally:
        await asyncio.to_thread(server.close)


def _metrics_server(
    settings: Settings,
    uow: UnitOfWork,
    live: LiveState,
    leader: Reign,
    cluster: MeasuredCluster,
    *,
    clock: Clock,
    ovn: Ovn | None,
) -> MetricsServer:
    loop, tls = asyncio.get_running_loop(), settings.tls.files()
    registry = CollectorRegistry()
    registry.register(
        CloudCollector(
            uow,
            live,
            leader,
            loop,
            etcd=cluster,
            ovn=ovn,
            disks=_disks(settings),
            clock=clock,
        )
    )
    shown = (tls.certificate, tls.ca, settings.etcd.tls.certificate)
    registry.register(DaemonCollector("scheduler", version("unkai"), shown, reader))

    targets = Targets()

    def page() -> list[dict[str, Any]]:
        reading = asyncio.run_coroutine_threadsafe(cluster.read(), loop)
        return targets.page(reading.result())

    host, port = split_address(settings.metrics_listen)
    return MetricsServer(host, port, tls, registry, {"/targets": page})


def _disks(settings: Settings) -> Mapping[str, Path]:
    """Return where what we keep on disks of this machine lies."""
    places = (
        ("database", settings.database.url, "sqlite:///"),
        ("images", settings.images.url, "file://"),
    )
    return {
        holds: Path(url.removeprefix(scheme))
        for holds, url, scheme in places
        if url.startswith(scheme)
    }
