"""Frames on the pipes between the scheduler and its child: four bytes of length, then JSON.

JSON, as nothing that is read can run; bounded, as a length that is wrong must not eat the memory.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, BinaryIO

LIMIT_BYTES = 32 * 1024 * 1024
_LENGTH_BYTES = 4

Message = dict[str, Any]


class BrokenFrame(Exception):
    """What came is no frame: the stream is of no use any more."""


def encode(message: Message) -> bytes:
    """Return a frame; raise `BrokenFrame` when it would be too large."""
    body = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(body) > LIMIT_BYTES:
        raise BrokenFrame(f"{len(body)} bytes, where {LIMIT_BYTES} may be")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def _length(head: bytes) -> int:
    length = int.from_bytes(head, "big")
    if length > LIMIT_BYTES:
        raise BrokenFrame(f"{length} bytes announced, where {LIMIT_BYTES} may be")
    return length


def _decode(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except ValueError as error:
        raise BrokenFrame("not JSON") from error
    if not isinstance(message, dict):
        raise BrokenFrame("not an object")
    return message


async def read(stream: asyncio.StreamReader) -> Message | None:
    """Read a frame; None at the end, also when it ends within one."""
    try:
        length = _length(await stream.readexactly(_LENGTH_BYTES))
        return _decode(await stream.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def read_blocking(stream: BinaryIO) -> Message | None:
    """Read a frame; None at the end, also when it ends within one."""
    head = stream.read(_LENGTH_BYTES)
    if len(head) < _LENGTH_BYTES:
        return None
    length = _length(head)
    body = stream.read(length)
    return _decode(body) if len(body) == length else None
