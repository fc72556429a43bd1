"""Machine loads and usage profiles: what is known of each machine, and each host's sums of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import acceptance
from unkai_scheduler.domain.hosts import MachineUsage
from unkai_scheduler.placement import usage_profiles
from unkai_scheduler.placement.contention import CORE
from unkai_scheduler.placement.machine_loads import (
    _MACHINE_COLUMNS,
    HOST_COLUMNS,
    HostFigures,
    MachineLoads,
)
from unkai_scheduler.placement.signals import FULL
from unkai_scheduler.placement.usage_profiles import ALL, MAX_PROFILES, UsageProfiles

HOSTS, CPUS = 4, 16


class World:
    """Machine loads on four hosts."""

    def __init__(self) -> None:
        self.columns: dict[str, Any] = {
            name: np.zeros(HOSTS, dtype) for name, dtype in HOST_COLUMNS.items()
        }
        self.columns["cpus"] = np.full(HOSTS, CPUS, np.int64)
        self.profiles = UsageProfiles()
        self.loads = MachineLoads(self.columns, self.profiles)

    def fold(
        self,
        row: int,
        used: dict[str, float],
        interval_s: float = 2.0,
        wait: float = 0.0,
        others: float = 0.0,
    ) -> None:
        machines = [MachineUsage(name, cores, wait, 0) for name, cores in used.items()]
        figures = HostFigures(row, interval_s, sum(used.values()) + others, machines)
        self.loads.fold([figures])

    def mean_cores(self, row: int) -> float:
        return float(self.loads.loads(np.array([row])).mean[0]) / CORE

    def sums(self) -> list[list[int]]:
        return [self.columns[n].tolist() for n in ("load_mean", "load_variance", "load_machines")]


def test_a_machine_counts_from_the_moment_it_is_placed() -> None:
    world = World()
    for number in range(10):
        world.loads.place(f"ins-{number}", 1, 4, "like")
    assert world.mean_cores(1) == pytest.approx(10 * 4 * 0.3, rel=0.01)
    assert world.loads.loads(slice(None)).machines.tolist() == [0, 10, 0, 0]


def test_what_is_seen_for_long_is_believed() -> None:
    world = World()
    world.loads.place("ins-a", 0, 8, "like")
    before = world.mean_cores(0)
    world.fold(0, {"ins-a": 8.0}, 10.0)
    a_little = world.mean_cores(0)
    for _ in range(60):
        world.fold(0, {"ins-a": 8.0}, 60.0)
    assert before < a_little < 4 < 7.8 < world.mean_cores(0) <= 8


def test_noise_is_averaged_and_becomes_variance() -> None:
    steady, noisy = World(), World()
    for world in (steady, noisy):
        world.loads.place("ins-a", 0, 8, "like")
    for turn in range(120):
        steady.fold(0, {"ins-a": 4.0}, 60.0)
        noisy.fold(0, {"ins-a": 8.0 * (turn % 2)}, 60.0)
    assert steady.mean_cores(0) == pytest.approx(noisy.mean_cores(0), abs=0.2)
    variances = [w.columns["load_variance"][0] / CORE**2 for w in (steady, noisy)]
    assert variances[0] < 1 < 14 < variances[1] < 18


def test_a_machine_that_waits_would_use_more() -> None:
    world = World()
    world.loads.place("ins-a", 0, 4, "like")
    for _ in range(60):
        world.fold(0, {"ins-a": 1.0}, 60.0, wait=2.0)
    assert world.mean_cores(0) == pytest.approx(3.0, abs=0.2)


def test_what_others_use_counts() -> None:
    world = World()
    world.loads.place("ins-a", 2, 1, "like")
    before = world.mean_cores(2)
    for _ in range(200):
        world.fold(2, {"ins-a": 0.3}, 2.0, others=5.0)
    assert world.mean_cores(2) == pytest.approx(before + 5.0, abs=0.2)


def test_a_newcomer_is_expected_to_be_as_its_like() -> None:
    world = World()
    for number in range(12):
        key = "heavy" if number % 2 else "light"
        world.loads.place(f"ins-{number}", number % HOSTS, 2, key)
    for _ in range(60):
        for row in range(HOSTS):
            used = {f"ins-{n}": 1.8 * (n % 2) for n in range(12) if n % HOSTS == row}
            world.fold(row, used, 60.0)
    heavy, light, new = (world.profiles.newcomer(k, 2) for k in ("heavy", "light", "new"))
    assert light.mean < new.mean < heavy.mean
    assert new.mean == pytest.approx(0.9 * CORE, rel=0.05)
    assert heavy.variance < new.variance


def test_keys_are_bounded_and_those_in_use_are_kept() -> None:
    profiles = UsageProfiles()
    held = profiles.hold("held")
    for number in range(2 * MAX_PROFILES):
        profiles.drop(profiles.hold(f"key-{number}"))
    assert profiles.hold("held") == held
    rows = {profiles.hold(f"new-{number}") for number in range(2 * MAX_PROFILES)}
    assert len(rows) == MAX_PROFILES
    assert ALL in rows


def test_a_forgotten_key_takes_nothing_with_it() -> None:
    profiles = UsageProfiles()
    row = profiles.hold("first")
    one = np.array([row])
    profiles.meet(one)
    profiles.learn(one, np.array([FULL]), np.array([0]), np.array([1000]))
    profiles.drop(row)
    for number in range(MAX_PROFILES):
        profiles.hold(f"key-{number}")
    assert profiles.newcomer("first", 1) == profiles.newcomer("never", 1)


def test_memory_of_machine_time_is_bounded() -> None:
    profiles = UsageProfiles()
    rows = np.full(1000, profiles.hold("like"))
    for share in (0, FULL):
        for _ in range(200):
            profiles.learn(
                rows, np.full(1000, share), np.zeros(1000, np.int64), np.full(1000, 60_000)
            )
    assert profiles._weights.max() <= 2 * usage_profiles.MEMORY_MS
    assert profiles.expected_of(ALL)[0] > FULL * 99 // 100


def test_a_machine_takes_less_than_a_hundred_bytes() -> None:
    columns = sum(np.dtype(dtype).itemsize for dtype in _MACHINE_COLUMNS.values())
    world = World()
    for number in range(1000):
        world.loads.place(f"ins-{number}", 0, 1, "like")
    table = sum(column.nbytes for column in world.loads._table.values())
    assert table <= 1.3 * 1000 * columns <= 50 * 1000


steps = st.one_of(
    st.tuples(st.just("place"), st.integers(0, 9), st.integers(0, HOSTS - 1), st.integers(1, 64)),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(
        st.just("fold"),
        st.lists(st.floats(0, 70), min_size=10, max_size=10),
        st.sampled_from([0.0, 0.1, 2.0, 60.0, 1e6]),
    ),
    st.tuples(st.just("forget"), st.integers(0, HOSTS - 1)),
)


@given(st.lists(steps, max_size=40))
@settings(deadline=None, max_examples=acceptance.count(1000))
def test_hosts_have_the_sums_of_their_machines_whatever_happened(
    history: Sequence[tuple[Any, ...]],
) -> None:
    world = World()
    hosts: dict[int, int] = {}
    for step in history:
        if step[0] == "place":
            world.loads.place(f"ins-{step[1]}", step[2], step[3], f"key-{step[1] % 3}")
            hosts[step[1]] = step[2]
        elif step[0] == "leave":
            world.loads.leave(f"ins-{step[1]}")
            hosts.pop(step[1], None)
        elif step[0] == "forget":
            world.loads.forget_host(step[1])
            hosts = {number: row for number, row in hosts.items() if row != step[1]}
        else:
            for row in range(HOSTS):
                used = {f"ins-{n}": step[1][n] for n in range(10) if hosts.get(n, row) == row}
                world.fold(row, used, step[2])
        table = world.loads._table
        sums = [[0] * HOSTS for _ in range(3)]
        for number, row in hosts.items():
            machine = world.loads._rows[f"ins-{number}"]
            assert table["host"][machine] == row
            for total, value in zip(
                sums, (table["mean_part"][machine], table["variance_part"][machine], 1), strict=True
            ):
                total[row] += int(value)
        assert world.sums() == sums
        assert min(world.columns["load_mean"]) >= 0
        assert min(world.columns["load_variance"]) >= 0
    for number in range(10):
        world.loads.leave(f"ins-{number}")
    assert world.sums() == [[0] * HOSTS] * 3
    assert len(world.loads) == 0


def test_a_host_that_moves_keeps_its_machines() -> None:
    world = World()
    world.loads.place("ins-a", 3, 2, "like")
    for column in world.columns.values():
        column[0], column[3] = column[3], 0
    world.loads.move_host(3, 0)
    world.loads.leave("ins-a")
    assert world.sums() == [[0] * HOSTS] * 3
