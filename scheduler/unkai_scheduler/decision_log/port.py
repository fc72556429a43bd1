"""The port to where segments of the decision log live. Implemented by `obstore_adapter.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class SegmentStore(Protocol):
    """Small objects by name: some MiB each, written once.

    Methods raise `Unavailable` when the store does not answer, `NotFound` for a missing name and
    `FailedPrecondition` / DECISION_LOG_FULL when it has no room.
    """

    async def put(self, name: str, content: bytes) -> None:
        """Store the bytes under the name; it appears whole or not at all."""

    async def get(self, name: str) -> bytes:
        """Return the bytes."""

    async def delete(self, name: str) -> None:
        """Remove the name; removing what is not there is fine."""

    async def list(self) -> Mapping[str, int]:
        """Return all names with their numbers of bytes."""
