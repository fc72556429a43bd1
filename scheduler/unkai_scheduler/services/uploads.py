"""Checks an image's bytes as they pass by: length, SHA-256, and what the header says they are."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from unkai_scheduler.domain.images import ImageFormat
from unkai_scheduler.images.image_header import (
    HEAD_BYTES,
    TAIL_BYTES,
    ImageHeader,
    check_head,
    read_header,
)
from unkai_wire.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Expected:
    """What the bytes must be; empty, 0 and None: not said."""

    sha256: str = ""
    size_bytes: int = 0
    format: ImageFormat | None = None
    max_size_bytes: int = 1 << 62


class BytesCheck:
    """Passes chunks on while it looks at them.

    After the last chunk `header`, `size_bytes` and `sha256` tell what they were. When they are
    refused, `verdict` keeps the error that was raised: any other error came from the source.
    """

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._hash = hashlib.sha256()
        self._head = b""
        self._tail = b""
        self._head_checked = False
        self.size_bytes = 0
        self.sha256 = ""
        self.header: ImageHeader | None = None
        self.verdict: InvalidArgument | None = None

    async def passing(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks; raise `InvalidArgument` as soon as they cannot become an image."""
        async for chunk in chunks:
            self._judge(chunk)
            # In a thread, because hashing a large chunk would hold up every other call.
            await asyncio.to_thread(self._hash.update, chunk)
            yield chunk
        self.sha256 = self._hash.hexdigest()
        self._judge_all()

    def _judge(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        self._head += chunk[: HEAD_BYTES - len(self._head)]
        self._tail = (self._tail + chunk[-TAIL_BYTES:])[-TAIL_BYTES:]
        try:
            self._check_length()
            if not self._head_checked and len(self._head) == HEAD_BYTES:
                self._head_checked = True
                check_head(self._head, self._expected.format)
        except InvalidArgument as error:
            self.verdict = error
            raise

    def _judge_all(self) -> None:
        expected = self._expected
        try:
            if expected.size_bytes and self.size_bytes != expected.size_bytes:
                raise InvalidArgument.field(
                    "open.size_bytes",
                    f"says {expected.size_bytes}, but {self.size_bytes} bytes came",
                    reason="IMAGE_SIZE_MISMATCH",
                    fix="upload the whole file",
                )
            if expected.sha256 and self.sha256 != expected.sha256:
                raise InvalidArgument.field(
                    "open.sha256",
                    f"says {expected.sha256}, but the bytes have {self.sha256}",
                    reason="IMAGE_SHA256_MISMATCH",
                    fix="check the file against its publisher's checksum",
                )
            self.header = read_header(self._head, self._tail, self.size_bytes, expected.format)
        except InvalidArgument as error:
            self.verdict = error
            raise

    def _check_length(self) -> None:
        most = self._expected.max_size_bytes
        if self.size_bytes > most:
            raise InvalidArgument.field(
                "chunk",
                f"the file has more than the {most} bytes allowed",
                reason="IMAGE_TOO_LARGE",
                fix="upload a smaller file (qcow2 leaves out what is empty), or raise the limit",
            )
        if self._expected.size_bytes and self.size_bytes > self._expected.size_bytes:
            raise InvalidArgument.field(
                "open.size_bytes",
                f"says {self._expected.size_bytes}, but more bytes came",
                reason="IMAGE_SIZE_MISMATCH",
            )
