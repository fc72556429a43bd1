"""Connections to one libvirtd, each serving one call at a time.

Below `LibvirtDriver`. A call runs in a `CallPool`, under a deadline, and there takes a connection
that no other has, or opens one; it gives it back when it has ended, however long after its caller
left. So what hangs, in libvirtd or in one machine's QEMU, blocks its own connection alone, and no
limit of libvirtd's on the calls of one connection is ever met.

One session more watches: it has the event subscription and no calls. It is opened before the first
call and again before the next one after it broke.

Trap: a libvirt that drives QEMU inside our own process ("embed") cannot be connected to afresh, and
takes no harm from calls side by side: there, the session that watches serves all.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from unkai_agent.compute import libvirt_errors
from unkai_agent.compute.call_pool import CallPool, CallTimedOut, PoolExhausted, PoolStuck
from unkai_agent.compute.libvirt_session import Session, retire_all

T = TypeVar("T")

IDLE_S = 60.0
"""How long a connection is kept that no call uses."""


class Connections:
    """Belongs to one event loop. `on_change(instance_id)` is called in it."""

    def __init__(
        self,
        libvirt: Any,
        uri: str,
        on_change: Callable[[str], None],
        *,
        pool: CallPool,
        deadline_s: float,
    ) -> None:
        self._libvirt = libvirt
        self._uri = uri
        self._on_change = on_change
        self._pool = pool
        self._deadline_s = deadline_s
        self._embedded = "/embed" in uri
        self._watch: Session | None = None
        self._opening = asyncio.Lock()
        self._lock = threading.Lock()
        self._idle: list[tuple[float, Session]] = []
        """The session that came back last is taken first, so those not needed grow old."""
        self._closed = False

    async def watch(self) -> Session:
        """See to it that changes are told of: one caller opens the session, the others wait."""
        try:
            async with asyncio.timeout(self._deadline_s), self._opening:
                if self._closed:
                    raise libvirt_errors.unavailable("the agent is stopping")
                if self._watch is None or not self._watch.usable():
                    if self._watch is not None:
                        self._watch.retire()
                        self._watch = None
                    self._watch = await self._connect()
                    if self._closed:
                        raise libvirt_errors.unavailable("the agent is stopping")
                return self._watch
        except TimeoutError as error:
            raise libvirt_errors.unavailable("the hypervisor does not answer") from error

    async def run(
        self,
        work: Callable[[Any], T],
        *,
        act: str,
        instance_id: str,
        pool: CallPool,
        deadline_s: float,
        session: Session | None = None,
    ) -> T:
        """Run `work(virConnect)`, on a session of the caller's if it has one.

        Raises our errors, those of `libvirt_errors` included.
        """
        watch = await self.watch()
        if self._embedded:
            session = watch
        left = threading.Event()

        def in_worker() -> T:
            with contextlib.nullcontext(session) if session else self._taken() as used:
                self._open(used)
                if left.is_set():  # nobody waits any more: what has not begun shall not
                    raise libvirt_errors.unavailable("the hypervisor does not answer")
                return used.call(work)

        try:
            return await pool.run(in_worker, deadline_s=deadline_s)
        except (CallTimedOut, PoolExhausted) as error:
            stuck = pool.stuck if isinstance(error, PoolStuck) else ""
            metadata = {"act": act, "detail": str(error)}
            if instance_id:
                metadata["instance_id"] = instance_id
            raise libvirt_errors.unavailable(
                stuck or "the hypervisor does not answer", metadata
            ) from error
        except self._libvirt.libvirtError as error:
            raise libvirt_errors.translate(
                self._libvirt, error, act=act, instance_id=instance_id
            ) from error
        finally:
            left.set()

    @contextlib.contextmanager
    def own(self) -> Iterator[Session]:
        """Give a session that outlives a call, for a stream; it is closed at the end."""
        session = Session(self._libvirt, self._uri)
        try:
            yield session
        finally:
            session.retire()

    async def close(self) -> None:
        """Let go of libvirt, as far as it answers; calls under way end by themselves."""
        with self._lock:
            self._closed = True
            sessions = [session for _, session in self._idle]
            self._idle.clear()
        if self._watch is not None:
            sessions.append(self._watch)
            self._watch = None
        with contextlib.suppress(CallTimedOut, PoolExhausted):
            await self._pool.run(lambda: _close(sessions), deadline_s=self._deadline_s)
        retire_all(sessions)  # what that did not come to

    async def _connect(self) -> Session:
        loop = asyncio.get_running_loop()

        def on_change(instance_id: str) -> None:  # in libvirt's event thread
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._on_change, instance_id)

        session = Session(self._libvirt, self._uri, on_change, shared=self._embedded)
        opened = False
        try:
            await self._pool.run(lambda: self._open(session), deadline_s=self._deadline_s)
            opened = not self._closed
        except (CallTimedOut, PoolExhausted) as error:
            metadata = {"detail": str(error)}
            raise libvirt_errors.unavailable("the hypervisor does not answer", metadata) from error
        finally:
            if not opened:
                session.retire()
        return session

    # Inside worker threads.

    def _open(self, session: Session) -> None:
        """Connect, if need be. That it cannot be done is no refusal of what is asked."""
        try:
            session.open()
        except self._libvirt.libvirtError as error:
            metadata = {"detail": libvirt_errors.without_paths(str(error))}
            raise libvirt_errors.unavailable(
                "the hypervisor cannot be reached", metadata
            ) from error

    @contextlib.contextmanager
    def _taken(self) -> Iterator[Session]:
        session = self._take()
        stands = True
        try:
            yield session
        except self._libvirt.libvirtError as error:
            stands = not libvirt_errors.lost_connection(self._libvirt, error)
            raise
        finally:
            self._give_back(session, stands=stands)

    def _take(self) -> Session:
        broken = []
        try:
            while True:
                with self._lock:
                    if not self._idle:
                        return Session(self._libvirt, self._uri)
                    _, session = self._idle.pop()
                if session.usable():
                    return session
                broken.append(session)
        finally:
            retire_all(broken)

    def _give_back(self, session: Session, *, stands: bool) -> None:
        over = []
        now_s = time.monotonic()
        stands = stands and session.usable()
        with self._lock:
            if stands and not self._closed:
                self._idle.append((now_s, session))
            else:
                over.append(session)
            while self._idle and now_s - self._idle[0][0] > IDLE_S:
                over.append(self._idle.pop(0)[1])
        retire_all(over)


def _close(sessions: list[Session]) -> None:
    for session in sessions:
        session.close()
