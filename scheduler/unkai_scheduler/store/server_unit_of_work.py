"""The unit of work on PostgreSQL and MariaDB: the same plain functions, on the servers' drivers.

A transaction runs in a task of the unit's own: a caller that goes away never leaves one half done.
A failure before COMMIT is tried again, because nothing was written. Whether a COMMIT without an
answer was done is read from the writer's slot (`settlements`), never guessed: if it was not, the
transaction is tried again; if even that cannot be read in time, the caller is told that the outcome
is unknown and asks again with its request id.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.store import migrations, seed, servers, settlements, terms
from unkai_scheduler.store.failures import (
    PASSING,
    DatabaseFailure,
    Failure,
    closed,
    overloaded,
    translate,
)
from unkai_scheduler.store.servers import ATTEMPT_S, CONNECTIONS, Server, connected
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
from unkai_wire.errors import UnkaiError
from unkai_wire.ids import NewId

T = TypeVar("T")

COMMIT_S = 10.0
"""Longest wait for the answer to COMMIT."""
SETTLE_S = 15.0
"""Longest that a lost answer to COMMIT is looked into."""
SETTLE_PAUSE_S = 0.2
RETRY_S = 10.0
"""Time after which a transaction is not begun anew: its caller's patience is bounded too."""
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
        return await _retried(attempt)

    return asyncio.run(retried())


async def _retried(attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a transaction, again while it fails in a way that passes; raise errors of ours."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + RETRY_S
    for tries in range(1, ATTEMPTS + 1):
        try:
            return await attempt()
        except DatabaseFailure as failure:
            is_last = tries == ATTEMPTS or loop.time() >= end_s
            if failure.kind not in PASSING or is_last:
                raise translate(failure) from failure
        await asyncio.sleep(pause_s(tries))
    raise AssertionError("unreachable")


@dataclass(slots=True, eq=False)
class _Job:
    """Work that waits for company, and the future that its caller awaits."""

    work: Callable[[Connection], Any]
    future: asyncio.Future[Any]


@dataclass(slots=True)
class _Slot:
    """A row that one transaction at a time marks."""

    name: str
    is_open: bool = False


@dataclass(slots=True)
class _Slots:
    """The slots of a writer; who finds none free waits."""

    writer: str = field(default_factory=lambda: secrets.token_hex(8))
    _free: asyncio.LifoQueue[_Slot] = field(default_factory=asyncio.LifoQueue)

    def __post_init__(self) -> None:
        for number in range(CONNECTIONS):
            self._free.put_nowait(_Slot(f"{self.writer}-{number}"))

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[_Slot]:
        slot = await self._free.get()
        try:
            yield slot
        finally:
            self._free.put_nowait(slot)

    def names(self) -> list[str]:
        return [f"{self.writer}-{number}" for number in range(CONNECTIONS)]


class ServerUnitOfWork:
    """The unit of work on a database server."""

    def __init__(
        self, server: Server, writing: AsyncEngine, reading: AsyncEngine, *, clock: Clock
    ) -> None:
        self._classify = server.classify
        self._writing = writing
        self._reading = reading
        self._clock = clock
        self._slots = _Slots()
        self._tokens = itertools.count(1)
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
        try:
            # In a task of ours too: MariaDB's driver takes its caller's cancellation for a broken
            # connection, and the caller would go on as if it had never been cancelled.
            return await asyncio.shield(self._begin(_retried(partial(self._read_once, work))))
        finally:
            self._reads -= 1

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction of its own."""
        self._check_open()
        return await asyncio.shield(self._begin(self._transact(work)))

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

        return await self.write(fenced)

    async def take_term(self, at_least: int) -> int:
        """Begin a new term above the stored one and above `at_least`; return it."""
        return await self.write(lambda conn: terms.take(conn, at_least))

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
        with suppress(UnkaiError, TimeoutError):
            async with asyncio.timeout(servers.CONNECT_S):
                names = self._slots.names()
                await self._in_own_transaction(lambda c: settlements.close_slots(c, names))
        await self._reading.dispose()
        await self._writing.dispose()

    # Reading.

    async def _read_once(self, work: Callable[[Connection], T]) -> T:
        async with connected(self._reading, self._classify) as conn, _limited():
            await conn.begin()
            result = await conn.run_sync(work)
            await conn.rollback()
            return result

    # Writing.

    async def _transact(self, work: Callable[[Connection], T]) -> T:
        """Run one transaction, tried again while nothing was written."""
        return await _retried(partial(self._transact_once, work))

    async def _transact_once(self, work: Callable[[Connection], T]) -> T:
        async with self._slots.taken() as slot:
            if not slot.is_open:
                opening = partial(settlements.open_slot, slot=slot.name, now=self._clock())
                await self._in_own_transaction(opening)
                slot.is_open = True
            return await self._settle(work, slot)

    async def _settle(self, work: Callable[[Connection], T], slot: _Slot) -> T:
        """Run one transaction that marks the slot, and make sure of what became of it."""
        token, now = next(self._tokens), self._clock()
        async with connected(self._writing, self._classify) as conn:
            async with _limited():
                await conn.begin()
                result = await conn.run_sync(work)
                try:
                    await conn.run_sync(settlements.mark, slot.name, token, now)
                except DatabaseFailure:
                    slot.is_open = False
                    raise
            lost = await _commit(conn)
        if lost is not None and not await self._was_committed(slot, token, lost):
            kind = Failure.FULL if lost.kind is Failure.FULL else Failure.LOST
            raise DatabaseFailure(kind, str(lost)) from lost
        return result

    async def _was_committed(self, slot: _Slot, token: int, lost: DatabaseFailure) -> bool:
        """Tell whether a transaction was committed; `UNKNOWN` when it cannot be known in time."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + SETTLE_S
        while loop.time() < end_s:
            try:
                async with connected(self._writing, self._classify) as conn, _limited():
                    await conn.begin()
                    stored = await conn.run_sync(settlements.settled, slot.name)
                    await conn.rollback()
            except DatabaseFailure:
                await asyncio.sleep(SETTLE_PAUSE_S)
                continue
            if stored is not None:
                return stored == token
            break
        slot.is_open = False
        raise DatabaseFailure(Failure.UNKNOWN, str(lost)) from lost

    async def _in_own_transaction(self, work: Callable[[Connection], None]) -> None:
        async with connected(self._writing, self._classify) as conn, _limited(), conn.begin():
            await conn.run_sync(work)

    # Groups.

    async def _run_groups(self) -> None:
        """Run what waits, in groups, until nothing does: while one runs, the next gathers."""
        try:
            while self._grouped:
                if len(self._grouped) < GROUP_SIZE and not self._closed:
                    await asyncio.sleep(GROUP_WINDOW_S)
                count = min(len(self._grouped), GROUP_SIZE)
                jobs = [self._grouped.popleft() for _ in range(count)]
                jobs = [job for job in jobs if not job.future.done()]
                GROUPED.observe(len(jobs))
                if len(jobs) > 1:
                    await self._run_group(jobs)
                elif jobs:
                    await self._run_alone(jobs[0])
        finally:
            self._grouping = False

    async def _run_group(self, jobs: Sequence[_Job]) -> None:
        def all_of_them(conn: Connection) -> list[Outcome]:
            return [run_in_savepoint(conn, job.work) for job in jobs]

        try:
            outcomes = await self._transact_once(all_of_them)
        except DatabaseFailure as failure:
            if failure.kind is not Failure.UNKNOWN:
                # Nothing was written: each work meets it again alone, and reports it.
                await asyncio.gather(*(self._run_alone(job) for job in jobs))
                return
            error = translate(failure)
            error.__cause__ = failure
            outcomes = [Outcome(error=error) for _ in jobs]
        except Exception as error:  # noqa: BLE001 - it is the callers', who await the futures
            outcomes = [Outcome(error=error) for _ in jobs]
        for job, outcome in zip(jobs, outcomes, strict=True):
            _tell(job, outcome)

    async def _run_alone(self, job: _Job) -> None:
        try:
            outcome = Outcome(result=await self._transact(job.work))
        except Exception as error:  # noqa: BLE001 - it is the caller's, who awaits the future
            outcome = Outcome(error=error)
        _tell(job, outcome)


@asynccontextmanager
async def _limited() -> AsyncIterator[None]:
    """Let statements last no longer than a transaction may, whatever the network does."""
    try:
        async with asyncio.timeout(ATTEMPT_S):
            yield
    except TimeoutError as error:
        raise DatabaseFailure(Failure.LOST, "the transaction took too long") from error


async def _commit(conn: AsyncConnection) -> DatabaseFailure | None:
    """Commit; return what kept the answer from us."""
    try:
        async with asyncio.timeout(COMMIT_S):
            await conn.commit()
    except DatabaseFailure as failure:
        return failure
    except TimeoutError:
        return DatabaseFailure(Failure.LOST, "COMMIT was not answered")
    return None


def _tell(job: _Job, outcome: Outcome) -> None:
    if not job.future.done():
        outcome.tell(job.future)
