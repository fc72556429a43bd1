"""Ends the calls that only wait for news when the scheduler stops.

A watch never ends by itself, so a stop would wait for it in vain. Its caller is told UNAVAILABLE
and goes on at another scheduler, from the revision it has. Calls that do something are not touched:
they get the grace of the stop. The trap: a call runs in a task of gRPC's, which gRPC cancels too
when the caller goes; only a cancellation of ours becomes an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from unkai_wire.errors import Unavailable


class Calls:
    """The calls under way at one server."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Task[Any]] = set()
        self._told: frozenset[asyncio.Task[Any]] = frozenset()
        self._working = 0
        self._stopping = False
        self._done = asyncio.Event()
        self._done.set()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run the block, a call that a stop lets end; raise `Unavailable` once we stop."""
        if self._stopping:
            raise _stopping()
        self._working += 1
        self._done.clear()
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._done.set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Run the block, a call that waits for news, until we stop: then raise `Unavailable`."""
        if self._stopping:
            raise _stopping()
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._told:
                raise
            task.uncancel()
            raise _stopping() from None
        finally:
            self._waiting.discard(task)

    def stop(self) -> None:
        """End all calls that wait, and refuse every one that begins from now on."""
        self._stopping = True
        self._told = frozenset(self._waiting)
        for task in self._told:
            task.cancel()

    async def work_done(self, timeout_s: float) -> None:
        """Return once no call works any more, or when the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._done.wait()


def _stopping() -> Unavailable:
    return Unavailable(
        "this scheduler stops",
        reason="SCHEDULER_STOPPING",
        fix="call again: another scheduler answers, or this one once it is back",
        retry_after_s=1.0,
    )
