"""Roads to etcd: lanes, each a thread with a client of its own, and the hints of a watch.

Below `etcd.py`, which says what is asked. The `etcd3` module is synchronous; every call has a
deadline, and a failed one moves its lane to the next endpoint. A hint says only that something may
have changed: whoever gets one lists anew.

Traps of the module: an endpoint that failed is shunned for 300 s unless told otherwise; a watch
that breaks ends with one error event and is then silent; a client must be closed on the thread
that uses it. A member that is cut off from the others, or hangs, keeps a watch open and silent:
who lists a change that no hint told of opens the watch anew on the next member.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import etcd3
import etcd3.exceptions
import grpc

from unkai_wire.cluster_records import PREFIX
from unkai_wire.errors import Unavailable
from unkai_wire.etcd_failures import refusal_of
from unkai_wire.tls import TlsFiles

T = TypeVar("T")

CALL_S = 0.8
"""Deadline of one request to one endpoint."""
ANSWER_S = 1.9
"""After so long a caller hears that etcd does not answer."""
MAX_PENDING = 32
"""Calls that may wait for one lane."""
GATHER_S = 0.05
"""Hints that come within so long are one."""

_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", 64 << 20),
)
_UNANSWERED = (etcd3.exceptions.Etcd3Exception, grpc.RpcError, ValueError)
"""All that the module raises when a server is away, closing, electing, or was closed by us."""


class Lane:
    """One thread and one client at a time, over the endpoints in turn."""

    def __init__(self, name: str, endpoints: Sequence[str], tls: TlsFiles | None) -> None:
        self._endpoints = [e.rpartition("://")[2].rpartition(":") for e in endpoints]
        self._credentials = tls.channel_credentials() if tls else None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"etcd-{name}")
        self._pending = 0
        self._turn = 0
        self._client: Any = None

    async def run(self, call: Callable[[Any], T], *, within_s: float = ANSWER_S) -> T:
        """Run a call with a client; raise `Unavailable` when etcd does not answer in time.

        A call that is out of time may still happen: its outcome is unknown.
        """
        if self._pending >= MAX_PENDING:
            raise _unavailable("too many calls wait for etcd")
        self._pending += 1
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, self._try, call, time.monotonic() + within_s)
        future.add_done_callback(self._settled)
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.shield(future)
        except TimeoutError as error:
            raise _unavailable(f"etcd has not answered within {within_s:.1f} s") from error

    def occupy(self, work: Callable[[], None]) -> asyncio.Future[None]:
        """Run work on the lane's thread until it returns; it calls by `attempt`, others wait."""
        self._pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        future.add_done_callback(self._settled)
        return future

    def attempt(self, call: Callable[[Any], T], *, within_s: float) -> T:
        """Do what `run` does, from the lane's thread."""
        return self._try(call, time.monotonic() + min(within_s, ANSWER_S))

    def _settled(self, future: asyncio.Future[Any]) -> None:
        self._pending -= 1
        if not future.cancelled():
            future.exception()  # an answer too late for its caller is of no interest

    def _try(self, call: Callable[[Any], T], deadline_s: float) -> T:
        failure: Exception | None = None
        for _ in range(max(2, len(self._endpoints))):
            if time.monotonic() + CALL_S / 4 > deadline_s:
                break
            try:
                return call(self._connected())
            except _UNANSWERED as error:
                failure = error
                self.drop()
                self._turn += 1
        raise (
            refusal_of(failure, "scheduler") or _unavailable("etcd does not answer")
        ) from failure

    def _connected(self) -> Any:
        if self._client is None:
            host, _, port = self._endpoints[self._turn % len(self._endpoints)]
            endpoint = etcd3.Endpoint(
                host,
                int(port),
                secure=self._credentials is not None,
                creds=self._credentials,
                # The library counts by the wall clock: one put back would bar the only address.
                time_retry=-math.inf,
                opts=_CHANNEL_OPTIONS,
            )
            self._client = etcd3.MultiEndpointEtcd3Client([endpoint], timeout=CALL_S)
        return self._client

    def drop(self) -> None:
        """Close the client, on the lane's thread; the next call makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def reset(self) -> None:
        """Drop the client once the call under way has ended."""
        with suppress(RuntimeError):  # closed already
            self._executor.submit(self.drop)

    def move_on(self) -> None:
        """Leave the endpoint in use, once the call under way has ended, for the next one."""
        self._turn += 1
        self.reset()

    def close(self) -> None:
        """Stop the thread once its call has ended; never waits for it."""
        self.reset()
        self._executor.shutdown(wait=False)


class Hints:
    """Says when something under our prefix may have changed."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._watch = 0
        self._broken = True

    async def listen(self) -> None:
        """Open a watch unless one is open; without one the timer alone must do."""
        self._changed.clear()
        if self._broken:
            self._watch += 1
            watch = self._watch
            self._broken = False
            try:
                await self._lane.run(lambda client: self._open(client, watch))
            except Unavailable:
                self._broken = True

    async def wait(self, timeout_s: float) -> bool:
        """Return True after a hint, False when the time has passed without one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
                # Changes come in swarms: one listing for all of them.
                await asyncio.sleep(GATHER_S)
        return self._changed.is_set()

    def deaf(self) -> None:
        """Open the watch anew, elsewhere, at the next `listen`: changes happen without a hint."""
        self._broken = True
        self._lane.move_on()

    def _open(self, client: Any, watch: int) -> None:
        client.add_watch_prefix_callback(PREFIX, lambda answer: self._heard(watch, answer))

    def _heard(self, watch: int, answer: object) -> None:
        """Take a hint, on the module's thread; an answer without events is the watch's end."""
        with suppress(RuntimeError):  # the loop has closed: nobody listens
            self._loop.call_soon_threadsafe(self._note, watch, hasattr(answer, "events"))

    def _note(self, watch: int, alive: bool) -> None:
        if watch == self._watch:
            self._broken = self._broken or not alive
            self._changed.set()


def _unavailable(message: str) -> Unavailable:
    return Unavailable(message, reason="ETCD_UNAVAILABLE", fix="see whether etcd runs")
