"""The kernel's text files as numbers; texts are as recorded on real hosts."""

from __future__ import annotations

import pytest

from unkai_agent.metrics.counters import (
    CpuTimes,
    Pressure,
    Transfer,
    parse_blkio,
    parse_cpu_times,
    parse_diskstats,
    parse_io_stat,
    parse_keyed,
    parse_network,
    parse_pressure,
    parse_run_delay_ns,
)

_PRESSURE = """\
some avg10=1.94 avg60=1.09 avg300=0.31 total=8730994
full avg10=0.72 avg60=0.13 avg300=0.36 total=7060257
"""

_STAT = """\
cpu  10132153 290696 3084719 46828483 16683 10 25195 175628 900 100
cpu0 5066076 145348 1542359 23414241 8341 5 12597 87814 450 50
intr 1 2 3
"""

_SCHEDSTAT = """\
version 15
timestamp 4299230316
cpu0 0 0 16104 8097 8072 7027 9187312345 45123456 7916
domain0 3 1 2 3
cpu1 0 0 17226 8603 8801 7402 8734567890 54876544 8522
"""

_DISKSTATS = """\
 253       0 zram0 10 0 80 1 20 0 160 2 0 3 3
 254       0 vda 52411 18822 4204432 12345 26118 20377 3121488 23456 0 20000 35801 0 0 0 0
 254       1 vda1 52000 18800 4200000 12000 26000 20000 3100000 23000 0 19000 35000 0 0 0 0
   7       0 loop0 5 0 40 1 0 0 0 0 0 1 1
 252       0 dm-0 500 0 4000 1 0 0 0 0 0 1 1
 259       0 nvme0n1 100 0 1000 1 50 0 2000 1 0 1 1
"""

_NETDEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo: 1000 10 0 0 0 0 0 0 1000 10 0 0 0 0 0 0
  eth0: 5000 50 0 0 0 0 0 0 7000 70 0 0 0 0 0 0
eth0.10: 300 3 0 0 0 0 0 0 400 4 0 0 0 0 0 0
br-phys: 11 1 0 0 0 0 0 0 13 1 0 0 0 0 0 0
 vnet0: 17 1 0 0 0 0 0 0 19 1 0 0 0 0 0 0
  eno1:20 1 0 0 0 0 0 0 30 1 0 0 0 0 0 0
"""

_BLKIO = """\
254:0 Read 52432896
254:0 Write 104865792
254:0 Sync 209727488
254:0 Discard 52428800
259:0 Read 4
254:0 Total 209727488
Total 209727488
"""


def test_pressure_totals_are_read() -> None:
    assert parse_pressure(_PRESSURE) == Pressure(some_us=8730994, full_us=7060257)


def test_a_pressure_file_without_a_full_line_has_none() -> None:
    assert parse_pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n") == Pressure(5, 0)


def test_cpu_time_is_what_was_worked_and_steal_is_apart() -> None:
    ticks = 10132153 + 290696 + 3084719 + 10 + 25195
    assert parse_cpu_times(_STAT, 100) == CpuTimes(ticks * 10_000_000, 175628 * 10_000_000)


def test_run_delay_is_summed_over_the_cpus() -> None:
    assert parse_run_delay_ns(_SCHEDSTAT) == 100_000_000


def test_a_kernel_without_schedstat_says_so() -> None:
    assert parse_run_delay_ns("") is None


def test_whole_disks_are_summed_once() -> None:
    whole = frozenset({"vda", "loop0", "zram0", "dm-0", "nvme0n1"})
    assert parse_diskstats(_DISKSTATS, whole) == Transfer(
        (4204432 + 1000) * 512, (3121488 + 2000) * 512
    )


def test_only_the_hosts_cards_are_summed() -> None:
    assert parse_network(_NETDEV) == Transfer(5020, 7030)


@pytest.mark.parametrize("stacked", ["bond0", "team0", "wg0", "vxlan7", "tun1"])
def test_what_passes_through_a_stacked_device_is_counted_once(stacked: str) -> None:
    line = f"{stacked}: 5020 1 0 0 0 0 0 0 7030 1 0 0 0 0 0 0\n"
    assert parse_network(_NETDEV + line) == parse_network(_NETDEV)


def test_v1_blkio_reads_and_writes_are_summed_over_devices() -> None:
    assert parse_blkio(_BLKIO) == Transfer(52432900, 104865792)


def test_v2_io_stat_is_summed_over_devices() -> None:
    text = "254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n259:0 rbytes=1 wbytes=2\n"
    assert parse_io_stat(text) == Transfer(11, 22)


def test_keyed_files_have_colons_or_not() -> None:
    assert parse_keyed("MemTotal:       24689764 kB\n") == {"MemTotal": 24689764}
    assert parse_keyed("usage_usec 17\nnr_periods 3\n") == {"usage_usec": 17, "nr_periods": 3}


@pytest.mark.parametrize(
    "text", ["", "\n\n", "nonsense", "cpu", "some\n", "a b c d\n", "x: y z", "cpu  a b c d e f g h"]
)
def test_strange_text_counts_as_zero(text: str) -> None:
    assert parse_pressure(text) == Pressure()
    assert parse_cpu_times(text, 100) == CpuTimes()
    assert parse_run_delay_ns(text) is None
    assert parse_diskstats(text, frozenset({"a"})) == Transfer()
    assert parse_network(text) == Transfer()
    assert parse_blkio(text) == Transfer()
    assert parse_io_stat(text) == Transfer()


def test_words_in_place_of_numbers_count_as_zero() -> None:
    assert parse_diskstats("254 0 vda a b c d e f g h\n", frozenset({"vda"})) == Transfer()
    assert parse_network("eth0: a b c d e f g h i\n") == Transfer()
    assert parse_run_delay_ns("cpu0 a b c d e f g h i\n") == 0
