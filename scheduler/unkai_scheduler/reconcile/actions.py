"""What a reconciler may answer: one action for one instance, with its rows as they shall be.

Pure data. `instance` and `operation` are the rows after the action; the loop writes them in one
transaction *before* it sends an order, so that a crash between the two is found by the due time.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.domain.operations import Operation


@dataclass(frozen=True, slots=True)
class Action:
    """Base of all actions. `operation` is None when none is under way."""

    instance: Instance
    operation: Operation | None


class Place(Action):
    """Find it a host."""


class Ensure(Action):
    """Order its host to make it so; also the permit to run."""


class Remove(Action):
    """Order its host to remove it."""


class Wait(Action):
    """Nothing to do now; look again at `instance.due_time`, or when something is observed."""


class Settle(Action):
    """Write down what is observed."""


class Finish(Action):
    """It is as it was asked for: the operation has succeeded."""


@dataclass(frozen=True, slots=True)
class Release(Action):
    """Its host confirmed that nothing of it is left: drop the claim, place it elsewhere."""

    tombstone: Tombstone


class Reclaim(Action):
    """A host holds it that has no claim: claim it for that host, so that it is removed there."""


@dataclass(frozen=True, slots=True)
class Fail(Action):
    """It cannot be made: FAILED, holding nothing but its row."""

    tombstone: Tombstone | None = None


@dataclass(frozen=True, slots=True)
class Forget(Action):
    """Nothing of it is left anywhere: delete the row, the deletion has succeeded."""

    tombstone: Tombstone | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers that the decisions turn on."""

    backoff_base_s: float = 0.5
    backoff_cap_s: float = 30.0
    create_hosts: int = 3
    """Hosts a create is tried on."""
    host_patience: int = 8
    """Looks at a host that fails a create, while it tries again or the reason may pass."""
    steady_s: float = 300.0
    """A machine that ran this long begins its crash backoff anew."""


def backoff(rules: Rules, ident: str, attempt: int) -> timedelta:
    """Return how long to wait before the next try: doubling, capped, spread by ±25 %.

    The spread is drawn from id and attempt, so that the function stays pure and a crowd of
    instances still does not come back at one moment.
    """
    whole = min(rules.backoff_cap_s, rules.backoff_base_s * 2.0 ** min(attempt, 16))
    spread = zlib.crc32(f"{ident}:{attempt}".encode()) / 0xFFFFFFFF
    return timedelta(seconds=whole * (0.75 + 0.5 * spread))


def is_due(instance: Instance, now: datetime) -> bool:
    """Tell whether the next try may begin."""
    return instance.due_time is None or instance.due_time <= now
