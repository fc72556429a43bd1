"""One at a time, for all who want the same: concurrent calls for a key share one run.

The first caller runs the work; those who come meanwhile wait and get its outcome, errors too. When
the first is cancelled, one of those who wait runs it instead. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from unkai_wire.errors import UnkaiError


class _Flight:
    """A run under way, and how it ended."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.abandoned = False
        self.error: UnkaiError | None = None


class SingleFlight:
    """Runs in progress, by key."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight] = {}

    async def run(self, key: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` unless somebody does so for this key already; then await theirs.

        Only errors of ours are shared. After any other, the next who waits tries for itself.
        """
        while (flight := self._flights.get(key)) is not None:
            await flight.ended.wait()
            if flight.error is not None:
                # A copy each: one exception object must not collect several tracebacks.
                raise UnkaiError.from_record(flight.error.to_record())
            if not flight.abandoned:
                return
        flight = self._flights[key] = _Flight()
        flight.abandoned = True
        try:
            await work()
            flight.abandoned = False
        except UnkaiError as error:
            flight.error = error
            raise
        finally:
            del self._flights[key]
            flight.ended.set()
