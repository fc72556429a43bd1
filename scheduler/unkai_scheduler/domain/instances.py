"""Instances: the user's machines. State table, limits, and what a user may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from unkai_scheduler.domain.ports import Port
from unkai_wire.errors import FailedPrecondition

MIB = 1 << 20
MAX_VCPUS = 256
MIN_MEMORY_BYTES = 32 * MIB
MAX_MEMORY_BYTES = 16 << 40
MAX_DISK_BYTES = 64 << 40
MAX_USER_DATA_BYTES = 64 << 10
MAX_KEY_PAIRS = 16
MAX_TRAITS = 16
MAX_PRIORITY = 1000
MAX_BATCH = 500
"""Instances of one request, and so of one gang."""
MAX_CAPACITY_WAIT_S = 7 * 24 * 3600
DEFAULT_STOP_GRACE_S = 60
MAX_STOP_GRACE_S = 3600


class InstanceState(Enum):
    """Where an instance stands; meanings in compute/v1/instance.proto."""

    PROVISIONING = "PROVISIONING"
    RUNNING = "RUNNING"
    STARTING = "STARTING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    REBOOTING = "REBOOTING"
    DELETING = "DELETING"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    LOST = "LOST"
    AWAITING_PERMIT = "AWAITING_PERMIT"
    DELETED_ON_HOST = "DELETED_ON_HOST"


class Power(Enum):
    """Power that the user asked for."""

    ON = "ON"
    OFF = "OFF"


class PlacementPolicy(Enum):
    """How a host is chosen among those that fit."""

    PACK = "pack"
    SPREAD = "spread"


class Seed(Enum):
    """How a guest learns who it is."""

    DISK = "DISK"
    METADATA = "METADATA"


_S = InstanceState
_SETTLED_ON_HOST = {
    _S.RUNNING,
    _S.STARTING,
    _S.STOPPING,
    _S.STOPPED,
    _S.REBOOTING,
    _S.UNKNOWN,
    _S.LOST,
    _S.AWAITING_PERMIT,
    _S.DELETED_ON_HOST,
    _S.FAILED,
}
MOVES: Mapping[InstanceState, frozenset[InstanceState]] = {
    _S.PROVISIONING: frozenset(_SETTLED_ON_HOST | {_S.DELETING}),
    **{state: frozenset(_SETTLED_ON_HOST | {_S.DELETING}) for state in _SETTLED_ON_HOST},
    _S.FAILED: frozenset({_S.DELETING}),
    # A deletion that began is never taken back; the row goes when the host has let go.
    _S.DELETING: frozenset(),
}
"""Allowed moves. What a host observes may follow anything it observed before."""

STARTABLE = frozenset({_S.STOPPED, _S.STOPPING})
STOPPABLE = frozenset({_S.RUNNING, _S.STARTING, _S.REBOOTING, _S.AWAITING_PERMIT, _S.UNKNOWN})
REBOOTABLE = frozenset({_S.RUNNING})


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """What a user asks for, checked and with flavor figures copied in."""

    name: str
    image_id: str
    vcpus: int
    memory_bytes: int
    disk_bytes: int
    flavor_id: str = ""
    key_pair_ids: tuple[str, ...] = ()
    user_data: bytes = field(default=b"", repr=False)
    required_traits: tuple[str, ...] = ()
    preferred_traits: tuple[str, ...] = ()
    forbidden_traits: tuple[str, ...] = ()
    zone: str = ""
    """Zone its host must be in; empty: any."""
    aggregate_id: str = ""
    """Aggregate its host must be in; empty: any."""
    placement_policy: PlacementPolicy | None = None
    """None: the scheduler's default."""
    seed: Seed = Seed.DISK
    priority: int = 0
    """Who waits for a host is decided highest first."""
    placement_group_id: str = ""
    """Empty: it is of no group."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right of one host to hold an instance, with what it takes there.

    It is what "placed" means: capacity is the sum of claims, never a counter.
    """

    instance_id: str
    host_id: str
    vcpus: int
    memory_bytes: int
    disk_bytes: int
    run_epoch: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance's row, joined with its claim's host."""

    id: str
    project_id: str
    spec: InstanceSpec
    state: InstanceState
    desired_power: Power
    generation: int
    """Grows with each change of what is desired."""
    run_epoch: int
    """Grows each time the right to run it moves."""
    etag: str
    create_time: datetime
    update_time: datetime
    host_id: str = ""
    """From the claim; empty before placement."""
    host_name: str = ""
    state_reason: Mapping[str, Any] | None = None
    """`UnkaiError.to_record()`."""
    has_run: bool = False
    """True from the first RUNNING on: its disks MUST_EXIST since then."""
    delete_requested: bool = False
    reboot_serial: int = 0
    reboot_force: bool = False
    stop_grace_s: float = DEFAULT_STOP_GRACE_S
    observed_generation: int = 0
    """Generation that the host last reported as reached."""
    accelerator: str = ""
    start_time: datetime | None = None
    operation_id: str = ""
    """The operation under way; empty when none is."""
    due_time: datetime | None = None
    """When the leader looks at it next; None: nothing is due."""
    attempt: int = 0
    """Tries of the step under way, for backoff."""
    gang_id: str = ""
    """Of one that gets its host together with others of the same word, or not at all; empty from
    then on, and where it never was so."""
    ports: tuple[Port, ...] = ()
    """What it is plugged into networks by, in its order: where a user is shown it, else empty;
    never written here."""


def check_move(instance: Instance, state: InstanceState) -> None:
    """Raise `FailedPrecondition` when the instance may not enter the state."""
    if state is not instance.state and state not in MOVES[instance.state]:
        raise FailedPrecondition(
            f"instance {instance.id} is {instance.state.value} and cannot become {state.value}",
            reason="INSTANCE_STATE",
            metadata={
                "instance_id": instance.id,
                "state": instance.state.value,
                "wanted": state.value,
            },
        )


def may_be_adopted(row: Instance) -> bool:
    """Tell whether a machine that some host holds may become this instance again.

    It holds nothing, and no deletion of it was asked for: its create had ended, or had not begun,
    when the database lost what came after.
    """
    waits = row.state in {InstanceState.FAILED, InstanceState.PROVISIONING}
    return waits and not row.host_id and not row.delete_requested
