"""The journal survives being cut short, and a process is never taken for another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import wait_for
from unkai_lab.journal import Journal, ProcessId, StartedProcess


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that would sleep for ever."""
    process = subprocess.Popen(["sleep", "infinity"])
    yield process
    process.kill()
    process.wait()


def test_what_was_written_is_read_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.will_make_group(Path("/cg/a"))
    journal.will_make_group(Path("/cg/b"))
    assert Journal(tmp_path / "journal.jsonl").groups() == [Path("/cg/a"), Path("/cg/b")]


def test_a_missing_journal_is_an_empty_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.groups() == []
    assert journal.processes() == []


@pytest.mark.parametrize("kept", range(1, 12))
def test_a_torn_last_line_hides_only_itself(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.will_make_group(Path("/cg/whole"))
    whole = path.read_bytes()
    journal.will_make_group(Path("/cg/torn"))
    path.write_bytes(path.read_bytes()[: len(whole) + kept])

    assert journal.groups() == [Path("/cg/whole")]
    journal.will_make_group(Path("/cg/after"))
    assert journal.groups() == [Path("/cg/whole"), Path("/cg/after")]


def test_writers_in_many_threads_lose_no_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")

    def write(number: int) -> None:
        for step in range(50):
            journal.will_make_group(Path(f"/cg/{number}/{step}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(journal.groups())) == 200


def test_the_newest_start_of_a_program_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for pid in (10, 11):
        journal.started(StartedProcess("h1", "agent", ProcessId(pid, 5)))
    journal.started(StartedProcess("h2", "agent", ProcessId(12, 5)))
    journal.started(StartedProcess("h2", "ovs-vswitchd", ProcessId(13, 5), is_monitor=True))
    assert journal.newest("h1", "agent") == StartedProcess("h1", "agent", ProcessId(11, 5))
    assert journal.newest("h1", "libvirtd") is None
    monitored = journal.newest("h2", "ovs-vswitchd")
    assert monitored is not None
    assert monitored.is_monitor


def test_a_monitors_worker_is_its_child(sleeper: subprocess.Popen[bytes]) -> None:
    alone = ProcessId.of(sleeper.pid)
    assert alone is not None
    assert StartedProcess("h1", "agent", alone).worker() == alone
    assert StartedProcess("h1", "agent", alone, is_monitor=True).worker() is None
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        monitor = ProcessId.of(parent.pid)
        assert monitor is not None
        child = StartedProcess("h1", "switch", monitor, is_monitor=True).worker()
        assert child is not None
        name = Path(f"/proc/{child.pid}/comm")
        wait_for(lambda: name.read_text() == "sleep\n", "the child is what the shell started")
        child.kill(signal.SIGKILL)
    assert StartedProcess("h1", "switch", monitor, is_monitor=True).worker() is None


def test_a_live_process_is_known_by_pid_and_start(sleeper: subprocess.Popen[bytes]) -> None:
    process = ProcessId.of(sleeper.pid)
    assert process is not None
    assert process.is_alive()
    assert process.kill(signal.SIGKILL)
    assert sleeper.wait(5) == -signal.SIGKILL
    assert not process.is_alive()


def test_a_process_that_got_a_dead_ones_pid_is_not_signalled(
    sleeper: subprocess.Popen[bytes],
) -> None:
    process = ProcessId.of(sleeper.pid)
    assert process is not None
    earlier = ProcessId(process.pid, process.start_ticks - 1)
    assert not earlier.is_alive()
    assert not earlier.kill(signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_process_whose_first_thread_alone_has_ended_is_alive(tmp_path: Path) -> None:
    lasting = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,))"
    lasting += ".start(); ctypes.CDLL(None).pthread_exit(None)"
    with subprocess.Popen([sys.executable, "-c", lasting]) as process:
        found = ProcessId.of(process.pid)
        assert found is not None
        state = Path(f"/proc/{process.pid}/stat")
        deadline_s = time.monotonic() + 20
        while state.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline_s
            time.sleep(0.02)

        assert found.is_alive(), "its sockets are open still"
        process.kill()


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    process = ProcessId.of(sleeper.pid)
    assert process is not None
    sleeper.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not process.is_alive()
    assert ProcessId.of(sleeper.pid) is None


def test_a_pid_nobody_has_is_nobody() -> None:
    assert ProcessId.of(2**22 + 1) is None
    assert not ProcessId(2**22 + 1, 1).kill(signal.SIGKILL)
