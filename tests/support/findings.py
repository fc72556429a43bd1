"""What the checker of a cloud finds: each kind of thing that must not be, and one of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What must not be."""

    OPERATION_UNDER_WAY = "an operation that has not ended"
    OPERATION_HALF_ENDED = "an operation with an end but no final state, or the reverse"
    INSTANCE_UNSETTLED = "an instance in a state that does not last"
    INSTANCE_WITHOUT_CLAIM = "an instance that lasts, on no host"
    INSTANCE_GONE = "an instance made and never deleted, without a row"
    INSTANCE_RISEN = "an instance deleted, with a row"
    FAILED_HOLDS = "a failed create that still holds something"
    POWER_AT_ODDS = "an instance that is on and shall be off, or the reverse"
    CLAIM_WITHOUT_INSTANCE = "a claim on nothing"
    CLAIM_ON_NO_HOST = "a claim of a host that is not"
    CLAIM_AT_ODDS = "a claim whose figures are not its instance's"
    CLAIM_WITHOUT_MACHINE = "a claim on a host that holds no such machine"
    MACHINE_WITHOUT_INSTANCE = "something of a machine that is no instance's"
    MACHINE_UNCLAIMED = "something of a machine on a host that does not claim it"
    MACHINE_TWICE = "two hosts with one machine"
    MACHINE_AT_ODDS = "a machine that its database row does not describe"
    MACHINE_AND_TOMBSTONE = "a machine beside the tombstone of its removal"
    QEMU_TWICE = "two processes for one instance"
    QEMU_WITHOUT_INSTANCE = "a process that is no running instance's"
    QEMU_MISSING = "a running instance without a process"
    HALF_MADE_FILE = "a file that was left half-made"
    LEDGER_CORRUPT = "a ledger's file put aside"
    HOST_OVERSOLD = "a host whose claims exceed what it may hold"
    HOST_NOT_UP = "a host that is not UP"
    HOST_UNSEEN = "a host with claims that was not looked at"
    EVENT_UNSTAMPED = "an event without a revision"
    EVENT_NUMBERS = "a gap or a stray in the revisions of events"
    ROW_DANGLING = "a row about something that is not"
    REQUEST_TWICE = "two operations for one request"
    REQUEST_UNKEPT = "a request answered with an operation that is not"
    TOMBSTONE_AT_ODDS = "a tombstone of what its host holds by right"
    KEY_OF_NOBODY = "a key in etcd that belongs to nobody"
    KEY_MISSING = "a key that should be in etcd"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that must not be."""

    kind: Enum
    """One of a checker's kinds."""
    subject: str
    text: str = ""

    def __str__(self) -> str:
        more = f": {self.text}" if self.text else ""
        return f"{self.kind.name} {self.subject}{more}"
