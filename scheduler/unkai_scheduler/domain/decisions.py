"""Decisions: why an instance goes where it goes. At most `MAX_STORED_BYTES` as stored JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

MAX_STORED_BYTES = 4096


@dataclass(frozen=True, slots=True)
class FilterResult:
    """What one filter did, in the order the filters ran."""

    name: str
    rejected_count: int
    rejected_hosts: tuple[str, ...] = ()
    """Names of up to five of them."""
    nearest_miss: str = ""
    """The nearest miss and what would mend it, in one sentence."""


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a host's score: 0..65535 standing for 0..1, and its weight 0..255."""

    name: str
    score: int
    weight: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One host that passed all filters."""

    host_id: str
    host_name: str
    total_score: int
    terms: tuple[Term, ...]
    inputs: Mapping[str, float]
    """The live numbers used, by name with unit."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer to the question which host an instance goes to."""

    instance_id: str
    decide_time: datetime
    policy: str
    host_count: int
    filters: tuple[FilterResult, ...]
    candidates: tuple[Candidate, ...]
    """The winner and up to five runners-up, best first."""
    host_id: str = ""
    """Empty when no host fitted."""
    host_name: str = ""
    summary: str = ""
