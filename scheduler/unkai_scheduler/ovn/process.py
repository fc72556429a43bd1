"""The port's real adapter: it keeps a child process that speaks OVSDB, and asks it.

The child is killed when it does not answer in time, as nothing else ends a transaction that hangs,
and when who asked has gone away; a new one comes with backoff. What a killed child had under way
cannot land later: see `child/commands.py`. While the child is not connected, nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import structlog

from unkai_scheduler.ovn import frames
from unkai_scheduler.ovn.applying import apply_all
from unkai_scheduler.ovn.chunks import chunks
from unkai_scheduler.ovn.encoding import Piece, encode_piece
from unkai_scheduler.ovn.hearsay import Hearsay
from unkai_scheduler.ovn.port import Changed, term_refused, unreachable
from unkai_scheduler.ovn.rows import Outcome, Unit
from unkai_scheduler.ovn.settings import OvnSettings

_LOG = structlog.get_logger(__name__)
_CHILD = (sys.executable, "-P", "-m", "unkai_scheduler.ovn.child")
_STDERR_LIMIT_BYTES = 64 * 1024
_SAME_TEXT_S = 60.0
_MAX_TEXTS = 100
_TOLD = frozenset({Outcome.REFUSED.value, Outcome.IN_USE.value})
_COMPARE_ROWS = 1000


class _Lost(Exception):
    """The child went before it answered: the outcome is unknown."""


class _Child:
    """A running child process and the one question that it is asked."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.is_live = False
        self._answer: asyncio.Future[frames.Message] | None = None
        self._number = 0

    async def ask(self, request: frames.Message, limit_s: float) -> frames.Message:
        """Ask; raise `_Lost` when no answer has come in time, or the child has gone."""
        self._number += 1
        self._answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(limit_s):
                await self.send({**request, "id": self._number})
                return await self._answer
        except (TimeoutError, ConnectionError) as error:
            raise _Lost from error
        finally:
            if not self._answer.done() or self._answer.cancelled():
                self.kill()
            self._answer = None

    async def send(self, message: frames.Message) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(frames.encode(message))
        await self.process.stdin.drain()

    def take(self, message: frames.Message) -> None:
        """Take an answer in; one that nobody waits for any more is nothing."""
        if self._answer and not self._answer.done() and message.get("id") == self._number:
            self._answer.set_result(message)

    def kill(self) -> None:
        """End it at once; it has nothing worth saving."""
        self.is_live = False
        if self._answer and not self._answer.done():
            self._answer.set_exception(_Lost())
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class OvnNorthbound:
    """See `port.Northbound`."""

    def __init__(
        self, settings: OvnSettings, *, jitter: Callable[[], float] = random.random
    ) -> None:
        self._settings = settings
        self._jitter = jitter
        self._child: _Child | None = None
        self._turn = asyncio.Lock()
        self._hearsay = Hearsay()
        self._why = "it was not asked yet"
        self._said: dict[str, float] = {}
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Keep a child from now on, until `close`."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="ovn child")

    async def close(self) -> None:
        """End the child."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        self._why = "closed"

    async def apply(self, term: int, units: Sequence[Unit]) -> Mapping[str, Outcome]:
        """See the port."""

        def write(chunk: Sequence[Piece]) -> Awaitable[dict[str, Outcome] | None]:
            return self._write(term, chunk)

        outcomes = await apply_all(units, write)
        if units and not outcomes:
            raise unreachable(self._why)
        return outcomes

    async def _write(self, term: int, chunk: Sequence[Piece]) -> dict[str, Outcome] | None:
        """Write one transaction; None when nothing was sent."""
        unknown = {piece.key: Outcome.UNKNOWN for piece in chunk}
        limit_s = self._settings.transaction_s + self._settings.grace_s
        request = {"do": "apply", "term": term, "pieces": [encode_piece(p) for p in chunk]}
        try:
            answer = await self._ask(request, limit_s)
        except _Lost:
            _LOG.warning("ovn_outcome_unknown", term=term, units=len(unknown), why="no answer")
            return unknown
        if answer is None:
            return None
        match answer.get("error"):
            case "term":
                raise term_refused(term, answer["current"])
            case "unknown":
                _LOG.warning(
                    "ovn_outcome_unknown", term=term, units=len(unknown), why=answer["why"]
                )
                return unknown
            case "refused":
                return await self._write_halves(term, chunk, answer["why"])
        for unit, (outcome, reason) in answer["results"].items():
            if outcome in _TOLD and self._is_news(f"{unit} {reason}"):
                _LOG.warning("ovn_unit_left_out", unit=unit, outcome=outcome, why=reason)
        return {unit: Outcome(outcome) for unit, (outcome, _) in answer["results"].items()}

    async def _write_halves(
        self, term: int, chunk: Sequence[Piece], why: str
    ) -> dict[str, Outcome] | None:
        """Find out which unit the database refuses; it says so of the transaction alone."""
        half = len(chunk) // 2
        if not half:
            if self._is_news(f"{chunk[0].key} {why}"):
                _LOG.warning("ovn_unit_refused", unit=chunk[0].key, why=why)
            return {chunk[0].key: Outcome.REFUSED}
        first = await self._write(term, chunk[:half])
        if first is None or Outcome.UNKNOWN in first.values():
            return first
        second = await self._write(term, chunk[half:])
        return first | (second or {})

    async def inventory(self) -> Mapping[str, int]:
        """See the port."""
        answer = await self._read({"do": "inventory"})
        rows: dict[str, int] = answer["rows"]
        return rows

    async def compare(self, units: Sequence[Unit]) -> Sequence[str]:
        """See the port."""
        found: list[str] = []
        for chunk in chunks(units, most=_COMPARE_ROWS):
            pieces = [encode_piece(piece) for piece in chunk]
            answer = await self._read({"do": "compare", "pieces": pieces})
            found += answer["differ"]
        return list(dict.fromkeys(found))

    async def changes(self) -> AsyncIterator[Changed]:
        """See the port."""
        while True:
            yield await self._hearsay.next()

    async def _read(self, request: frames.Message) -> frames.Message:
        try:
            answer = await self._ask(request, self._settings.read_s)
        except _Lost as error:
            raise unreachable("it did not answer in time") from error
        if answer is None:
            raise unreachable(self._why)
        return answer

    async def _ask(self, request: frames.Message, limit_s: float) -> frames.Message | None:
        """Ask the child; None when it cannot reach the database, and nothing was sent."""
        async with self._turn:
            child = self._child
            if child is None or not child.is_live:
                return None
            answer = await child.ask(request, limit_s)
        if answer.get("error") == "unreachable":
            self._why = answer["why"]
            return None
        return answer

    async def _keep(self) -> None:
        backoff_s = self._settings.first_backoff_s
        while True:
            began = time.monotonic()
            try:
                status = await self._live_once()
                _LOG.warning("ovn_child_ended", status=status)
            except OSError as error:
                _LOG.error("ovn_child_not_started", why=str(error))
            self._hearsay.everything()
            if time.monotonic() - began >= self._settings.healthy_s:
                backoff_s = self._settings.first_backoff_s
            await asyncio.sleep(backoff_s * (0.5 + 0.5 * self._jitter()))
            backoff_s = min(2 * backoff_s, self._settings.last_backoff_s)

    async def _live_once(self) -> int:
        """Run one child until it ends; return its exit status."""
        process = await asyncio.create_subprocess_exec(
            *_CHILD,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_STDERR_LIMIT_BYTES,
        )
        child = self._child = _Child(process)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._relay_logs(process))
                await self._follow(child)
                child.kill()
            return await process.wait()
        finally:
            self._child = None
            child.kill()
            self._why = "the process that speaks to it has ended"
            await process.wait()

    async def _follow(self, child: _Child) -> None:
        """Greet the child, then take in what it says until it ends, or says what is no frame."""
        assert child.process.stdout is not None
        with contextlib.suppress(frames.BrokenFrame, TimeoutError, ConnectionError):
            await child.send(self._greeting())
            while True:
                # Until it has listed the database it must say now and then that it still tries.
                limit_s = None if child.is_live else 2 * self._settings.listing_s
                async with asyncio.timeout(limit_s):
                    message = await frames.read(child.process.stdout)
                if message is None:
                    return
                self._take(child, message)

    def _take(self, child: _Child, message: frames.Message) -> None:
        match message.get("event"):
            case "live":
                child.is_live = True
                self._hearsay.everything()
                _LOG.info("ovn_reached")
            case "lost":
                child.is_live = False
                self._why = "the connection is down"
                _LOG.warning("ovn_lost")
            case "waiting":
                self._why = message["why"]
            case "changed":
                self._hearsay.units(message["units"])
            case _:
                child.take(message)

    def _greeting(self) -> frames.Message:
        told = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self._settings).items()
        }
        return {**told, "parent": os.getpid()}

    async def _relay_logs(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:
                continue  # longer than any line of ours: the rest of it is read as one
            if not line:
                return
            text = line.decode("utf-8", "replace").strip()
            with contextlib.suppress(ValueError, TypeError, KeyError):
                text = json.loads(text)["text"]
            if self._is_news(text := str(text)[:1000]):
                _LOG.warning("ovn_child_says", text=text)

    def _is_news(self, text: str) -> bool:
        """Tell whether to log something: the same thing once a minute, and not too many."""
        now = time.monotonic()
        self._said = {t: when for t, when in self._said.items() if now - when < _SAME_TEXT_S}
        if text in self._said or len(self._said) >= _MAX_TEXTS:
            return False
        self._said[text] = now
        return True
