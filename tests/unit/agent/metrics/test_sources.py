"""Where a host's counters are read: a whole machine, or the groups of a lab host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unkai_agent.metrics.counters import HostCounters, Pressure
from unkai_agent.metrics.sources import GroupLimits, SamplerPaths, counter_source, group_limits

_MIB = 1024**2


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def pressure(some: int, full: int) -> str:
    return f"some avg10=0 avg60=0 avg300=0 total={some}\nfull avg10=0 avg300=0 total={full}\n"


def a_proc(folder: Path, **more: str) -> Path:
    return write(
        folder / "proc",
        {
            "stat": "cpu  100 0 50 1000 5 0 0 7 0 0\n",
            "meminfo": "MemTotal: 8192 kB\nMemAvailable: 4096 kB\n",
            "pressure/cpu": pressure(1000, 0),
            "pressure/memory": pressure(20, 10),
            "pressure/io": pressure(40, 30),
            "diskstats": "254 0 vda 1 0 2 0 1 0 4 0 0 0 0\n",
            "net/dev": "eth0: 5 0 0 0 0 0 0 0 7 0\n",
        }
        | more,
    )


def read(paths: SamplerPaths) -> HostCounters:
    return counter_source(paths, lambda: 17.0)()


def test_a_machine_is_read_from_proc(tmp_path: Path) -> None:
    sys_block = write(tmp_path / "block", {"vda/dev": "254:0"})
    proc = a_proc(tmp_path, schedstat="version 15\ncpu0 0 0 0 0 0 0 0 9000 0\n")
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert read(SamplerPaths(proc=proc, sys_block=sys_block)) == HostCounters(
        monotonic_s=17.0,
        cpu_used_ns=150 * tick_ns,
        cpu_wait_ns=9000 + 7 * tick_ns,
        cpu_pressure=Pressure(1000, 0),
        memory_pressure=Pressure(20, 10),
        io_pressure=Pressure(40, 30),
        memory_total_bytes=8 * _MIB,
        memory_available_bytes=4 * _MIB,
        disk_read_bytes=1024,
        disk_write_bytes=2048,
        network_receive_bytes=5,
        network_transmit_bytes=7,
    )


def test_without_schedstat_the_stalled_time_is_the_waiting(tmp_path: Path) -> None:
    counters = read(SamplerPaths(proc=a_proc(tmp_path), sys_block=tmp_path))
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert counters.cpu_wait_ns == 1_000_000 + 7 * tick_ns


def test_a_lab_host_is_read_from_its_groups_alone(tmp_path: Path) -> None:
    paths = SamplerPaths(
        cgroup2=write(
            tmp_path / "unified",
            {
                "cpu.stat": "usage_usec 300\n",
                "cpu.pressure": pressure(11, 1),
                "memory.pressure": pressure(22, 2),
                "io.pressure": pressure(33, 3),
            },
        ),
        memory_v1=write(
            tmp_path / "memory",
            {
                "memory.limit_in_bytes": str(4 * _MIB),
                "memory.usage_in_bytes": str(2 * _MIB),
                "memory.stat": f"inactive_file 1\ntotal_inactive_file {_MIB}\n",
            },
        ),
        blkio_v1=write(
            tmp_path / "blkio",
            {"blkio.throttle.io_service_bytes_recursive": "254:0 Read 70\n254:0 Write 90\n"},
        ),
        cpu_v1=write(tmp_path / "cpu", {"cpu.stat": "nr_throttled 3\nthrottled_time 5000\n"}),
        proc=a_proc(tmp_path),
    )
    assert read(paths) == HostCounters(
        monotonic_s=17.0,
        cpu_used_ns=300_000,
        cpu_wait_ns=11_000,
        cpu_pressure=Pressure(11, 1),
        memory_pressure=Pressure(22, 2),
        io_pressure=Pressure(33, 3),
        memory_total_bytes=4 * _MIB,
        memory_used_bytes=_MIB,
        memory_available_bytes=4 * _MIB,
        disk_read_bytes=70,
        disk_write_bytes=90,
        network_receive_bytes=5,
        network_transmit_bytes=7,
    )


def test_throttled_time_counts_as_waiting_where_it_is_the_larger(tmp_path: Path) -> None:
    paths = SamplerPaths(
        cgroup2=write(tmp_path / "unified", {"cpu.pressure": pressure(11, 1)}),
        cpu_v1=write(tmp_path / "cpu", {"cpu.stat": "throttled_time 50000\n"}),
        proc=a_proc(tmp_path),
    )
    assert read(paths).cpu_wait_ns == 50_000


def test_a_group_with_all_controllers_in_cgroup2_needs_no_v1_groups(tmp_path: Path) -> None:
    group = write(
        tmp_path / "unified",
        {
            "cpu.stat": "usage_usec 300\nthrottled_usec 8\n",
            "memory.max": "max\n",
            "memory.current": str(3 * _MIB),
            "memory.stat": f"inactive_file {_MIB}\n",
            "io.stat": "254:0 rbytes=10 wbytes=20\n",
        },
    )
    counters = read(SamplerPaths(cgroup2=group, proc=a_proc(tmp_path)))
    assert (counters.memory_total_bytes, counters.memory_used_bytes) == (0, 2 * _MIB)
    assert (counters.disk_read_bytes, counters.disk_write_bytes) == (10, 20)
    assert counters.cpu_wait_ns == 8_000


@pytest.mark.parametrize(
    ("v2", "quota", "period", "cores"),
    [
        ("50000 100000", "-1", "100000", 0.5),
        ("max 100000", "150000", "100000", 1.5),
        ("300000 100000", "150000", "100000", 1.5),
        ("max 100000", "-1", "100000", 0.0),
        ("", "", "", 0.0),
        ("50000 0", "50000", "0", 0.0),
    ],
)
def test_the_tighter_of_two_quotas_limits_a_lab_host(
    tmp_path: Path, v2: str, quota: str, period: str, cores: float
) -> None:
    paths = SamplerPaths(
        cgroup2=write(tmp_path / "unified", {"cpu.max": v2, "memory.max": "4096"}),
        cpu_v1=write(tmp_path / "cpu", {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": period}),
        proc=a_proc(tmp_path),
    )
    assert group_limits(paths) == GroupLimits(cores, 4096)
    assert read(paths).cpu_limit_cores == cores


def test_a_whole_machine_is_limited_by_no_group(tmp_path: Path) -> None:
    assert group_limits(SamplerPaths(proc=a_proc(tmp_path))) == GroupLimits()


def test_sources_that_are_missing_count_as_zero(tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    machine = SamplerPaths(proc=nowhere, sys_block=nowhere)
    lab_host = SamplerPaths(nowhere, nowhere, nowhere, nowhere, proc=nowhere)
    assert read(machine) == read(lab_host) == HostCounters(monotonic_s=17.0)
