"""Several ways to one machine: the first that answers is taken, and a silent one costs a moment."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from unkai_agent.network import first_connection as module
from unkai_agent.network.first_connection import Attempt, first_connection
from unkai_wire.errors import NotFound

LONG_S = 60.0


class Way:
    """One way: what becomes of it, and whether it was given up."""

    def __init__(self, end: Exception | None = None, *, after_s: float = 0.0) -> None:
        self._end, self._after_s = end, after_s
        self.made: socket.socket | None = None
        self.was_begun = self.was_given_up = False

    async def go(self) -> socket.socket:
        self.was_begun = True
        try:
            await asyncio.sleep(self._after_s)
        except asyncio.CancelledError:
            self.was_given_up = True
            raise
        if self._end is not None:
            raise self._end
        self.made = socket.socket()
        return self.made


def attempts(*ways: Way) -> list[Attempt]:
    return [way.go for way in ways]


async def test_a_silent_way_costs_a_moment_and_is_given_up() -> None:
    silent, well = Way(after_s=LONG_S), Way()
    begun = time.monotonic()
    with await first_connection(attempts(silent, well), LONG_S) as made:
        assert made is well.made
    assert silent.was_given_up
    assert module.STAGGER_S <= time.monotonic() - begun < LONG_S / 2


async def test_a_way_that_answers_at_once_is_the_only_one_begun() -> None:
    well, other = Way(), Way()
    with await first_connection(attempts(well, other), LONG_S):
        pass
    assert not other.was_begun


async def test_the_next_way_is_tried_at_once_when_one_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STAGGER_S", LONG_S)
    well = Way()
    async with asyncio.timeout(LONG_S / 2):
        found = await first_connection(attempts(Way(OSError("no route")), well), 2 * LONG_S)
    assert found is well.made
    found.close()


async def test_a_slow_way_wins_over_one_that_fails_after_it_was_begun() -> None:
    slow = Way(after_s=1.0)
    with await first_connection(attempts(slow, Way(OSError("no route"))), LONG_S) as made:
        assert made is slow.made


async def test_a_refusal_is_what_is_told_and_shortens_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "AFTER_REFUSAL_S", 0.1)
    ways = Way(ConnectionRefusedError()), Way(after_s=2 * LONG_S)
    async with asyncio.timeout(LONG_S / 2):
        with pytest.raises(ConnectionRefusedError):
            await first_connection(attempts(*ways), LONG_S)
    ways = Way(ConnectionRefusedError()), Way(OSError("no route"))
    with pytest.raises(ConnectionRefusedError):
        await first_connection(attempts(*ways), LONG_S)


async def test_ways_that_are_all_silent_end_in_time() -> None:
    ways = Way(after_s=LONG_S), Way(after_s=LONG_S)
    with pytest.raises(TimeoutError):
        await first_connection(attempts(*ways), 0.4)
    assert all(way.was_given_up for way in ways)


async def test_the_last_failure_is_told() -> None:
    with pytest.raises(OSError, match="second"):
        await first_connection(attempts(Way(OSError("first")), Way(OSError("second"))), LONG_S)
    with pytest.raises(OSError, match="no address"):
        await first_connection([], LONG_S)


async def test_what_is_no_failure_of_a_connection_ends_all() -> None:
    other = Way(after_s=LONG_S)
    gone = NotFound.of("network", "net-1")
    with pytest.raises(NotFound):
        await first_connection(attempts(other, Way(gone)), LONG_S)
    assert other.was_given_up


async def test_who_comes_in_second_is_closed() -> None:
    slow, quick = Way(after_s=0.5), Way(after_s=0.25)
    with await first_connection(attempts(slow, quick), LONG_S) as made:
        loser = slow if made is quick.made else quick
        assert loser.was_given_up or (loser.made is not None and loser.made.fileno() == -1)


async def test_whoever_gives_up_leaves_no_attempt_behind() -> None:
    silent = Way(after_s=LONG_S)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await first_connection(attempts(silent), LONG_S)
    assert silent.was_given_up
