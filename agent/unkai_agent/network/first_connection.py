"""The first of several connections that is made: one who has two addresses is reached by either.

Attempts begin one after the other, a moment apart, and the first to succeed ends the others: an
address that nobody answers at costs that moment, not its timeout (RFC 8305, "happy eyeballs").
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

STAGGER_S = 0.25
"""Between two attempts; RFC 8305, section 5, recommends it."""
AFTER_REFUSAL_S = 2.0
"""For the others, once somebody has said no: enough for one SYN that is lost."""

Attempt = Callable[[], Awaitable[socket.socket]]


async def first_connection(attempts: Sequence[Attempt], within_s: float) -> socket.socket:
    """Return the first attempt's connection that is made; those that come late are closed.

    Raises ConnectionRefusedError when one was refused and none made; else the last attempt's
    OSError, TimeoutError after `within_s`. Anything else that an attempt raises is raised at once.
    """
    loop = asyncio.get_running_loop()
    waiting = [*attempts]
    running: set[asyncio.Task[socket.socket]] = set()
    ends, failure = loop.time() + within_s, OSError("there is no address")
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(waiting.pop(0)()))
            left_s = ends - loop.time()
            patience_s = min(STAGGER_S, left_s) if waiting else left_s
            done, _ = await asyncio.wait(
                running, timeout=max(0.0, patience_s), return_when=asyncio.FIRST_COMPLETED
            )
            for each in done:
                if each.exception() is None:
                    running.discard(each)
                    return each.result()
            for each in done:
                running.discard(each)
                failure = _worse(failure, each)
                if isinstance(failure, ConnectionRefusedError):
                    ends = min(ends, loop.time() + AFTER_REFUSAL_S)
            if loop.time() >= ends:
                break
        if running and not isinstance(failure, ConnectionRefusedError):
            failure = TimeoutError()
        raise failure
    finally:
        await _end(running)


def _worse(failure: OSError, ended: asyncio.Task[socket.socket]) -> OSError:
    """Return what to tell of two failures: a refusal is the word of somebody who is there."""
    error = ended.exception()
    if not isinstance(error, OSError):
        assert error is not None, "it has ended without a connection"
        raise error
    return failure if isinstance(failure, ConnectionRefusedError) else error


async def _end(running: set[asyncio.Task[socket.socket]]) -> None:
    for each in running:
        each.cancel()
    for late in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(late, socket.socket):
            late.close()
