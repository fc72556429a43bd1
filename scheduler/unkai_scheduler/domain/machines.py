"""Machines: what hosts report of the instances they hold, as the leader sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

LEAP = 1 << 32
"""No restored database is behind its hosts by so many changes. Who says so is not overtaken: the
database's numbers end at 2^63."""


class MachineState(Enum):
    """What a host observes; meanings in agent/v1/machine.proto."""

    CONVERGING = "CONVERGING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    AWAITING_PERMIT = "AWAITING_PERMIT"
    LOST = "LOST"
    FAILED = "FAILED"
    REMOVING = "REMOVING"


@dataclass(frozen=True, slots=True)
class PortSeen:
    """A port of a machine as its host reports it."""

    port_id: str
    installed: bool
    """All that OVN has for it is in force there."""
    error: Mapping[str, Any] | None = None
    """Why not: `UnkaiError.to_record()`."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine as its host reports it."""

    instance_id: str
    host_id: str
    generation: int
    observed_generation: int
    run_epoch: int
    state: MachineState
    step: str = ""
    error: Mapping[str, Any] | None = None
    """`UnkaiError.to_record()`."""
    retry_time: datetime | None = None
    guest_shutdown: bool = False
    reboot_serial: int = 0
    accelerator: str = ""
    start_time: datetime | None = None
    name: str = ""
    """Name in the ledger's copy of the instance, for reports about orphans."""
    project_id: str = ""
    wants_power: bool | None = None
    """Power it was last ordered to have; None: its host does not say."""
    vcpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    """Figures in the ledger's copy of the instance; 0: its host does not say."""
    step_done_bytes: int = 0
    step_total_bytes: int = 0
    """How far a step is that is counted in bytes; else 0."""
    ports: tuple[PortSeen, ...] = ()
    """While it is on, those of its order; empty from a host that does not say."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A removal that a host remembers, or that the store records for one."""

    instance_id: str
    host_id: str
    generation: int
    run_epoch: int
    remove_time: datetime


@dataclass(frozen=True, slots=True)
class Fence:
    """By what right an agent is ordered."""

    term: int
    generation: int = 0
    run_epoch: int = 0


@dataclass(frozen=True, slots=True)
class HostDescription:
    """What an agent says of its host when asked."""

    host_id: str
    name: str
    agent_version: str
    boot_id: str
    cpus: int
    memory_bytes: int
    disk_bytes: int
    accelerator: str
    accelerator_reason: str
    traits: tuple[str, ...]
    features: tuple[str, ...]
    highest_term: int
