"""What the workers of a host share: made by `supervisor.py`, used by each `worker.py`."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from unkai_agent.converge.contact import LeaderContact
from unkai_agent.converge.machines import Machinery
from unkai_agent.converge.shown import Publish
from unkai_agent.domain.clock import Clock
from unkai_agent.ledger import Ledger
from unkai_agent.settings import ConvergeSettings

InThread = Callable[..., Awaitable[Any]]
"""Runs a blocking call elsewhere: `asyncio.to_thread`, or a bounded executor's."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What all workers of a host share."""

    ledger: Ledger
    machinery: Machinery
    boot_id: str
    settings: ConvergeSettings
    contact: LeaderContact
    clock: Clock
    rng: random.Random
    in_thread: InThread
    ready_s: Callable[[], float | None]
    """When the agent became ready (loop's clock); None: not yet."""
    publish: Publish
