"""Connections to one libvirtd, each lent to one call at a time.

Below `LibvirtDriver`. A call runs in a `CallPool`, under a deadline; one that misses it means
*unknown* and gives up both its thread and its connection, so that the next starts afresh. So what
hangs, in libvirtd or in one machine's QEMU, blocks its own connection alone, and no limit of
libvirtd's on the calls of one connection is ever met.

One session more watches: it has the event subscription and no calls. It is opened before the first
call and again before the next one after it broke.

Trap: a libvirt that drives QEMU inside our own process ("embed") cannot be connected to afresh, and
takes no harm from calls side by side: there, the session that watches serves all.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from unkai_agent.compute import libvirt_errors
from unkai_agent.compute.call_pool import CallPool, CallTimedOut, PoolExhausted
from unkai_agent.compute.libvirt_session import Session

T = TypeVar("T")

IDLE_S = 60.0
"""How long a connection is kept that no call uses."""


class Lent:
    """A session that is one caller's."""

    def __init__(self, libvirt: Any, session: Session) -> None:
        self._libvirt = libvirt
        self.session = session
        self.is_at_rest = True
        """No call is under way, none broke it, and nothing of it is kept: another may have it."""

    def keep(self, thing: Any) -> None:
        """Hold a stream until the connection is given up, which its return does then."""
        self.is_at_rest = False
        self.session.keep(thing)

    async def run(
        self,
        work: Callable[[Any], T],
        *,
        act: str,
        instance_id: str,
        pool: CallPool,
        deadline_s: float,
    ) -> T:
        """Run `work(virConnect)`. Raises our errors, those of `libvirt_errors` included."""
        session = self.session
        try:
            return await pool.run(lambda: session.call(work), deadline_s=deadline_s)
        except asyncio.CancelledError:
            self.is_at_rest = False
            raise
        except (CallTimedOut, PoolExhausted) as error:
            self.is_at_rest = False
            metadata = {"act": act, "instance_id": instance_id, "detail": str(error)}
            raise libvirt_errors.unavailable("the hypervisor does not answer", metadata) from error
        except self._libvirt.libvirtError as error:
            if libvirt_errors.lost_connection(self._libvirt, error):
                self.is_at_rest = False
            raise libvirt_errors.translate(
                self._libvirt, error, act=act, instance_id=instance_id
            ) from error


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._libvirt = libvirt
        self._uri = uri
        self._on_change = on_change
        self._pool = pool
        self._deadline_s = deadline_s
        self._clock = clock
        self._embedded = "/embed" in uri
        self._watch: Session | None = None
        self._opening = asyncio.Lock()
        self._idle: list[tuple[float, Session]] = []
        """The session that came back last is lent first, so those not needed grow old."""
        self._closed = False

    async def watch(self) -> None:
        """See to it that changes are told of: one caller opens the session, the others wait."""
        try:
            async with asyncio.timeout(self._deadline_s), self._opening:
                if self._closed:
                    raise libvirt_errors.unavailable("the agent is stopping")
                if self._watch is not None and self._watch.usable():
                    return
                if self._watch is not None:
                    self._watch.retire()
                    self._watch = None
                self._watch = await self._connect()
        except TimeoutError as error:
            raise libvirt_errors.unavailable("the hypervisor does not answer") from error

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[Lent]:
        """Lend a connection; it goes to the next caller once it is at rest."""
        await self.watch()
        lent = Lent(self._libvirt, self._take())
        try:
            yield lent
        finally:
            self._take_back(lent)

    async def close(self) -> None:
        """Let go of libvirt, as far as it answers; calls under way end by themselves."""
        self._closed = True
        watch, self._watch = self._watch, None
        sessions = [session for _, session in self._idle]
        self._idle.clear()
        if watch is not None:
            sessions.append(watch)
        await asyncio.gather(*map(self._end, sessions))

    async def _end(self, session: Session) -> None:
        with contextlib.suppress(CallTimedOut, PoolExhausted):
            await self._pool.run(session.close, deadline_s=self._deadline_s)
        session.retire()  # if that was not even begun

    async def _connect(self) -> Session:
        loop = asyncio.get_running_loop()

        def on_change(instance_id: str) -> None:  # in libvirt's event thread
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._on_change, instance_id)

        session = Session(self._libvirt, self._uri, on_change, shared=self._embedded)
        opened = False
        try:
            await self._pool.run(session.open, deadline_s=self._deadline_s)
            opened = True
        except (CallTimedOut, PoolExhausted) as error:
            raise libvirt_errors.unavailable("the hypervisor does not answer") from error
        except self._libvirt.libvirtError as error:
            metadata = {"detail": libvirt_errors.without_paths(str(error))}
            raise libvirt_errors.unavailable(
                "the hypervisor cannot be reached", metadata
            ) from error
        finally:
            if not opened:
                session.retire()
        return session

    def _take(self) -> Session:
        if self._embedded and self._watch is not None:
            return self._watch
        while self._idle:
            _, session = self._idle.pop()
            if session.usable():
                return session
            session.retire()
        return Session(self._libvirt, self._uri)

    def _take_back(self, lent: Lent) -> None:
        if lent.session is self._watch:
            return
        now_s = self._clock()
        if lent.is_at_rest and not self._closed and lent.session.usable():
            self._idle.append((now_s, lent.session))
        else:
            lent.session.retire()
        while self._idle and now_s - self._idle[0][0] > IDLE_S:
            self._idle.pop(0)[1].retire()
