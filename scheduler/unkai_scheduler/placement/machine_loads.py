"""Machine loads: what each machine is known to use, and the sums of that on each host.

How much a machine uses is a trait of it: its mean over an hour says more of the next minutes than
its last sample. So each sample is folded into a mean and a variance of its machine, drawn towards
what like machines use (usage_profiles.py) for as long as little of it has been seen. A host's sums
hold a machine from the moment it is placed on, so a burst counts before any of it has shown.

What a machine would use is what it uses and what it waits for: a crowded host shows little else.
Integers, elementwise; it does no I/O and never asks for the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unkai_scheduler.domain.hosts import MachineUsage
from unkai_scheduler.placement.contention import CORE, Load, load_of
from unkai_scheduler.placement.signals import FULL
from unkai_scheduler.placement.usage_profiles import UsageProfiles

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MEMORY_MS = 3_600_000
"""A mean is over all that was seen of a machine up to an hour, then exponential with that as its
time constant: it follows the hour of the day, and an effort of five minutes does not move it far.
Ten minutes or four hours place alike in the replay of bench/contention.py."""
DOUBT_MS = 120_000
"""What like machines use weighs as much as so much seen of it: some samples, and a boot's bustle
counts for little."""
FOREIGN_MS = 60_000
"""Time constant of what others than our machines use of a host."""
_FINE = 8
"""Bits below `FULL` in which means and variances are kept, so that small steps are not lost."""
_NOBODY = -1

HOST_COLUMNS: dict[str, type] = {
    "load_mean": np.int64,
    "load_variance": np.int64,
    "load_machines": np.int64,
    "load_foreign": np.int64,
}
"""One figure per host: as `contention.Load`; what others use, in `CORE`, is not yet in the mean."""
_MACHINE_COLUMNS: dict[str, type] = {
    "host": np.int32,
    "vcpus": np.int32,
    "profile": np.int16,
    "share": np.int32,
    "variance": np.int32,
    "seen_ms": np.int32,
    "mean_part": np.int32,
    "variance_part": np.int64,
}
"""34 bytes a machine; its id is the caller's own string."""


class HostFigures(NamedTuple):
    """One host's sample as far as loads go."""

    row: int
    interval_s: float
    used_cores: float
    """By whomever."""
    machines: Sequence[MachineUsage]


class MachineLoads:
    """What machines use. Not safe for threads."""

    def __init__(
        self, columns: Mapping[str, npt.NDArray[np.generic]], profiles: UsageProfiles
    ) -> None:
        """`columns`: the fleet's, which hold `HOST_COLUMNS`; it moves and grows them."""
        self._hosts = columns
        self._profiles = profiles
        self._rows: dict[str, int] = {}
        self._free: list[int] = []
        self._table: dict[str, npt.NDArray[np.generic]] = {
            name: np.zeros(0, dtype) for name, dtype in _MACHINE_COLUMNS.items()
        }

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, instance_id: str, host_row: int, vcpus: int, key: str) -> int:
        """Take in a machine, with what is expected of it; return its row, good until `leave`.

        `key`: who is like it. One that is known already leaves where it was first.
        """
        self.leave(instance_id)
        row = self._rows[instance_id] = self._free.pop() if self._free else self._grown()
        profile = self._profiles.hold(key)
        share, variance = self._profiles.expected_of(profile)
        mean_part = vcpus * share * CORE // FULL
        variance_part = vcpus * vcpus * variance * CORE // FULL * CORE
        for name, value in (
            ("host", host_row),
            ("vcpus", vcpus),
            ("profile", profile),
            ("share", 0),
            ("variance", 0),
            ("seen_ms", 0),
            ("mean_part", mean_part),
            ("variance_part", variance_part),
        ):
            self._table[name][row] = value
        self._column("load_machines")[host_row] += 1
        self._column("load_mean")[host_row] += mean_part
        self._column("load_variance")[host_row] += variance_part
        return row

    def leave(self, instance_id: str) -> None:
        """Forget a machine; an unknown one is no error."""
        row = self._rows.pop(instance_id, None)
        if row is None:
            return
        host = int(self._of("host")[row])
        self._column("load_machines")[host] -= 1
        self._column("load_mean")[host] -= self._of("mean_part")[row]
        self._column("load_variance")[host] -= self._of("variance_part")[row]
        self._profiles.drop(int(self._of("profile")[row]))
        self._of("host")[row] = _NOBODY
        self._free.append(row)

    def forget_host(self, host_row: int) -> None:
        """Forget all machines of a host that leaves the fleet. O(machines)."""
        gone = self._of("host") == host_row
        for instance_id in [name for name, row in self._rows.items() if gone[row]]:
            self.leave(instance_id)

    def move_host(self, before: int, after: int) -> None:
        """Say that a host has another row, to which its columns have moved. O(machines)."""
        hosts = self._of("host")
        hosts[hosts == before] = after

    def fold(self, figures: Iterable[HostFigures]) -> None:
        """Take in the samples of many hosts, one each at most; unknown machines are skipped."""
        hosts = list(figures)
        told = [
            (row, usage.cpu_used_cores + usage.cpu_wait_cores, usage.cpu_used_cores, index)
            for index, host in enumerate(hosts)
            for usage in host.machines
            if (row := self._rows.get(usage.instance_id)) is not None
        ]
        steps_ms = np.array([max(int(host.interval_s * 1000), 1) for host in hosts], np.int64)
        found = np.array(told, np.float64).reshape(-1, 4)
        rows, index = found[:, 0].astype(np.int64), found[:, 3].astype(np.int64)
        shares = found[:, 1] / np.maximum(self._of("vcpus")[rows], 1)
        self.fold_shares(rows, _fixed(shares, FULL), steps_ms[index])
        ours = np.bincount(index, found[:, 2], len(hosts))
        used = np.array([host.used_cores for host in hosts], np.float64)
        others = np.array([host.row for host in hosts], np.int64)
        foreign = self._column("load_foreign")
        diff = _fixed(used - ours, None) - foreign[others]
        foreign[others] += diff * steps_ms // (steps_ms + FOREIGN_MS)

    def fold_shares(self, rows: Ints, shares: Ints, steps_ms: Ints) -> None:
        """Take in samples of machines by their rows, none twice.

        `shares`: of their virtual CPUs that they would use, 0..65535. `steps_ms`: what time each
        sample is of. Cost: elementwise.
        """
        if not len(rows):
            return
        share, variance, seen = self._of("share"), self._of("variance"), self._of("seen_ms")
        before = seen[rows].astype(np.int64)
        steps_ms = np.minimum(steps_ms, MEMORY_MS)
        # A running mean, and from MEMORY_MS on an exponential one: alpha = dt / (dt + seen).
        whole = before + steps_ms
        diff = (shares << _FINE) - share[rows]
        share[rows] += diff * steps_ms // whole
        # Its variance likewise (D. H. D. West, CACM 22 (9), 1979); of one sample it is none.
        square = ((diff >> _FINE) ** 2 << _FINE) // FULL
        spread = square * before // whole - variance[rows]
        variance[rows] += np.where(before > 0, spread * steps_ms // whole, 0)
        seen[rows] = np.minimum(whole, MEMORY_MS)
        profile = self._of("profile")[rows].astype(np.int64)
        self._profiles.meet(profile[(before < DOUBT_MS) & (whole >= DOUBT_MS)])
        known = whole >= DOUBT_MS
        self._profiles.learn(
            profile[known],
            share[rows][known].astype(np.int64) >> _FINE,
            variance[rows][known].astype(np.int64) >> _FINE,
            steps_ms[known],
        )
        self._count(rows)

    def loads(self, rows: Ints | slice) -> Load[Ints]:
        """Return what some hosts are expected to be asked for, one figure each."""
        return load_of(_Rows(self._hosts, rows))

    def _count(self, rows: Ints) -> None:
        """Bring the hosts' sums up to what is known of these machines now."""
        seen = self._of("seen_ms")[rows].astype(np.int64)
        vcpus = self._of("vcpus")[rows].astype(np.int64)
        hosts = self._of("host")[rows]
        expected = self._profiles.expected(self._of("profile")[rows].astype(np.int64))
        whole = seen + DOUBT_MS
        # Like a sample mean under a prior (Gelman et al., Bayesian Data Analysis, 2.5), in time.
        share = self._of("share")[rows] * seen + (expected.share << _FINE) * DOUBT_MS
        variance = self._of("variance")[rows] * seen + (expected.variance << _FINE) * DOUBT_MS
        for part, total, values in (
            ("mean_part", "load_mean", vcpus * (share // whole) * CORE // (FULL << _FINE)),
            (
                "variance_part",
                "load_variance",
                vcpus * vcpus * (variance // whole) * CORE // (FULL << _FINE) * CORE,
            ),
        ):
            parts = self._of(part)
            np.add.at(self._column(total), hosts, values - parts[rows])
            parts[rows] = values

    def _grown(self) -> int:
        """Return a row that nobody has had, with room made for others after it."""
        size = len(self._of("host"))
        more = max(64, size // 4)
        for name, column in self._table.items():
            self._table[name] = np.concatenate([column, np.zeros(more, column.dtype)])
        self._of("host")[size:] = _NOBODY
        self._free.extend(range(size + more - 1, size, -1))
        return size

    def _of(self, name: str) -> Ints:
        return self._table[name]  # type: ignore[return-value]

    def _column(self, name: str) -> Ints:
        return self._hosts[name]  # type: ignore[return-value]


class _Rows:
    """Columns of some hosts."""

    def __init__(self, columns: Mapping[str, npt.NDArray[np.generic]], rows: Ints | slice) -> None:
        self._columns, self._rows = columns, rows

    def column(self, name: str) -> Ints:
        return self._columns[name][self._rows]  # type: ignore[return-value]


def _fixed(values: npt.NDArray[np.float64], most: int | None) -> Ints:
    """Return shares in fixed point, up to `most`; without it, cores. No number is 0."""
    known = np.where(values > 0.0, values, 0.0)
    if most is None:
        return (np.minimum(known, 1 << 20) * CORE + 0.5).astype(np.int64)
    return (np.minimum(known, 1.0) * most + 0.5).astype(np.int64)
