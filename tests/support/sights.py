"""What was seen of a whole cloud, as its checker is told, and what is allowed there."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.raw_rows import Tables

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def uuid_of(ident: str) -> str:
    """Decode the UUID in an id: 26 digits of Crockford's base32."""
    number = 0
    for digit in ident.partition("-")[2]:
        number = number * 32 + _ALPHABET.index(digit)
    return str(uuid.UUID(int=number))


@dataclass(frozen=True, slots=True)
class Held:
    """What one witness says of a machine."""

    generation: int = 0
    run_epoch: int = 0
    state: str = ""


@dataclass(frozen=True, slots=True)
class HostSight:
    """What was seen on one host. None where this host has no such witness."""

    name: str
    ledger: Mapping[str, Held] | None = None
    """The ledger's entries, by instance id."""
    tombstones: Mapping[str, Held] = field(default_factory=dict)
    reported: Mapping[str, Held] | None = None
    """What the agent says, by instance id."""
    folders: Collection[str] | None = None
    """Folders of machines, by instance id."""
    domains: Mapping[str, bool] | None = None
    """Whether it is on, by the UUID of each domain that the hypervisor has."""
    half_made: Collection[str] = ()
    corrupt: Collection[str] = ()
    unseen: str = ""
    """Why it could not be looked at."""


@dataclass(frozen=True, slots=True)
class Sight:
    """All that was seen of a cloud."""

    tables: Tables
    hosts: Sequence[HostSight]
    processes: Sequence[tuple[str, int]] | None = None
    """UUID and pid of every QEMU; None: nobody looked."""
    keys: Mapping[str, Any] | None = None
    """Keys of etcd with their records; None: nobody looked."""
    schedulers: int | None = 1
    """How many schedulers there are; None: any number."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is allowed."""

    vcpus_ratio: float = 4.0
    memory_ratio: float = 1.0
    disk_ratio: float = 1.0
    lasting: frozenset[str] = frozenset({"RUNNING", "STOPPED"})
    """States in which an instance may stay."""
    history: bool = True
    """Whether the database remembers all that was: not so once it was restored."""
