"""A real store on a temporary file: what tests of services and reconcilers stand on.

`FaultyStore` is that same store with errors that a test asks for: it cannot lie otherwise.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from tests.support import databases
from tests.support.builders import DEFAULT_PROJECT_ID, NOON, an_id
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork, open_unit_of_work
from unkai_wire.ids import NewId

T = TypeVar("T")


def noon() -> datetime:
    """Return the builders' now: a clock that stands still."""
    return NOON


def store_url(folder: Path) -> str:
    """Return the URL of the database in a test's folder."""
    return f"sqlite:///{folder / 'unkai.db'}"


def ids_with_default_project() -> NewId:
    """Make a maker of ids whose first project id is the builders' `DEFAULT_PROJECT_ID`."""
    first: Iterator[str] = iter([DEFAULT_PROJECT_ID])

    def new_id(kind: str) -> str:
        return next(first, an_id(kind)) if kind == "project" else an_id(kind)

    return new_id


_made: list[bytes] = []


async def _new_database() -> bytes:
    """Return a new database's file."""
    if not _made:
        with tempfile.TemporaryDirectory() as folder:
            ids = ids_with_default_project()
            uow = await open_unit_of_work(store_url(Path(folder)), clock=noon, new_id=ids)
            await uow.close()
            _made.append((Path(folder) / "unkai.db").read_bytes())
    return _made[0]


async def open_store(folder: Path, *, clock: Clock = noon) -> UnitOfWork:
    """Open the database of a folder, new or not; the caller closes it.

    The builders' default project is the seeded one, so `an_instance()` can be inserted as it is. A
    new one is a copy of the first that this process made: migrating costs more than most tests.
    """
    settings = databases.settings_of(folder)
    if settings.kind == "sqlite" and clock is noon and not (folder / "unkai.db").exists():
        (folder / "unkai.db").write_bytes(await _new_database())
    return await open_unit_of_work(settings, clock=clock, new_id=ids_with_default_project())


@asynccontextmanager
async def a_store(folder: Path, *, clock: Clock = noon) -> AsyncIterator[UnitOfWork]:
    """Open the database in a folder for the length of a `with`."""
    uow = await open_store(folder, clock=clock)
    try:
        yield uow
    finally:
        await uow.close()


class FaultyStore:
    """A unit of work whose next writes fail as the test says; reads pass."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow
        self._refusals: deque[Exception] = deque()
        self._lost_answers: deque[Exception] = deque()

    def refuse_next(self, *errors: Exception) -> None:
        """Let the next writes raise these, one each, and write nothing."""
        self._refusals.extend(errors)

    def lose_answer_of_next(self, *errors: Exception) -> None:
        """Let the next writes commit, then raise these, one each."""
        self._lost_answers.extend(errors)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._uow.read(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._with_faults(lambda: self._uow.write(work))

    async def write_grouped(self, work: Callable[[Connection], T]) -> T:
        return await self._with_faults(lambda: self._uow.write_grouped(work))

    async def lead(self, term: int, work: Callable[[Connection], T]) -> T:
        return await self._with_faults(lambda: self._uow.lead(term, work))

    async def take_term(self, at_least: int) -> int:
        return await self._with_faults(lambda: self._uow.take_term(at_least))

    async def close(self) -> None:
        await self._uow.close()

    async def _with_faults(self, write: Callable[[], Awaitable[T]]) -> T:
        if self._refusals:
            raise self._refusals.popleft()
        result = await write()
        if self._lost_answers:
            raise self._lost_answers.popleft()
        return result
