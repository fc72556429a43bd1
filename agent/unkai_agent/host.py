"""One host made of its parts: ledger, converger, drivers, sampler. Used by `main` alone.

A real host and each simulated one are made by the same function from other drivers, so that a
lab's fleet runs the agent's own code.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from unkai_agent.api.directory import Host, UsageSource
from unkai_agent.compute.driver import ComputeDriver
from unkai_agent.converge.context import InThread
from unkai_agent.converge.decisions import is_on
from unkai_agent.converge.networks import NetworkKeeper
from unkai_agent.converge.supervisor import Converger
from unkai_agent.converge.switch import SwitchKeeper
from unkai_agent.domain.clock import Clock, system_clock
from unkai_agent.host_facts import MAX_REASON
from unkai_agent.ledger import Ledger
from unkai_agent.ledger_files import LedgerProblem
from unkai_agent.metrics.rates import PortReading
from unkai_agent.metrics.sampler import ReadPorts
from unkai_agent.network.driver import Datapath, JoinSettings, NetworkDriver
from unkai_agent.network.flows import FlowCounters
from unkai_agent.network.forwarding import Forwarder
from unkai_agent.settings import ConvergeSettings
from unkai_agent.storage.driver import StorageDriver
from unkai_wire.cluster_records import HostRecord
from unkai_wire.errors import UnkaiError

if TYPE_CHECKING:  # what it imports costs memory that a host without networks need not spend
    from unkai_agent.network.service import HostNetworks

_LOG = structlog.get_logger("unkai.agent")


class RunningUsage(UsageSource, Protocol):
    """A source of live figures that must be run."""

    read_ports: ReadPorts | None
    """Set by the host: reads the counters of machines' ports."""

    def run(self) -> Awaitable[None]:
        """Sample until cancelled."""


@dataclass(frozen=True, slots=True)
class HostParts:
    """What a host is made of."""

    record: HostRecord
    ledger_dir: Path
    compute: ComputeDriver
    storage: StorageDriver
    usage: RunningUsage
    converge: ConvergeSettings
    durable: bool = True
    """False for simulated hosts: their ledgers are not fsynced."""
    network: NetworkDriver | None = None
    """None: the host has no switch."""
    networks: HostNetworks | None = None
    """What serves guests on that switch's networks; None: nothing, as on simulated hosts."""
    membership: JoinSettings | None = None
    """How that switch belongs to OVN; None: not at all, as on simulated hosts."""
    flows: FlowCounters | None = None
    """What counts that switch's packets; None: nothing, as on simulated hosts."""


class RunningHost:
    """A host ready to answer; `run` does its work until cancelled."""

    def __init__(
        self,
        parts: HostParts,
        *,
        clock: Clock = system_clock,
        rng: random.Random | None = None,
        in_thread: InThread = asyncio.to_thread,
        announce: Callable[[HostRecord], None] = lambda record: None,
    ) -> None:
        """Read the ledger and make the host; nothing runs yet.

        `announce` hears of the host's record when it has changed.
        """
        self.parts = parts
        self._announce = announce
        self._switch = self._make_keeper()
        ledger = Ledger(parts.ledger_dir, report=_report, durable=parts.durable)
        self._ledger = ledger
        networks = parts.networks
        self.converger = Converger(
            ledger=ledger,
            network=parts.network,
            sites_up=networks.are_up if networks else lambda network_ids: True,
            offloads=parts.membership is None or parts.membership.datapath is Datapath.SYSTEM,
            compute=parts.compute,
            storage=parts.storage,
            accelerator=parts.record.accelerator,
            boot_id=parts.record.boot_id,
            settings=parts.converge,
            clock=clock,
            rng=rng,
            in_thread=in_thread,
        )
        self.host = Host(
            record=parts.record,
            converger=self.converger,
            compute=parts.compute,
            storage=parts.storage,
            usage=parts.usage,
            networks=networks,
            forwarder=Forwarder(parts.network) if parts.network else None,
            switch=self._switch,
            read_ports=self._read_ports,
            flows=parts.flows,
        )
        if parts.network is not None:
            parts.usage.read_ports = self._read_ports

    async def run(self) -> None:
        """Work until cancelled; guests go on."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.converger.run())
                tasks.create_task(_run(self.parts.usage))
                if self.parts.networks is not None:
                    keeper = NetworkKeeper(
                        self.parts.networks, self._ledger.entries, self.converger.watch
                    )
                    tasks.create_task(keeper.run())
                if self._switch is not None:
                    tasks.create_task(self._switch.run())
        finally:
            await self.parts.compute.close()
            await self.parts.storage.close()

    def _make_keeper(self) -> SwitchKeeper | None:
        network, membership = self.parts.network, self.parts.membership
        if network is None or membership is None:
            return None
        return SwitchKeeper(network, membership, self._running, self._tell_switch)

    async def _read_ports(self) -> PortReading:
        """Return the counters of the ports that machines here were ordered to have."""
        network = self.parts.network
        counted = await network.statistics() if network is not None else {}
        return {
            entry.spec.instance_id: {
                port.port_id: counted[port.device]
                for port in entry.spec.ports
                if port.device in counted
            }
            for entry in self._ledger.entries()
            if entry.spec.ports
        }

    async def _running(self) -> Set[str]:
        domains = await self.parts.compute.list_domains()
        return {domain.instance_id for domain in domains if is_on(domain)}

    def _tell_switch(self, problem: UnkaiError | None) -> None:
        said = "" if problem is None else problem.message[:MAX_REASON]
        self._announce(replace(self.parts.record, network_problem=said))


async def _run(usage: RunningUsage) -> None:
    await usage.run()


def _report(problem: LedgerProblem) -> None:
    _LOG.error(
        "ledger_file_corrupt",
        file=problem.file,
        problem=problem.problem,
        kept_as=str(problem.kept_as),
    )
