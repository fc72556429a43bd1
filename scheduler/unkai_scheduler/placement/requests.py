"""What placement is asked: one instance's needs, and how hosts are weighed."""

from __future__ import annotations

from dataclasses import dataclass, fields

from unkai_scheduler.domain.instances import Instance, PlacementPolicy
from unkai_scheduler.domain.placement_groups import GroupRule

_OF_SOME = ("preferred_traits", "group")
"""Weights that count for some requests alone."""


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """What one instance needs of its host."""

    instance_id: str
    vcpus: int
    memory_bytes: int
    disk_bytes: int
    policy: PlacementPolicy
    required_traits: tuple[str, ...] = ()
    preferred_traits: tuple[str, ...] = ()
    forbidden_traits: tuple[str, ...] = ()
    zone: str = ""
    """Zone its host must be in; empty: any."""
    aggregate_id: str = ""
    """Aggregate its host must be in; empty: any."""
    project_id: str = ""
    """Its project, if any host is dedicated to that; those of all other projects are alike."""
    excluded_host_ids: tuple[str, ...] = ()
    """Hosts that have failed it before."""
    physical_networks: tuple[str, ...] | None = None
    """The operator's networks that its host must reach; None: it has no ports, and needs none."""

    group: GroupRule | None = None
    """Whose members' places count; not by its shape, since they move with every claim."""
    members: tuple[tuple[str, int], ...] | None = None
    """Of its group, by host, in the order of their ids; None: as the fleet has them when it is
    judged."""

    @property
    def shape(self) -> tuple[object, ...]:
        """Return what filters and scores look at: what was found for one is found for its like."""
        return (
            self.vcpus,
            self.memory_bytes,
            self.disk_bytes,
            self.policy,
            self.required_traits,
            self.preferred_traits,
            self.forbidden_traits,
            self.zone,
            self.aggregate_id,
            self.project_id,
            self.physical_networks,
        )


def request_of(
    instance: Instance,
    policy: PlacementPolicy,
    *,
    project_id: str | None = None,
    failed_hosts: tuple[str, ...] = (),
    physical_networks: tuple[str, ...] | None = None,
    group: GroupRule | None = None,
) -> PlacementRequest:
    """Return what an instance needs. `policy`: of one that names none.

    `project_id`: empty where no host is dedicated to its project; None: as it is.
    """
    spec = instance.spec
    return PlacementRequest(
        instance_id=instance.id,
        vcpus=spec.vcpus,
        memory_bytes=spec.memory_bytes,
        disk_bytes=spec.disk_bytes,
        policy=spec.placement_policy or policy,
        required_traits=spec.required_traits,
        preferred_traits=spec.preferred_traits,
        forbidden_traits=spec.forbidden_traits,
        zone=spec.zone,
        aggregate_id=spec.aggregate_id,
        project_id=instance.project_id if project_id is None else project_id,
        excluded_host_ids=failed_hosts,
        physical_networks=physical_networks,
        group=group,
    )


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight of each score, 0 to 255; what they are and why is in the settings."""

    policy: int
    cpu_load: int
    cpu_wait: int
    memory_pressure: int
    io_pressure: int
    preferred_traits: int
    """Counts where an instance prefers any."""
    group: int
    """Counts where an instance is of a placement group that is soft."""

    def __post_init__(self) -> None:
        for field in fields(self):
            weight = getattr(self, field.name)
            if not 0 <= weight <= 255:
                raise ValueError(f"weight {field.name} is {weight}, not within 0 to 255")
        if not sum(getattr(self, f.name) for f in fields(self) if f.name not in _OF_SOME):
            raise ValueError(f"at least one weight but {' and '.join(_OF_SOME)} must be above 0")
