"""Placement groups: instances that shall be near each other, or apart. Data alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

MAX_PER_PLACE = 1000


class GroupPolicy(Enum):
    """Where members shall be."""

    AFFINITY = "AFFINITY"
    ANTI_AFFINITY = "ANTI_AFFINITY"


class Strictness(Enum):
    """What becomes of an instance where the policy cannot be kept."""

    HARD = "HARD"
    SOFT = "SOFT"


class GroupScope(Enum):
    """What members share, or not: a place is one host, or one zone."""

    HOST = "HOST"
    ZONE = "ZONE"


@dataclass(frozen=True, slots=True)
class GroupRule:
    """What placement is told of a group."""

    id: str
    name: str
    policy: GroupPolicy
    strictness: Strictness = Strictness.HARD
    scope: GroupScope = GroupScope.HOST
    max_per_place: int = 0
    """As `PlacementGroup.max_per_place`."""


@dataclass(frozen=True, slots=True)
class PlacementGroup:
    """A placement group's row, and who names it."""

    id: str
    project_id: str
    name: str
    policy: GroupPolicy
    etag: str
    create_time: datetime
    update_time: datetime
    strictness: Strictness = Strictness.HARD
    scope: GroupScope = GroupScope.HOST
    max_per_place: int = 0
    """Members that one place may have, where they shall be apart; 0: as many as the zone with the
    fewest has, and where they shall be near each other."""
    labels: Mapping[str, str] = field(default_factory=dict)
    instance_ids: tuple[str, ...] = ()
    """Who names it, by id: where a user is shown it, else empty; never written here."""

    @property
    def rule(self) -> GroupRule:
        """Return what placement is told of it."""
        return GroupRule(
            self.id, self.name, self.policy, self.strictness, self.scope, self.max_per_place
        )
