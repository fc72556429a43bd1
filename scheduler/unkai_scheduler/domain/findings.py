"""Findings: what does not fit between the database and what hosts hold, and whose turn it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class FindingKind(Enum):
    """What does not fit; meanings in host/v1/audit.proto. The value names it in metrics."""

    ORPHAN = "orphan"
    UNCLAIMED_MACHINE = "unclaimed_machine"
    CLAIM_WITHOUT_MACHINE = "claim_without_machine"
    MACHINE_AHEAD = "machine_ahead"
    MACHINE_BEHIND = "machine_behind"
    STATE_MISMATCH = "state_mismatch"
    SPEC_MISMATCH = "spec_mismatch"
    DELETED_ON_HOST = "deleted_on_host"
    LOST = "lost"
    HOST_OVERSOLD = "host_oversold"
    OVN_ORPHAN = "ovn_orphan"
    OVN_REFUSED = "ovn_refused"
    PORT_MISPLACED = "port_misplaced"


class Remedy(Enum):
    """Who mends it."""

    LEADER = "LEADER"
    OPERATOR = "OPERATOR"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not fit. What it says of a machine is its host's word."""

    kind: FindingKind
    host_id: str
    host_name: str
    message: str
    remedy: Remedy
    fix: str
    """What the leader will do, or the operator has to."""
    instance_id: str = ""
    name: str = ""
    project_id: str = ""
    generation: int = 0
    machine_state: str = ""
    vcpus: int = 0
    memory_bytes: int = 0
    resource_kind: str = ""
    """Of networks: what it is about, such as `port`; else empty."""
    resource_id: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What makes it the same finding when it is found again."""
        about = self.resource_id or self.instance_id
        return (self.kind.value, self.host_id, about, self.generation)

    @property
    def reason(self) -> str:
        """Its name in events."""
        return self.kind.name


@dataclass(frozen=True, slots=True)
class Audited:
    """One comparison of the database with the hosts."""

    audit_time: datetime
    findings: tuple[Finding, ...]
    unseen_hosts: tuple[str, ...]
    """Names of hosts that have not told all they hold: what they hold may be missing here."""
