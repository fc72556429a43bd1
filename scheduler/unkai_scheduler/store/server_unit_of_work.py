"""The unit of work on PostgreSQL and MariaDB: the same plain functions, on the servers' drivers.

A transaction runs in a task of the unit's own: a caller that goes away never leaves one half done.
A failure before COMMIT is tried again, because nothing was written. After a COMMIT without an
answer it is found out whether it was done (`settled_transactions`): if it was not, the transaction
is tried again; if that cannot be read in time, the caller is told that the outcome is unknown and
asks again with its request id.

Calls wait for their turn (`turns`); who leaves before it has come leaves nothing. The leader has
turns of its own, so that no crowd of callers keeps it from its work.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.store import migrations, seed, servers, terms
from unkai_scheduler.store.failures import (
    PASSING,
    DatabaseFailure,
    Failure,
    closed,
    overloaded,
    translate,
)
from unkai_scheduler.store.servers import (
    ATTEMPT_S,
    CONNECT_S,
    CONNECTIONS,
    LEADING_CONNECTIONS,
    Server,
    connected,
)
from unkai_scheduler.store.settled_transactions import SettledTransactions, limited
from unkai_scheduler.store.turns import Call, Slot, Turns
from unkai_scheduler.store.writer import (
    ATTEMPTS,
    GROUP_SIZE,
    GROUP_WINDOW_S,
    GROUPED,
    MAX_WAITING,
    Outcome,
    pause_s,
    run_in_savepoint,
)
from unkai_wire.errors import Unavailable
from unkai_wire.ids import NewId

T = TypeVar("T")
log = structlog.get_logger(__name__)

READING_S = 9.0
"""Longest that a reader waits, for its turn and for the answer: a read that is given up harms
nobody, so it ends before its caller's deadline whatever the database does."""
GROUP_ALONE_S = 1.0
"""A group that takes longer is waited for no more: the next begins beside it."""
MAX_WAITING_READS = 1024


def server_of(settings: DatabaseSettings) -> Server:
    """Return what is the own of the database that the settings name."""
    if settings.kind == "postgresql":
        from unkai_scheduler.store.postgresql import POSTGRESQL

        return POSTGRESQL
    from unkai_scheduler.store.mariadb import MARIADB

    return MARIADB


async def open_on_server(
    settings: DatabaseSettings, *, clock: Clock, new_id: NewId
) -> ServerUnitOfWork:
    """Open a database on a server: migrate it, and seed it when it is new."""
    server = server_of(settings)

    def prepare(conn: Connection) -> None:
        migrations.upgrade_on(conn)
        seed.seed_if_new(conn, clock(), new_id)

    # In a thread with a loop of its own: what migrates blocks whoever else does so in this process.
    await asyncio.to_thread(run_alone, server, settings, prepare)
    return ServerUnitOfWork(
        server,
        servers.engine(server, settings, servers.WRITING),
        servers.engine(server, settings, servers.READING),
        clock=clock,
    )


def run_alone(server: Server, settings: DatabaseSettings, work: Callable[[Connection], T]) -> T:
    """Run work in a transaction with the lock of those who migrate; blocks, so never on a loop."""

    async def attempt() -> T:
        engine = servers.engine(server, settings, servers.MIGRATING)
        try:
            async with connected(engine, server.classify) as conn, conn.begin():
                await conn.run_sync(server.lock_schema)
                return await conn.run_sync(work)
        finally:
            await engine.dispose()

    async def retried() -> T:
        return await _retried(attempt, Call())

    return asyncio.run(retried())


async def _retried(attempt: Callable[[], Coroutine[Any, Any, T]], call: Call) -> T:
    """Run a transaction, again while it fails in a way that passes; raise errors of ours."""
    for tries in range(1, ATTEMPTS + 1):
        try:
            return await attempt()
        except DatabaseFailure as failure:
            _pass_cancellation(failure)
            is_last = tries == ATTEMPTS or not call.may_try_again()
            if failure.kind not in PASSING or is_last:
                raise translate(failure) from failure
        await asyncio.sleep(pause_s(tries))
    raise AssertionError("unreachable")


def _pass_cancellation(failure: DatabaseFailure) -> None:
    """End a task that was cancelled, though its driver took that for a broken connection."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError from failure


@dataclass(slots=True, eq=False)
class _Job:
    """Work that waits for company, and the future that its caller awaits."""

    work: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    call: Call = field(default_factory=Call)


class ServerUnitOfWork:
    """The unit of work on a database server."""

    def __init__(
        self, server: Server, writing: AsyncEngine, reading: AsyncEngine, *, clock: Clock
    ) -> None:
        self._classify = server.classify
        self._end_stopped = server.end_stopped
        self._writing = SettledTransactions(writing, server.classify, clock)
        self._reading = reading
        self._turns = Turns(CONNECTIONS)
        self._leading_turns = Turns(LEADING_CONNECTIONS)
        self._reading_turns = asyncio.Semaphore(CONNECTIONS)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._grouped: deque[_Job] = deque()
        self._grouping = False
        self._reads = 0
        self._closed = False

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run work that only reads, on one snapshot."""
        if self._closed:
            raise closed()
        if self._reads >= MAX_WAITING_READS:
            raise overloaded(self._reads)
        self._reads += 1
        # In a task of ours too: MariaDB's driver takes its caller's cancellation for a broken
        # connection, and the caller would go on as if it had never been cancelled.
        task = self._begin(self._read_in_turn(work))
        task.add_done_callback(self._read_ended)
        try:
            async with asyncio.timeout(READING_S) as limit:
                return await asyncio.shield(task)
        except TimeoutError as error:
            if not limit.expired():
                raise
            failure = DatabaseFailure(Failure.UNAVAILABLE, "no answer in time")
            raise translate(failure) from error
        finally:
            task.cancel()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction of its own."""
        return await self._write(work, self._turns, Call())

    async def write_grouped(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction shared with what arrives within 3 ms, at most 64."""
        self._check_open()
        job = _Job(work, asyncio.get_running_loop().create_future())
        self._grouped.append(job)
        if not self._grouping:
            self._grouping = True
            self._begin(self._run_groups())
        result: T = await job.future
        return result

    async def lead(self, term: int, work: Callable[[Connection], T]) -> T:
        """Run the leader's work; raise `Conflict` / NOT_LEADER when its term is over."""

        def fenced(conn: Connection) -> T:
            terms.verify(conn, term)
            return work(conn)

        return await self._lead(fenced)

    async def take_term(self, at_least: int) -> int:
        """Begin a new term above the stored one and above `at_least`; return it."""
        await self._make_way()
        return await self._lead(lambda conn: terms.take(conn, at_least))

    async def close(self) -> None:
        """Finish what is queued and let the database go. More work is `Unavailable`."""
        self._closed = True
        await asyncio.shield(self._close())

    def _check_open(self) -> None:
        if self._closed:
            raise closed()
        waiting = len(self._tasks) + len(self._grouped)
        if waiting >= MAX_WAITING:
            raise overloaded(waiting)

    async def _lead(self, work: Callable[[Connection], T]) -> T:
        return await self._write(work, self._leading_turns, Call(lasts_s=ATTEMPT_S))

    async def _write(self, work: Callable[[Connection], T], turns: Turns, call: Call) -> T:
        self._check_open()
        task = self._begin(self._transact(work, turns, call))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not call.has_begun:
                task.cancel()
            raise

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run in a task of ours, which `close` awaits."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have gone away

    async def _close(self) -> None:
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        await self._writing.close_slots([*self._turns.slots, *self._leading_turns.slots])
        await self._reading.dispose()
        await self._writing.dispose()

    # Reading.

    def _read_ended(self, _task: asyncio.Task[Any]) -> None:
        self._reads -= 1

    async def _read_in_turn(self, work: Callable[[Connection], T]) -> T:
        async with self._reading_turns:
            return await _retried(partial(self._read_once, work), Call())

    async def _read_once(self, work: Callable[[Connection], T]) -> T:
        async with connected(self._reading, self._classify) as conn, limited(ATTEMPT_S):
            await conn.begin()
            result = await conn.run_sync(work)
            await conn.rollback()
            return result

    # Writing.

    async def _transact(self, work: Callable[[Connection], T], turns: Turns, call: Call) -> T:
        """Run one transaction in its turn, tried again while nothing was written."""
        async with turns.taken(call) as slot:
            return await self._persist(work, slot, call)

    async def _persist(self, work: Callable[[Connection], T], slot: Slot, call: Call) -> T:
        async def attempt() -> T:
            try:
                return await self._writing.run(work, slot, call)
            except DatabaseFailure as failure:
                if failure.kind is Failure.BUSY:
                    await self._make_way()
                raise

        return await _retried(attempt, call)

    async def _make_way(self) -> None:
        """End sessions of stopped schedulers whose locks would be waited for without end."""
        with suppress(DatabaseFailure):
            async with connected(self._reading, self._classify) as conn, limited(CONNECT_S):
                ended = await conn.run_sync(self._end_stopped)
                if ended:
                    log.warning("stopped_sessions_ended", count=ended)

    # Groups.

    async def _run_groups(self) -> None:
        """Run what waits, in groups, until nothing does: while one runs, the next gathers.

        One that takes long, because it waits for a lock, is let alone: it holds nobody else up.
        """
        try:
            while self._grouped:
                if len(self._grouped) < GROUP_SIZE and not self._closed:
                    await asyncio.sleep(GROUP_WINDOW_S)
                count = min(len(self._grouped), GROUP_SIZE)
                jobs = [self._grouped.popleft() for _ in range(count)]
                jobs = [job for job in jobs if not job.future.done()]
                GROUPED.observe(len(jobs))
                if jobs:
                    running = self._begin(self._run_group(jobs))
                    await asyncio.wait({running}, timeout=GROUP_ALONE_S)
        finally:
            self._grouping = False

    async def _run_group(self, jobs: Sequence[_Job]) -> None:
        if len(jobs) == 1:
            await self._run_alone(jobs[0])
            return

        def all_of_them(conn: Connection) -> list[Outcome]:
            # Whoever has left by now leaves nothing.
            return [
                Outcome() if job.future.done() else run_in_savepoint(conn, job.work) for job in jobs
            ]

        call = Call(jobs[0].call.began_s)
        try:
            async with self._turns.taken(call) as slot:
                outcomes = await self._writing.run(all_of_them, slot, call)
        except DatabaseFailure as failure:
            if failure.kind is not Failure.UNKNOWN:
                # Nothing was written: each work meets it again alone, and reports it.
                await self._run_each(jobs)
                return
            error = translate(failure)
            error.__cause__ = failure
            outcomes = [Outcome(error=error) for _ in jobs]
        except Unavailable:  # no turn came; who came later than the first may still wait for one
            await self._run_each(jobs)
            return
        except Exception as error:  # noqa: BLE001 - it is the callers', who await the futures
            outcomes = [Outcome(error=error) for _ in jobs]
        for job, outcome in zip(jobs, outcomes, strict=True):
            _tell(job, outcome)

    async def _run_each(self, jobs: Sequence[_Job]) -> None:
        await asyncio.gather(*(self._run_alone(job) for job in jobs))

    async def _run_alone(self, job: _Job) -> None:
        try:
            async with self._turns.taken(job.call) as slot:
                if job.future.done():  # nobody waits for it any more
                    return
                outcome = Outcome(result=await self._persist(job.work, slot, job.call))
        except Exception as error:  # noqa: BLE001 - it is the caller's, who awaits the future
            outcome = Outcome(error=error)
        _tell(job, outcome)


def _tell(job: _Job, outcome: Outcome) -> None:
    if not job.future.done():
        outcome.tell(job.future)
