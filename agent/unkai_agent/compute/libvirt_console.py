"""One attachment to a domain's serial console, over a libvirt stream.

The guest's output arrives in libvirt's event thread and is handed to the event loop; typed bytes
go out through the driver's call pool. The stream does not block: a blocking `recv` inside
libvirt's own process would hold the lock that ending the stream needs.

A reader that falls behind loses the oldest output rather than stalling the guest, whose kernel
waits for its console; the log file has everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from unkai_agent.compute.libvirt_errors import console_taken_over, unavailable

_RECEIVE_BYTES = 64 * 1024
_BUFFER_BYTES = 256 * 1024
_WOULD_BLOCK = -2
_SEND_RETRY_S = 0.02
_SEND_DEADLINE_S = 10.0
"""How long the guest may take nothing at all of what is typed."""


class BlockingCall(Protocol):
    """Runs a libvirt call in a worker thread, under a deadline, errors translated."""

    def __call__(self, work: Callable[[], Any], *, act: str) -> Awaitable[Any]: ...


class ConsoleAttachment:
    """A console's stream, opened by the driver. Belongs to one event loop."""

    def __init__(self, libvirt: Any, stream: Any, call: BlockingCall, instance_id: str) -> None:
        self._libvirt = libvirt
        self._stream = stream
        self._call = call
        self._instance_id = instance_id
        self.taken_over = False
        """Somebody attaches by force: libvirt ends this session without a word."""
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._ended = False
        self._arrived = asyncio.Event()

    async def talk(self, typed: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield an empty item, then what the guest prints, while sending what is typed."""
        await self._call(self._listen, act="attach to the console")
        keys = asyncio.ensure_future(self._send_all(typed))
        keys.add_done_callback(self._typing_ended)
        try:
            yield b""
            while not self._ended or self._chunks:
                if not self._chunks:
                    self._arrived.clear()
                    await self._arrived.wait()
                    continue
                chunk = self._chunks.popleft()
                self._buffered_bytes -= len(chunk)
                yield chunk
            if self.taken_over:
                raise console_taken_over(self._instance_id)
            if keys.done() and not keys.cancelled() and (error := keys.exception()) is not None:
                raise error
        finally:
            keys.cancel()
            await asyncio.gather(keys, return_exceptions=True)

    async def end(self) -> None:
        """Close the stream; another may attach then.

        It is let go of too: whoever frees it may have to wait for libvirtd.
        """
        stream, self._stream = self._stream, None
        await self._call(partial(self._abort, stream), act="leave the console")

    # In the event loop's thread.

    def _typing_ended(self, keys: asyncio.Future[None]) -> None:
        # An input that merely ends leaves the output open; one that fails ends the session.
        if not keys.cancelled() and keys.exception() is not None:
            self._end_output()

    def _take(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._buffered_bytes += len(chunk)
        while self._buffered_bytes > _BUFFER_BYTES:
            self._buffered_bytes -= len(self._chunks.popleft())
        self._arrived.set()

    def _end_output(self) -> None:
        self._ended = True
        self._arrived.set()

    async def _send_all(self, typed: AsyncIterator[bytes]) -> None:
        async for text in typed:
            rest = text
            give_up_s = self._loop.time() + _SEND_DEADLINE_S
            while rest:
                sent = await self._call(partial(self._stream.send, rest), act="type")
                if sent == _WOULD_BLOCK:
                    if self._loop.time() > give_up_s:
                        raise unavailable("the guest does not take what is typed")
                    await asyncio.sleep(_SEND_RETRY_S)
                else:
                    rest = rest[sent:]
                    give_up_s = self._loop.time() + _SEND_DEADLINE_S

    # In libvirt's event thread, or in a worker.

    def _listen(self) -> None:
        libvirt = self._libvirt
        events = (
            libvirt.VIR_STREAM_EVENT_READABLE
            | libvirt.VIR_STREAM_EVENT_ERROR
            | libvirt.VIR_STREAM_EVENT_HANGUP
        )
        # libvirt's client holds on to the callback for good: it must not hold us.
        tell = weakref.WeakMethod(self._stream_event)

        def on_event(stream: Any, events: int, _opaque: object) -> None:
            if (told := tell()) is not None:
                told(stream, events)

        self._stream.eventAddCallback(events, on_event, None)

    def _stream_event(self, stream: Any, events: int) -> None:
        ended = False
        try:
            if events & self._libvirt.VIR_STREAM_EVENT_READABLE:
                ended = self._receive(stream)
        except self._libvirt.libvirtError:
            ended = True  # the guest is off, the session was taken over, or libvirtd is gone
        broken = self._libvirt.VIR_STREAM_EVENT_ERROR | self._libvirt.VIR_STREAM_EVENT_HANGUP
        if ended or events & broken:
            with contextlib.suppress(self._libvirt.libvirtError):
                stream.eventRemoveCallback()
            self._post(self._end_output)

    def _receive(self, stream: Any) -> bool:
        """Take what has arrived; tell whether the stream has ended."""
        chunk = stream.recv(_RECEIVE_BYTES)
        if chunk == _WOULD_BLOCK:
            return False
        if not chunk:
            return True
        self._post(self._take, chunk)
        return False

    def _post(self, act: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(act, *arguments)

    def _abort(self, stream: Any) -> None:
        for act in (stream.eventRemoveCallback, stream.abort):
            with contextlib.suppress(self._libvirt.libvirtError):
                act()
