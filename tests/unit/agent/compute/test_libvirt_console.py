"""A console's attachment on a stream that takes what is typed as slowly as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from unkai_agent.compute import libvirt_console
from unkai_agent.compute.libvirt_console import ConsoleAttachment
from unkai_wire.errors import Unavailable

INSTANCE = "ins-00000000000000000000000001"


class _Libvirt:
    VIR_STREAM_EVENT_READABLE = 1
    VIR_STREAM_EVENT_ERROR = 4
    VIR_STREAM_EVENT_HANGUP = 8
    libvirtError = OSError  # noqa: N815 - libvirt's name


class _Stream:
    """Takes `piece` bytes at every `rest`-th try; the guest's answer is never anything."""

    def __init__(self, piece: int, rest: int) -> None:
        self.taken = b""
        self._piece = piece
        self._rest = rest
        self._tries = 0
        self.wanted = 0
        self.whole = asyncio.Event()

    def send(self, data: bytes) -> int:
        self._tries += 1
        if not self._piece or self._tries % self._rest:
            return -2
        self.taken += data[: self._piece]
        if len(self.taken) == self.wanted:
            self.whole.set()
        return min(self._piece, len(data))

    def eventAddCallback(self, *_: Any) -> None:
        pass

    def eventRemoveCallback(self) -> None:
        pass

    def abort(self) -> None:
        pass


async def _call(work: Callable[[], Any], *, act: str) -> Any:
    return work()


async def _pasted(text: bytes) -> AsyncIterator[bytes]:
    yield text


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_console, "_SEND_RETRY_S", 0.001)
    monkeypatch.setattr(libvirt_console, "_SEND_DEADLINE_S", 1.0)


async def test_a_slow_guest_gets_a_long_paste_whole_however_long_it_takes() -> None:
    stream, text = _Stream(piece=16, rest=10), bytes(range(256)) * 16
    attachment = ConsoleAttachment(_Libvirt, stream, _call, INSTANCE)
    begun = asyncio.get_running_loop().time()
    output = attachment.talk(_pasted(text))
    assert await anext(output) == b""
    reader = asyncio.ensure_future(anext(output, None))  # type: ignore[arg-type]
    stream.wanted = len(text)
    whole = asyncio.ensure_future(stream.whole.wait())
    await asyncio.wait({reader, whole}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    assert not reader.done(), reader
    assert stream.taken == text
    assert asyncio.get_running_loop().time() - begun > 1.0, "it took longer than one silence may"
    reader.cancel()


async def test_a_guest_that_takes_nothing_at_all_ends_the_session() -> None:
    attachment = ConsoleAttachment(_Libvirt, _Stream(piece=0, rest=1), _call, INSTANCE)
    output = attachment.talk(_pasted(b"text"))
    assert await anext(output) == b""
    with pytest.raises(Unavailable, match="does not take what is typed"):
        await anext(output)
