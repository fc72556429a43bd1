"""The fleet: what placement knows of all hosts, as columns with one row per host.

The leader updates it in place: hosts as they register, claims as they commit, samples as they
arrive (live_figures.py). It never does I/O and never asks for the time: `advance` tells it. All
figures that decide are integers, so that any CPU decides alike. What moved is in `moves`, for
whoever keeps figures derived from these (board.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unkai_scheduler.domain.hosts import Host, HostState, HostUsage, MachineUsage
from unkai_scheduler.placement.allocation import AllocationRatios, claimable
from unkai_scheduler.placement.columns import Columns
from unkai_scheduler.placement.groups import Members
from unkai_scheduler.placement.host_words import WordBits, words_of
from unkai_scheduler.placement.live_figures import (
    MAX_SAMPLE_AGE_S,
    MIB_SHIFT,
    LiveFigures,
    Sample,
)
from unkai_scheduler.placement.moves import Aspect, Moves
from unkai_scheduler.placement.settling import Settling, SettlingMachine

if TYPE_CHECKING:
    from unkai_scheduler.placement.journal import Journal

Ints = npt.NDArray[np.int64]

TICK_S = 0.25
"""The fleet's time goes in such steps: what ages is looked at once in each."""
FADE_S = 1.0
"""Expectations fade in such steps: each moves all hosts that have any."""


class Fleet:
    """Columns of all hosts.

    Not safe for threads. `upsert_host` sets what the row says, its claims included: `claim` and
    `release` keep them current between two of them.
    """

    def __init__(self, *, max_sample_age_s: float = MAX_SAMPLE_AGE_S) -> None:
        self.max_sample_age_s = max_sample_age_s
        self._rows: dict[str, int] = {}
        self.ids: list[str] = []
        self.names: list[str] = []
        self.cordon_reasons: list[str] = []
        self.network_problems: list[str] = []
        self._states: list[HostState] = []
        self.words = WordBits()
        self._rank: Ints | None = None
        self._by_rank: Ints | None = None
        self.moves = Moves()
        self.journal: Journal | None = None
        """Told of all that moves, so that decisions can be replayed; a copy has none."""
        self.now_s = 0.0
        """Monotonic seconds of the tick that the fleet has come to."""
        self._faded_s = -1.0
        self._columns = Columns()
        self.members = Members()
        self._settling = Settling(self._columns)
        self._live = LiveFigures(self._columns, self._settling, max_sample_age_s)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, host_id: str) -> bool:
        return host_id in self._rows

    def copy(self) -> Fleet:
        """Return a fleet that can be changed without changing this one, for simulation.

        Its moves begin anew: nothing derived from this fleet holds for it.
        """
        other = Fleet(max_sample_age_s=self.max_sample_age_s)
        other.now_s, other._faded_s = self.now_s, self._faded_s
        other.ids, other.names = list(self.ids), list(self.names)
        other.cordon_reasons = list(self.cordon_reasons)
        other.network_problems = list(self.network_problems)
        other._rows, other._states = dict(self._rows), list(self._states)
        other.words = self.words.copy()
        other._rank, other._by_rank = self._rank, self._by_rank  # made anew, never changed
        # In place: what settles and what is live look at the same columns.
        other._columns.take_over(self._columns)
        other._settling.take_over(self._settling)
        other.members = self.members.copy()
        return other

    # Hosts

    def upsert_host(self, host: Host, ratios: AllocationRatios) -> None:
        """Add a host, or replace what is known of it; its live figures stay."""
        row = self._rows.get(host.id)
        if row is None:
            row = self._append(host.id)
        if self.names[row] != host.name:
            self.names[row] = host.name
            self._reorder()
        self.cordon_reasons[row] = host.cordon_reason
        self.network_problems[row] = host.network_problem
        self._set_state(row, host.state)
        limits = claimable(host, ratios)
        for column, value in (
            ("cordoned", host.cordoned),
            ("cpus", max(host.cpus, 1)),
            ("claimable_vcpus", limits.vcpus),
            ("claimable_memory", limits.memory_bytes),
            ("claimable_disk", limits.disk_bytes),
            ("claimed_vcpus", host.claimed_vcpus),
            ("claimed_memory", host.claimed_memory_bytes),
            ("claimed_disk", host.claimed_disk_bytes),
        ):
            self._columns[column][row] = value
        self._set_words(row, words_of(host))
        self.moves.note(row, Aspect.ALL)
        if self.journal is not None:
            self.journal.host_put(row)

    def set_state(self, host_id: str, state: HostState) -> None:
        """Note where a host stands now; an unknown one is no error."""
        row = self._rows.get(host_id)
        if row is None or self._states[row] is state:
            return
        self._set_state(row, state)
        self.moves.note(row, Aspect.HOST)
        if self.journal is not None:
            self.journal.state_set(row, state)

    def _set_state(self, row: int, state: HostState) -> None:
        self._states[row] = state
        self._columns["up"][row] = state is HostState.UP
        self._columns["silent"][row] = state is HostState.UNKNOWN

    def remove_host(self, host_id: str) -> None:
        """Forget a host; an unknown one is no error."""
        row = self._rows.pop(host_id, None)
        if row is None:
            return
        if self.journal is not None:
            self.journal.host_removed(row)
        last = len(self.ids) - 1
        lists: tuple[list[Any], ...] = (*self._texts(), self._states)
        for values in lists:
            values[row] = values[last]
            values.pop()
        self._columns.move(last, row)
        if row != last:
            self._rows[self.ids[row]] = row
        self._settling.forget_host(host_id)
        self.members.put(host_id, {})
        self._reorder()

    def _texts(self) -> tuple[list[str], ...]:
        return self.ids, self.names, self.cordon_reasons, self.network_problems

    def claimed_of(self, host_id: str) -> tuple[int, int, int]:
        """Return the virtual CPUs, bytes of memory and bytes of disk claimed of a host."""
        row = self._rows[host_id]
        vcpus, memory_bytes, disk_bytes = (int(self.table(name)[row]) for name in _CLAIMED)
        return vcpus, memory_bytes, disk_bytes

    def state_of(self, row: int) -> HostState:
        """Return the state of a row's host."""
        return self._states[row]

    def _append(self, host_id: str) -> int:
        row = len(self.ids)
        self._columns.make_room(row)
        self._columns["sample_s"][row] = -np.inf
        for texts in self._texts():
            texts.append("")
        self.ids[row] = host_id
        self._states.append(HostState.UNKNOWN)
        self._columns["up"][row], self._columns["silent"][row] = False, True
        self._rows[host_id] = row
        self._settling.rows_changed()
        self._reorder()
        return row

    def _reorder(self) -> None:
        self._rank = self._by_rank = None
        self.moves.void()

    def _set_words(self, row: int, words: Iterable[str]) -> None:
        bits = self.words.added(words)
        self._columns.widen("words", self.words.width)
        self._columns["words"][row] = bits

    # Claims

    def claim(
        self,
        host_id: str,
        vcpus: int,
        memory_bytes: int,
        disk_bytes: int,
        now_s: float,
        *,
        instance_id: str = "",
        group_id: str = "",
    ) -> None:
        """Take capacity of a host; the machine settles from `now_s` (monotonic) on."""
        row = self._rows[host_id]
        if self.journal is not None:
            self.journal.claimed(row, vcpus, memory_bytes, disk_bytes, now_s)
        self._take(row, vcpus, memory_bytes, disk_bytes)
        self._settle(row, vcpus, memory_bytes, now_s, instance_id)
        self.members.add(host_id, instance_id, group_id)

    def settle(
        self, host_id: str, vcpus: int, memory_bytes: int, since_s: float, *, instance_id: str = ""
    ) -> None:
        """Let a machine settle that was placed at `since_s`; what it claims is counted already."""
        row = self._rows.get(host_id)
        if row is None:
            return
        if self.journal is not None:
            self.journal.settled(row, vcpus, memory_bytes, since_s)
        self._settle(row, vcpus, memory_bytes, since_s, instance_id)

    def _settle(
        self, row: int, vcpus: int, memory_bytes: int, since_s: float, instance_id: str
    ) -> None:
        self.advance(max(self.now_s, since_s))
        self._settling.add(
            row,
            instance_id=instance_id,
            vcpus=vcpus,
            memory_mib=memory_bytes >> MIB_SHIFT,
            since_s=since_s,
        )
        self.moves.note(row, Aspect.CLAIMS)

    def release(
        self,
        host_id: str,
        vcpus: int,
        memory_bytes: int,
        disk_bytes: int,
        *,
        instance_id: str = "",
    ) -> None:
        """Give capacity back; with the instance's id, nothing is expected of it any more."""
        self.members.remove(host_id, instance_id)
        row = self._rows.get(host_id)
        if row is None:
            return
        settling = self._settling.left(host_id, instance_id)
        self.give_back(row, vcpus, memory_bytes, disk_bytes, settling)

    def give_back(
        self,
        row: int,
        vcpus: int,
        memory_bytes: int,
        disk_bytes: int,
        settling: SettlingMachine | None,
    ) -> None:
        """Give capacity of a row's host back; `settling`: the machine it was for, if it settles."""
        if self.journal is not None:
            self.journal.given_back(row, vcpus, memory_bytes, disk_bytes, settling)
        self._take(row, -vcpus, -memory_bytes, -disk_bytes)
        if settling is not None:
            self._settling.expect_less(row, settling)
        self.moves.note(row, Aspect.CLAIMS)

    def withdraw(
        self,
        host_id: str,
        vcpus: int,
        memory_bytes: int,
        disk_bytes: int,
        *,
        instance_id: str,
    ) -> None:
        """Take back a claim that was not committed: no machine of it was ever on the host."""
        self.members.remove(host_id, instance_id)
        row = self._rows.get(host_id)
        if row is not None:
            never_was = self._settling.forget(instance_id)
            self.give_back(row, vcpus, memory_bytes, disk_bytes, never_was)

    def _take(self, row: int, vcpus: int, memory_bytes: int, disk_bytes: int) -> None:
        for column, amount in zip(_CLAIMED, (vcpus, memory_bytes, disk_bytes), strict=True):
            values = self._columns[column]
            values[row] = max(values.item(row) + amount, 0)

    # Time

    def advance(self, now_s: float) -> None:
        """Come to the tick of a moment, monotonic seconds: samples age, expectations fade."""
        tick_s = now_s // TICK_S * TICK_S
        if tick_s == self.now_s:
            return
        self.now_s = tick_s
        moved = self._are_fresh() != self.table("fresh")[: len(self)]
        self.table("fresh")[: len(self)][moved] ^= True
        fade_s = tick_s // FADE_S * FADE_S
        if fade_s != self._faded_s:
            self._faded_s = fade_s
            faded = self._settling.fade(fade_s)
            moved = np.ones(len(self), np.bool_) if faded is None else moved | faded[: len(self)]
        self.moves.note_many(np.flatnonzero(moved), Aspect.LIVE)

    def _are_fresh(self) -> npt.NDArray[np.bool_]:
        ages_s = self.now_s - self.floats("sample_s")[: len(self)]
        fresh: npt.NDArray[np.bool_] = ages_s <= self.max_sample_age_s
        return fresh

    def expected_now(self, column: str) -> Ints:
        """Return, per row, the sum of `expected_vcpus` or `expected_mib` of machines just
        placed, each weighted by how little of it can have shown yet, in fixed point.
        """
        return self._settling.expected(column)

    # Live figures

    def fold(
        self,
        samples: Sequence[tuple[str, HostUsage, float]],
        machines: Mapping[str, Sequence[MachineUsage]] | None = None,
    ) -> None:
        """Take in samples: (host id, usage, monotonic seconds when it was received).

        `machines`: by host id, the figures of the machines on it from the same sample; they
        tell our guests' load from others'. Unknown hosts and late samples are skipped.
        """
        if samples:
            self.advance(max(self.now_s, *(sample[2] for sample in samples)))
        rows = self._live.fold(
            Sample(self._rows[ident], ident, usage, (machines or {}).get(ident, ()), received_s)
            for ident, usage, received_s in samples
            if ident in self._rows
        )
        self._folded(rows)

    def take_over(self, rows: Ints, figures: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take over figures that were folded before, by column; no samples can be folded after."""
        for name, values in figures.items():
            self._columns[name][rows] = values
        self._folded(rows)

    def _folded(self, rows: Ints) -> None:
        self.table("fresh")[rows] = self._are_fresh()[rows]
        self.moves.note_many(rows, Aspect.LIVE)
        if self.journal is not None:
            self.journal.folded(rows)

    # Columns; filters and scores read them through `Hosts`

    def age_s(self, row: int) -> float:
        """Return the age of one host's newest sample; infinite where there is none."""
        return max(0.0, self.now_s - float(self.floats("sample_s")[row]))

    def recent_of(self, row: int) -> list[int]:
        """Return all live signals of one host, in the order of `Signal`."""
        signals: list[int] = self.table("recent")[row].tolist()
        return signals

    def sampled_of(self, row: int) -> list[float]:
        """Return the newest sample of one host as it came, in the order of `Sampled`."""
        figures: list[float] = self.floats("sampled")[row].tolist()
        return figures

    def row_of(self, host_id: str) -> int | None:
        """Return a host's row, good until the next `remove_host`."""
        return self._rows.get(host_id)

    def row_at(self, rank: int) -> int:
        """Return the row of the host at a place of `rank`."""
        if self._by_rank is None:
            self._by_rank = np.argsort(self.rank)
        return int(self._by_rank[rank])

    @property
    def rank(self) -> Ints:
        """Each host's place by name and id: what breaks ties, whatever the order of rows."""
        if self._rank is None or len(self._rank) != len(self):
            order = sorted(range(len(self)), key=lambda row: (self.names[row], self.ids[row]))
            self._rank = np.zeros(len(self), np.int64)
            self._rank[order] = np.arange(len(self))
        return self._rank

    def table(self, name: str) -> Ints:
        """Return an integer column with its spare rows."""
        return self._columns[name]  # type: ignore[return-value]

    def floats(self, name: str) -> npt.NDArray[np.float64]:
        """Return a float column with its spare rows."""
        return self._columns[name]  # type: ignore[return-value]


_CLAIMED = ("claimed_vcpus", "claimed_memory", "claimed_disk")
