"""The port to the hypervisor. Implemented by `libvirt_driver.py` and `fake.py`.

Every method may run twice: defining what is defined, starting what runs and removing what is
gone succeed. Methods raise `Unavailable` (reason HYPERVISOR_UNAVAILABLE) when the hypervisor does
not answer within its deadline: the outcome is then unknown, look again. One hung call must not
starve the others of another machine for longer than its deadline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from unkai_agent.domain.hosts import Accelerator


@dataclass(frozen=True, slots=True)
class DomainDisk:
    """A disk as the hypervisor is told of it."""

    path: Path
    format: str
    """`qcow2` or `raw`: always named, never probed."""
    read_only: bool = False
    backing_path: Path | None = None
    """The image it stands on, where known: then the chain is spelled out to the hypervisor.

    Without it, the hypervisor follows the qcow2 header, which must name the backing format."""
    backing_format: str = ""
    """`qcow2` or `raw`; required with `backing_path`."""


@dataclass(frozen=True, slots=True)
class DomainPort:
    """A port as the hypervisor is told of it."""

    port_id: str
    interface_id: str
    """Name of OVN's logical switch port."""
    device: str
    """Name of its device on the host."""
    mac_address: str
    mtu: int
    position: int
    """0 to 15; decides the PCI slot."""
    offloads: bool = True
    """The guest may leave checksums and segments to the host's switch. One in userspace does
    neither, and would forward half-made checksums. Part of what the guest sees of its hardware."""


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """All that defines a domain. The renderer `domain_xml.render` turns it into libvirt's XML."""

    instance_id: str
    name: str
    project_id: str
    generation: int
    run_epoch: int
    vcpus: int
    memory_bytes: int
    accelerator: str
    """`kvm` or `tcg`."""
    disks: tuple[DomainDisk, ...]
    """The first is the boot disk."""
    seed: Path | None
    console_log: Path
    ports: tuple[DomainPort, ...] = ()
    metadata_seed: bool = False
    """Its firmware says that a metadata service tells the guest who it is."""


class DomainState(Enum):
    """What the hypervisor says of a domain."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPING = "STOPPING"
    OFF = "OFF"


class OffReason(Enum):
    """Why a domain is off, as far as the hypervisor knows."""

    GUEST_SHUTDOWN = "GUEST_SHUTDOWN"
    """The guest powered itself off."""
    DESTROYED = "DESTROYED"
    """We cut its power."""
    CRASHED = "CRASHED"
    """Its process died."""
    UNKNOWN = "UNKNOWN"
    """Never started, or the host or hypervisor restarted."""


class DiskError(Enum):
    """Why a disk's error has paused a domain."""

    NO_ROOM = "NO_ROOM"
    """The host's disk is full."""
    FAILED = "FAILED"
    """Reading or writing failed."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain as it is."""

    instance_id: str
    name: str
    state: DomainState
    off_reason: OffReason | None = None
    generation: int = 0
    """From the metadata we put into its definition; 0 when it bears none."""
    run_epoch: int = 0
    accelerator: str = ""
    paused_by_error: bool = False
    """Paused by an I/O error, such as a full disk."""
    disk_error: DiskError | None = None
    """Which one, as far as it is known; told by `get_domain` alone."""


@dataclass(frozen=True, slots=True)
class DomainUsage:
    """Cumulative counters of a running domain; the sampler makes rates of them."""

    instance_id: str
    cpu_time_ns: int
    cpu_wait_ns: int
    """Time vCPUs were runnable but not running (libvirt's vcpu.delay)."""
    memory_resident_bytes: int
    disk_read_bytes: int
    disk_write_bytes: int
    disk_reads: int
    disk_writes: int


class ComputeDriver(Protocol):
    """The hypervisor. Instance ids name domains: the UUID inside is the domain's."""

    async def prove_accelerator(self) -> Accelerator:
        """Find out by running a few instructions of a real boot whether KVM works."""

    async def list_domains(self) -> Sequence[Domain]:
        """Return all domains that bear our metadata."""

    async def get_domain(self, instance_id: str) -> Domain | None:
        """Return one domain, or None when there is none."""

    async def define(self, spec: DomainSpec) -> None:
        """Define the domain, or redefine it when it is off and differs."""

    async def start(self, instance_id: str, *, paused: bool = False) -> None:
        """Start the domain, or resume it when paused.

        `paused`: start it so that its guest does not run yet; one that is on stays as it is.
        """

    async def shutdown(self, instance_id: str) -> None:
        """Ask the guest to power off."""

    async def destroy(self, instance_id: str) -> None:
        """Cut the power."""

    async def reboot(self, instance_id: str, *, force: bool) -> None:
        """Ask the guest to restart, or reset it."""

    async def undefine(self, instance_id: str) -> None:
        """Remove the definition of a domain that is off."""

    async def live_ports(self, instance_id: str) -> Mapping[str, bool]:
        """Return the ports plugged into a domain that is on, by id: whether the link is up."""

    async def attach_port(self, instance_id: str, port: DomainPort) -> None:
        """Plug a port into a domain that is on, with its link down. Its next start is not told:
        define it anew for that."""

    async def raise_link(self, instance_id: str, port_id: str) -> None:
        """Let the link of a plugged port be up."""

    async def detach_port(self, instance_id: str, port_id: str) -> None:
        """Unplug a port at the domain's next start in any case, and ask its guest to let go of it.

        Whether it does is seen later, by `live_ports`; ask again if it does not.
        """

    async def usage(self) -> Sequence[DomainUsage]:
        """Return counters of all running domains in one bulk call."""

    def watch(self) -> AsyncIterator[str]:
        """Yield the instance id of each domain whose state changed. A hint: re-list on a timer."""

    def attach_console(
        self, instance_id: str, typed: AsyncIterator[bytes], *, force: bool
    ) -> AsyncIterator[bytes]:
        """Connect to the serial console; the first item is empty and says that it is open.

        Raises `Conflict` / CONSOLE_IN_USE when somebody holds it and `force` is false, and
        CONSOLE_TAKEN_OVER when somebody else attaches by force.
        """

    async def close(self) -> None:
        """Let go of the hypervisor. Domains go on."""
