"""Run blocking calls in threads of our own, each under a deadline.

Python cannot stop a thread, so a call that never comes back costs its thread. The pool gives such
a thread up and starts another in its place; at most `max_lost` may be lost at once. Beyond that,
calls fail at once, because the library itself is stuck. So one hung call delays no other by more
than its own deadline. Lost threads that come back after all end quietly.

Threads are daemons: a stuck library must not keep the agent from exiting, which
`concurrent.futures` would (it joins its threads at exit).
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
IDLE_S = 5.0
"""Idle threads take turns, so each of many soon waits so long, and few are left."""


class CallTimedOut(Exception):
    """The call did not come back within its deadline; whether it acts is unknown."""


class PoolExhausted(Exception):
    """The call was not begun: too many wait, or no thread can be started."""


class PoolStuck(PoolExhausted):
    """As many calls are stuck as the pool may lose."""


class CallPool:
    """`size` worker threads, grown on demand; one that is idle for long ends.

    Belongs to one event loop.
    """

    def __init__(
        self,
        name: str,
        *,
        size: int,
        max_lost: int,
        max_waiting: int = 1000,
        idle_s: float = IDLE_S,
        stuck: str = "",
    ) -> None:
        self._name = name
        self.stuck = stuck
        """What it means that as many calls are stuck as may be."""
        self._idle_s = idle_s
        self._size = size
        self._max_lost = max_lost
        self._max_waiting = max_waiting
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._queued = 0
        self._workers = 0
        self._busy = 0
        self._lost = 0
        self._closed = False

    @property
    def lost(self) -> int:
        """Number of threads given up and not come back."""
        return self._lost

    @property
    def busy(self) -> int:
        """Number of calls under way, those given up not counted."""
        return self._busy

    async def run(self, work: Callable[[], T], *, deadline_s: float) -> T:
        """Run `work` in a thread and return what it returns.

        Raises `CallTimedOut` when it, waiting for a thread included, takes longer than
        `deadline_s`, and `PoolExhausted` when it cannot be tried.
        """
        if self._closed:
            raise PoolExhausted(f"{self._name} is closed")
        if self._lost >= self._max_lost:
            raise PoolStuck(f"{self._lost} calls of {self._name} are stuck")
        loop = asyncio.get_running_loop()
        call = _Call(work, loop, loop.create_future(), time.monotonic() + deadline_s)
        self._submit(call)
        try:
            await asyncio.wait({call.outcome}, timeout=deadline_s)
            if not call.outcome.done():
                raise CallTimedOut(f"{self._name}: no answer within {deadline_s:g} s")
            result: T = call.outcome.result()
            return result
        finally:
            self._give_up(call)
            if call.outcome.done():
                call.outcome.exception()  # known, also to a caller that leaves at that moment

    def close(self) -> None:
        """Let idle threads end; calls under way end by themselves."""
        with self._lock:
            self._closed = True
            for _ in range(self._workers):
                self._calls.put(None)

    def _submit(self, call: _Call) -> None:
        with self._lock:
            self._queued += 1
            if self._short_of_workers():
                self._start_worker()
            # A thread is tried first: without any, those that wait would wait for ever.
            if not self._workers or self._queued > self._max_waiting:
                self._queued -= 1
                raise PoolExhausted(
                    f"{self._max_waiting} calls of {self._name} wait"
                    if self._workers
                    else f"no thread of {self._name} can be started"
                )
            self._calls.put(call)

    def _short_of_workers(self) -> bool:
        """Tell whether a call would wait for a busy thread though one more may be had."""
        return self._queued > self._workers - self._busy and self._workers < self._size

    def _start_worker(self) -> None:
        number = self._workers + self._lost + 1
        worker = threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
        try:
            worker.start()
        except RuntimeError:  # the process may have no more; the next call tries again
            return
        self._workers += 1

    def _give_up(self, call: _Call) -> None:
        """Lose the call's thread if the call is still under way, and start another for it."""
        with self._lock:
            call.given_up = True
            if call.started and not call.ended:
                self._workers -= 1
                self._busy -= 1
                self._lost += 1
                if self._lost < self._max_lost and not self._closed:
                    self._start_worker()

    def _work(self) -> None:
        while True:
            call = self._next()
            with self._lock:
                if call is None:
                    if self._queued:
                        continue  # one came at the last moment
                    self._workers -= 1
                    return
                self._queued -= 1
                if call.given_up or time.monotonic() >= call.expires_s:
                    continue
                call.started = True
                self._busy += 1
            result, error = call.try_it()
            if self._end(call):
                return
            if not call.given_up:
                call.settle(result, error)
            del call, result, error  # they may hold what must not wait for the next call

    def _next(self) -> _Call | None:
        """Wait for a call; None when none came for long, or the pool is closed."""
        try:
            return self._calls.get(timeout=self._idle_s)
        except queue.Empty:
            return None

    def _end(self, call: _Call) -> bool:
        """Note that the call came back; tell whether its thread is one too many by now."""
        with self._lock:
            call.ended = True
            if not call.given_up:
                self._busy -= 1
                return False
            self._lost -= 1
            if not self._short_of_workers():
                return True
            self._workers += 1  # so none need be started
            return False


class _Call:
    """One call: the work, and where its outcome goes."""

    def __init__(
        self,
        work: Callable[[], Any],
        loop: asyncio.AbstractEventLoop,
        outcome: asyncio.Future[Any],
        expires_s: float,
    ) -> None:
        self._work = work
        self.loop = loop
        self.outcome = outcome
        self.expires_s = expires_s
        self.started = False
        self.ended = False
        self.given_up = False

    def try_it(self) -> tuple[Any, Exception | None]:
        """Do the work, once: neither this nor an error's traceback holds it then."""
        work = self._work
        del self._work
        try:
            return work(), None
        except Exception as error:  # noqa: BLE001  carried to the caller
            return None, error
        finally:
            del work

    def settle(self, result: Any, error: Exception | None) -> None:
        try:
            self.loop.call_soon_threadsafe(self._set, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _set(self, result: Any, error: Exception | None) -> None:
        if self.given_up or self.outcome.done():
            return
        if error is None:
            self.outcome.set_result(result)
        else:
            self.outcome.set_exception(error)
