"""An event loop whose clock jumps over the time in which nothing happens.

While somebody waits for an answer from elsewhere (a thread, the database) its seconds are the
wall's. When all wait for the clock alone, it is put on to the next timer at once. So minutes pass
in seconds, limits mean what they say, and a machine that is slow or stands still costs no seconds:
being woken late does not count, nor more than `LONGEST_S` of any one stretch.

Tasks that run the store's code are awaited until they end, also when their caller has left: what
a database server answers arrives on this loop, and the limits of waiting for it are seconds of the
wall.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy

from unkai_scheduler import store
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork

T = TypeVar("T")

LONGEST_S = 0.05
_STORE = tuple(str(Path(module.__file__ or "").parent) for module in (store, sqlalchemy))
"""Folders of the code that talks to a database; SQLAlchemy closes connections in own tasks."""


class _Selector(selectors.DefaultSelector):
    """Waits for as long as the loop's clock says, and puts it on."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = 0
        """Answers from elsewhere that are awaited."""
        self._now_s = self._seen_s = time.monotonic()

    def now_s(self) -> float:
        """Return the clock's time."""
        wall_s = time.monotonic()
        self._now_s += min(wall_s - self._seen_s, LONGEST_S)
        self._seen_s = wall_s
        return self._now_s

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        if self.awaited:
            return super().select(min(timeout, LONGEST_S))
        events = super().select(0)
        if not events:
            self._now_s += timeout
            self._seen_s = time.monotonic()
        return events


class FastLoop(asyncio.SelectorEventLoop):
    """The loop; what it runs in threads is awaited by itself, else say `answered_elsewhere`."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now_s()

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        **named: Any,
    ) -> asyncio.Task[T]:
        """Make a task, and count it until it has ended when it is the store's."""
        task = super().create_task(coro, **named)
        code = getattr(coro, "cr_code", None)
        if code is not None and code.co_filename.startswith(_STORE):
            self.selector.awaited += 1
            task.add_done_callback(self._answered)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> Any:
        """Run it in a thread, and count it until it has ended."""
        future = super().run_in_executor(executor, func, *args)
        self.selector.awaited += 1
        future.add_done_callback(self._answered)
        return future

    def _answered(self, _future: object) -> None:
        self.selector.awaited -= 1


@contextmanager
def answered_elsewhere() -> Iterator[None]:
    """Within it, something is awaited that does not happen on this loop."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, FastLoop):
        yield
        return
    loop.selector.awaited += 1
    try:
        yield
    finally:
        loop.selector.awaited -= 1


class AwaitedStore:
    """A unit of work whose answers the clock waits for."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def read(self, work: Callable[[Connection], T]) -> T:
        with answered_elsewhere():
            return await self._uow.read(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        with answered_elsewhere():
            return await self._uow.write(work)

    async def write_grouped(self, work: Callable[[Connection], T]) -> T:
        with answered_elsewhere():
            return await self._uow.write_grouped(work)

    async def lead(self, term: int, work: Callable[[Connection], T]) -> T:
        with answered_elsewhere():
            return await self._uow.lead(term, work)

    async def take_term(self, at_least: int) -> int:
        with answered_elsewhere():
            return await self._uow.take_term(at_least)

    async def close(self) -> None:
        with answered_elsewhere():
            await self._uow.close()
