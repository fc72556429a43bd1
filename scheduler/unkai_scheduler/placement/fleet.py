"""The fleet: what placement knows of all hosts, as columns with one row per host.

The leader updates it in place: hosts as they register, claims as they commit, samples as they
arrive (live_figures.py). It never does I/O and never asks for the time: `advance` tells it. All
figures that decide are integers, so that any CPU decides alike. What moved is in `moves`, for
whoever keeps figures derived from these (board.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from unkai_scheduler.domain.hosts import Host, HostState, HostUsage, MachineUsage
from unkai_scheduler.domain.names import is_trait
from unkai_scheduler.domain.port_orders import NETWORKS
from unkai_scheduler.placement.allocation import AllocationRatios, claimable
from unkai_scheduler.placement.groups import Members
from unkai_scheduler.placement.live_figures import (
    MAX_SAMPLE_AGE_S,
    MIB_SHIFT,
    RECENT_SAMPLES,
    LiveFigures,
    Sample,
    Sampled,
)
from unkai_scheduler.placement.moves import Aspect, Moves
from unkai_scheduler.placement.settling import BUCKETS, Settling, SettlingMachine
from unkai_scheduler.placement.signals import Signal

if TYPE_CHECKING:
    from unkai_scheduler.placement.journal import Journal

Ints = npt.NDArray[np.int64]

TICK_S = 0.25
"""The fleet's time goes in such steps: what ages is looked at once in each."""
FADE_S = 1.0
"""Expectations fade in such steps: each moves all hosts that have any."""
_WORD_BITS = 63


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
        self._trait_bits: dict[str, int] = {}
        self._rank: Ints | None = None
        self._by_rank: Ints | None = None
        self.moves = Moves()
        self.journal: Journal | None = None
        """Told of all that moves, so that decisions can be replayed; a copy has none."""
        self.now_s = 0.0
        """Monotonic seconds of the tick that the fleet has come to."""
        self._faded_s = -1.0
        self._columns: dict[str, npt.NDArray[np.generic]] = {
            name: np.zeros((0, *shape), dtype) for name, (shape, dtype) in _COLUMNS.items()
        }
        self.members = Members()
        """Of placement groups."""
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
        other._trait_bits = dict(self._trait_bits)
        other._rank, other._by_rank = self._rank, self._by_rank  # made anew, never changed
        # In place: what settles and what is live look at the same columns.
        other._columns.update((name, column.copy()) for name, column in self._columns.items())
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
        self._set_traits(row, (*_traits(host), *_abilities(host), *_said(host)))
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
        self.ids[row] = self.ids[last]
        self.names[row] = self.names[last]
        self.cordon_reasons[row] = self.cordon_reasons[last]
        self.network_problems[row] = self.network_problems[last]
        self._states[row] = self._states[last]
        texts = (self.ids, self.names, self.cordon_reasons, self.network_problems)
        for values in (*texts, self._states):
            values.pop()
        for column in self._columns.values():
            column[row] = column[last]
            column[last] = 0
        if row != last:
            self._rows[self.ids[row]] = row
        self._settling.forget_host(host_id)
        self.members.put(host_id, {})
        self._reorder()

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
        for name, column in self._columns.items():
            if row >= len(column):
                grown = np.zeros((max(8, 2 * row), *column.shape[1:]), column.dtype)
                grown[:row] = column[:row]
                self._columns[name] = grown
        self._columns["sample_s"][row] = -np.inf
        self.ids.append(host_id)
        self.names.append("")
        self.cordon_reasons.append("")
        self.network_problems.append("")
        self._states.append(HostState.UNKNOWN)
        self._columns["up"][row], self._columns["silent"][row] = False, True
        self._rows[host_id] = row
        self._settling.rows_changed()
        self._reorder()
        return row

    def _reorder(self) -> None:
        self._rank = self._by_rank = None
        self.moves.void()

    def _set_traits(self, row: int, traits: Sequence[str]) -> None:
        bits = [self._trait_bits.setdefault(t, len(self._trait_bits)) for t in traits]
        words = self._columns["traits"]
        wanted = len(self._trait_bits) // _WORD_BITS + 1
        if wanted > words.shape[1]:
            grown = np.zeros((len(words), wanted), np.int64)
            grown[:, : words.shape[1]] = words
            self._columns["traits"] = words = grown
        mask = np.zeros(words.shape[1], np.int64)
        for bit in bits:
            mask[bit // _WORD_BITS] |= 1 << (bit % _WORD_BITS)
        words[row] = mask

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
        figures = machines or {}
        rows = self._live.fold(
            Sample(self._rows[host_id], host_id, usage, figures.get(host_id, ()), received_s)
            for host_id, usage, received_s in samples
            if host_id in self._rows
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

    def trait_mask(self, traits: Sequence[str]) -> Ints | None:
        """Return the bits of traits; None when no host has ever had one of them."""
        mask = np.zeros(self.table("traits").shape[1], np.int64)
        for trait in traits:
            bit = self._trait_bits.get(trait)
            if bit is None:
                return None
            mask[bit // _WORD_BITS] |= 1 << (bit % _WORD_BITS)
        return mask

    def lacking_traits(self, row: int, traits: Sequence[str]) -> list[str]:
        """Return those of the traits that a host lacks."""
        have = self.table("traits")[row]
        bits = {trait: self._trait_bits.get(trait) for trait in traits}
        return [
            trait
            for trait, bit in bits.items()
            if bit is None or not int(have[bit // _WORD_BITS]) >> (bit % _WORD_BITS) & 1
        ]

    def words_of(self, row: int, kind: str) -> list[str]:
        """Return what follows the kind in those words that a host has: of `zone:` its zone."""
        words = [word for word in self._trait_bits if word.startswith(kind)]
        lacking = self.lacking_traits(row, words)
        return [word.removeprefix(kind) for word in words if word not in lacking]

    def is_known_word(self, word: str) -> bool:
        """Tell whether some host has, or has had, a word."""
        return word in self._trait_bits

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


SWITCH_JOINED = "network joined"
"""The word of hosts whose switch belongs to OVN as it must; no trait has a space in it."""


def physical_network_word(name: str) -> str:
    """Return the word, kept as traits are, of hosts that reach one of the operator's networks.

    No trait that anybody may ask for has a colon in it.
    """
    return f"network:{name}"


ZONE_WORD = "zone:"
"""What words of zones begin with."""


def zone_word(name: str) -> str:
    """Return the word, kept as traits are, of hosts in a zone."""
    return f"{ZONE_WORD}{name}"


DEDICATED = "dedicated"
"""The word of hosts that are for some projects alone."""
DEDICATED_BY = "dedicated by:"
"""What the words begin with that name the aggregates which say so."""


def aggregate_word(ident: str) -> str:
    """Return the word of hosts in an aggregate."""
    return f"aggregate:{ident}"


def project_word(ident: str) -> str:
    """Return the word of hosts dedicated to a project."""
    return f"project:{ident}"


def _traits(host: Host) -> Iterator[str]:
    """Yield a host's own traits; its agent's word for anything else counts for nothing."""
    return filter(is_trait, host.traits)


def _said(host: Host) -> Iterator[str]:
    """Yield the words of what the operator says of a host: traits of its aggregates too."""
    yield zone_word(host.zone)
    for aggregate in host.aggregates:
        yield aggregate_word(aggregate.id)
        yield from aggregate.traits
    closed = [aggregate for aggregate in host.aggregates if aggregate.project_ids]
    if closed:
        yield DEDICATED
        yield from (f"{DEDICATED_BY}{aggregate.name}" for aggregate in closed)
        # Each of them says that nobody else is placed there.
        allowed = set.intersection(*(set(aggregate.project_ids) for aggregate in closed))
        yield from map(project_word, sorted(allowed))


def _abilities(host: Host) -> Iterator[str]:
    """Yield the words of what a host can for networks."""
    if NETWORKS in host.features:
        yield NETWORKS
        if not host.network_problem:
            yield SWITCH_JOINED
        yield from map(physical_network_word, host.physical_networks)


_COLUMNS: dict[str, tuple[tuple[int, ...], type]] = {
    "up": ((), np.bool_),
    "silent": ((), np.bool_),
    "cordoned": ((), np.bool_),
    "cpus": ((), np.int64),
    "claimable_vcpus": ((), np.int64),
    "claimable_memory": ((), np.int64),
    "claimable_disk": ((), np.int64),
    "claimed_vcpus": ((), np.int64),
    "claimed_memory": ((), np.int64),
    "claimed_disk": ((), np.int64),
    "traits": ((1,), np.int64),
    "expected_vcpus": ((BUCKETS,), np.int32),
    "expected_mib": ((BUCKETS,), np.int32),
    "sample_s": ((), np.float64),
    "fresh": ((), np.bool_),
    "sampled": ((len(Sampled),), np.float64),
    "total_mib": ((), np.int64),
    "mean": ((len(Signal),), np.int32),
    "ring": ((RECENT_SAMPLES, len(Signal)), np.uint16),
    "slot": ((), np.uint8),
    "cpu_before": ((2,), np.int64),
    "recent": ((len(Signal),), np.int64),
}
"""Shape of one host's value, and its type."""


_CLAIMED = ("claimed_vcpus", "claimed_memory", "claimed_disk")
