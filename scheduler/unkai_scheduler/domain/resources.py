"""The simple resources: projects, flavors, key pairs. Data alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

DEFAULT_PROJECT = "default"


@dataclass(frozen=True, slots=True)
class Project:
    """What owns everything a user makes."""

    id: str
    name: str
    description: str
    etag: str
    create_time: datetime
    update_time: datetime
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flavor:
    """A named size."""

    id: str
    name: str
    vcpus: int
    memory_bytes: int
    disk_bytes: int
    etag: str
    create_time: datetime
    update_time: datetime
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public SSH key of a project."""

    id: str
    project_id: str
    name: str
    public_key: str
    fingerprint: str
    etag: str
    create_time: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
