"""Hand out hints of changed machines to whoever watches.

Between a driver's events and `ComputeDriver.watch()`. A hint says "look again at this one", so
hints for one machine are merged while nobody has read them: a subscriber holds at most one entry
per machine and `limit` in all, and a slow one costs nothing but memory bounded by that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

DEFAULT_LIMIT = 10_000
"""Hints kept for one subscriber; beyond, the oldest is dropped (the reader re-lists on a timer)."""


class ChangeFeed:
    """Fan out instance ids to subscribers. All methods belong to the event loop's thread."""

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._subscribers: set[_Subscriber] = set()
        self._closed = False

    @property
    def subscriber_count(self) -> int:
        """Number of subscriptions that have not ended."""
        return len(self._subscribers)

    def publish(self, instance_id: str) -> None:
        """Tell all subscribers to look again at this machine."""
        for subscriber in self._subscribers:
            subscriber.pending[instance_id] = None
            if len(subscriber.pending) > self._limit:
                subscriber.pending.pop(next(iter(subscriber.pending)))
            subscriber.ready.set()

    def subscribe(self) -> AsyncIterator[str]:
        """Return the hints published from this call on; they end when the feed is closed."""
        subscriber = _Subscriber()
        self._subscribers.add(subscriber)
        return self._read(subscriber)

    def close(self) -> None:
        """End all subscriptions after what they have pending."""
        self._closed = True
        for subscriber in self._subscribers:
            subscriber.ready.set()

    async def _read(self, subscriber: _Subscriber) -> AsyncIterator[str]:
        try:
            while True:
                while subscriber.pending:
                    instance_id = next(iter(subscriber.pending))
                    del subscriber.pending[instance_id]
                    yield instance_id
                if self._closed:
                    return
                subscriber.ready.clear()
                await subscriber.ready.wait()
        finally:
            self._subscribers.discard(subscriber)


class _Subscriber:
    """What one subscriber has not read yet, oldest first."""

    def __init__(self) -> None:
        self.pending: dict[str, None] = {}
        self.ready = asyncio.Event()
