"""A store of image bytes in memory, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

from unkai_wire.errors import NotFound, UnkaiError


class MemoryImages:
    """Image bytes in a dictionary, with an error to raise, for all keys or for some."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.error: UnkaiError | None = None
        self.error_of: dict[str, UnkaiError] = {}

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        self.kept[key] = b"".join([chunk async for chunk in chunks])
        return len(self.kept[key])

    async def get(self, key: str, offset_bytes: int = 0) -> AsyncIterator[bytes]:
        if key not in self.kept:
            raise NotFound.of("image", key)
        yield self.kept[key][offset_bytes:]

    async def size(self, key: str) -> int:
        return len(self.kept[key])

    async def delete(self, key: str) -> None:
        error = self.error_of.get(key, self.error)
        if error is not None:
            raise error
        self.kept.pop(key, None)

    async def list(self) -> list[str]:
        return sorted(self.kept)
