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
    physical_networks: tuple[str, ...] | None = None
    """The operator's networks that its host must reach; None: it has no ports, and needs none."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight of each score, 0 to 255; what they are and why is in the settings."""

    policy: int
    cpu_load: int
    cpu_wait: int
    memory_pressure: int
    io_pressure: int

    def __post_init__(self) -> None:
        for field in fields(self):
            weight = getattr(self, field.name)
            if not 0 <= weight <= 255:
                raise ValueError(f"weight {field.name} is {weight}, not within 0 to 255")
        if not sum(getattr(self, field.name) for field in fields(self)):
            raise ValueError("at least one weight must be above 0")
