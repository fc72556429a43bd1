"""Run steps in order: measure, act, verify; on failure undo this run's own acts.

A step that finds its work done does nothing, so a run may begin anywhere: after a crash, after a
lost answer, for the second time. A run that is cancelled undoes nothing, since the process may
as well have died; the next run measures what is there.

The trap: a call whose answer was lost may have acted. So after `Unavailable` the step measures
once more before it counts as failed, and its undo is armed before it acts. An undo that fails ends
the undoing: what a later step made may still stand on the earlier ones, as a guest on its disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from prometheus_client import Counter, Histogram

from unkai_wire import tracing
from unkai_wire.errors import Unavailable, UnkaiError

_LOG = structlog.get_logger("unkai.agent.converge")
STEP_SECONDS = Histogram(
    "unkai_agent_step_seconds",
    "Time the steps to a machine took, by step; waiting for a slot included.",
    ["step"],
    buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
)
STEP_FAILURES = Counter(
    "unkai_agent_step_failures_total",
    "Steps to a machine that failed, by step and reason.",
    ["step", "reason"],
)


@dataclass(frozen=True, slots=True)
class Step:
    """One idempotent step."""

    name: str
    """As the machine's `step` shows it."""
    measure: Callable[[], Awaitable[bool]]
    """Tell whether it is so already."""
    act: Callable[[], Awaitable[None]]
    undo: Callable[[], Awaitable[None]] | None = None
    slot: bool = False
    """Its act is heavy: only so many run at once on this host."""


async def run_steps(
    steps: Sequence[Step],
    *,
    slots: asyncio.Semaphore,
    on_step: Callable[[str], None] = lambda _: None,
    undo_all: bool = False,
) -> None:
    """Bring each step about, in order; raise what the first failing one raised.

    `undo_all` undoes steps found done too: right for what nobody ever used.
    """
    armed: list[tuple[str, Callable[[], Awaitable[None]]]] = []
    try:
        for step in steps:
            on_step(step.name)
            with _measured(step.name):
                done = await step.measure()
                if step.undo is not None and (undo_all or not done):
                    armed.append((step.name, step.undo))
                if not done:
                    await _bring_about(step, slots)
    except Exception:
        await _undo(armed)
        raise


@contextmanager
def _measured(step: str) -> Iterator[None]:
    started_s = time.perf_counter()
    try:
        with tracing.span(f"step {step}"):
            yield
    except UnkaiError as error:
        STEP_FAILURES.labels(step, error.reason).inc()
        raise
    finally:
        STEP_SECONDS.labels(step).observe(time.perf_counter() - started_s)


async def _bring_about(step: Step, slots: asyncio.Semaphore) -> None:
    unknown: Unavailable | None = None
    try:
        if step.slot:
            async with slots:
                await step.act()
        else:
            await step.act()
    except Unavailable as error:
        unknown = error
    if await step.measure():
        return
    raise unknown or Unavailable(
        f"the step '{step.name}' was done, yet its result is not there",
        reason="STEP_NOT_VERIFIED",
        fix="it is tried again by itself; look at the host's log if this goes on",
        metadata={"step": step.name},
    )


async def _undo(armed: Sequence[tuple[str, Callable[[], Awaitable[None]]]]) -> None:
    """Undo the last first, up to the first that cannot be undone."""
    for name, undo in reversed(armed):
        try:
            await undo()
        except UnkaiError as error:
            # The error that began the undoing matters more; the next run finds what is left.
            _LOG.warning("undo_failed", step=name, reason=error.reason, error=error.message)
            return
