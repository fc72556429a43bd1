"""Two readings as one sample."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unkai_agent.compute.driver import DomainUsage
from unkai_agent.domain.hosts import Capacity, HostUsage, PortUsage
from unkai_agent.metrics.counters import HostCounters, Pressure
from unkai_agent.metrics.rates import MachineCounters, host_usage, machine_usages, rate
from unkai_agent.network.driver import PortCounters

_GIB = 1024**3
_TIME = datetime(2026, 1, 1, tzinfo=UTC)
_CAPACITY = Capacity(cpus=4, memory_bytes=8 * _GIB, disk_bytes=100 * _GIB)


def usage_between(
    before: HostCounters, after: HostCounters, capacity: Capacity = _CAPACITY
) -> HostUsage:
    return host_usage(
        before,
        after,
        capacity=capacity,
        sample_time=_TIME,
        disk_available_bytes=5,
        machines_running=3,
    )


def test_counters_become_rates_over_the_time_between() -> None:
    after = HostCounters(
        monotonic_s=12.0,
        cpu_used_ns=2_000_000_000,
        cpu_wait_ns=500_000_000,
        cpu_pressure=Pressure(1_000_000, 0),
        memory_pressure=Pressure(500_000, 200_000),
        io_pressure=Pressure(300_000, 100_000),
        disk_read_bytes=400,
        disk_write_bytes=800,
        network_receive_bytes=20,
        network_transmit_bytes=40,
        memory_total_bytes=16 * _GIB,
        memory_available_bytes=3 * _GIB,
    )
    assert usage_between(HostCounters(monotonic_s=10.0), after) == HostUsage(
        sample_time=_TIME,
        interval_s=2.0,
        cpu_used_cores=1.0,
        cpu_used_ratio=0.25,
        cpu_wait_cores=0.25,
        cpu_pressure_ratio=0.5,
        memory_pressure_ratio=0.25,
        memory_full_pressure_ratio=0.1,
        io_pressure_ratio=0.15,
        io_full_pressure_ratio=0.05,
        memory_total_bytes=8 * _GIB,
        memory_available_bytes=3 * _GIB,
        disk_available_bytes=5,
        disk_read_bytes_per_s=200.0,
        disk_write_bytes_per_s=400.0,
        network_receive_bytes_per_s=10.0,
        network_transmit_bytes_per_s=20.0,
        machines_running=3,
    )


@pytest.mark.parametrize(
    ("limit", "used", "machine_available", "total", "available"),
    [
        (0, 2, 20, 8, 6),
        (4, 1, 20, 4, 3),
        (16, 1, 20, 8, 7),
        (0, 1, 3, 8, 3),
        (0, 9, 20, 8, 0),
    ],
    ids=["no limit", "limit below capacity", "limit above", "machine is short", "over its share"],
)
def test_memory_of_a_lab_host_is_what_is_left_of_its_share(
    limit: int, used: int, machine_available: int, total: int, available: int
) -> None:
    after = HostCounters(
        2.0,
        memory_total_bytes=limit * _GIB,
        memory_used_bytes=used * _GIB,
        memory_available_bytes=machine_available * _GIB,
    )
    usage = usage_between(HostCounters(0.0), after)
    assert usage.memory_total_bytes == total * _GIB
    assert usage.memory_available_bytes == available * _GIB


def test_a_counter_that_goes_backwards_gives_zero() -> None:
    before = HostCounters(0.0, cpu_used_ns=10**12, io_pressure=Pressure(10**9, 10**9))
    usage = usage_between(before, HostCounters(2.0))
    assert (usage.cpu_used_cores, usage.io_pressure_ratio) == (0.0, 0.0)


_counts = st.integers(0, 10**15)


def test_a_host_whose_quota_is_used_up_is_full_whatever_it_offers() -> None:
    after = HostCounters(monotonic_s=10.0, cpu_used_ns=5_000_000_000, cpu_limit_cores=0.5)
    sample = usage_between(HostCounters(monotonic_s=0.0), after)
    assert (sample.cpu_used_cores, sample.cpu_used_ratio) == (0.5, 1.0)


@given(
    before=_counts, after=_counts, some_before=_counts, some_after=_counts, seconds=st.floats(0, 60)
)
def test_ratios_stay_within_bounds_whatever_is_read(
    before: int, after: int, some_before: int, some_after: int, seconds: float
) -> None:
    usage = usage_between(
        HostCounters(0.0, cpu_used_ns=before, cpu_pressure=Pressure(some_before, 0)),
        HostCounters(seconds, cpu_used_ns=after, cpu_pressure=Pressure(some_after, 0)),
    )
    assert 0.0 <= usage.cpu_used_ratio <= 1.0
    assert 0.0 <= usage.cpu_pressure_ratio <= 1.0


def test_no_time_between_readings_gives_zero() -> None:
    assert rate(0, 100, 0.0) == 0.0


def a_machine(instance_id: str = "ins-a", **counters: int) -> DomainUsage:
    return replace(DomainUsage(instance_id, 0, 0, 0, 0, 0, 0, 0), **counters)  # type: ignore[arg-type]


def test_machines_in_both_readings_have_rates() -> None:
    before = MachineCounters.of(10.0, [a_machine("ins-b"), a_machine("ins-a"), a_machine("ins-x")])
    after = MachineCounters.of(
        12.0,
        [
            a_machine("ins-b", cpu_time_ns=1_000_000_000, cpu_wait_ns=200_000_000),
            a_machine("ins-a", memory_resident_bytes=7, disk_write_bytes=20, disk_writes=2),
        ],
    )
    first, second = machine_usages(before, after, cpus=2)
    assert (first.instance_id, second.instance_id) == ("ins-a", "ins-b")
    assert (first.memory_resident_bytes, first.disk_write_bytes_per_s) == (7, 10.0)
    assert first.disk_writes_per_s == 1.0
    assert (second.cpu_used_cores, second.cpu_wait_cores) == (0.5, 0.1)


def test_a_port_has_rates_from_its_coming_on() -> None:
    counted = {"prt-a": PortCounters(1000, 10, 0, 500, 5, 0)}
    more = {"prt-a": PortCounters(3000, 30, 4, 600, 6, 2), "prt-b": PortCounters(8, 1, 0, 6, 1, 0)}
    before = MachineCounters.of(10.0, [a_machine()], {"ins-a": counted})
    after = MachineCounters.of(12.0, [a_machine()], {"ins-a": more})
    [machine] = machine_usages(before, after, cpus=2)
    assert machine.ports == (
        PortUsage("prt-a", 1000.0, 10.0, 2.0, 50.0, 0.5, 1.0),
        PortUsage("prt-b", 4.0, 0.5, 0.0, 3.0, 0.5, 0.0),
    )


def test_a_machine_that_was_restarted_has_no_negative_rates() -> None:
    before = MachineCounters.of(0.0, [a_machine(cpu_time_ns=10**12, disk_reads=10**6)])
    (usage,) = machine_usages(before, MachineCounters.of(2.0, [a_machine()]), cpus=2)
    assert (usage.cpu_used_cores, usage.disk_reads_per_s) == (0.0, 0.0)


def test_a_machine_that_has_just_started_is_told_from_its_first_moment() -> None:
    before = MachineCounters.of(10.0, [])
    after = MachineCounters.of(12.0, [a_machine(cpu_time_ns=1_500_000_000, cpu_wait_ns=10**9)])
    (usage,) = machine_usages(before, after, cpus=2)
    assert (usage.cpu_used_cores, usage.cpu_wait_cores) == (0.75, 0.5)


def test_a_machine_overlooked_once_gives_no_absurd_rate() -> None:
    before = MachineCounters.of(10.0, [])
    after = MachineCounters.of(12.0, [a_machine(cpu_time_ns=10**13)])
    assert machine_usages(before, after, cpus=2) == ()
