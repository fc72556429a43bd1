"""What placement is asked: one instance's needs, and how hosts are weighed."""

from __future__ import annotations

from dataclasses import dataclass, fields

from unkai_scheduler.domain.instances import PlacementPolicy


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """What one instance needs of its host."""

    instance_id: str
    vcpus: int
    memory_bytes: int
    disk_bytes: int
    policy: PlacementPolicy
    required_traits: tuple[str, ...] = ()
    excluded_host_ids: tuple[str, ...] = ()
    """Hosts that have failed it before."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight of each score, 0 to 255.

    The policy's is small on purpose: one load term gone bad outweighs all that packing or
    spreading can say, so that a loaded host loses to any idle one that fits.
    """

    policy: int = 12
    cpu_load: int = 60
    cpu_wait: int = 60
    memory_pressure: int = 60
    io_pressure: int = 60

    def __post_init__(self) -> None:
        for field in fields(self):
            weight = getattr(self, field.name)
            if not 0 <= weight <= 255:
                raise ValueError(f"weight {field.name} is {weight}, not within 0 to 255")
        if not sum(getattr(self, field.name) for field in fields(self)):
            raise ValueError("at least one weight must be above 0")
