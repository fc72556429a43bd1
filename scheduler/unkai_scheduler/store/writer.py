"""The one thread that writes to SQLite, and its group commit.

Callers hand in work and get a future. Work that may share a transaction waits up to the window for
company; each such work runs in a savepoint of its own, so that one that fails harms no other, and
when the shared transaction itself fails before its commit, each is run again alone. A commit whose
outcome is unknown is never repeated here: the caller asks again with its request id.

Cancelling a future before its work began drops the work; later it changes nothing, so a caller that
goes away never leaves a transaction open.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prometheus_client import Histogram
from sqlalchemy import Connection, Engine

from unkai_scheduler.store.failures import (
    HARMLESS,
    DatabaseFailure,
    Failure,
    closed,
    crowded,
    overloaded,
    translate,
)
from unkai_wire.errors import UnkaiError

T = TypeVar("T")

GROUP_WINDOW_S = 0.003
GROUP_SIZE = 64
MAX_WAITING = 4096
ATTEMPTS = 5
_BACKOFF_S = 0.02
RETRY_S = 4.0
"""A transaction that finds the database busy is not tried anew after so long."""
PATIENCE_S = 7.0
"""Work that waited so long for its turn is refused then: with one more try it still ends before
its caller's deadline, so that a caller hears UNAVAILABLE, and never wonders what became of it."""

_jitter = random.SystemRandom()

GROUPED = Histogram(
    "unkai_database_group_size",
    "Changes that shared one transaction.",
    buckets=(1, 2, 4, 8, 16, 32, 64),
)


def run_with_retries(attempt: Callable[[], T]) -> T:
    """Run a transaction, again when it found the database busy; raise errors of ours."""
    end_s = time.monotonic() + RETRY_S
    for tries in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except DatabaseFailure as failure:
            is_last = tries == ATTEMPTS or time.monotonic() >= end_s
            if failure.kind is not Failure.BUSY or is_last:
                raise translate(failure) from failure
        time.sleep(pause_s(tries))
    raise AssertionError("unreachable")


def pause_s(tries: int) -> float:
    """Return how long to wait after this many tries: longer each time, never the same for two."""
    return float(_jitter.uniform(0.5, 1.0) * _BACKOFF_S * 2**tries)


@dataclass(slots=True, eq=False)
class _Job:
    """One work with the future that its caller awaits."""

    work: Callable[[Connection], Any]
    future: Future[Any] = field(default_factory=Future)
    ripe_at: float = 0.0
    """Monotonic time from which it waits for company no longer."""
    begun_s: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Outcome:
    """What became of one work in a group."""

    result: Any = None
    error: Exception | None = None

    def tell(self, future: Future[Any] | asyncio.Future[Any]) -> None:
        """Give it to who awaits the future."""
        if isinstance(self.error, StopIteration):
            # Python 3.11's asyncio cannot carry one: its caller would wait for ever.
            wrapped = RuntimeError("work raised StopIteration")
            wrapped.__cause__ = self.error
            future.set_exception(wrapped)
        elif self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(self.result)


async def outcome_of(future: Future[T]) -> T:
    """Await a work's outcome; drop the work, and raise `Unavailable`, when its turn does not come
    in time: a turn that others hold for long cannot tell it so.
    """
    outcome = asyncio.wrap_future(future)
    try:
        await asyncio.wait({outcome}, timeout=PATIENCE_S)
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    if not outcome.done() and future.cancel():
        raise crowded()
    return await outcome


class Writer:
    """Runs all writing transactions of an engine, one at a time, in a thread of its own."""

    def __init__(
        self,
        engine: Engine,
        *,
        group_window_s: float = GROUP_WINDOW_S,
        group_size: int = GROUP_SIZE,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._engine = engine
        self._group_window_s = group_window_s
        self._group_size = group_size
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._single: deque[_Job] = deque()
        self._grouped: deque[_Job] = deque()
        self._closing = False
        self._single_was_last = False
        self._thread = threading.Thread(target=self._run, name="unkai-db-write", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Connection], Any], *, grouped: bool = False) -> Future[Any]:
        """Queue work for a transaction; raise `Unavailable` when closed or overloaded."""
        job = _Job(work, ripe_at=time.monotonic() + self._group_window_s)
        with self._changed:
            if self._closing:
                raise closed()
            waiting = len(self._single) + len(self._grouped)
            if waiting >= self._max_waiting:
                raise overloaded(waiting)
            (self._grouped if grouped else self._single).append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Finish what is queued, take nothing new, and wait for the thread to end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            begun = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            GROUPED.observe(len(begun))
            if len(begun) > 1:
                self._run_group(begun)
            elif begun:
                self._run_alone(begun[0])

    def _next(self) -> list[_Job]:
        """Wait for work; empty when closed and done. Single and grouped work take turns."""
        with self._changed:
            while True:
                now = time.monotonic()
                ripe = self._is_group_ripe(now)
                if self._single and not (ripe and self._single_was_last):
                    self._single_was_last = True
                    return [self._single.popleft()]
                if ripe:
                    self._single_was_last = False
                    count = min(len(self._grouped), self._group_size)
                    return [self._grouped.popleft() for _ in range(count)]
                if self._closing:
                    return []
                self._changed.wait(self._grouped[0].ripe_at - now if self._grouped else None)

    def _is_group_ripe(self, now: float) -> bool:
        if not self._grouped:
            return False
        full = len(self._grouped) >= self._group_size
        return full or self._closing or now >= self._grouped[0].ripe_at

    def _run_alone(self, job: _Job) -> None:
        try:
            if time.monotonic() - job.begun_s > PATIENCE_S:
                raise overloaded(len(self._single) + len(self._grouped))
            outcome = Outcome(result=run_with_retries(lambda: self._transact(job.work)))
        except Exception as error:  # noqa: BLE001 - it is the caller's, who awaits the future
            outcome = Outcome(error=error)
        outcome.tell(job.future)

    def _transact(self, work: Callable[[Connection], Any]) -> Any:
        with self._engine.connect() as conn, conn.begin():
            return work(conn)

    def _run_group(self, jobs: Sequence[_Job]) -> None:
        try:
            with self._engine.connect() as conn:
                transaction = conn.begin()
                outcomes = [run_in_savepoint(conn, job.work) for job in jobs]
                outcomes = _commit(transaction.commit, outcomes)
        except Exception:  # noqa: BLE001 - each work meets it again alone, and reports it
            for job in jobs:
                self._run_alone(job)
            return
        for job, outcome in zip(jobs, outcomes, strict=True):
            outcome.tell(job.future)


def run_in_savepoint(conn: Connection, work: Callable[[Connection], Any]) -> Outcome:
    """Run one work of a group; raise only what spoils the whole transaction.

    An error of the savepoint itself is such: SQLite has ended the transaction, and the next
    savepoint would silently begin another.
    """
    savepoint = conn.begin_nested()
    try:
        result = work(conn)
    except DatabaseFailure as failure:
        if failure.kind not in HARMLESS:
            raise
        outcome = Outcome(error=_caused(failure))
    except Exception as error:  # noqa: BLE001 - it is the caller's, who awaits the future
        outcome = Outcome(error=error)
    else:
        savepoint.commit()
        return Outcome(result=result)
    savepoint.rollback()
    return outcome


def _caused(failure: DatabaseFailure) -> UnkaiError:
    error = translate(failure)
    error.__cause__ = failure
    return error


def _commit(commit: Callable[[], None], outcomes: list[Outcome]) -> list[Outcome]:
    """Commit a group. A failure with an unknown outcome is told to each work that succeeded."""
    try:
        commit()
    except DatabaseFailure as failure:
        if failure.kind is Failure.BUSY:
            raise
        return [o if o.error else Outcome(error=_caused(failure)) for o in outcomes]
    return outcomes
