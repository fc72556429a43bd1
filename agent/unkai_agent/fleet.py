"""Simulated hosts: the agent's own code on fake drivers, many in one process and at one address.

For labs and for measuring schedulers. Hosts keep their ids and ledgers over restarts; their
machines exist in memory and are gone with the process, as after a power cut.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Iterator
from pathlib import Path

from unkai_agent import host_facts
from unkai_agent.compute.fake import FakeCompute
from unkai_agent.compute.measured import MeasuredCompute
from unkai_agent.domain.clock import system_clock
from unkai_agent.domain.hosts import Accelerator, Capacity, HostIdentity
from unkai_agent.host import HostParts, RunningHost
from unkai_agent.metrics import HostLoad, Sampler, SimulatedHost
from unkai_agent.network.fake import FakeNetwork
from unkai_agent.settings import FleetSettings, Settings
from unkai_agent.storage.driver import FetchImage
from unkai_agent.storage.fake import FakeStorage
from unkai_wire.fleets import fleet_host_id
from unkai_wire.tls import fleet_tls_name

_ACCELERATOR = Accelerator(name="tcg", reason="simulated")


def fleet_identities(fleet_name: str, hosts: int) -> Iterator[HostIdentity]:
    """Yield the same ids and names at each start: derived from the fleet's name."""
    for number in range(1, hosts + 1):
        name = f"{fleet_name}-{number:04d}"
        yield HostIdentity(host_id=fleet_host_id(fleet_name, number), name=name)


def make_fleet(settings: Settings, fleet_name: str, fetch: FetchImage | None) -> list[RunningHost]:
    """Make the hosts that the settings ask for."""
    boot = f"simulated-{secrets.token_hex(8)}"
    return [
        _make_host(settings, fleet_name, identity, boot, fetch)
        for identity in fleet_identities(fleet_name, settings.fleet.hosts)
    ]


def _make_host(
    settings: Settings,
    fleet_name: str,
    identity: HostIdentity,
    boot: str,
    fetch: FetchImage | None,
) -> RunningHost:
    fleet = settings.fleet
    offered = Capacity(fleet.cpus, fleet.memory_bytes, fleet.disk_bytes)
    folder: Path = settings.state_dir / "hosts" / identity.name
    network = FakeNetwork()
    compute = FakeCompute(accelerator=_ACCELERATOR, write_console_logs=True, plugged=network.plug)
    storage = FakeStorage(
        folder, fetch if fleet.fetch_images else None, capacity_bytes=fleet.disk_bytes
    )
    measured = MeasuredCompute(compute, system="simulated")
    usage = Sampler(
        read_counters=_counters(offered, compute, fleet),
        capacity=offered,
        compute=measured,
        storage=storage,
        clock=system_clock,
        sleep=_Spread(random.Random(identity.host_id)),  # noqa: S311 - not a secret
        interval_s=settings.sampler.interval_s,
    )
    record = host_facts.record(
        settings,
        identity,
        tls_name=fleet_tls_name(fleet_name),
        offered=offered,
        accelerator=_ACCELERATOR,
        boot=boot,
        more_features=(host_facts.PORT_FEATURE,),
    )
    parts = HostParts(
        record=record,
        ledger_dir=folder / "ledger",
        compute=measured,
        storage=storage,
        usage=usage,
        converge=settings.converge,
        durable=False,
        network=network,
    )
    return RunningHost(parts)


def _counters(offered: Capacity, compute: FakeCompute, fleet: FleetSettings) -> SimulatedHost:
    counters = SimulatedHost(offered, compute)
    counters.set_load(HostLoad(cpu_cores=offered.cpus * fleet.background_load_ratio))
    return counters


class _Spread:
    """Sleep as asked, the first time a random share of it: hosts shall not all sample at once."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._first = True

    async def __call__(self, seconds: float) -> None:
        share = self._rng.random() if self._first else 1.0
        self._first = False
        await asyncio.sleep(seconds * share)
