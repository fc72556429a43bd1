"""The hosts that answer at this address: one on a real host, many in a lab's fleet.

Every request names its host by id; the servicers look it up here before anything else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from unkai_agent.compute.driver import ComputeDriver
from unkai_agent.converge.supervisor import Converger
from unkai_agent.converge.switch import SwitchKeeper
from unkai_agent.domain.hosts import UsageSample
from unkai_agent.metrics.rates import PortReading
from unkai_agent.network.flows import FlowCounters
from unkai_agent.network.forwarding import Forwarder
from unkai_agent.storage.driver import StorageDriver
from unkai_wire.cluster_records import HostRecord
from unkai_wire.errors import NotFound

if TYPE_CHECKING:  # what it imports costs memory that a host without networks need not spend
    from unkai_agent.network.service import HostNetworks


class UsageSource(Protocol):
    """Where live figures come from: the sampler, or a simulation."""

    @property
    def latest(self) -> UsageSample | None:
        """The newest sample; None before the first."""

    def subscribe(self) -> AsyncIterator[UsageSample]:
        """Yield the newest sample, if any, and each new one."""


async def _no_ports() -> PortReading:
    return {}


@dataclass(frozen=True, slots=True)
class Host:
    """One host's parts, as the servicers use them."""

    record: HostRecord
    converger: Converger
    compute: ComputeDriver
    storage: StorageDriver
    usage: UsageSource
    networks: HostNetworks | None = None
    """None: this host has no switch."""
    forwarder: Forwarder | None = None
    switch: SwitchKeeper | None = None
    """What keeps its switch in OVN; None: there is nothing to keep."""
    read_ports: Callable[[], Awaitable[PortReading]] = _no_ports
    """Reads the counters of machines' ports."""
    flows: FlowCounters | None = None
    """None: this host has no switch of its own."""


class HostDirectory:
    """Hosts by id."""

    def __init__(self, hosts: Mapping[str, Host] | None = None) -> None:
        self._hosts = dict(hosts or {})

    def add(self, host: Host) -> None:
        """Let a host answer from now on."""
        self._hosts[host.record.host_id] = host

    def hosts(self) -> list[Host]:
        """Return all hosts."""
        return list(self._hosts.values())

    def find(self, host_id: str) -> Host:
        """Return the host addressed; `NotFound` / HOST_NOT_HERE when it is not one of ours."""
        host = self._hosts.get(host_id)
        if host is None:
            raise NotFound(
                f"host {host_id or '(none named)'} does not answer at this address",
                reason="HOST_NOT_HERE",
                fix="read the host's address again: its agent registers it in etcd",
                metadata={"host_id": host_id},
                resource_kind="host",
                resource=host_id,
            )
        return host

    def find_for_reading(self, host_id: str) -> Host:
        """Return the host addressed; where one host answers, it need not be named."""
        if not host_id and len(self._hosts) == 1:
            return next(iter(self._hosts.values()))
        return self.find(host_id)
