"""The unit of work with its figures: how long work takes, how it fails, which operations ended.

Stands in front of any database. An operation counts as ended once the transaction that ended it is
committed: what runs again after a busy database, or is rolled back, counts once or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from prometheus_client import Counter, Histogram

from unkai_scheduler.domain.operations import Operation
from unkai_scheduler.store import operations
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_wire import tracing
from unkai_wire.errors import Unavailable

T = TypeVar("T")

SECONDS = Histogram(
    "unkai_database_seconds",
    "Time work in the database took, waiting for its turn included, by kind of transaction.",
    ["kind"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
)
FAILURES = Counter(
    "unkai_database_failures_total",
    "Work that the database failed, by kind of transaction and reason.",
    ["kind", "reason"],
)
ENDED = Counter(
    "unkai_operations_ended_total",
    "Operations that this scheduler ended, by what they did to what, and outcome.",
    ["verb", "resource_kind", "outcome"],
)
OPERATION_SECONDS = Histogram(
    "unkai_operation_seconds",
    "Time from accepted to ended, of operations that succeeded.",
    ["verb", "resource_kind"],
    buckets=(0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
)


class MeasuredUnitOfWork:
    """A unit of work that counts what passes through it."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run work that only reads, on one snapshot."""
        with _measured("read"):
            return await self._uow.read(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction of its own."""
        return await _write("write", self._uow.write, work)

    async def write_grouped(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction shared with what arrives now."""
        return await _write("write_grouped", self._uow.write_grouped, work)

    async def lead(self, term: int, work: Callable[[Connection], T]) -> T:
        """Run the leader's work; raise `Conflict` / NOT_LEADER when its term is over."""

        async def run(tallied: Callable[[Connection], T]) -> T:
            return await self._uow.lead(term, tallied)

        return await _write("lead", run, work)

    async def take_term(self, at_least: int) -> int:
        """Begin a new term above the stored one and above `at_least`; return it."""
        with _measured("take_term"):
            return await self._uow.take_term(at_least)

    async def close(self) -> None:
        """Finish what is queued and let the database go."""
        await self._uow.close()


async def _write(
    kind: str,
    run: Callable[[Callable[[Connection], T]], Awaitable[T]],
    work: Callable[[Connection], T],
) -> T:
    ended: list[Operation] = []

    def tallied(conn: Connection) -> T:
        ended.clear()  # it may run again
        with operations.tallied(ended):
            return work(conn)

    with _measured(kind):
        result = await run(tallied)
    _count(ended)
    return result


@contextmanager
def _measured(kind: str) -> Iterator[None]:
    started_s = time.perf_counter()
    try:
        with tracing.span(f"database {kind}"):
            yield
    except Unavailable as error:
        FAILURES.labels(kind, error.reason).inc()
        raise
    finally:
        SECONDS.labels(kind).observe(time.perf_counter() - started_s)


def _count(ended: Iterable[Operation]) -> None:
    for operation in ended:
        verb, kind = operation.verb.value, operation.resource_kind
        ENDED.labels(verb, kind, operation.state.value).inc()
        if operation.error is None and operation.end_time is not None:
            took_s = (operation.end_time - operation.create_time).total_seconds()
            OPERATION_SECONDS.labels(verb, kind).observe(max(0.0, took_s))
