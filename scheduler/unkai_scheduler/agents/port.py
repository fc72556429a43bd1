"""The port to hosts' agents: what the reconcilers and the API need of them.

Implemented by `client.py` (gRPC) and `fake.py`. All methods raise `UnkaiError`s: `Unavailable` or
`DeadlineExceeded` mean *unknown*, never *not done*; `FailedPrecondition` with reason STALE_TERM
means that we no longer lead.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from unkai_scheduler.domain.hosts import HostUsage, MachineUsage
from unkai_scheduler.domain.images import Image
from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.domain.machines import Fence, HostDescription, Machine, Tombstone
from unkai_scheduler.domain.network_names import NameChange
from unkai_scheduler.domain.port_orders import PortOrder
from unkai_wire.doctor.findings import Report

MACHINE_SPECS = "machine_specs.v1"
"""Feature of agents that tell what a machine was last ordered to be."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach a host's agent. Many hosts may share an address."""

    host_id: str
    address: str
    tls_name: str


@dataclass(frozen=True, slots=True)
class MachineOrder:
    """What EnsureMachine says shall be: `agent.v1.MachineSpec` in our words."""

    instance: Instance
    image: Image
    disk_bytes: int
    """Size of the root disk."""
    must_exist: bool
    """True once the instance has run: a missing disk is LOST, never made anew."""
    public_keys: tuple[str, ...] = ()
    user_data: bytes = field(default=b"", repr=False)
    ports: tuple[PortOrder, ...] = ()
    """The machine shall be plugged into these, running or not, and into no others."""


@dataclass(frozen=True, slots=True)
class HeldMachine:
    """What a host holds, and its ledger's copy of the order. All of it is the host's word."""

    machine: Machine
    order: MachineOrder
    """Of the image only id, format, sizes and digest are known."""


@dataclass(frozen=True, slots=True)
class UsageSample:
    """One sample of a host and the machines on it."""

    host_id: str
    host: HostUsage
    machines: tuple[MachineUsage, ...]


@dataclass(frozen=True, slots=True)
class ForwardTarget:
    """A TCP port of an instance, by one of its ports on a network."""

    instance_id: str
    port_id: str
    port_number: int


@dataclass(frozen=True, slots=True)
class Synced:
    """All that the host holds has been sent; changes follow."""


@dataclass(frozen=True, slots=True)
class Alive:
    """Nothing changed for a while."""


MachineChange = Machine | Tombstone | Synced | Alive


class Agents(Protocol):
    """Calls to agents. Each has a deadline of its own."""

    async def describe(self, endpoint: Endpoint) -> HostDescription:
        """Return what the host is. Deadline 1 s."""

    async def announce_term(self, endpoint: Endpoint, term: int) -> int:
        """Tell the agent a new term; return the highest it has seen. Deadline 1 s."""

    async def ensure_machine(
        self, endpoint: Endpoint, fence: Fence, order: MachineOrder
    ) -> Machine:
        """Order a machine to be; also the permit to run it."""

    async def machine_spec(self, endpoint: Endpoint, instance_id: str) -> HeldMachine:
        """Return a machine with what it was last ordered to be; `NotFound` when it is not held.

        Only of agents with the feature `MACHINE_SPECS`.
        """

    async def remove_machine(
        self, endpoint: Endpoint, fence: Fence, instance_id: str
    ) -> Machine | Tombstone:
        """Order a machine away; a Tombstone says that nothing of it is left."""

    async def acknowledge_tombstones(
        self, endpoint: Endpoint, term: int, tombstones: Sequence[Tombstone]
    ) -> None:
        """Say which tombstones are recorded."""

    def watch_machines(self, endpoint: Endpoint) -> AsyncIterator[MachineChange]:
        """Yield all the host holds, then `Synced`, then changes; raise on silence over 10 s."""

    def watch_usage(self, endpoint: Endpoint) -> AsyncIterator[UsageSample]:
        """Yield a sample every 2 s; raise on silence over 10 s."""

    def read_console_log(
        self, endpoint: Endpoint, instance_id: str, *, tail_bytes: int, follow: bool
    ) -> AsyncIterator[bytes]:
        """Yield pieces of the console's log."""

    def attach_console(
        self, endpoint: Endpoint, instance_id: str, typed: AsyncIterator[bytes], *, force: bool
    ) -> AsyncIterator[bytes]:
        """Connect to the console; the first item is empty and says that it is open."""

    def forward(
        self, endpoint: Endpoint, target: ForwardTarget, incoming: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes | None, None]:
        """Connect to an instance from inside its network; the end of `incoming` is its end.

        The first item is empty and says that the connection is open; None: the instance sends no
        more. Raises `FailedPrecondition` / FORWARD_REFUSED, FORWARD_TIMED_OUT.
        """

    async def ensure_names(self, endpoint: Endpoint, term: int, change: NameChange) -> None:
        """Tell a host the names of a network.

        Raises `FailedPrecondition` / NAMES_REVISION when it does not hold the base, or holds a
        later revision already.
        """

    async def diagnose(self, endpoint: Endpoint, checks: Sequence[str]) -> tuple[Report, datetime]:
        """Have the host examined; return what was found, and its clock at the end."""

    async def count_flows(self, endpoint: Endpoint, cookies: Sequence[int]) -> Mapping[int, int]:
        """Return how many packets OVN's flows of these cookies have counted on the host.

        Of a port's binding: how many were handed to the port.

        Cookies that it has no flow of are absent. `Unsupported` where the host has no switch.
        """

    async def evict_image(self, endpoint: Endpoint, term: int, sha256: str) -> None:
        """Drop an image from the host's cache; `FailedPrecondition` IMAGE_IN_USE if it is used."""
