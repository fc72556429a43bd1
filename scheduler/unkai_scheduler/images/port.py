"""The port to where image bytes live. Implemented by `obstore_adapter.py` (directory or S3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class ImageStore(Protocol):
    """Bytes of images by key. A key appears whole or not at all.

    Methods raise `Unavailable` when the store does not answer, `NotFound` for a missing key and
    `FailedPrecondition` / STORE_FULL when it has no room.
    """

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Store the bytes under the key, replacing what was there; return their number."""

    def get(self, key: str, offset_bytes: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from an offset on, in pieces of at most 1 MiB."""

    async def size(self, key: str) -> int:
        """Return the number of bytes under the key."""

    async def delete(self, key: str) -> None:
        """Remove the key and what is left of its puts; removing what is not there is fine."""

    async def list(self) -> list[str]:
        """Return all keys."""
