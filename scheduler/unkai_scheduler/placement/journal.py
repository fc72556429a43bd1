"""The journal: what moves in a fleet, and what is decided on it, as records to replay.

The fleet and the engine tell it (`Fleet.journal`); it never looks by itself, does no I/O and knows
no time. A segment (segments.py) opens with its first decision, by a snapshot; while none is open
nothing is recorded. Claims, what is given back and hosts are recorded as they move. Figures folded
in count only when the next decision is made, so they are recorded then, once for each host: a cloud
that decides nothing records nothing.

The trap: whoever adds a way to change the fleet tells the journal in it, or replays differ. The
check sum at the end of each segment tells (`replay.verify`).
"""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from unkai_scheduler.domain.placement_groups import GroupRule
from unkai_scheduler.placement import group_rules, snapshots
from unkai_scheduler.placement.requests import PlacementRequest, Weights
from unkai_scheduler.placement.rulebook import OURS, RuleBook
from unkai_scheduler.placement.segments import Header, Segment

if TYPE_CHECKING:
    from unkai_scheduler.domain.hosts import HostState
    from unkai_scheduler.placement.board import Rejection
    from unkai_scheduler.placement.fleet import Fleet
    from unkai_scheduler.placement.pipeline import Verdict
    from unkai_scheduler.placement.settling import SettlingMachine

Rows = npt.NDArray[np.int64]

SEGMENT_BYTES = 8 << 20
"""Records after which a segment is closed: some ten thousand decisions, replayed in a second."""
MAX_CLOSED = 8
"""Closed segments kept for whoever stores them; beyond, the oldest are dropped and counted."""


class Kind:
    """What a record tells; its layout is below, or with whoever writes it. Never given anew."""

    SNAPSHOT: Final = 1
    """The fleet (snapshots.py)."""
    TICK: Final = 2
    FOLDED: Final = 3
    """Number of rows, the rows, then the columns of `FIGURES` one after the other."""
    HOST: Final = 4
    """A host as it is now (snapshots.py)."""
    STATE: Final = 5
    """Row, then the state's name."""
    REMOVED: Final = 6
    CLAIM: Final = 7
    SETTLE: Final = 8
    GIVEN_BACK: Final = 9
    REQUEST: Final = 10
    """JSON: what is asked for, but for the instance; decisions count them from 0."""
    TIME: Final = 11
    DECISION: Final = 12
    """`DECISION`; the instance's id; the rows of the best hosts, best first; their totals; for
    each term the scores of those; then for each filter that keeps hosts out `KEPT_OUT`."""
    END: Final = 13


TICK = struct.Struct("<d")
"""Monotonic seconds."""
ROW = struct.Struct("<I")
CLAIM = struct.Struct("<IIqqd")
"""Row, virtual CPUs, bytes of memory and disk, monotonic seconds."""
SETTLE = struct.Struct("<IIqd")
"""Row, virtual CPUs, bytes of memory, monotonic seconds since when."""
GIVEN_BACK = struct.Struct("<IIqqqII")
"""Row, virtual CPUs, bytes of memory and disk; bucket of the machine that settled (-1: none), its
virtual CPUs and MiB."""
TIME = struct.Struct("<q")
"""Microseconds since 1970, UTC: when what follows was decided."""
DECISION = struct.Struct("<IIBBBB")
"""Number of the request, hosts that fit; lengths: of the id, of best, of terms, of filters."""
KEPT_OUT = struct.Struct("<BI")
"""Number of the filter, hosts kept out; `FOUND` follows."""
FOUND = struct.Struct("<IqB")
"""Row of the nearest, what it lacks, number of rows named; those rows follow."""
END = struct.Struct("<I")
"""Check sum of the fleet."""

_ROWS = [struct.Struct(f"<{count}I") for count in range(16)]
_TOTALS = [struct.Struct(f"<{count}H") for count in range(16)]
_FRAME = struct.Struct("<BI")
_CLAIM, _SETTLE, _GIVEN_BACK = (
    struct.Struct("<BI" + body.format[1:]) for body in (CLAIM, SETTLE, GIVEN_BACK)
)
_ASKED = tuple(f.name for f in fields(PlacementRequest) if f.name != "instance_id")
_MAX_TOLD = 512
_asked = attrgetter(*_ASKED)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


class Journal:
    """Records of one fleet. Not safe for threads. Cost: some microseconds a decision."""

    def __init__(
        self,
        fleet: Fleet,
        weights: Weights,
        book: RuleBook = OURS,
        *,
        term: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """Make one; it is told nothing before it is the fleet's.

        `weights`, `book`: the engine's. `term`: the leader's.
        """
        self._fleet = fleet
        self._weights = asdict(weights)
        self._filters = tuple(rule.name for rule in book.filters)
        self._term = term
        self._segment_bytes = segment_bytes
        self.closed: deque[Segment] = deque()
        """Segments to store, oldest first; whoever stores them takes them out."""
        self.dropped = 0
        """Segments that nobody took out in time."""
        self._records = bytearray()
        self._close_at = 0
        self._began = self._ended = self._now = _EPOCH
        self._number = self._decisions = 0
        self._tick_s = 0.0
        self._words = 0
        self._requests: dict[tuple[object, ...], int] = {}
        self._told: dict[int, tuple[Rejection, int, int, bytes]] = {}
        """What was written of whom a filter keeps out, by its id."""
        self._folded = np.zeros(0, np.bool_)
        """Rows with figures that are not recorded yet."""
        self._has_folded = False

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Give a copy of the fleet no journal: what is tried on it was never decided."""

    @property
    def is_open(self) -> bool:
        """Tell whether there is a segment under way."""
        return bool(self._records)

    @property
    def began_time(self) -> datetime:
        """Return the earliest time of a decision in the segment under way."""
        return self._began

    # Told by the fleet.

    def folded(self, rows: Rows) -> None:
        """Note rows that have new figures."""
        if self._records:
            if len(self._folded) < len(self._fleet):
                grown = np.zeros(2 * len(self._fleet), np.bool_)
                grown[: len(self._folded)] = self._folded
                self._folded = grown
            self._folded[rows] = self._has_folded = True

    def host_put(self, row: int) -> None:
        """Record a host that was added, or of which more is known."""
        if self._records:
            self._write(Kind.HOST, snapshots.taken_row(self._fleet, row, self._words))
            self._words = snapshots.word_count(self._fleet)

    def state_set(self, row: int, state: HostState) -> None:
        """Record where a host stands."""
        if self._records:
            self._write(Kind.STATE, ROW.pack(row) + state.value.encode())

    def host_removed(self, row: int) -> None:
        """Record that a host is about to be forgotten; the last row becomes this one."""
        if self._records:
            self._write_folded()
            self._write(Kind.REMOVED, ROW.pack(row))

    def claimed(
        self, row: int, vcpus: int, memory_bytes: int, disk_bytes: int, now_s: float
    ) -> None:
        """Record a claim."""
        if self._records:
            if self._fleet.now_s != self._tick_s:
                self._come_to_tick()
            self._records += _CLAIM.pack(
                Kind.CLAIM, CLAIM.size, row, vcpus, memory_bytes, disk_bytes, now_s
            )

    def settled(self, row: int, vcpus: int, memory_bytes: int, since_s: float) -> None:
        """Record a machine that settles."""
        if self._records:
            if self._fleet.now_s != self._tick_s:
                self._come_to_tick()
            self._records += _SETTLE.pack(
                Kind.SETTLE, SETTLE.size, row, vcpus, memory_bytes, since_s
            )

    def given_back(
        self,
        row: int,
        vcpus: int,
        memory_bytes: int,
        disk_bytes: int,
        settling: SettlingMachine | None,
    ) -> None:
        """Record capacity that is given back."""
        if self._records:
            self._come_to_tick()
            machine = (-1, 0, 0) if settling is None else settling[:3]
            self._records += _GIVEN_BACK.pack(
                Kind.GIVEN_BACK, GIVEN_BACK.size, row, vcpus, memory_bytes, disk_bytes, *machine
            )

    # Told by the engine.

    def decided(self, verdict: Verdict, now: datetime) -> None:
        """Record a decision, before anything of it is claimed."""
        if len(self._records) >= self._close_at:
            self.close()
            self._open(now)
        elif self._has_folded:
            self._write_folded()
        self._come_to_tick()
        if now != self._now:
            self._write(Kind.TIME, TIME.pack((now - _EPOCH) // _US))
            self._now = now
            # A clock may be put back.
            self._began, self._ended = min(now, self._began), max(now, self._ended)
        self._decisions += 1
        board, best, kept_out = verdict.board, verdict.best, verdict.rejections
        ident = verdict.request.instance_id.encode()
        count = len(best)
        totals, terms = board.totals(best), [board.terms.take(best, axis=1)] if best else []
        more = verdict.group_term
        if more is not None:
            totals = [board.total(row, more) for row in best]
            terms.append(more.values.take(best).astype("<u2"))
        lengths = len(ident), count, len(board.scores) + (more is not None), len(kept_out)
        parts = [
            DECISION.pack(self._number_of(verdict), verdict.counts[-1], *lengths),
            ident,
            _ROWS[count].pack(*best),
            _TOTALS[count].pack(*totals),
            *(term.tobytes() for term in terms),
        ]
        for index, found in kept_out.items():
            told = self._told.get(id(found))
            if told is None or told[1] != found.nearest or told[2] != found.missing:
                told = self._tell(found)
            parts += (KEPT_OUT.pack(index, verdict.counts[index]), told[3])
        self._write(Kind.DECISION, b"".join(parts))

    def _number_of(self, verdict: Verdict) -> int:
        """Return the number of what is asked for; write it down when it is new."""
        board = verdict.board
        is_alike = verdict.fails is board.fails
        """All that counts of the request is its shape."""
        if is_alike and board.known_as[0] is self._requests:
            return board.known_as[1]
        asked = _asked(verdict.request)
        number = self._requests.get(asked)
        if number is None:
            number = self._requests[asked] = self._write_request(asked, verdict)
        if is_alike:
            board.known_as = (self._requests, number)
        return number

    def _tell(self, found: Rejection) -> tuple[Rejection, int, int, bytes]:
        """Return whom a filter keeps out, in bytes; remembered, since it seldom changes."""
        rows = found.rows
        if len(self._told) >= _MAX_TOLD:
            self._told.clear()
        body = FOUND.pack(found.nearest, found.missing, len(rows)) + _ROWS[len(rows)].pack(*rows)
        # It is kept with its bytes, so that no other gets its id.
        told = self._told[id(found)] = (found, found.nearest, found.missing, body)
        return told

    # Segments.

    def close(self) -> None:
        """Close the segment under way, if there is one; the next decision opens another."""
        if not self._records:
            return
        self._write(Kind.END, self._end())
        self.closed.append(Segment(self._header(), self._records))
        self._records = bytearray()
        self._close_at = 0
        while len(self.closed) > MAX_CLOSED:
            self.closed.popleft()
            self.dropped += 1

    def so_far(self) -> Segment:
        """Return the segment under way as it would be closed now; there is one."""
        end = self._end()
        records = bytes(self._records) + _FRAME.pack(Kind.END, len(end)) + end
        return Segment(self._header(), records)

    def _end(self) -> bytes:
        self._write_folded()
        self._come_to_tick()
        return END.pack(snapshots.checksum(self._fleet))

    def _header(self) -> Header:
        return Header(
            term=self._term,
            number=self._number,
            began=self._began.isoformat(),
            ended=self._ended.isoformat(),
            decisions=self._decisions,
            weights=self._weights,
            filters=self._filters,
        )

    def _open(self, now: datetime) -> None:
        self._requests, self._told = {}, {}
        self._number += 1
        self._decisions = 0
        self._began, self._ended, self._now = now, now, _EPOCH
        self._tick_s = self._fleet.now_s
        self._words = snapshots.word_count(self._fleet)
        self._folded = np.zeros(len(self._fleet), np.bool_)
        self._write(Kind.SNAPSHOT, snapshots.taken(self._fleet))
        self._close_at = len(self._records) + self._segment_bytes

    # Records.

    def _write(self, kind: int, body: bytes) -> None:
        self._records += _FRAME.pack(kind, len(body))
        self._records += body

    def _come_to_tick(self) -> None:
        if self._fleet.now_s != self._tick_s:
            self._tick_s = self._fleet.now_s
            self._write(Kind.TICK, TICK.pack(self._tick_s))

    def _write_folded(self) -> None:
        rows = np.flatnonzero(self._folded)
        self._has_folded = False
        if not len(rows):
            return
        self._folded[rows] = False
        parts = [ROW.pack(len(rows)), rows.astype("<u4").tobytes()]
        parts += [snapshots.figures(self._fleet, name, rows) for name in snapshots.FIGURES]
        self._come_to_tick()
        self._write(Kind.FOLDED, b"".join(parts))

    def _write_request(self, asked: tuple[object, ...], verdict: Verdict) -> int:
        told: Mapping[str, object] = dict(zip(_ASKED, asked, strict=True))
        terms = [score.name for score in verdict.board.scores]
        if verdict.group_term is not None:
            terms.append(group_rules.SCORE)
        text = json.dumps({**told, "terms": terms}, separators=(",", ":"), default=_plain)
        self._write(Kind.REQUEST, text.encode())
        return len(self._requests)


def _plain(value: Any) -> object:
    """Return a part of a request as JSON has it: an enum's value, a group's fields."""
    return asdict(value) if isinstance(value, GroupRule) else value.value
