"""Aggregates: sets of hosts, and what the operator says of all of them. Data alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

MAX_AGGREGATE_HOSTS = 1000
MAX_AGGREGATE_PROJECTS = 64


@dataclass(frozen=True, slots=True)
class OwnRatios:
    """Allocation ratios in the place of the settings'; None: as they say."""

    cpu: float | None = None
    memory: float | None = None
    disk: float | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """What one aggregate says of each of its hosts."""

    id: str
    name: str
    traits: tuple[str, ...] = ()
    project_ids: tuple[str, ...] = ()
    """Those that the hosts are dedicated to; empty: all."""
    ratios: OwnRatios = OwnRatios()


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate's row with its hosts and projects; meanings in host/v1/aggregate.proto."""

    id: str
    name: str
    etag: str
    create_time: datetime
    update_time: datetime
    description: str = ""
    host_ids: tuple[str, ...] = ()
    """In their order, as the projects'."""
    project_ids: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    ratios: OwnRatios = OwnRatios()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def says(self) -> Membership:
        """What it says of each of its hosts."""
        return Membership(self.id, self.name, self.traits, self.project_ids, self.ratios)
