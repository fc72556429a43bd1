"""The image store with its figures: how long it takes and how it fails. Stands before any store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, cast

from prometheus_client import Counter, Histogram

from unkai_scheduler.images.port import ImageStore
from unkai_wire import tracing
from unkai_wire.errors import FailedPrecondition, Unavailable

SECONDS = Histogram(
    "unkai_image_store_seconds",
    "Time calls of the image store took, by call; put and get last as long as their bytes.",
    ["call"],
    buckets=(0.01, 0.1, 1.0, 10.0, 60.0, 600.0),
)
FAILURES = Counter(
    "unkai_image_store_failures_total",
    "Calls that the image store failed, by call and reason.",
    ["call", "reason"],
)


class MeasuredImageStore:
    """An image store that counts what passes through it."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Store the bytes under the key; return their number."""
        with _measured("put"):
            return await self._store.put(key, chunks)

    async def get(self, key: str, offset_bytes: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from an offset on."""
        # No span: this is a generator, whose caller may go on elsewhere between two pieces.
        with _counted("get"):
            async with aclosing(cast("Any", self._store.get(key, offset_bytes))) as pieces:
                async for piece in pieces:
                    yield piece

    async def size(self, key: str) -> int:
        """Return the number of bytes under the key."""
        with _measured("size"):
            return await self._store.size(key)

    async def delete(self, key: str) -> None:
        """Remove the key."""
        with _measured("delete"):
            await self._store.delete(key)

    async def list(self) -> list[str]:
        """Return all keys."""
        with _measured("list"):
            return await self._store.list()


@contextmanager
def _measured(call: str) -> Iterator[None]:
    with tracing.span(f"image store {call}"), _counted(call):
        yield


@contextmanager
def _counted(call: str) -> Iterator[None]:
    started_s = time.perf_counter()
    try:
        yield
    except (Unavailable, FailedPrecondition) as error:
        FAILURES.labels(call, error.reason).inc()
        raise
    finally:
        SECONDS.labels(call).observe(time.perf_counter() - started_s)
