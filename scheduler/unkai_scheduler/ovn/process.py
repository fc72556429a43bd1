"""The port's real adapter: it keeps a child process that speaks OVSDB, and asks it.

The child is killed when it does not answer in time, as nothing else ends a transaction that hangs,
and when who asked has gone away; a new one comes with backoff. What a killed child had under way
cannot land later: see `child/commands.py`. While the child is not connected, nothing is sent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import structlog

from unkai_scheduler.ovn import frames
from unkai_scheduler.ovn.applying import apply_all
from unkai_scheduler.ovn.chunks import chunks
from unkai_scheduler.ovn.encoding import Piece, encode_piece
from unkai_scheduler.ovn.hearsay import Hearsay
from unkai_scheduler.ovn.keeper import Child, Keeper, Lost
from unkai_scheduler.ovn.port import Changed, term_refused, unreachable
from unkai_scheduler.ovn.rows import Outcome, Unit
from unkai_scheduler.ovn.settings import OvnSettings

_LOG = structlog.get_logger(__name__)
_TOLD = frozenset({Outcome.REFUSED.value, Outcome.IN_USE.value})
_COMPARE_ROWS = 1000
_MAX_REFUSALS = 1000


class OvnNorthbound(Keeper):
    """See `port.Northbound`."""

    module = "unkai_scheduler.ovn.child"
    database = "OVN_Northbound"

    def __init__(
        self, settings: OvnSettings, *, jitter: Callable[[], float] = random.random
    ) -> None:
        super().__init__(settings, jitter=jitter)
        self._turn = asyncio.Lock()
        self._hearsay = Hearsay()
        self.transactions = 0
        self._refusals: dict[str, str] = {}

    def why_refused(self, key: str) -> str:
        """See the port."""
        return self._refusals.get(key, "")

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
            self.transactions += answer is not None
        except Lost:
            self.transactions += 1
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
            self._note(unit, reason if outcome == Outcome.REFUSED.value else "")
            if outcome in _TOLD and self._is_news(f"{unit} {reason}"):
                _LOG.warning("ovn_unit_left_out", unit=unit, outcome=outcome, why=reason)
        return {unit: Outcome(outcome) for unit, (outcome, _) in answer["results"].items()}

    async def _write_halves(
        self, term: int, chunk: Sequence[Piece], why: str
    ) -> dict[str, Outcome] | None:
        """Find out which unit the database refuses; it says so of the transaction alone."""
        half = len(chunk) // 2
        if not half:
            self._note(chunk[0].key, why)
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
        except Lost as error:
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

    def _hear(self, child: Child, message: frames.Message) -> None:
        if message.get("event") == "changed":
            self._hearsay.units(message["units"])
        else:
            child.take(message)

    def _unknown(self) -> None:
        self._hearsay.everything()

    def _note(self, key: str, why: str) -> None:
        """Remember why a unit is refused, or that it is not."""
        self._refusals.pop(key, None)
        if why and len(self._refusals) < _MAX_REFUSALS:
            self._refusals[key] = why
