"""Machines: what shall be (specs, from the scheduler) and what is (observed, by this host)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from unkai_agent.domain.ports import PortSpec, PortStatus


class Power(Enum):
    """Power the machine shall have."""

    ON = "ON"
    OFF = "OFF"


class ImageFormat(Enum):
    """Format of an image's bytes."""

    QCOW2 = "qcow2"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image to fetch and build on."""

    image_id: str
    sha256: str
    """Lower-case hexadecimal; the cache's key."""
    size_bytes: int
    virtual_size_bytes: int
    format: ImageFormat


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk a machine shall have."""

    name: str
    size_bytes: int
    image: ImageRef
    must_exist: bool
    """When true, a missing disk makes the machine LOST; it is never made anew."""


@dataclass(frozen=True, slots=True)
class SeedSpec:
    """What the seed disk tells the guest."""

    hostname: str
    public_keys: tuple[str, ...] = ()
    user_data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What shall be."""

    instance_id: str
    name: str
    """The instance's name; the domain is `<name>.<last 6 of the id>`."""
    project_id: str
    vcpus: int
    memory_bytes: int
    power: Power
    disks: tuple[DiskSpec, ...]
    seed: SeedSpec
    generation: int
    run_epoch: int
    reboot_serial: int = 0
    reboot_force: bool = False
    stop_grace_s: float = 60.0
    instance: bytes = field(default=b"", repr=False)
    """The whole `compute.v1.Instance`, serialised; opaque here, kept for adoption."""
    ports: tuple[PortSpec, ...] = ()
    metadata_seed: bool = False
    """The metadata service tells its guest who it is: no seed disk is attached."""

    @property
    def domain_name(self) -> str:
        """Name of the libvirt domain."""
        return f"{self.name}.{self.instance_id[-6:]}"


class MachineState(Enum):
    """What this host observes; meanings in agent/v1/machine.proto."""

    CONVERGING = "CONVERGING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    AWAITING_PERMIT = "AWAITING_PERMIT"
    LOST = "LOST"
    FAILED = "FAILED"
    REMOVING = "REMOVING"


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine as this host observes it."""

    instance_id: str
    generation: int
    observed_generation: int
    run_epoch: int
    state: MachineState
    observe_time: datetime
    step: str = ""
    error: Mapping[str, Any] | None = None
    """`UnkaiError.to_record()`."""
    retry_time: datetime | None = None
    guest_shutdown: bool = False
    reboot_serial: int = 0
    accelerator: str = ""
    domain_name: str = ""
    start_time: datetime | None = None
    instance: bytes = field(default=b"", repr=False)
    step_done_bytes: int = 0
    step_total_bytes: int = 0
    """How far a step is that is counted in bytes; else 0."""
    ports: tuple[PortStatus, ...] = ()
    """Empty while it is off."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A removal this host remembers."""

    instance_id: str
    generation: int
    run_epoch: int
    remove_time: datetime
    acknowledge_time: datetime | None = None
    """When the leader said it has recorded it; kept `TOMBSTONE_KEEP_S` longer."""


@dataclass(frozen=True, slots=True)
class Fence:
    """By what right we are ordered."""

    term: int
    generation: int = 0
    run_epoch: int = 0


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What this host remembers of one machine, whatever happens to it."""

    spec: MachineSpec
    term: int
    """Term of the leader that last changed it."""
    has_started: bool = False
    """It ran here once: from then on its disks must exist."""
    boot_id: str = ""
    """The host's boot in which it last started."""
    running: bool = False
    """It was last seen on, and nothing that ended that has been noted since."""
    start_time: datetime | None = None
    reboot_serial_done: int = 0
    guest_shutdown: bool = False
    """The guest powered itself off: it stays off until a newer generation."""
    stop_asked: bool = False
    """We asked the guest to power off: when it does, that is not its own doing."""
    plugging: bool = False
    """We started it paused, and have not yet seen its ports installed: it is not to be resumed."""
    observed_generation: int = 0
    removal: Fence | None = None
    """Set while it is being removed."""

    @property
    def is_new(self) -> bool:
        """Tell whether it never ran, here or anywhere: what is made of it may be unmade.

        `has_started` alone does not say so: an entry whose file was lost is written anew from the
        leader's order, and that order knows which disks hold somebody's data.
        """
        return not self.has_started and not any(disk.must_exist for disk in self.spec.disks)
