"""Segments in memory, with an error to raise: for tests, and for a cloud that is tried out."""

from __future__ import annotations

from collections.abc import Mapping

from unkai_wire.errors import NotFound, UnkaiError


class FakeSegments:
    """Implements `SegmentStore`."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.error: UnkaiError | None = None
        """Raised by every call while it is set."""

    async def put(self, name: str, content: bytes) -> None:
        """Keep the bytes."""
        self._fail()
        self.kept[name] = content

    async def get(self, name: str) -> bytes:
        """Return the bytes."""
        self._fail()
        if name not in self.kept:
            raise NotFound.of("segment", name)
        return self.kept[name]

    async def delete(self, name: str) -> None:
        """Forget them."""
        self._fail()
        self.kept.pop(name, None)

    async def list(self) -> Mapping[str, int]:
        """Return all names."""
        self._fail()
        return {name: len(content) for name, content in self.kept.items()}

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error
