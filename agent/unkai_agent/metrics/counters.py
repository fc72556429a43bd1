"""What the kernel's text files say, as numbers. Pure: text in, counters out.

Every parser returns zeros for text that is missing or strange: a figure that a kernel does not
have is 0, never an error, because a host without schedstat is still a host. Formats: proc(5),
Documentation/accounting/psi.rst, Documentation/scheduler/sched-stats.rst,
Documentation/admin-guide/iostats.rst and cgroup-v1/ and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SECTOR_BYTES = 512
"""Unit of /proc/diskstats, whatever the device's own sector size."""

_STACKED_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "rbd")
"""Devices that stand on others, or are no disks of this host: counting them counts twice."""

_VIRTUAL_CARDS = (
    *("lo", "vnet", "tap", "veth", "virbr", "br", "ovs-", "genev_sys", "docker", "ifb"),
    *("bond", "team", "dummy", "tun", "wg", "vxlan", "geneve", "macvtap"),
)
"""Devices that stand on cards, or on none: what passes through them is counted at the card."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """PSI totals of one resource, in microseconds; both only grow."""

    some_us: int = 0
    full_us: int = 0


@dataclass(frozen=True, slots=True)
class HostCounters:
    """One reading. All but limits and memory only grow, unless something was restarted."""

    monotonic_s: float
    """When it was read."""
    cpu_used_ns: int = 0
    cpu_wait_ns: int = 0
    cpu_limit_cores: float = 0.0
    """What a quota allows; 0 when there is none."""
    cpu_pressure: Pressure = Pressure()
    memory_pressure: Pressure = Pressure()
    io_pressure: Pressure = Pressure()
    memory_total_bytes: int = 0
    """What the source itself allows; 0 when it knows none."""
    memory_used_bytes: int = 0
    """What a group's own processes hold, its inactive page cache not counted; 0 for a machine."""
    memory_available_bytes: int = 0
    """What the whole machine could still give without swapping."""
    disk_read_bytes: int = 0
    disk_write_bytes: int = 0
    network_receive_bytes: int = 0
    network_transmit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """The whole machine's CPU times from /proc/stat."""

    used_ns: int = 0
    steal_ns: int = 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes in (read, received) and out (written, sent)."""

    in_bytes: int = 0
    out_bytes: int = 0


def parse_pressure(text: str) -> Pressure:
    """Read a PSI file. The `full` line is missing for cpu on older kernels."""
    totals = {}
    for line in text.splitlines():
        kind, *fields = line.split() or [""]
        for field in fields:
            name, _, value = field.partition("=")
            if name == "total" and value.isdecimal():
                totals[kind] = int(value)
    return Pressure(totals.get("some", 0), totals.get("full", 0))


def parse_keyed(text: str) -> dict[str, int]:
    """Read lines of `name value [unit]`, such as memory.stat, cpu.stat and /proc/meminfo."""
    values = {}
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[1].isdecimal():
            values[words[0]] = int(words[1])
    return values


def parse_quota_cores(quota: str, period: str) -> float:
    """Return the cores that a quota a period allows, in microseconds; 0 for `max`, -1 and less."""
    if not quota.isdecimal() or not period.isdecimal() or not int(period):
        return 0.0
    return int(quota) / int(period)


def parse_cpu_times(text: str, ticks_per_s: int) -> CpuTimes:
    """Read the first line of /proc/stat; guests' time is part of `user` already."""
    words = text.split("\n", 1)[0].split()
    if len(words) < 9 or words[0] != "cpu":
        return CpuTimes()
    user, nice, system, _idle, _iowait, irq, softirq, steal = (_count(word) for word in words[1:9])
    tick_ns = 1_000_000_000 // ticks_per_s
    return CpuTimes((user + nice + system + irq + softirq) * tick_ns, steal * tick_ns)


def parse_run_delay_ns(text: str) -> int | None:
    """Sum the CPUs' run_delay from /proc/schedstat; None when the kernel has none.

    The eighth number of each cpu line, nanoseconds, since version 15 of the format.
    """
    delays = [_count(words[8]) for words in _rows(text) if _is_cpu(words[0]) and len(words) > 8]
    return sum(delays) if delays else None


def parse_diskstats(text: str, whole_disks: frozenset[str]) -> Transfer:
    """Sum /proc/diskstats over the disks named, leaving out those that stand on others."""
    read = written = 0
    for words in _rows(text):
        if len(words) < 10 or words[2] not in whole_disks or words[2].startswith(_STACKED_DISKS):
            continue
        read += _count(words[5]) * SECTOR_BYTES
        written += _count(words[9]) * SECTOR_BYTES
    return Transfer(read, written)


def parse_network(text: str) -> Transfer:
    """Sum /proc/net/dev over the host's cards: no loopback, bridge, guest's or VLAN device."""
    received = sent = 0
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        name, words = name.strip(), rest.split()
        if not colon or len(words) < 9 or "." in name or name.startswith(_VIRTUAL_CARDS):
            continue
        received += _count(words[0])
        sent += _count(words[8])
    return Transfer(received, sent)


def parse_blkio(text: str) -> Transfer:
    """Sum a v1 blkio file of lines `major:minor Read|Write|… bytes`."""
    sums = {"Read": 0, "Write": 0}
    for words in _rows(text):
        if len(words) == 3 and words[1] in sums and words[2].isdecimal():
            sums[words[1]] += int(words[2])
    return Transfer(sums["Read"], sums["Write"])


def parse_io_stat(text: str) -> Transfer:
    """Sum a v2 io.stat file of lines `major:minor rbytes=… wbytes=… …`."""
    sums = {"rbytes": 0, "wbytes": 0}
    for words in _rows(text):
        for word in words[1:]:
            name, _, value = word.partition("=")
            if name in sums and value.isdecimal():
                sums[name] += int(value)
    return Transfer(sums["rbytes"], sums["wbytes"])


def _rows(text: str) -> Iterator[list[str]]:
    return (words for line in text.splitlines() if (words := line.split()))


def _is_cpu(word: str) -> bool:
    return word.startswith("cpu") and word[3:].isdecimal()


def _count(word: str) -> int:
    return int(word) if word.isdecimal() else 0
