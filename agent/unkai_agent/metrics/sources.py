"""Read a host's counters: from /proc on a real host, from its cgroups on a lab host.

A lab host is a group of processes on a shared machine, whose /proc figures are the machine's.
Its own are those of its cgroup2 group (CPU, pressure) and of v1 groups (memory, disk, throttle);
where the controllers are in cgroup2, all come from there. A source that is missing gives 0.

Traps. v1 blkio counts a device's bytes only once the group has any limit on that device (seen on
Linux 6.18; a limit beyond reach will do), and charges buffered writes to whoever flushes them. A
group's waiting is the larger of its pressure and its throttled time, not the sum: kernels differ in
whether a throttled task counts as stalled.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unkai_agent.metrics.counters import (
    HostCounters,
    Pressure,
    Transfer,
    parse_blkio,
    parse_cpu_times,
    parse_diskstats,
    parse_io_stat,
    parse_keyed,
    parse_network,
    parse_pressure,
    parse_quota_cores,
    parse_run_delay_ns,
)

CounterSource = Callable[[], HostCounters]
"""Reads all counters now; never raises for a file that is missing."""


@dataclass(frozen=True, slots=True)
class SamplerPaths:
    """Where the counters are. With `cgroup2` the host is a lab host, else the whole machine."""

    cgroup2: Path | None = None
    """Group with cpu.stat and {cpu,memory,io}.pressure."""
    memory_v1: Path | None = None
    blkio_v1: Path | None = None
    cpu_v1: Path | None = None
    """Group whose quota throttles the host."""
    proc: Path = Path("/proc")
    sys_block: Path = Path("/sys/block")


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """What a host's groups let it have; 0 each where they do not limit it."""

    cpu_cores: float = 0.0
    memory_bytes: int = 0


def group_limits(paths: SamplerPaths) -> GroupLimits:
    """Read what a lab host's groups allow; a whole machine has no limits but its own."""
    if paths.cgroup2 is None:
        return GroupLimits()
    words = [*_text(paths.cgroup2 / "cpu.max").split(), "", ""]
    quotas = [parse_quota_cores(words[0], words[1])]
    if paths.cpu_v1 is not None:
        texts = (_text(paths.cpu_v1 / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        quotas.append(parse_quota_cores(*texts))
    if paths.memory_v1 is not None:
        memory = _number(paths.memory_v1 / "memory.limit_in_bytes")
    else:
        memory = _number(paths.cgroup2 / "memory.max")
    return GroupLimits(min((quota for quota in quotas if quota), default=0.0), memory)


def counter_source(
    paths: SamplerPaths, monotonic: Callable[[], float] = time.monotonic
) -> CounterSource:
    """Return the reader for what `paths` describes."""
    if paths.cgroup2 is None:
        return lambda: _read_machine(paths, monotonic())
    group = paths.cgroup2
    return lambda: _read_group(paths, group, monotonic())


def _read_machine(paths: SamplerPaths, now_s: float) -> HostCounters:
    proc = paths.proc
    cpu = parse_cpu_times(_text(proc / "stat"), os.sysconf("SC_CLK_TCK"))
    pressure = _pressures(proc / "pressure", "{}")
    run_delay_ns = parse_run_delay_ns(_text(proc / "schedstat"))
    stalled_ns = pressure["cpu"].some_us * 1000 if run_delay_ns is None else run_delay_ns
    memory = parse_keyed(_text(proc / "meminfo"))
    disks = parse_diskstats(_text(proc / "diskstats"), _names(paths.sys_block))
    network = parse_network(_text(proc / "net/dev"))
    return HostCounters(
        monotonic_s=now_s,
        cpu_used_ns=cpu.used_ns,
        cpu_wait_ns=stalled_ns + cpu.steal_ns,
        cpu_pressure=pressure["cpu"],
        memory_pressure=pressure["memory"],
        io_pressure=pressure["io"],
        memory_total_bytes=memory.get("MemTotal", 0) * 1024,
        memory_available_bytes=memory.get("MemAvailable", 0) * 1024,
        disk_read_bytes=disks.in_bytes,
        disk_write_bytes=disks.out_bytes,
        network_receive_bytes=network.in_bytes,
        network_transmit_bytes=network.out_bytes,
    )


def _read_group(paths: SamplerPaths, group: Path, now_s: float) -> HostCounters:
    pressure = _pressures(group, "{}.pressure")
    cpu = parse_keyed(_text(group / "cpu.stat"))
    throttled_ns = cpu.get("throttled_usec", 0) * 1000
    if paths.cpu_v1 is not None:
        v1 = parse_keyed(_text(paths.cpu_v1 / "cpu.stat"))
        throttled_ns = max(throttled_ns, v1.get("throttled_time", 0))
    machine = parse_keyed(_text(paths.proc / "meminfo"))
    limits = group_limits(paths)
    disks = _group_disks(paths, group)
    network = parse_network(_text(paths.proc / "net/dev"))
    return HostCounters(
        monotonic_s=now_s,
        cpu_used_ns=cpu.get("usage_usec", 0) * 1000,
        cpu_wait_ns=max(pressure["cpu"].some_us * 1000, throttled_ns),
        cpu_limit_cores=limits.cpu_cores,
        cpu_pressure=pressure["cpu"],
        memory_pressure=pressure["memory"],
        io_pressure=pressure["io"],
        memory_total_bytes=limits.memory_bytes,
        memory_used_bytes=_group_memory(paths, group),
        memory_available_bytes=machine.get("MemAvailable", 0) * 1024,
        disk_read_bytes=disks.in_bytes,
        disk_write_bytes=disks.out_bytes,
        network_receive_bytes=network.in_bytes,
        network_transmit_bytes=network.out_bytes,
    )


def _group_memory(paths: SamplerPaths, group: Path) -> int:
    """Return what the group uses.

    The page cache's inactive part counts as free, as kubelet's working set has it.
    """
    if paths.memory_v1 is not None:
        used = _number(paths.memory_v1 / "memory.usage_in_bytes")
        cache = parse_keyed(_text(paths.memory_v1 / "memory.stat")).get("total_inactive_file", 0)
    else:
        used = _number(group / "memory.current")
        cache = parse_keyed(_text(group / "memory.stat")).get("inactive_file", 0)
    return max(0, used - cache)


def _group_disks(paths: SamplerPaths, group: Path) -> Transfer:
    if paths.blkio_v1 is None:
        return parse_io_stat(_text(group / "io.stat"))
    name = "blkio.throttle.io_service_bytes"
    return parse_blkio(_text(paths.blkio_v1 / f"{name}_recursive") or _text(paths.blkio_v1 / name))


def _pressures(folder: Path, pattern: str) -> dict[str, Pressure]:
    return {
        resource: parse_pressure(_text(folder / pattern.format(resource)))
        for resource in ("cpu", "memory", "io")
    }


def _number(path: Path) -> int:
    """Return the file's number; 0 when it is missing or says `max`."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else 0


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def _text(path: Path) -> str:
    """Return the file's text; empty when it cannot be read (EOPNOTSUPP: PSI is switched off)."""
    try:
        with io.FileIO(
            path
        ) as file:  # a buffer and a decoder for each file would cost more than it
            return file.readall().decode("ascii", "replace")
    except OSError:
        return ""
