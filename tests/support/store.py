"""A real store on a temporary file: what tests of services and reconcilers stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from tests.support.builders import DEFAULT_PROJECT_ID, NOON, an_id
from unkai_scheduler.domain.clock import Clock
from unkai_scheduler.store.unit_of_work import UnitOfWork, open_unit_of_work
from unkai_wire.ids import NewId


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


async def open_store(folder: Path, *, clock: Clock = noon) -> UnitOfWork:
    """Open the database in a folder, new or not; the caller closes it.

    The builders' default project is the seeded one, so `an_instance()` can be inserted as it is.
    """
    url = store_url(folder)
    return await open_unit_of_work(url, clock=clock, new_id=ids_with_default_project())


@asynccontextmanager
async def a_store(folder: Path, *, clock: Clock = noon) -> AsyncIterator[UnitOfWork]:
    """Open the database in a folder for the length of a `with`."""
    uow = await open_store(folder, clock=clock)
    try:
        yield uow
    finally:
        await uow.close()
